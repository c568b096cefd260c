//! A bus that delivers as badly as the contract allows: twice, in reverse, late.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use couponmesh_messaging::{
    Bus, BusError, Event,
    bus::{Delivery, Place, Subscription},
};
use couponmesh_runtime::Timestamp;
use tokio::{sync::watch, time::timeout};

/// How long it gathers events, to have something to reverse.
const GATHER: Duration = Duration::from_millis(40);

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

    /// Delivers everything twice and in reverse from now on.
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

#[async_trait]
impl Bus for Around {
    async fn publish(&self, events: Vec<Event>, rewinds: i64) -> Result<Option<Place>, BusError> {
        self.inner.publish(events, rewinds).await
    }

    async fn holds(&self, place: Place) -> Result<bool, BusError> {
        self.inner.holds(place).await
    }

    async fn subscribe(
        &self,
        consumer: &'static str,
        types: &'static [&'static str],
    ) -> Result<Box<dyn Subscription>, BusError> {
        Ok(Box::new(BadSubscription {
            inner: self.inner.subscribe(consumer, types).await?,
            manners: self.manners.clone(),
            consumer,
            gathered: Vec::new(),
            batches: VecDeque::new(),
        }))
    }

    async fn delete_before(&self, before: Timestamp, now: Timestamp) -> Result<(), BusError> {
        self.inner.delete_before(before, now).await
    }
}

struct BadSubscription {
    inner: Box<dyn Subscription>,
    manners: BadBus,
    consumer: &'static str,
    /// What came and is in no batch yet. Here, so that `next` may be cancelled anywhere.
    gathered: Vec<Delivery>,
    /// What is to be delivered, in this order.
    batches: VecDeque<Vec<Delivery>>,
}

#[async_trait]
impl Subscription for BadSubscription {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, BusError> {
        if self.batches.is_empty() {
            if self.gathered.is_empty() {
                self.gathered = self.inner.next(max).await?;
            }
            let mut held = self.manners.withheld_from.subscribe();
            let consumer = self.consumer;
            held.wait_for(|held| !held.contains(consumer))
                .await
                .map_err(|error| BusError(Box::new(error)))?;
            let backwards = self.manners.backwards.load(Ordering::SeqCst);
            if backwards {
                while let Ok(more) = timeout(GATHER, self.inner.next(max)).await {
                    self.gathered.extend(more?);
                }
                self.gathered.reverse();
            }
            // The second time comes after the first was committed.
            for _ in 0..if backwards { 2 } else { 1 } {
                let batches = self.gathered.chunks(max).map(<[_]>::to_vec);
                self.batches.extend(batches);
            }
            self.gathered.clear();
        }
        Ok(self.batches.pop_front().unwrap_or_default())
    }

    async fn ack(&mut self) -> Result<(), BusError> {
        // The inner bus acknowledges all that it delivered; until all of that is passed on, nothing.
        if self.batches.is_empty() {
            self.inner.ack().await
        } else {
            Ok(())
        }
    }
}
