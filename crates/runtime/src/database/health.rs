//! Whether a database can be reached, for readiness.

use std::time::Duration;

use sea_orm::ConnectionTrait as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::Database;
use crate::running::Running;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Failures in a row until it counts as away: a moment's hiccup must not take every replica out at once.
const FAILURES: u32 = 3;
/// Answers in a row until it counts as back.
const ANSWERS: u32 = 2;

/// Watches `database` as long as `running` runs: true while it can be reached, as it is taken to be at first.
#[must_use]
pub fn watch(database: &Database, running: &Running) -> watch::Receiver<bool> {
    let (state, watched) = watch::channel(true);
    let (database, stop) = (database.clone(), running.stopping());
    let state = std::sync::Arc::new(state);
    running.keep("readiness", move || {
        let (database, stop, state) = (database.clone(), stop.clone(), state.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow(&database, &state) => {}
            }
        }
    });
    watched
}

async fn follow(database: &Database, state: &watch::Sender<bool>) {
    let mut hysteresis = Hysteresis::default();
    loop {
        let answers = answers(database).await;
        let is_there = *state.borrow();
        let now = hysteresis.next(is_there, answers);
        if now != is_there {
            if now {
                tracing::info!("the database can be reached again: ready");
            } else {
                tracing::error!("the database cannot be reached: not ready");
            }
            state.send_replace(now);
        }
        sleep(INTERVAL).await;
    }
}

async fn answers(database: &Database) -> bool {
    let asked = database.read().execute_unprepared("SELECT 1");
    matches!(timeout(TIMEOUT, asked).await, Ok(Ok(_)))
}

/// Counts what speaks against the present state.
#[derive(Default)]
struct Hysteresis(u32);

impl Hysteresis {
    fn next(&mut self, is_there: bool, answers: bool) -> bool {
        if answers == is_there {
            self.0 = 0;
            return is_there;
        }
        self.0 += 1;
        let needed = if is_there { FAILURES } else { ANSWERS };
        if self.0 < needed {
            return is_there;
        }
        self.0 = 0;
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lasts_changes_the_state() {
        let mut hysteresis = Hysteresis::default();
        let mut state = true;
        let mut seen = Vec::new();
        for answers in "1001000100111".chars() {
            state = hysteresis.next(state, answers == '1');
            seen.push(if state { '1' } else { '0' });
        }
        assert_eq!(seen.iter().collect::<String>(), "1111110000011");
    }
}
