//! The embedded bus: a durable log in one SQLite file, one offset per consumer.
//!
//! A published event is on disk (one transaction, synced) before `publish` returns. Offsets are written
//! a little later: losing the last ones only delivers again what every inbox knows. The newest events
//! are also kept in memory, so that consumers that keep up never read the file.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use couponmesh_runtime::{Timestamp, database::Database, running::Running};
use sea_orm::{DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tokio::sync::watch;

use super::{Bus, BusError, Delivery, Place, Subscription};
use crate::{
    event::Event,
    migrations::{MigrateError, bring_up},
};

mod table;

/// Events kept in memory for consumers that keep up.
const TAIL: usize = 4_096;
/// How long a consumer's offset may be newer in memory than on disk.
const OFFSET_DELAY: Duration = Duration::from_millis(250);

/// The bus of one process. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedBus(Arc<Inner>);

struct Inner {
    database: Database,
    /// The position of the last event on disk. Writers take turns, so that positions are handed out in the
    /// order of the commits. None when a commit failed, which leaves open whether it took place.
    last: tokio::sync::Mutex<Option<i64>>,
    /// The position of the newest event on disk.
    newest: watch::Sender<i64>,
    tail: Mutex<VecDeque<(i64, Delivery)>>,
    offsets: Mutex<Offsets>,
    running: Running,
}

#[derive(Default)]
struct Offsets {
    by_consumer: HashMap<&'static str, i64>,
    changed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EmbeddedBus {
    /// Opens the log at `path`, making it when it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened or is no such log.
    pub async fn open(path: &Path) -> Result<Self, MigrateError> {
        let database = Database::open_sqlite(path).await?;
        bring_up::<table::Migrator>(&database).await?;
        let last = table::newest(database.read()).await?;
        let bus = Self(Arc::new(Inner {
            database,
            last: tokio::sync::Mutex::new(Some(last)),
            newest: watch::Sender::new(last),
            tail: Mutex::default(),
            offsets: Mutex::default(),
            running: Running::new(),
        }));
        let (keeper, stop) = (bus.clone(), bus.0.running.stopping());
        bus.0.running.keep("offsets", move || {
            let (keeper, stop) = (keeper.clone(), stop.clone());
            async move {
                while !stop.is_cancelled() {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(OFFSET_DELAY) => {}
                    }
                    keeper.store_offsets().await;
                }
            }
        });
        Ok(bus)
    }

    /// Stores the offsets and closes the file.
    pub async fn close(&self) {
        self.0.running.stop().await;
        if let Err(error) = self.0.database.close().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the bus did not close cleanly"
            );
        }
    }

    /// Keeps every event until each of `consumers` is past it, also of one that never came yet.
    ///
    /// # Errors
    /// The database's.
    pub async fn keep_for(&self, consumers: &[&'static str]) -> Result<(), DbErr> {
        table::keep_for(&self.0.database, consumers).await
    }

    /// What is on disk after a commit that may or may not have taken place. Events that are in neither the
    /// tail nor known to their publisher come from the file.
    async fn find_last(&self) -> Result<i64, DbErr> {
        let last = table::newest(self.0.database.read()).await?;
        lock(&self.0.tail).clear();
        self.0.newest.send_replace(last);
        Ok(last)
    }

    async fn store_offsets(&self) {
        let offsets = {
            let mut offsets = lock(&self.0.offsets);
            if !std::mem::take(&mut offsets.changed) {
                return;
            }
            offsets.by_consumer.clone()
        };
        if let Err(error) = table::store_offsets(&self.0.database, offsets).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "offsets not stored; events may be delivered again"
            );
            lock(&self.0.offsets).changed = true;
        }
    }

    /// Up to `max` events after `position`, whatever their type, with their positions.
    async fn read(&self, position: i64, max: usize) -> Result<Vec<(i64, Delivery)>, DbErr> {
        {
            let tail = lock(&self.0.tail);
            // Positions in the tail have no gaps, so its first one tells whether it reaches back far enough.
            if let Some((first, _)) = tail.front()
                && *first <= position + 1
            {
                let skip = usize::try_from(position + 1 - *first).unwrap_or(usize::MAX);
                return Ok(tail.iter().skip(skip).take(max).cloned().collect());
            }
        }
        let rows = table::Entity::find()
            .filter(table::after(position))
            .order_by_asc(table::Column::Seq)
            .limit(max as u64)
            .all(self.0.database.read())
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| (row.seq, Arc::new(row.into_event())))
            .collect())
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn publish(&self, events: Vec<Event>, _: i64) -> Result<Option<Place>, BusError> {
        let mut last = self.0.last.lock().await;
        let known = match last.take() {
            Some(known) => known,
            None => self.find_last().await?,
        };
        let events: Vec<(i64, Delivery)> = (known + 1..)
            .zip(events.into_iter().map(Arc::new))
            .collect();
        let Some((newest, event)) = events.last() else {
            *last = Some(known);
            return Ok(None);
        };
        let (newest, event_id) = (*newest, event.id);
        let tx = self.0.database.begin().await?;
        table::insert(&tx, &events).await?;
        tx.commit().await?;
        *last = Some(newest);
        {
            let mut tail = lock(&self.0.tail);
            tail.extend(events);
            let surplus = tail.len().saturating_sub(TAIL);
            tail.drain(..surplus);
        }
        self.0.newest.send_replace(newest);
        Ok(Some(Place {
            sequence: newest,
            event_id,
        }))
    }

    async fn holds(&self, place: Place) -> Result<bool, BusError> {
        let db = self.0.database.read();
        if table::newest(db).await? < place.sequence {
            return Ok(false);
        }
        let there = table::Entity::find_by_id(place.sequence).one(db).await?;
        Ok(there.is_none_or(|row| row.event_id == place.event_id))
    }

    async fn subscribe(
        &self,
        consumer: &'static str,
        types: &'static [&'static str],
    ) -> Result<Box<dyn Subscription>, BusError> {
        let in_memory = lock(&self.0.offsets).by_consumer.get(consumer).copied();
        let position = match in_memory {
            Some(position) => position,
            None => table::offset(self.0.database.read(), consumer).await?,
        };
        Ok(Box::new(EmbeddedSubscription {
            newest: self.0.newest.subscribe(),
            bus: self.clone(),
            consumer,
            types,
            position,
            outstanding: false,
        }))
    }

    async fn delete_before(&self, before: Timestamp, now: Timestamp) -> Result<(), BusError> {
        table::delete_before(&self.0.database, before, now).await?;
        // The next time, when somebody reads.
        self.0.database.forget_erased().await?;
        Ok(())
    }
}

struct EmbeddedSubscription {
    bus: EmbeddedBus,
    consumer: &'static str,
    types: &'static [&'static str],
    newest: watch::Receiver<i64>,
    /// The last position that was looked at.
    position: i64,
    /// Whether something was delivered and not acknowledged.
    outstanding: bool,
}

#[async_trait]
impl Subscription for EmbeddedSubscription {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, BusError> {
        loop {
            // Arm the wake-up, then look.
            self.newest.borrow_and_update();
            let events = self.bus.read(self.position, max).await?;
            let Some(&(looked_at, _)) = events.last() else {
                self.newest
                    .changed()
                    .await
                    .map_err(|error| BusError(Box::new(error)))?;
                continue;
            };
            self.position = looked_at;
            let wanted: Vec<Delivery> = events
                .into_iter()
                .map(|(_, event)| event)
                .filter(|event| self.types.contains(&event.event_type.as_str()))
                .collect();
            if !wanted.is_empty() {
                self.outstanding = true;
                return Ok(wanted);
            }
            if !self.outstanding {
                self.ack().await?;
            }
        }
    }

    async fn ack(&mut self) -> Result<(), BusError> {
        let mut offsets = lock(&self.bus.0.offsets);
        offsets.by_consumer.insert(self.consumer, self.position);
        offsets.changed = true;
        self.outstanding = false;
        Ok(())
    }
}
