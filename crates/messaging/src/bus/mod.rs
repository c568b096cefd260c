//! The bus: where events go from the outboxes and come to the consumers from.
//!
//! The one dynamic seam. A bus keeps every event on disk before it says so, delivers each to every
//! consumer at least once, in any order, and goes on after a restart where the consumer left off.

mod embedded;
mod nats;

pub use embedded::EmbeddedBus;
pub use nats::{NatsBus, NatsConfig, NeverReached};

use std::sync::Arc;

use async_trait::async_trait;
use couponmesh_runtime::{Timestamp, id::EventId};

use crate::event::Event;

/// The bus is away or full. Never the event's fault, so it is tried again without end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BusError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl From<sea_orm::DbErr> for BusError {
    fn from(error: sea_orm::DbErr) -> Self {
        Self(Box::new(error))
    }
}

/// Where an event is on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its position in the bus's own order.
    pub sequence: i64,
    /// The event.
    pub event_id: EventId,
}

/// An event bus.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Publishes `events`; returns when all are on disk, and where the last one is. A bus may drop what was
    /// published before with the same `rewinds`: how often an operator, or a loss, had events published once more.
    ///
    /// # Errors
    /// When they are not, or when that is not known: publish them again.
    async fn publish(&self, events: Vec<Event>, rewinds: i64) -> Result<Option<Place>, BusError>;

    /// Whether the bus still has what it said to have on disk at `place`, or has deleted it for its age. A bus that
    /// has not has lost events: at least that one, and all that came after it.
    ///
    /// # Errors
    /// When the bus is away.
    async fn holds(&self, place: Place) -> Result<bool, BusError>;

    /// Joins `consumer`'s share of the events whose type is one of `types`, from where it left off.
    ///
    /// # Errors
    /// When the bus is away.
    async fn subscribe(
        &self,
        consumer: &'static str,
        types: &'static [&'static str],
    ) -> Result<Box<dyn Subscription>, BusError>;

    /// Deletes events from before `before` that every consumer is past. `now` is the caller's time: a
    /// bus with a clock of its own that tells another deletes nothing.
    ///
    /// # Errors
    /// When the bus is away.
    async fn delete_before(&self, before: Timestamp, now: Timestamp) -> Result<(), BusError>;
}

/// A consumer's place in the bus.
#[async_trait]
pub trait Subscription: Send {
    /// The next events, at least one and at most `max`; waits until there is one. Cancel-safe.
    ///
    /// # Errors
    /// When the bus is away: subscribe again.
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, BusError>;

    /// Says that every delivery so far was dealt with. Losing this is harmless: what is delivered
    /// again is known to the inbox.
    ///
    /// # Errors
    /// When the bus is away: subscribe again.
    async fn ack(&mut self) -> Result<(), BusError>;
}

/// An event, delivered.
pub type Delivery = Arc<Event>;
