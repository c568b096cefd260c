//! Pauses between attempts: doubling, bounded, jittered.

use std::time::Duration;

use crate::random::Random;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// The pauses between attempts at something that is away.
#[derive(Debug)]
pub struct Backoff {
    random: Random,
    next: Duration,
}

impl Backoff {
    /// Starts at 50 ms and rises to 5 s.
    #[must_use]
    pub fn new(random: &Random) -> Self {
        Self {
            random: random.clone(),
            next: FIRST,
        }
    }

    /// The pause before the next attempt; the one after is twice as long.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        self.random.jitter(pause)
    }

    /// An attempt succeeded: the next pause is short again.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}
