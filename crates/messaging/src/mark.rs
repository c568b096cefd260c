//! What is remembered of a bus that may lose its tail: where one is, and where one was some minutes ago.
//!
//! A bus that still has the event at a mark has everything before it. So what came after the newest mark that it has
//! is all that has to be published, or read, once more.

use std::time::Duration;

use tokio::time::Instant;

use crate::bus::{BusError, Place};

/// How much older than the newest mark the older one is, at least.
const AGE: Duration = Duration::from_secs(300);

/// Everything up to `position` was published, or dealt with, when the bus was at `place`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: i64,
    pub(crate) place: Place,
}

/// A mark that is on its way to be the older one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Aging(Option<(Mark, Instant)>);

impl Aging {
    /// The mark that is to be remembered as the older one from now on, when there is a new one. `newest` is where one is.
    pub(crate) fn at(&mut self, newest: Mark) -> Option<Mark> {
        match self.0 {
            Some((_, since)) if since.elapsed() < AGE => None,
            before => {
                self.0 = Some((newest, Instant::now()));
                before.map(|(mark, _)| mark)
            }
        }
    }
}

/// `older`, if the bus still has the event there.
///
/// # Errors
/// When the bus is away.
pub(crate) async fn kept<F: Future<Output = Result<bool, BusError>>>(
    older: Option<Mark>,
    holds: impl FnOnce(Place) -> F,
) -> Result<Option<Mark>, BusError> {
    match older {
        Some(mark) if holds(mark.place).await? => Ok(Some(mark)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;
    use uuid::Uuid;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_older_mark_is_from_some_minutes_ago() {
        let mark = |position| Mark {
            position,
            place: Place {
                sequence: position,
                stamp: Uuid::nil(),
            },
        };
        let mut aging = Aging::default();
        let mut older = Vec::new();
        // A minute each.
        for minute in 0..14 {
            older.extend(aging.at(mark(minute)).map(|mark| (minute, mark.position)));
            advance(Duration::from_secs(60)).await;
        }
        assert_eq!(older, [(5, 0), (10, 5)]);
    }
}
