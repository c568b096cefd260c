//! A bus that delivers as badly as the contract allows: twice, in reverse, late.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use couponmesh_messaging::{
    Bus, BusError, Store,
    bus::{Delivery, Partition, Place, Publisher, Reading, Receipt},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sea_orm::DbErr;
use tokio::{sync::watch, time::timeout};

/// How long it gathers events, to have something to reverse.
const GATHER: Duration = Duration::from_millis(40);
/// Positions here for each of the bus's own: what is delivered out of order has positions of its own in between, from
/// which a reader that goes on there gets everything that was not yet delivered.
const SCALE: i64 = 1_000_000;

/// How badly the bus delivers; the same for all who hold a clone. It delivers well until told otherwise.
#[derive(Clone, Default)]
pub(crate) struct BadBus {
    withheld_from: Arc<watch::Sender<BTreeSet<&'static str>>>,
    backwards: Arc<AtomicBool>,
}

impl BadBus {
    /// Delivers nothing to `consumer` from now on.
    pub(crate) fn hold(&self, consumer: &'static str) {
        self.withheld_from.send_modify(|held| {
            held.insert(consumer);
        });
    }

    /// Delivers to `consumer` what was withheld, and goes on.
    pub(crate) fn release(&self, consumer: &'static str) {
        self.withheld_from.send_modify(|held| {
            held.remove(consumer);
        });
    }

    /// Delivers everything twice and in reverse, to services that are started from now on.
    pub(crate) fn deliver_twice_and_backwards(&self) {
        self.backwards.store(true, Ordering::SeqCst);
    }

    pub(super) fn around(&self, inner: Arc<dyn Bus>) -> Arc<dyn Bus> {
        Arc::new(Around {
            inner,
            manners: self.clone(),
        })
    }
}

struct Around {
    inner: Arc<dyn Bus>,
    manners: BadBus,
}

impl Around {
    /// How many positions there are here for each of the bus's own.
    fn scale(&self) -> i64 {
        if self.manners.backwards.load(Ordering::SeqCst) {
            SCALE
        } else {
            1
        }
    }
}

#[async_trait]
impl Bus for Around {
    fn publisher(&self) -> Option<Arc<dyn Publisher>> {
        self.inner.publisher()
    }

    async fn holds(&self, partition: &str, place: Place) -> Result<bool, BusError> {
        // What comes backwards has no place of its own.
        Ok(self.scale() > 1 || self.inner.holds(partition, place).await?)
    }

    async fn partitions(
        &self,
        consumer: &'static str,
        types: &'static [&'static str],
    ) -> Result<Vec<Partition>, BusError> {
        self.inner.partitions(consumer, types).await
    }

    async fn read(
        &self,
        consumer: &'static str,
        partition: &str,
        types: &'static [&'static str],
        after: i64,
    ) -> Result<Reading, BusError> {
        let scale = self.scale();
        let after = after / scale;
        let inner = self.inner.read(consumer, partition, types, after).await?;
        let reading = BadReading {
            inner,
            manners: self.manners.clone(),
            consumer,
            scale,
            after,
        };
        let parts = stream::try_unfold(reading, |mut reading| async {
            let part = reading.next().await?;
            Ok::<_, BusError>(Some((stream::iter(part.into_iter().map(Ok)), reading)))
        });
        Ok(parts.try_flatten().boxed())
    }

    async fn passed(&self, receipts: Vec<Receipt>) {
        self.inner.passed(receipts).await;
    }

    async fn done_with(&self, store: &Store) -> Result<i64, DbErr> {
        self.inner.done_with(store).await
    }
}

struct BadReading {
    inner: Reading,
    manners: BadBus,
    consumer: &'static str,
    scale: i64,
    /// The last of the bus's own positions that was delivered.
    after: i64,
}

impl BadReading {
    async fn next(&mut self) -> Result<Vec<Delivery>, BusError> {
        let ended = || BusError("the reading has ended".into());
        let mut part = vec![self.inner.next().await.ok_or_else(ended)??];
        let mut held = self.manners.withheld_from.subscribe();
        let consumer = self.consumer;
        held.wait_for(|held| !held.contains(consumer))
            .await
            .map_err(|error| BusError(Box::new(error)))?;
        let backwards = self.scale > 1;
        if backwards {
            while let Ok(Some(more)) = timeout(GATHER, self.inner.next()).await {
                part.push(more?);
            }
        }
        if !backwards {
            return Ok(part);
        }
        let before = self.after * SCALE;
        self.after = part.last().map_or(self.after, |last| last.place.sequence);
        let positions = part.iter().map(|one| one.place.sequence * SCALE);
        let positions: Vec<i64> = positions.collect();
        part.reverse();
        let again = part.clone();
        // The first time does not count.
        for (delivery, position) in part.iter_mut().zip(before + 1..) {
            delivery.place.sequence = position;
        }
        let second = again.into_iter().zip(positions);
        part.extend(second.map(|(mut delivery, position)| {
            delivery.place.sequence = position;
            delivery
        }));
        Ok(part)
    }
}
