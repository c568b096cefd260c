//! The bus of one process: the services' outboxes, read where they are.
//!
//! An outbox is a log already: its rows are only ever appended, and SQLite, with one writer at a time, shows them in
//! the order of their positions. So a partition is one service's outbox, and what is on disk with a service's
//! transaction is what others read.
//!
//! What a consumer reads of several outboxes comes in no order of theirs, but for one thing, which callers count on who
//! wait for a version of a member: an event of member's comes after those of others that had caused it, or with them.

mod old_log;
mod take_over;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sea_orm::DbErr;
use tokio::{sync::watch, time::timeout};

use super::{Bus, BusError, Delivery, Partition, Place, Publisher, Reading, Receipt};
use crate::{consume::positions, event::is_published_by, outbox, store::Store};

pub use take_over::TakeOverError;

/// Rows that are read at once.
const CHUNK: usize = 256;
/// How often an outbox is looked at without a wake-up. A commit that is interrupted sends none.
const POLL: Duration = Duration::from_secs(1);

/// A service of the process, also one that does not run.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its database.
    pub store: Store,
    /// The types of events that it reads.
    pub types: &'static [&'static str],
}

impl Service {
    /// Whether it reads what `service` publishes.
    fn reads(&self, service: &str) -> bool {
        self.types
            .iter()
            .any(|event_type| is_published_by(service, event_type))
    }
}

/// The bus. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outboxes {
    services: Arc<[Service]>,
    delivered: Arc<Mutex<HashMap<Reader, watch::Receiver<i64>>>>,
}

/// A consumer, and which of [`Outboxes::services`] it reads.
type Reader = (&'static str, usize);

impl Outboxes {
    /// The bus of `services`, all of those that there are.
    #[must_use]
    pub fn new(services: Vec<Service>) -> Self {
        Self {
            services: services.into(),
            delivered: Arc::default(),
        }
    }

    fn index(&self, partition: &str) -> Result<usize, BusError> {
        let mut services = self.services.iter();
        let found = services.position(|one| one.store.service() == partition);
        found.ok_or_else(|| BusError(format!("no service {partition}").into()))
    }

    fn store(&self, partition: &str) -> Result<&Store, BusError> {
        Ok(&self.services[self.index(partition)?].store)
    }

    /// Waits until `consumer` was given all that the services after that one had published before. Theirs is what
    /// causes the events of the first one, member. One that cannot be read is not waited for.
    async fn others_come_first(&self, consumer: &'static str, index: usize) -> Result<(), DbErr> {
        for (other, service) in self.services.iter().enumerate().skip(index + 1) {
            let delivered = self.delivered().get(&(consumer, other)).cloned();
            let Some(mut delivered) = delivered else {
                continue;
            };
            let store = service.store.clone();
            let end = tokio::spawn(async move { outbox::end(store.read()).await });
            let end = end.await.unwrap_or(Ok(0))?;
            let _ = timeout(POLL, delivered.wait_for(|position| *position >= end)).await;
        }
        Ok(())
    }

    fn delivered(&self) -> MutexGuard<'_, HashMap<Reader, watch::Receiver<i64>>> {
        self.delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Bus for Outboxes {
    fn publisher(&self) -> Option<Arc<dyn Publisher>> {
        None
    }

    /// A database that was restored from a backup has lost what came after it.
    async fn holds(&self, partition: &str, place: Place) -> Result<bool, BusError> {
        let db = self.store(partition)?.read();
        if outbox::end(db).await? < place.sequence {
            return Ok(false);
        }
        let there = outbox::event_at(db, place.sequence).await?;
        Ok(there.is_none_or(|event_id| event_id.0 == place.stamp))
    }

    async fn partitions(
        &self,
        _: &'static str,
        types: &'static [&'static str],
    ) -> Result<Vec<Partition>, BusError> {
        let services = self.services.iter();
        let services = services.map(|service| service.store.service());
        let read = services.filter(|service| types.iter().any(|one| is_published_by(service, one)));
        let partition = |service: &str| Partition {
            name: service.into(),
            begins_after: 0,
        };
        Ok(read.map(partition).collect())
    }

    async fn read(
        &self,
        consumer: &'static str,
        partition: &str,
        types: &'static [&'static str],
        after: i64,
    ) -> Result<Reading, BusError> {
        let index = self.index(partition)?;
        let store = self.store(partition)?.clone();
        let (delivered, receiver) = watch::channel(after);
        self.delivered().insert((consumer, index), receiver);
        let cursor = Cursor {
            appended: store.appended(),
            bus: self.clone(),
            consumer,
            index,
            store,
            types,
            position: after,
            delivered,
        };
        let chunks = stream::try_unfold(cursor, |mut cursor| async {
            let chunk = cursor.next().await?;
            let chunk = stream::iter(chunk.into_iter().map(Ok));
            Ok::<_, BusError>(Some((chunk, cursor)))
        });
        Ok(chunks.try_flatten().boxed())
    }

    async fn passed(&self, _: Vec<Receipt>) {}

    /// Where the slowest of its readers is.
    async fn done_with(&self, store: &Store) -> Result<i64, DbErr> {
        let mut slowest = outbox::end(store.read()).await?;
        let readers = self.services.iter();
        for reader in readers.filter(|one| one.reads(store.service())) {
            let position = positions::find(reader.store.read(), store.service()).await?;
            slowest = slowest.min(position.map_or(0, |found| found.sequence));
        }
        Ok(slowest)
    }
}

/// Where an outbox is read.
struct Cursor {
    bus: Outboxes,
    consumer: &'static str,
    index: usize,
    store: Store,
    appended: watch::Receiver<()>,
    types: &'static [&'static str],
    /// The last position that was looked at.
    position: i64,
    /// The last position that the consumer was given.
    delivered: watch::Sender<i64>,
}

impl Cursor {
    /// The next events of our types, and how far they go; waits until there are events of any.
    async fn next(&mut self) -> Result<Vec<Delivery>, BusError> {
        // The reader asks for more, so it has taken what came before.
        self.delivered.send_replace(self.position);
        loop {
            // Arm the wake-up, then look.
            self.appended.borrow_and_update();
            let (store, position) = (self.store.clone(), self.position);
            // To its end in any case: a reader that has other things to do must not keep a connection of another
            // service's meanwhile, who may be waiting for one of the reader's.
            let reading =
                tokio::spawn(async move { outbox::after(store.read(), position, CHUNK).await });
            let rows = reading.await.map_err(|error| BusError(Box::new(error)))??;
            let Some(last) = rows.last() else {
                let _ = timeout(POLL, self.appended.changed()).await;
                continue;
            };
            self.position = last.seq;
            let mut deliveries = Vec::with_capacity(rows.len());
            for row in rows {
                let is_wanted = self.types.contains(&row.event_type.as_str());
                let place = Place {
                    sequence: row.seq,
                    stamp: row.event_id.0,
                };
                // Of those that nobody here wants, the last one says how far this goes.
                if is_wanted || place.sequence == self.position {
                    deliveries.push(Delivery {
                        place,
                        event: is_wanted.then(|| row.into_event(self.store.service())),
                        receipt: None,
                    });
                }
            }
            if deliveries.iter().any(|delivery| delivery.event.is_some()) {
                self.bus
                    .others_come_first(self.consumer, self.index)
                    .await?;
            }
            return Ok(deliveries);
        }
    }
}
