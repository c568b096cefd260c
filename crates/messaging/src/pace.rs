//! The pace of relay, consumer and deliveries: one batch at once when little happens, larger ones when much does.
//!
//! On PostgreSQL and NATS a batch costs round trips and syncs whatever its size. Without a pace, a load that
//! comes evenly is handled in batches of one or two until the machine has no more to give, and only then do
//! they grow. So a batch that was not full is followed by a rest half as long as itself: on a busy machine batches
//! take longer, and grow. The first after a rest is not held up at all.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::store::Store;

/// How long the rest is at least. A registration reaches My Page in four steps, each of which may wait this long.
const SHORTEST: Duration = Duration::from_millis(5);
/// How long it is at the most.
const LONGEST: Duration = Duration::from_millis(50);

/// Keeps one loop's pace.
#[derive(Debug)]
pub struct Pace {
    is_far: bool,
    next: Option<Instant>,
}

impl Pace {
    /// The pace of a loop over `store`. There is none on SQLite, where a transaction costs no round trips.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self {
            is_far: store.database().postgres().is_some(),
            next: None,
        }
    }

    /// Waits until the next batch may begin.
    pub async fn keep(&mut self) {
        if let Some(next) = self.next.take() {
            sleep_until(next).await;
        }
    }

    /// Lets the next batch wait: that begun then was dealt with, and was not full.
    pub fn rest(&mut self, begun: Instant) {
        if self.is_far {
            let rest = (begun.elapsed() / 2).clamp(SHORTEST, LONGEST);
            self.next = Some(Instant::now() + rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// How long the next batch waits after one that took so long.
    async fn rest_after(pace: &mut Pace, took: Duration) -> Duration {
        let begun = Instant::now();
        sleep(took).await;
        pace.rest(begun);
        let done = Instant::now();
        pace.keep().await;
        done.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longer_a_batch_took_the_longer_the_next_waits() {
        let milliseconds = Duration::from_millis;
        let mut pace = Pace {
            is_far: true,
            next: None,
        };
        for (took, rest) in [(0, 5), (4, 5), (20, 10), (120, 50)] {
            let rested = rest_after(&mut pace, milliseconds(took)).await;
            assert_eq!(rested, milliseconds(rest), "after {took} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_follows_closely_waits() {
        let mut pace = Pace {
            is_far: true,
            next: None,
        };
        let begun = Instant::now();
        pace.keep().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        pace.rest(begun);
        sleep(SHORTEST).await;
        pace.keep().await;
        assert_eq!(begun.elapsed(), SHORTEST);
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_none_where_a_transaction_costs_no_round_trips() {
        let mut pace = Pace {
            is_far: false,
            next: None,
        };
        let rested = rest_after(&mut pace, Duration::ZERO).await;
        assert_eq!(rested, Duration::ZERO);
    }
}
