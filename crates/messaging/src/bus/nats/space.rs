//! Room in the stream: what everybody is past goes before the stream is full, oldest first, however young it is.
//!
//! The outboxes still have it: there it stays for its time, and is published again where it is missed.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use tokio::time::sleep;

use super::{NatsBus, NatsConfig, stream};
use crate::bus::BusError;

/// How often the stream is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// From so many hundredths of its size on it is cut, down to so many.
const FULL: u64 = 80;
const CUT: u64 = 50;
/// What the events of one member take in the stream, from registering to the last that is told of it. Measured:
/// docs/operations.md.
const BYTES_OF_A_REGISTRATION: u64 = 3_400;
const DAY: u64 = 86_400;

/// Keeps room in the stream.
pub(super) async fn keep(bus: NatsBus) {
    let mut held_up = false;
    bus.meet().await;
    loop {
        match make_room(&bus).await {
            Ok(room) => {
                if room == Room::None && !held_up {
                    tracing::warn!(
                        stream = bus.0.names.stream(),
                        "the stream is nearly full of events that some service has not read: see which one is behind or \
                         away; when the stream is full, events wait in the outboxes"
                    );
                }
                held_up = room == Room::None;
            }
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the stream could not be looked at"
            ),
        }
        sleep(LOOK).await;
    }
}

#[derive(PartialEq)]
enum Room {
    Enough,
    /// Nothing that may go.
    None,
}

async fn make_room(bus: &NatsBus) -> Result<Room, BusError> {
    let stream = bus.stream().await?.stream;
    let info = stream.get_info().await?;
    let state = &info.state;
    let Some(percent) = percent(state.bytes, info.config.max_bytes) else {
        return Ok(Room::Enough);
    };
    if percent < FULL {
        return Ok(Room::Enough);
    }
    let Some(floor) = stream::floor(&stream, state.last_sequence, &bus.readers().await?).await?
    else {
        return Ok(Room::None);
    };
    // Events are about of one size.
    let span = state.last_sequence.saturating_sub(state.first_sequence) + 1;
    let cut = state.first_sequence + span.saturating_mul(percent.saturating_sub(CUT)) / percent;
    let first = cut.min(floor + 1);
    if first <= state.first_sequence {
        return Ok(Room::None);
    }
    let purged = purge(&stream, first).await?;
    tracing::info!(
        stream = bus.0.names.stream(),
        messages = purged,
        "the stream was {percent} % full: old events deleted that every service has read"
    );
    Ok(Room::Enough)
}

async fn purge(stream: &Stream, first: u64) -> Result<u64, BusError> {
    Ok(stream.purge().sequence(first).await?.purged)
}

/// How full the stream is; none where it has no bound.
fn percent(bytes: u64, max_bytes: i64) -> Option<u64> {
    let max_bytes = u64::try_from(max_bytes).ok().filter(|max| *max > 0)?;
    Some(bytes.saturating_mul(100) / max_bytes)
}

/// A line that says so when a stream of that size cannot hold what is expected within `retention`.
pub(super) fn short_of_space(
    max_bytes: i64,
    retention: Duration,
    config: &NatsConfig,
) -> Option<String> {
    let max_bytes = u64::try_from(max_bytes).ok().filter(|max| *max > 0)?;
    let a_day = config
        .registrations_per_day
        .checked_mul(BYTES_OF_A_REGISTRATION)?;
    let needed = a_day.saturating_mul(retention.as_secs()) / DAY;
    (needed > max_bytes).then(|| {
        let hours = max_bytes.saturating_mul(24) / a_day.max(1);
        format!(
            "at bus.registrations_per_day = {} the stream of {max_bytes} bytes holds the events of {hours} hours, and not of \
             messaging.retention: it needs {needed} bytes. What every service has read is deleted before its time; while a \
             service is away for longer, events wait in the outboxes",
            config.registrations_per_day
        )
    })
}
