//! Publishing: many events as one batch, few one by one.

use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures::future::try_join_all;
use serde::Deserialize;

use super::{Met, NatsBus, envelope, stamp, stream::Partitions};
use crate::{
    bus::{BusError, Place},
    event::Event,
};

/// From this number on, events are published as one batch: the server syncs once for all of them, where it
/// syncs for each alone. Fewer are not worth the batch's own cost. Measured: docs/performance.md.
const BATCH_FROM: usize = 32;

/// Publishes `events`; the furthest place of one.
pub(super) async fn publish(
    bus: &NatsBus,
    events: &[Event],
    rewinds: i64,
) -> Result<Option<Place>, BusError> {
    let Met { stream, partitions } = bus.stream().await?;
    if events.len() >= BATCH_FROM && takes_batches(&stream) {
        match bus.publish_batch(events, partitions, rewinds).await {
            Ok(place) => return Ok(place),
            // E.g. one of them is known already, after a relay that died before it stored its checkpoint.
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "not published as a batch; published one by one"
            ),
        }
    }
    bus.publish_each(events, partitions, rewinds).await
}

fn takes_batches(stream: &Stream) -> bool {
    stream.cached_info().config.allow_atomic_publish
}

impl NatsBus {
    /// As one batch, which the server takes as a whole or not at all.
    async fn publish_batch(
        &self,
        events: &[Event],
        partitions: Partitions,
        rewinds: i64,
    ) -> Result<Option<Place>, BusError> {
        let client = self.context()?.client();
        let mut last = None;
        let batch = events
            .first()
            .map(|event| event.id.to_string())
            .unwrap_or_default();
        for (index, event) in events.iter().enumerate() {
            let mut headers = envelope::headers(event, rewinds);
            headers.insert("Nats-Batch-Id", batch.as_str());
            headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
            let subject = envelope::subject(event, &self.0.names, partitions);
            let payload = Bytes::from(event.payload.clone());
            if index + 1 < events.len() {
                client
                    .publish_with_headers(subject, headers, payload)
                    .await?;
                continue;
            }
            headers.insert("Nats-Batch-Commit", "1");
            let answer = client
                .request_with_headers(subject, headers, payload)
                .await?;
            let answer: Answer = serde_json::from_slice(&answer.payload)
                .map_err(|error| BusError(Box::new(error)))?;
            if let Some(error) = answer.error {
                return Err(BusError(error.description.into()));
            }
            last = place(answer.seq, event, rewinds);
        }
        Ok(last)
    }

    async fn publish_each(
        &self,
        events: &[Event],
        partitions: Partitions,
        rewinds: i64,
    ) -> Result<Option<Place>, BusError> {
        let js = self.context()?;
        let mut acks = Vec::with_capacity(events.len());
        for event in events {
            let subject = envelope::subject(event, &self.0.names, partitions);
            let payload = Bytes::from(event.payload.clone());
            let published =
                js.publish_with_headers(subject, envelope::headers(event, rewinds), payload);
            acks.push(async { published.await?.await });
        }
        let acks = try_join_all(acks).await?;
        // The server names those that it had before by their old numbers.
        let places = events.iter().zip(acks);
        let last = places.max_by_key(|(_, ack)| ack.sequence);
        Ok(last.and_then(|(event, ack)| place(ack.sequence, event, rewinds)))
    }
}

/// Where the server says that it has an event; none when it names no number.
fn place(sequence: u64, event: &Event, rewinds: i64) -> Option<Place> {
    let place = Place {
        sequence: i64::try_from(sequence).unwrap_or(i64::MAX),
        stamp: stamp::published(&envelope::message_id(event, rewinds)),
    };
    (place.sequence > 0).then_some(place)
}

/// What the server says to a batch.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    /// The last event's.
    #[serde(default)]
    seq: u64,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    description: String,
}
