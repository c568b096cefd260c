//! Lines of a log that would come with every call while something is down.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lets one of many lines pass now and then, and counts the others.
pub(super) struct Seldom {
    pause: Duration,
    said: Mutex<Said>,
}

struct Said {
    last: Option<Instant>,
    kept_back: u64,
}

impl Seldom {
    /// Lets a line pass, and then none for `pause`.
    pub(super) const fn every(pause: Duration) -> Self {
        let said = Said {
            last: None,
            kept_back: 0,
        };
        Self {
            pause,
            said: Mutex::new(said),
        }
    }

    /// For how many lines this one stands, itself and those kept back before it; none when it is kept back, too.
    pub(super) fn say(&self) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.kept_back += 1;
        if said.last.is_some_and(|last| last.elapsed() < self.pause) {
            return None;
        }
        said.last = Some(Instant::now());
        Some(std::mem::take(&mut said.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_stands_for_those_that_were_kept_back() {
        let seldom = Seldom::every(Duration::from_secs(5));
        let said: Vec<_> = (0..3).map(|_| seldom.say()).collect();
        assert_eq!(said, [Some(1), None, None]);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(seldom.say(), Some(3));
        assert_eq!(seldom.say(), None);
    }
}
