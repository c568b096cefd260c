//! When each call starts: as soon as a caller is free, or at a fixed rate.

use std::{
    future::Future,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, sleep_until};

/// How the calls of a run follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// Closed loop: so many callers, each with one call at a time.
    Callers(NonZeroUsize),
    /// Open loop: so many starts a second. None is skipped, however many calls are in flight.
    PerSecond(NonZeroU32),
}

/// A call that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// Which of the run's calls, from 0.
    pub(super) index: usize,
    /// When it was meant to start; latency counts from here.
    pub(super) at: Instant,
}

impl Pace {
    /// Runs `work` `count` times at this pace and yields the results as they come.
    ///
    /// All calls share the caller's task: a task for each would cost more than it brings.
    pub(super) fn run<W, F>(self, count: usize, work: W) -> impl Stream<Item = F::Output>
    where
        W: Fn(Start) -> F,
        F: Future,
    {
        let begun = Instant::now();
        let starts = stream::iter(0..count).then(move |index| async move {
            let at = match self {
                Self::Callers(_) => Instant::now(),
                Self::PerSecond(rate) => {
                    let at = begun + due(index, rate);
                    sleep_until(at).await;
                    at
                }
            };
            Start { index, at }
        });
        let in_flight = match self {
            Self::Callers(callers) => callers.get(),
            Self::PerSecond(_) => usize::MAX,
        };
        starts.map(work).buffer_unordered(in_flight)
    }

    /// How many connections carry this pace without one of them being the bottleneck.
    pub(super) fn connections(self) -> usize {
        match self {
            Self::Callers(callers) => callers.get().div_ceil(32).min(64),
            // 500 a second keep some 25 calls in flight at 50 ms each.
            Self::PerSecond(rate) => (rate.get() as usize).div_ceil(500).clamp(2, 16),
        }
    }

    /// How many of the run's own questions (pages, polls) may be in flight at once.
    pub(super) fn pollers(self) -> usize {
        match self {
            Self::Callers(callers) => callers.get().min(32),
            Self::PerSecond(_) => 32,
        }
    }
}

/// When start `index` is due, counted from the run's begin. Computed from the index, not added up,
/// so that rounding does not drift.
fn due(index: usize, rate: NonZeroU32) -> Duration {
    let nanos = index as u128 * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, pin::pin};

    use tokio::sync::Notify;

    use super::*;

    fn rate(per_second: u32) -> NonZeroU32 {
        NonZeroU32::new(per_second).unwrap()
    }

    #[test]
    fn starts_are_spread_evenly_and_do_not_drift() {
        assert_eq!(due(0, rate(3)), Duration::ZERO);
        assert_eq!(due(1, rate(4)), Duration::from_millis(250));
        assert_eq!(due(3_000_000, rate(3)), Duration::from_secs(1_000_000));
    }

    #[tokio::test]
    async fn an_open_loop_starts_the_rest_while_the_first_call_hangs() {
        let last = Notify::new();
        let calls = Pace::PerSecond(rate(10_000)).run(20, |start| {
            let last = &last;
            async move {
                match start.index {
                    0 => last.notified().await,
                    19 => last.notify_one(),
                    _ => {}
                }
            }
        });
        assert_eq!(calls.count().await, 20);
    }

    #[tokio::test]
    async fn a_late_start_keeps_its_intended_time() {
        let begun = Instant::now();
        let mut calls = pin!(Pace::PerSecond(rate(1_000)).run(5, |start| async move { start }));
        let mut previous = None;
        while let Some(start) = calls.next().await {
            if let Some(previous) = previous.replace(start.at) {
                assert_eq!(start.at - previous, Duration::from_millis(1));
            }
            // The loop is stalled, the schedule is not.
            std::thread::sleep(Duration::from_millis(3));
        }
        assert!(begun.elapsed() >= Duration::from_millis(15));
    }

    #[tokio::test]
    async fn a_closed_loop_never_has_more_calls_in_flight_than_callers() {
        let (now, most) = (Cell::new(0), Cell::new(0));
        let callers = NonZeroUsize::new(3).unwrap();
        let calls = Pace::Callers(callers).run(50, |_| {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            let now = &now;
            async move {
                tokio::task::yield_now().await;
                now.set(now.get() - 1);
            }
        });
        assert_eq!(calls.count().await, 50);
        assert_eq!(most.get(), 3);
    }
}
