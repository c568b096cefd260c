//! Calling until there is an answer.

use std::{
    error::Error as _,
    future::Future,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use couponmesh_runtime::Random;
use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use super::errors::Errors;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Repeats the calls of one RPC while the service is away. The caller repeats the same request_id,
/// so that a call whose answer was lost does not act twice.
pub(super) struct Retrier {
    rpc: &'static str,
    errors: Errors,
    random: Random,
    patience: Duration,
    retries: AtomicU64,
    last_success: Mutex<Instant>,
}

impl Retrier {
    pub(super) fn new(
        rpc: &'static str,
        errors: Errors,
        random: Random,
        patience: Duration,
    ) -> Self {
        Self {
            rpc,
            errors,
            random,
            patience,
            retries: AtomicU64::new(0),
            last_success: Mutex::new(Instant::now()),
        }
    }

    /// How many calls were repeats.
    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// The answer to `call`, or `None` when it was refused for good or patience ran out.
    pub(super) async fn answer<T, F>(&self, mut call: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let status = match call().await {
                Ok(response) => {
                    *self
                        .last_success
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Instant::now();
                    return Some(response.into_inner());
                }
                Err(status) => status,
            };
            self.errors.count(self.rpc, &status);
            if !may_succeed_later(&status) || self.out_of_patience(begun) {
                return None;
            }
            let floor = status
                .get_details_retry_info()
                .and_then(|info| info.retry_delay);
            sleep(self.random.jitter(pause).max(floor.unwrap_or_default())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call gives up after its own time, and also when nobody got an answer for that long:
    /// else a run against a dead server would take the timeout once for every member.
    fn out_of_patience(&self, begun: Instant) -> bool {
        let last_success = *self
            .last_success
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        begun.min(last_success).elapsed() >= self.patience
    }
}

/// UNAVAILABLE, or no answer at all: a deadline, or an error of the transport (which tonic keeps as
/// the status' source; what a server sent has none).
pub(super) fn may_succeed_later(status: &Status) -> bool {
    let outage = matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
    );
    outage || status.source().is_some()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn retrier(patience: Duration) -> Retrier {
        Retrier::new("Test", Errors::default(), Random::seeded(1), patience)
    }

    #[tokio::test]
    async fn an_outage_is_repeated_and_counted() {
        let calls = Cell::new(0);
        let retrier = retrier(Duration::from_secs(60));
        let answer = retrier
            .answer(|| {
                calls.set(calls.get() + 1);
                let away = calls.get() < 3;
                async move {
                    if away {
                        Err(Status::unavailable("away"))
                    } else {
                        Ok(Response::new(7))
                    }
                }
            })
            .await;
        assert_eq!((answer, retrier.retries()), (Some(7), 2));
        assert_eq!(retrier.errors.table()[0].count, 2);
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let retrier = retrier(Duration::from_secs(60));
        let answer: Option<()> = retrier
            .answer(|| async { Err(Status::already_exists("taken")) })
            .await;
        assert_eq!((answer, retrier.retries()), (None, 0));
    }

    #[tokio::test]
    async fn patience_ends() {
        let retrier = retrier(Duration::ZERO);
        let answer: Option<()> = retrier
            .answer(|| async { Err(Status::unavailable("away")) })
            .await;
        assert_eq!((answer, retrier.retries()), (None, 0));
    }

    #[test]
    fn a_broken_connection_is_an_outage_but_a_bug_is_not() {
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert!(may_succeed_later(&broken));
        assert!(!may_succeed_later(&Status::internal("a bug")));
        assert!(!may_succeed_later(&Status::unknown("said the server")));
    }
}
