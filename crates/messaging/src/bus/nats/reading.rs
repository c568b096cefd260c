//! Reading one partition: a pull consumer of the server's, made where the reader's position is.
//!
//! The position in the service's own database is what counts. So a consumer of the server's is made anew whenever a
//! partition is opened, and every delivery has to be the next one: what was lost on its way, or taken by another who
//! reads the same partition, ends the reading, and it is opened anew. With its acknowledgements, one for many events,
//! the server shows to its own tools how far a service is.

use std::time::Duration;

use async_nats::jetstream::{
    self, ErrorCode, Message,
    consumer::{
        AckPolicy, DeliverPolicy, PullConsumer,
        pull::{self, Stream as Messages},
    },
    context::ConsumerInfoErrorKind,
    stream::{ConsumerErrorKind, Stream},
};
use futures::{StreamExt as _, stream};
use tokio::sync::watch;

use super::{NatsBus, envelope, names, stamp, stream::Partitions};
use crate::bus::{BusError, Delivery, Partition, Place, Reading, Receipt};

/// How long the server waits before it delivers again what was not acknowledged.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Deliveries under way.
const MAX_ACK_PENDING: i64 = 10_000;
/// How long the server keeps a request for deliveries, and how often it says meanwhile that it is there.
const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(3);
/// What releases up to 0.3 published, and who is behind on it still.
pub(super) const UNDIVIDED: &str = "undivided";

/// What `consumer` has to read.
pub(super) async fn partitions(
    stream: &Stream,
    partitions: Partitions,
    consumer: &str,
) -> Result<Vec<Partition>, BusError> {
    let divided = (0..partitions.0).map(|number| Partition {
        name: number.to_string().into(),
        begins_after: 0,
    });
    let mut all: Vec<Partition> = divided.collect();
    // Releases up to 0.3 read by a consumer of this name.
    match stream.consumer_info(consumer).await {
        Ok(info) => all.push(Partition {
            name: UNDIVIDED.into(),
            begins_after: i64::try_from(info.ack_floor.stream_sequence).unwrap_or_default(),
        }),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(all)
}

/// Reads a partition from after position `after` on.
pub(super) async fn open(
    bus: &NatsBus,
    consumer: &'static str,
    partition: &str,
    types: &'static [&'static str],
    after: i64,
) -> Result<Reading, BusError> {
    let stream = bus.stream().await?.stream;
    // Before the question: what is lost with this connection has to be seen.
    let mut connections = bus.0.connections.subscribe();
    connections.mark_unchanged();
    let name = names::consumer(consumer, partition);
    match stream.delete_consumer(&name).await {
        Err(error) if !is_missing(&error) => return Err(error.into()),
        _ => {}
    }
    let subject = |event_type: &&str| match partition {
        UNDIVIDED => (*event_type).to_owned(),
        divided => bus.0.names.subject(divided, event_type),
    };
    let durable: PullConsumer = stream
        .create_consumer(pull::Config {
            durable_name: Some(name),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: u64::try_from(after).unwrap_or_default() + 1,
            },
            // One says it of all before.
            ack_policy: AckPolicy::All,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: MAX_ACK_PENDING,
            // What counts is on the service's disk: a server that starts again has the consumer made anew.
            memory_storage: true,
            filter_subjects: types.iter().map(subject).collect(),
            ..pull::Config::default()
        })
        .await?;
    let messages = durable
        .stream()
        .max_messages_per_batch(bus.0.batch)
        .expires(EXPIRES)
        .heartbeat(HEARTBEAT)
        .messages()
        .await?;
    let cursor = Cursor {
        bus: bus.clone(),
        messages,
        connections,
        deliveries: 0,
        last: after,
    };
    let read = |mut cursor: Cursor| async {
        let delivery = cursor.next().await?;
        Ok(Some((delivery, cursor)))
    };
    Ok(stream::try_unfold(cursor, read).boxed())
}

fn is_missing(error: &jetstream::stream::ConsumerError) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

/// Where a partition is read.
struct Cursor {
    bus: NatsBus,
    messages: Messages,
    /// Changes when the connection is another.
    connections: watch::Receiver<u64>,
    /// How many deliveries the server's consumer has made.
    deliveries: u64,
    /// The position of the last one.
    last: i64,
}

impl Cursor {
    async fn next(&mut self) -> Result<Delivery, BusError> {
        loop {
            let message = tokio::select! {
                biased;
                _ = self.connections.changed() => return Err(BusError("the connection was lost".into())),
                message = self.messages.next() => message,
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.bus.look_again();
                    return Err(error.into());
                }
                None => return Err(BusError("the server ended the reading".into())),
            };
            if let Some(delivery) = self.take(message)? {
                return Ok(delivery);
            }
        }
    }

    /// The event in `message`; none when it came before, and was not acknowledged in time.
    fn take(&mut self, message: Message) -> Result<Option<Delivery>, BusError> {
        let info = message
            .info()
            .map_err(|error| BusError(error.to_string().into()))?;
        let (delivery, position) = (info.consumer_sequence, info.stream_sequence);
        self.deliveries += 1;
        if delivery != self.deliveries {
            return Err(BusError("deliveries were lost on their way".into()));
        }
        let sequence = i64::try_from(position).unwrap_or(i64::MAX);
        if sequence <= self.last {
            return Ok(None);
        }
        self.last = sequence;
        let nanos = info.published.unix_timestamp_nanos();
        let stamp = stamp::read(message.headers.as_ref(), nanos);
        let Message { mut message, .. } = message;
        let receipt = message.reply.take().map(Receipt);
        let event = envelope::event(message, position);
        Ok(Some(Delivery {
            place: Place { sequence, stamp },
            event: Some(event),
            receipt,
        }))
    }
}
