//! Refused calls in the log: a few a second one by one, the others as counts. A client that is refused
//! ten thousand times a second must not fill the log.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};
use tonic::{Code, Status};

/// How many refusals are logged one by one in each window.
const LINES: usize = 10;
const WINDOW: Duration = Duration::from_secs(1);
/// Codes and reasons that are counted apart. Ours are fewer; those of others are not ours to bound.
const KINDS: usize = 64;
/// Where the others are counted.
const OTHER: &str = "OTHER";

/// Of the whole process, as the log is.
static REFUSALS: Mutex<Refusals> = Mutex::new(Refusals {
    end: None,
    lines: 0,
    counts: BTreeMap::new(),
});

/// What was refused in the window that is open.
struct Refusals {
    /// Of the window; none before the first refusal.
    end: Option<Instant>,
    lines: usize,
    counts: Counts,
}

/// Refusals that were not logged one by one, by code and reason.
type Counts = BTreeMap<(i32, String), u64>;

/// What becomes of one refusal.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is logged by itself.
    Line,
    /// It is counted. The first one has to see that the counts are logged when the window ends.
    Counted { first: Option<Instant> },
}

/// Logs that a call was refused, or counts it. `text` says why, for operators.
pub(super) fn log(status: &Status, reason: Option<&str>, text: impl FnOnce() -> String) {
    let code = status.code();
    let mut refusals = refusals();
    let now = Instant::now();
    let counts = refusals.roll(now);
    let fate = refusals.refuse(now, code, reason);
    drop(refusals);
    tell(counts);
    match fate {
        Fate::Line => tracing::info!(grpc.code = ?code, reason, error = text(), "call refused"),
        Fate::Counted { first } => {
            tracing::debug!(grpc.code = ?code, reason, error = text(), "call refused");
            if let (Some(end), Ok(runtime)) = (first, Handle::try_current()) {
                runtime.spawn(async move {
                    sleep_until(end).await;
                    let counts = self::refusals().roll(Instant::now());
                    tell(counts);
                });
            }
        }
    }
}

fn refusals() -> MutexGuard<'static, Refusals> {
    REFUSALS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(counts: Counts) {
    for ((code, reason), count) in counts {
        let code = Code::from_i32(code);
        let reason = (!reason.is_empty()).then_some(reason);
        tracing::info!(
            parent: None,
            grpc.code = ?code,
            reason,
            count,
            "calls refused that are not logged one by one"
        );
    }
}

impl Refusals {
    /// The counts of a window that is over.
    fn roll(&mut self, now: Instant) -> Counts {
        if self.end.is_some_and(|end| now < end) {
            return Counts::new();
        }
        self.end = None;
        self.lines = 0;
        mem::take(&mut self.counts)
    }

    fn refuse(&mut self, now: Instant, code: Code, reason: Option<&str>) -> Fate {
        let end = *self.end.get_or_insert(now + WINDOW);
        if self.lines < LINES {
            self.lines += 1;
            return Fate::Line;
        }
        let first = self.counts.is_empty().then_some(end);
        let mut kind = (code as i32, reason.unwrap_or_default().to_owned());
        if self.counts.len() >= KINDS && !self.counts.contains_key(&kind) {
            OTHER.clone_into(&mut kind.1);
        }
        *self.counts.entry(kind).or_default() += 1;
        Fate::Counted { first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_refusals_a_second_are_logged_and_the_others_counted_by_code_and_reason() {
        let mut refusals = Refusals {
            end: None,
            lines: 0,
            counts: Counts::new(),
        };
        let start = Instant::now();
        let end = start + WINDOW;
        for _ in 0..LINES {
            let fate = refusals.refuse(start, Code::NotFound, Some("MEMBER_NOT_FOUND"));
            assert_eq!(fate, Fate::Line);
        }
        let fate = refusals.refuse(start, Code::NotFound, Some("MEMBER_NOT_FOUND"));
        assert_eq!(fate, Fate::Counted { first: Some(end) });
        for reason in [Some("MEMBER_NOT_FOUND"), Some("COUPON_NOT_FOUND"), None] {
            let fate = refusals.refuse(start, Code::NotFound, reason);
            assert_eq!(fate, Fate::Counted { first: None });
        }
        assert_eq!(refusals.roll(start), Counts::new());
        let counts: Vec<_> = refusals.roll(end).into_iter().collect();
        let of = |reason: &str, count| ((Code::NotFound as i32, reason.to_owned()), count);
        assert_eq!(
            counts,
            [
                of("", 1),
                of("COUPON_NOT_FOUND", 1),
                of("MEMBER_NOT_FOUND", 2)
            ]
        );
        // The next window has lines of its own.
        assert_eq!(refusals.refuse(end, Code::NotFound, None), Fate::Line);
    }

    #[test]
    fn a_peer_that_invents_reasons_fills_no_memory() {
        let mut refusals = Refusals {
            end: None,
            lines: LINES,
            counts: Counts::new(),
        };
        let now = Instant::now();
        for number in 0..10 * KINDS {
            refusals.refuse(now, Code::Aborted, Some(&number.to_string()));
        }
        let counts = refusals.roll(now + WINDOW);
        assert!(counts.len() <= KINDS + 1);
        let all: u64 = counts.values().sum();
        assert_eq!(all, 10 * KINDS as u64);
    }
}
