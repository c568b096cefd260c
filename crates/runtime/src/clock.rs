//! Wall-clock time: one injected source, one stored form.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use sea_orm::DeriveValueType;

/// How far beyond its longest pause a deadline may lie. One that lies further ahead was written
/// under a wrong clock, and is due: nothing of ours waits that long.
///
/// Replicas read one clock, the database's, and differ by a round trip. The rest is for the release
/// before this one, whose replicas go by their own clocks.
const TOLERANCE: Duration = Duration::from_secs(30);

/// From this on, a step of the server's clock is reported.
const STEP: Duration = Duration::from_secs(60);

/// A moment: microseconds since 1970-01-01T00:00:00Z.
///
/// Stored as a 64-bit integer, which sorts the same on SQLite and PostgreSQL
/// (SQLite has no time type, and its text form does not sort).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, DeriveValueType)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment and `duration` more.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// This moment less `duration`.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// How long after `earlier` this is; zero when it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The latest deadline that a pause of at most `longest`, begun now, can have. One that lies
    /// beyond it was written under a wrong clock and counts as due.
    #[must_use]
    pub fn latest_deadline(self, longest: Duration) -> Self {
        self.plus(longest).plus(TOLERANCE)
    }

    /// Whole milliseconds since 1970, as UUID v7 wants them.
    #[must_use]
    pub fn unix_millis(self) -> u64 {
        u64::try_from(self.0 / 1_000).unwrap_or(0)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl From<Timestamp> for prost_types::Timestamp {
    fn from(time: Timestamp) -> Self {
        Self {
            seconds: time.0.div_euclid(1_000_000),
            // Below 1e9 by construction.
            nanos: i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
        }
    }
}

impl From<prost_types::Timestamp> for Timestamp {
    fn from(time: prost_types::Timestamp) -> Self {
        Self(
            time.seconds
                .saturating_mul(1_000_000)
                .saturating_add(i64::from(time.nanos) / 1_000),
        )
    }
}

/// RFC 3339 in UTC, as CloudEvents and people write it.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        prost_types::Timestamp::from(*self).fmt(f)
    }
}

/// A text that is no moment.
#[derive(Debug, thiserror::Error)]
#[error("must be a time such as 2026-11-23T13:00:00Z")]
pub struct NoTimestamp;

/// RFC 3339, with any offset.
impl FromStr for Timestamp {
    type Err = NoTimestamp;

    fn from_str(text: &str) -> Result<Self, NoTimestamp> {
        let parsed: prost_types::Timestamp = text.parse().map_err(|_| NoTimestamp)?;
        Ok(parsed.into())
    }
}

/// Where the time comes from.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Shifted(Arc<AtomicI64>),
    Manual(Arc<AtomicI64>),
    Server(Arc<ServerTime>),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The clock of a machine that is set wrong, `ahead` of this one's, for tests.
    #[must_use]
    pub fn shifted(ahead: Duration) -> Self {
        Self(Source::Shifted(Arc::new(AtomicI64::new(micros(ahead)))))
    }

    /// A clock that stands still at `start` until [`advance`](Self::advance) moves it, for tests.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.0))))
    }

    /// The clock of the database behind `server`, which all replicas share. Tests that move the
    /// time by hand keep their own.
    #[must_use]
    pub(crate) fn or_server(&self, server: &Arc<ServerTime>) -> Self {
        match &self.0 {
            Source::Manual(_) => self.clone(),
            Source::System | Source::Shifted(_) | Source::Server(_) => {
                Self(Source::Server(server.clone()))
            }
        }
    }

    /// Moves a manual clock or a shifted one; the others go on as they do.
    pub fn advance(&self, duration: Duration) {
        match &self.0 {
            Source::Manual(time) | Source::Shifted(time) => {
                time.fetch_add(micros(duration), Ordering::SeqCst);
            }
            Source::System | Source::Server(_) => {}
        }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => machine_time(),
            Source::Shifted(ahead) => Timestamp(
                machine_time()
                    .0
                    .saturating_add(ahead.load(Ordering::SeqCst)),
            ),
            Source::Manual(now) => Timestamp(now.load(Ordering::SeqCst)),
            Source::Server(server) => server.now(),
        }
    }
}

#[allow(clippy::disallowed_methods)] // the one place that may ask the machine
fn machine_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(micros(since.unwrap_or_default()))
}

/// The clock of a database server, read now and then and carried on by this process's monotonic
/// clock in between: no round trip, and whatever happens to this machine's own clock changes
/// nothing.
#[derive(Debug)]
pub(crate) struct ServerTime(Mutex<Reading>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    time: Timestamp,
    at: Instant,
}

impl Reading {
    /// The server read its clock somewhere between question and answer.
    fn new(time: Timestamp, asked: Instant, answered: Instant) -> Self {
        Self {
            time: time.plus(answered.saturating_duration_since(asked) / 2),
            at: answered,
        }
    }

    fn carried_on_to(self, moment: Instant) -> Timestamp {
        self.time.plus(moment.saturating_duration_since(self.at))
    }
}

impl ServerTime {
    /// The server said `time` to a question.
    pub(crate) fn new(time: Timestamp, asked: Instant, answered: Instant) -> Self {
        Self(Mutex::new(Reading::new(time, asked, answered)))
    }

    /// The server said `time` to another question. As long as ours lies between what it can have
    /// been, ours is kept: a slow answer tells less than the last quick one.
    pub(crate) fn update(&self, time: Timestamp, asked: Instant, answered: Instant) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = reading.carried_on_to(answered);
        let latest = time.plus(answered.saturating_duration_since(asked));
        if (time..=latest).contains(&ours) {
            return;
        }
        if time.since(ours) > STEP || ours.since(latest) > STEP {
            tracing::warn!(from = %ours, to = %time, "the database server's clock was stepped");
        }
        *reading = Reading::new(time, asked, answered);
    }

    fn now(&self) -> Timestamp {
        let reading = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.carried_on_to(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_it_is_written() {
        let moment = Timestamp(1_795_439_108_123_456);
        assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
        let elsewhere: Timestamp = "2026-11-23T14:05:00+01:00".parse().unwrap();
        assert_eq!(elsewhere.to_string(), "2026-11-23T13:05:00Z");
        for bad in ["", "yesterday", "2026-13-01T00:00:00Z", "2h"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slow_answer_of_the_server_moves_nothing_and_a_step_of_its_clock_does() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        let server = ServerTime::new(at(1_000), begun, begun);
        let seen = |moment| server.0.lock().unwrap().carried_on_to(moment);
        assert_eq!(seen(after(3)), at(1_003));
        // It read its clock right away, and the answer was two seconds on its way.
        server.update(at(1_005), after(5), after(7));
        assert_eq!(seen(after(7)), at(1_007));
        // Stepped by an hour, forth and back.
        server.update(at(4_610), after(10), after(10));
        assert_eq!(seen(after(11)), at(4_611));
        server.update(at(1_012), after(12), after(12));
        assert_eq!(seen(after(13)), at(1_013));
    }

    #[test]
    fn a_server_s_clock_takes_the_place_of_a_machine_s_and_not_of_one_moved_by_hand() {
        let now = Instant::now();
        let server = Arc::new(ServerTime::new(Timestamp(5_000_000), now, now));
        let wrong = Clock::shifted(Duration::from_secs(3_600));
        let minute = Duration::from_secs(60);
        assert!(wrong.now().since(Clock::system().now()) > minute * 59);
        let shared = wrong.or_server(&server);
        assert!(shared.now().since(Timestamp(5_000_000)) < minute);
        wrong.advance(minute);
        assert!(shared.now().since(Timestamp(5_000_000)) < minute);
        let by_hand = Clock::manual(Timestamp(7)).or_server(&server);
        assert_eq!(by_hand.now(), Timestamp(7));
    }
}
