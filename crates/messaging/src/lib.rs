#![doc = include_str!("../README.md")]

pub mod batch;
pub mod bus;
pub mod checkpoint;
pub mod clock_spans;
pub mod consume;
mod erasure;
pub mod event;
pub mod frontier;
mod gaps;
pub mod identity;
pub mod janitor;
pub mod lease;
mod mark;
pub mod migrations;
pub mod outbox;
pub mod pace;
pub mod relay;
pub mod rows;
pub mod signal;
pub mod store;

pub use batch::Batch;
pub use bus::{Bus, BusError};
pub use consume::{Handler, dead_letter};
pub use event::{Event, HandlerError};
pub use store::{Store, Transaction};

use std::{sync::Arc, time::Duration};

use couponmesh_runtime::{
    config::{Problems, Validate},
    running::Running,
};
use serde::{Deserialize, Serialize};

/// How a service's events move. The keys are explained in `config.default.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MessagingConfig {
    /// Events that relay and consumer move in one transaction at the most.
    pub batch: usize,
    /// Into how many parts a stream is divided that is made here. Each is read by one replica of a service at a time.
    pub partitions: u16,
    /// How long published outbox rows are kept.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How long an event waits as an open dead letter before it is given up.
    #[serde(with = "humantime_serde")]
    pub dead_letter_retention: Duration,
}

impl Validate for MessagingConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.range("batch", self.batch, 1..=1_000);
        problems.range("partitions", self.partitions, 1..=64);
        // At least a day, so that an outage of a day loses nothing.
        let day = Duration::from_secs(86_400);
        problems.duration("retention", self.retention, day..=day * 3_650);
        problems.duration(
            "dead_letter_retention",
            self.dead_letter_retention,
            day..=day * 3_650,
        );
    }
}

/// Starts everything that moves a service's events: relay, consumer, redrive of dead letters, janitor, erasures
/// and signals, as tasks of `running`.
pub fn start<H: Handler>(
    store: &Store,
    bus: &Arc<dyn Bus>,
    handler: H,
    config: &MessagingConfig,
    running: &Running,
) {
    signal::start(store, running);
    if let Some(publisher) = bus.publisher() {
        relay::start(store, publisher, config.batch, running);
    }
    let handler = Arc::new(handler);
    consume::consumer::start(store, bus, &handler, config.batch, running);
    consume::redrive::start(store, &handler, running);
    janitor::start(store, bus, config.into(), running);
    erasure::start(store, running);
}
