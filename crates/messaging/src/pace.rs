//! The pace of relay, consumer and deliveries: one batch at once when little happens, larger ones when much does.
//!
//! On PostgreSQL and NATS a batch costs round trips and syncs whatever its size. Without a pace, a load that
//! comes evenly is handled in batches of one or two until the machine has no more to give, and only then do
//! they grow. So a batch that was not full is followed by the next no sooner than 20 ms after its begin;
//! the first after a rest is not held up at all.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::store::Store;

/// A registration reaches My Page in four steps, each of which may wait this long.
const SHORTEST: Duration = Duration::from_millis(20);

/// Keeps one loop's pace.
#[derive(Debug)]
pub struct Pace {
    shortest: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// The pace of a loop over `store`. There is none on SQLite, where a transaction costs no round trips.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        let is_far = store.database().postgres().is_some();
        Self {
            shortest: if is_far { SHORTEST } else { Duration::ZERO },
            next: None,
        }
    }

    /// Waits until the next batch may begin.
    pub async fn keep(&mut self) {
        if self.shortest.is_zero() {
            return;
        }
        if let Some(next) = self.next {
            sleep_until(next).await;
        }
        self.next = Some(Instant::now() + self.shortest);
    }

    /// Lets the next batch begin at once: this one was full, and more wait.
    pub fn hurry(&mut self) {
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_follows_closely_waits() {
        let mut pace = Pace {
            shortest: SHORTEST,
            next: None,
        };
        let begin = Instant::now();
        pace.keep().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        pace.keep().await;
        assert_eq!(begin.elapsed(), SHORTEST);
        pace.hurry();
        pace.keep().await;
        assert_eq!(begin.elapsed(), SHORTEST);
        tokio::time::sleep(SHORTEST * 3).await;
        pace.keep().await;
        assert_eq!(begin.elapsed(), SHORTEST * 4);
    }
}
