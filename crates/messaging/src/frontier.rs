//! Where a table that is a queue is looked at.
//!
//! What was dealt with leaves dead entries at the head of PostgreSQL's index until the next vacuum, and whoever
//! looks for the first row walks past all of them: at thousands of rows a second that costs more than the work
//! itself. So a look begins shortly before the last row that was dealt with, and at all of it only now and then.

use std::time::Duration;

use tokio::time::Instant;

/// How much longer than the last look at all the time until the next one is: on an index that no vacuum has come to
/// for long, narrow looks must stay the rule.
const SHARE: u32 = 10;

/// Where the next look begins.
#[derive(Debug)]
pub struct Frontier {
    margin: i64,
    interval: Duration,
    last: Option<i64>,
    at_all: Instant,
}

/// One look.
#[derive(Debug)]
pub struct Look {
    /// After which key; none when it is at all.
    pub after: Option<i64>,
    begun: Instant,
}

impl Frontier {
    /// Looks begin `margin` before the last row that was dealt with, for rows that come a little out of order. Those
    /// that come even later are found by a look at all, once in `interval`.
    #[must_use]
    pub fn new(margin: i64, interval: Duration) -> Self {
        Self {
            margin,
            interval,
            last: None,
            at_all: Instant::now(),
        }
    }

    /// Begins a look.
    #[must_use]
    pub fn look(&self) -> Look {
        let begun = Instant::now();
        let last = self.last.filter(|_| begun < self.at_all);
        let after = last.map(|last| last.saturating_sub(self.margin));
        Look { after, begun }
    }

    /// The look has ended, well or not.
    pub fn looked(&mut self, look: &Look) {
        if look.after.is_none() {
            let took = look.begun.elapsed();
            self.at_all = Instant::now() + self.interval.max(took * SHARE);
        }
    }

    /// Rows were dealt with, and `last` is the key of the last one. It may be lower than before: then more wait there.
    pub fn dealt_with(&mut self, last: i64) {
        self.last = Some(last);
    }

    /// How long to wait for a wake-up, which may get lost: until the next look at all, at most the interval.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let until_next = self.at_all.saturating_duration_since(Instant::now());
        until_next.min(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn look(frontier: &mut Frontier) -> Option<i64> {
        let look = frontier.look();
        frontier.looked(&look);
        look.after
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_begins_at_the_last_row_and_now_and_then_at_the_first() {
        let mut frontier = Frontier::new(10, INTERVAL);
        assert_eq!(look(&mut frontier), None);
        assert_eq!(look(&mut frontier), None, "nothing was dealt with");
        frontier.dealt_with(100);
        assert_eq!(look(&mut frontier), Some(90));
        assert_eq!(frontier.pause(), INTERVAL);
        advance(INTERVAL).await;
        assert_eq!(frontier.pause(), Duration::ZERO);
        assert_eq!(look(&mut frontier), None);
        // Rows that came late, and more of them.
        frontier.dealt_with(50);
        assert_eq!(look(&mut frontier), Some(40));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_at_all_that_took_long_is_not_the_rule() {
        let mut frontier = Frontier::new(10, INTERVAL);
        frontier.dealt_with(100);
        let slow = frontier.look();
        advance(INTERVAL * 5).await;
        frontier.looked(&slow);
        assert_eq!(look(&mut frontier), Some(90));
        assert_eq!(frontier.pause(), INTERVAL, "a narrow look, meanwhile");
        advance(INTERVAL * 49).await;
        assert_eq!(look(&mut frontier), Some(90));
        advance(INTERVAL).await;
        assert_eq!(look(&mut frontier), None);
    }
}
