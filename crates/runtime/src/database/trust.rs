//! Which connections to a server may still be used. A pool knows when each was made, and nothing else of it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sea_orm::{DbErr, RuntimeErr};
use tokio::{sync::watch, time::Instant};

/// What is known of a pool's connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Connections made before this moment are not to be used.
    lost: watch::Sender<Option<Instant>>,
    /// When a connection first gave no answer in time, and none that was made before has answered since.
    silent: Mutex<Option<Instant>>,
    /// Whether commits wait for a standby that does not answer.
    stuck: AtomicBool,
}

impl Trust {
    /// Takes every connection of now for lost: one of them led to a server that was stopped, demoted or migrated,
    /// and the others lead to the same one.
    pub(super) fn lose(&self) {
        self.0.lost.send_replace(Some(Instant::now()));
    }

    /// Whether a connection that was made `age` ago is lost.
    pub(super) fn is_lost(&self, age: Duration) -> bool {
        self.0.lost.borrow().is_some_and(|at| age >= at.elapsed())
    }

    /// Notes that a connection that was made `age` ago answered.
    pub(super) fn answered(&self, age: Duration) {
        let mut silent = self.silent();
        // A newer one may lead to another server.
        if silent.is_some_and(|first| age >= first.elapsed()) {
            *silent = None;
        }
    }

    /// Notes that a connection gave no answer for all of `waited`, at whose begin it was `age` old. Once is no more
    /// than a server that is busy; a second time, after the first, takes every connection for lost.
    pub(super) fn silent_for(&self, waited: Duration, age: Duration) {
        let mut silent = self.silent();
        let since_first = silent.map(|first| first.elapsed());
        match since_first {
            Some(since) if age + waited >= since => {
                // Those who were asked at the same time met the same moment.
                if waited <= since {
                    *silent = None;
                    self.lose();
                }
            }
            _ => *silent = Some(Instant::now()),
        }
    }

    fn silent(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears whenever connections are lost.
    pub(super) fn losses(&self) -> Losses {
        Losses(Some(self.0.lost.subscribe()))
    }

    /// Says whether commits wait for a standby that does not answer.
    pub(super) fn set_stuck(&self, stuck: bool) {
        self.0.stuck.store(stuck, Ordering::Relaxed);
    }

    /// Refuses to write while commits wait for a standby. Each of them holds a process of the server until the
    /// standby is back, also when nobody waits for it any more; more of them would leave none for reading.
    ///
    /// # Errors
    /// While they wait: an outage.
    pub(super) fn may_write(&self) -> Result<(), DbErr> {
        if self.0.stuck.load(Ordering::Relaxed) {
            return Err(DbErr::Conn(RuntimeErr::Internal(
                "commits wait for a synchronous standby that does not answer".to_owned(),
            )));
        }
        Ok(())
    }
}

/// Hears of lost connections.
#[derive(Debug)]
pub struct Losses(Option<watch::Receiver<Option<Instant>>>);

impl Losses {
    /// On a file, which loses none.
    pub(super) const NEVER: Self = Self(None);

    /// Whether connections were lost since this was asked last, or waited for.
    pub fn happened(&mut self) -> bool {
        let Some(lost) = &mut self.0 else {
            return false;
        };
        let happened = lost.has_changed().unwrap_or(false);
        lost.mark_unchanged();
        happened
    }

    /// Waits until connections are lost once more.
    pub async fn next(&mut self) {
        if let Some(lost) = &mut self.0
            && lost.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_was_made_before_is_lost() {
        let trust = Trust::default();
        assert!(!trust.is_lost(Duration::from_secs(9)));
        let mut losses = trust.losses();
        trust.lose();
        losses.next().await;
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(trust.is_lost(Duration::from_secs(9)));
        assert!(trust.is_lost(Duration::from_secs(5)));
        assert!(!trust.is_lost(Duration::from_secs(4)));
        assert!(futures::poll!(std::pin::pin!(losses.next())).is_pending());
    }

    const SECOND: Duration = Duration::from_secs(1);
    const OLD: Duration = Duration::from_secs(100);

    #[tokio::test(start_paused = true)]
    async fn a_second_answer_that_is_missing_after_the_first_loses_all_connections() {
        let trust = Trust::default();
        trust.silent_for(SECOND, OLD);
        assert!(!trust.is_lost(OLD));
        tokio::time::advance(SECOND).await;
        trust.silent_for(SECOND, OLD);
        assert!(trust.is_lost(OLD));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_missing_at_the_same_moment_are_one() {
        let trust = Trust::default();
        trust.silent_for(SECOND, OLD);
        trust.silent_for(SECOND, OLD);
        tokio::time::advance(SECOND / 2).await;
        trust.silent_for(SECOND, OLD);
        assert!(!trust.is_lost(OLD));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_between_counts_unless_its_connection_is_newer() {
        for (age, is_lost) in [(OLD, false), (SECOND, true)] {
            let trust = Trust::default();
            trust.silent_for(SECOND, OLD);
            tokio::time::advance(SECOND * 2).await;
            trust.answered(age);
            trust.silent_for(SECOND, OLD);
            assert_eq!(trust.is_lost(OLD), is_lost, "{age:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_connection_that_gives_no_answer_is_the_first() {
        let trust = Trust::default();
        trust.silent_for(SECOND, OLD);
        tokio::time::advance(SECOND * 10).await;
        trust.silent_for(SECOND, SECOND);
        assert!(!trust.is_lost(OLD));
    }
}
