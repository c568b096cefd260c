//! Whether a database can be reached and written to, for readiness.

use std::{fmt, time::Duration};

use sea_orm::ConnectionTrait as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{Database, Reader, postgres, session::Seen, trust::Trust};
use crate::running::Running;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Failures in a row until it counts as away: a moment's hiccup must not take every replica out at once.
const FAILURES: u32 = 3;
/// Answers in a row until it counts as back.
const ANSWERS: u32 = 2;

/// What a database is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers and takes writes.
    Well,
    /// It answers and takes none: a standby, or one that was told so, e.g. because its disk is full.
    ReadOnly,
    /// It answers, and commits wait for a synchronous standby that does not.
    Stuck,
    /// No answer.
    Away,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Well => "the database can be reached and written to",
            Self::ReadOnly => "the database takes no writes",
            Self::Stuck => "commits wait for a synchronous standby",
            Self::Away => "the database cannot be reached",
        })
    }
}

/// One who asks a database how it is.
pub struct Probe(Asked);

enum Asked {
    File(Reader),
    Server(postgres::Lookout, Trust),
}

impl Probe {
    /// One who asks `database`.
    #[must_use]
    pub fn new(database: &Database) -> Self {
        Self(match (database.postgres(), &database.bound) {
            (Some(pool), Some(bound)) => Asked::Server(
                postgres::Lookout::new(pool, bound, database.time.clone()),
                bound.trust.clone(),
            ),
            _ => Asked::File(database.read().clone()),
        })
    }

    /// Asks. An answer that takes long is none.
    pub async fn ask(&mut self) -> Health {
        match &mut self.0 {
            Asked::File(reader) => {
                let asked = reader.execute_unprepared("SELECT 1");
                match timeout(TIMEOUT, asked).await {
                    Ok(Ok(_)) => Health::Well,
                    _ => Health::Away,
                }
            }
            Asked::Server(lookout, trust) => match timeout(TIMEOUT, lookout.look()).await {
                Ok(Ok(seen)) => {
                    trust.set_stuck(seen.is_stuck);
                    match seen {
                        Seen {
                            takes_writes: false,
                            ..
                        } => Health::ReadOnly,
                        Seen { is_stuck: true, .. } => Health::Stuck,
                        _ => Health::Well,
                    }
                }
                _ => {
                    // Whatever waited for a standby, it was on a server that is away now.
                    trust.set_stuck(false);
                    Health::Away
                }
            },
        }
    }
}

/// Watches `database` as long as `running` runs: true while it can be reached and written to, as it is taken to
/// be at first.
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
    let (mut probe, mut hysteresis) = (Probe::new(database), Hysteresis::default());
    loop {
        let health = probe.ask().await;
        let is_well = *state.borrow();
        let now = hysteresis.next(is_well, health == Health::Well);
        if now != is_well {
            if now {
                tracing::info!("{health} again: ready");
            } else {
                tracing::error!("{health}: not ready");
            }
            state.send_replace(now);
        }
        sleep(INTERVAL).await;
    }
}

/// Counts what speaks against the present state.
#[derive(Default)]
struct Hysteresis(u32);

impl Hysteresis {
    fn next(&mut self, is_well: bool, answer: bool) -> bool {
        if answer == is_well {
            self.0 = 0;
            return is_well;
        }
        self.0 += 1;
        let needed = if is_well { FAILURES } else { ANSWERS };
        if self.0 < needed {
            return is_well;
        }
        self.0 = 0;
        answer
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
