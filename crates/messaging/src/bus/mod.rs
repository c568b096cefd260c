//! The bus: where the consumers read events, and where the relays publish them.
//!
//! The one dynamic seam. A bus has every event on disk, in one order, and lets each consumer read from whatever
//! position it names. It does not remember who is where: consumers do, in their own databases. In one process the
//! outboxes are the bus, and nothing is published.

mod nats;
mod outboxes;

pub use nats::{NatsBus, NatsConfig, Permissions, Role, StartError, Stranger, logins, permissions};
pub use outboxes::{Outboxes, Service, TakeOverError};

use std::sync::Arc;

use async_nats::Subject;
use async_trait::async_trait;
use couponmesh_runtime::Timestamp;
use futures::stream::BoxStream;
use sea_orm::DbErr;
use uuid::Uuid;

use crate::{checkpoint, event::Event, store::Store};

/// The bus is away or full. Never the event's fault, so it is tried again without end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BusError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl From<DbErr> for BusError {
    fn from(error: DbErr) -> Self {
        Self(Box::new(error))
    }
}

/// Where something is on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its position in the bus's own order.
    pub sequence: i64,
    /// Tells what is there from anything that may stand there after a loss.
    pub stamp: Uuid,
}

/// A part of a bus that is read by one replica of a consumer at a time. What is about one member is in one
/// partition, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: Arc<str>,
    /// Where one begins who has never read it: after this position.
    pub begins_after: i64,
}

/// A partition's events from some position on, in their order. It waits for those to come, and ends after an error:
/// read again from the last position that was dealt with.
pub type Reading = BoxStream<'static, Result<Delivery, BusError>>;

/// What is at a place.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The place.
    pub place: Place,
    /// The event; none when it is not for this consumer.
    pub event: Option<Event>,
    /// For [`Bus::passed`].
    pub receipt: Option<Receipt>,
}

/// Where a server is told that a delivery and all before it were dealt with.
#[derive(Clone, Debug)]
pub struct Receipt(pub(crate) Subject);

/// Where events are read.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Where they have to be published before; none where consumers read the outboxes themselves.
    fn publisher(&self) -> Option<Arc<dyn Publisher>>;

    /// Whether the bus still has in `partition` what it delivered at `place`, or has deleted it for its age. A bus that
    /// has not has lost events: at least that one, and all that came after it.
    ///
    /// # Errors
    /// When the bus is away.
    async fn holds(&self, partition: &str, place: Place) -> Result<bool, BusError>;

    /// What `consumer` has to read to get the events of `types`.
    ///
    /// # Errors
    /// When the bus is away.
    async fn partitions(
        &self,
        consumer: &'static str,
        types: &'static [&'static str],
    ) -> Result<Vec<Partition>, BusError>;

    /// Reads `partition` for `consumer`: the events whose type is one of `types`, after position `after`.
    ///
    /// # Errors
    /// When the bus is away.
    async fn read(
        &self,
        consumer: &'static str,
        partition: &str,
        types: &'static [&'static str],
        after: i64,
    ) -> Result<Reading, BusError>;

    /// Says that everything up to these deliveries was dealt with. It is for those who look after a server, and for
    /// [`Publisher::delete_before`]: losing it is harmless.
    async fn passed(&self, receipts: Vec<Receipt>);

    /// The position in the outbox of `store` up to which nobody needs it any more, but for its age.
    ///
    /// # Errors
    /// The database's.
    async fn done_with(&self, store: &Store) -> Result<i64, DbErr> {
        Ok(checkpoint::load(store.read()).await?.position)
    }
}

/// Where events are published.
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// Publishes `events`; returns when all are on disk, and the furthest place of one. A bus may drop what was
    /// published before with the same `rewinds`: how often an operator, or a loss, had events published once more.
    ///
    /// # Errors
    /// When they are not, or when that is not known: publish them again.
    async fn publish(&self, events: Vec<Event>, rewinds: i64) -> Result<Option<Place>, BusError>;

    /// Another number for each connection that was made: behind another one the bus may be another, too.
    fn connection(&self) -> u64;

    /// Whether the bus still has what it said to have on disk at `place`, or has deleted it for its age. A bus that
    /// has not has lost events: at least that one, and all that came after it.
    ///
    /// # Errors
    /// When the bus is away.
    async fn holds(&self, place: Place) -> Result<bool, BusError>;

    /// Deletes events from before `before` that every consumer is past. `now` is the caller's time: a
    /// bus with a clock of its own that tells another deletes nothing.
    ///
    /// # Errors
    /// When the bus is away.
    async fn delete_before(&self, before: Timestamp, now: Timestamp) -> Result<(), BusError>;
}
