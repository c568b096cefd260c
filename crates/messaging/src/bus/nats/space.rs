//! Room in the stream: what everybody is past goes before the stream is full, oldest first, however young it is.
//!
//! The outboxes still have it, for `messaging.retention`: `outbox republish` brings it back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{NatsBus, NatsConfig};
use crate::bus::BusError;

/// How often the stream is looked at, and how often while nothing of it may go.
const LOOK: Duration = Duration::from_secs(2);
const LOOK_HELD_UP: Duration = Duration::from_secs(10);
/// A warning comes after so many looks in vain: a consumer that is being made anew is missing for a moment.
const PATIENCE: u32 = 3;
/// How often the same is told.
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// Per cent of its size: a stream that is so full is cut, to what it is cut, and what a cut has to gain at least.
const FULL: u64 = 80;
const CUT: u64 = 50;
const LEAST: u64 = 5;
/// What the events of one member take in the stream, from registering to the last that is told of it, rounded up. See
/// "How large the stream must be" in docs/operations.md.
const BYTES_OF_A_REGISTRATION: u64 = 3_500;
const DAY: u64 = 86_400;

/// Keeps room in the stream.
pub(super) async fn keep(bus: NatsBus) {
    let (mut held_up, mut failing) = (InVain::default(), InVain::default());
    bus.meet().await;
    loop {
        match make_room(&bus).await {
            Ok(Room::Enough) => (held_up.looks, failing.looks) = (0, 0),
            Ok(Room::HeldUp) => {
                if held_up.again() {
                    tracing::warn!(
                        stream = bus.0.names.stream(),
                        "the stream is nearly full of events that some service has not read: see which one is behind or \
                         away; when the stream is full, events wait in the outboxes"
                    );
                }
            }
            Err(error) => {
                if failing.again() {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no room can be made in the stream; it is tried again"
                    );
                }
            }
        }
        sleep(if held_up.looks >= PATIENCE {
            LOOK_HELD_UP
        } else {
            LOOK
        })
        .await;
    }
}

/// Looks in vain, one after the other.
#[derive(Default)]
struct InVain {
    looks: u32,
    told_at: Option<Instant>,
}

impl InVain {
    /// One more; whether it is to be told.
    fn again(&mut self) -> bool {
        self.looks = self.looks.saturating_add(1);
        let is_due = self.told_at.is_none_or(|at| at.elapsed() >= TELL_AGAIN);
        let tells = is_due && self.looks >= PATIENCE;
        if tells {
            self.told_at = Some(Instant::now());
        }
        tells
    }
}

enum Room {
    Enough,
    /// Nothing, or hardly anything, of what is there may go.
    HeldUp,
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
    let Some(floor) = bus.floor(&stream, &info).await? else {
        return Ok(Room::HeldUp);
    };
    // Events are about of one size.
    let span = state.last_sequence.saturating_sub(state.first_sequence) + 1;
    let cut = state.first_sequence + span.saturating_mul(percent.saturating_sub(CUT)) / percent;
    let first = cut.min(floor + 1);
    if first.saturating_sub(state.first_sequence) < span * LEAST / 100 {
        return Ok(Room::HeldUp);
    }
    let purged = stream.purge().sequence(first).await?.purged;
    tracing::info!(
        stream = bus.0.names.stream(),
        messages = purged,
        "the stream was {percent} % full: old events deleted that every service has read"
    );
    Ok(Room::Enough)
}

/// How large a stream may become; none where it has no bound.
fn bound(max_bytes: i64) -> Option<u64> {
    u64::try_from(max_bytes).ok().filter(|max| *max > 0)
}

/// How full the stream is; none where it has no bound.
fn percent(bytes: u64, max_bytes: i64) -> Option<u64> {
    let max_bytes = bound(max_bytes)?;
    Some(bytes.saturating_mul(100) / max_bytes)
}

/// A line that says so when a stream of that size cannot hold what is expected within `retention`.
pub(super) fn short_of_space(
    max_bytes: i64,
    retention: Duration,
    config: &NatsConfig,
) -> Option<String> {
    let max_bytes = bound(max_bytes)?;
    let a_day = config
        .registrations_per_day
        .checked_mul(BYTES_OF_A_REGISTRATION)?;
    let events = a_day.saturating_mul(retention.as_secs()) / DAY;
    let needed = events.saturating_mul(100) / FULL;
    (needed > max_bytes).then(|| {
        let hours = (max_bytes / 100 * FULL).saturating_mul(24) / a_day.max(1);
        format!(
            "at bus.registrations_per_day = {} the stream of {max_bytes} bytes is {FULL} % full after {hours} hours, before \
             messaging.retention is over: what every service has read is deleted sooner, and while a service is away for \
             longer, events wait in the outboxes. {needed} bytes would do",
            config.registrations_per_day
        )
    })
}
