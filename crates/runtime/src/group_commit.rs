//! Group commit: callers that come together commit together.
//!
//! While one transaction is being committed, the next callers gather, and all of them share the next one. Each
//! gets its own answer, and none fails for another's fault: the requests of a group that did not commit are tried
//! alone, beside the groups that follow.

use std::{
    collections::VecDeque,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use futures::{FutureExt as _, future::join_all};
use sea_orm::DbErr;
use tokio::sync::{Semaphore, oneshot};

use crate::{database, running::Running};

/// Requests in one transaction at the most.
const MAX_GROUP: usize = 64;
/// Requests that wait at the most; more are not taken. The bounds on calls in flight keep their number below it.
const MAX_WAITING: usize = 4_096;
/// Requests of groups that failed that are tried alone at the same time: some may wait for locks that others hold.
const ALONE_AT_ONCE: usize = 4;
/// How often each of them is tried: who lost a race for something finds it taken then, since the other has committed.
const TRIES_ALONE: usize = 2;

/// What is done for many callers in one transaction.
#[async_trait]
pub trait Work: Send + Sync + 'static {
    /// What one caller asks for.
    type Request: Send + Sync + 'static;
    /// What one caller gets.
    type Answer: Send + 'static;
    /// Why one caller does not get it.
    type Error: From<DbErr> + From<NotTaken> + Send + 'static;

    /// Does for all of `requests` what they ask for, in one commit; an answer for each, in their order.
    ///
    /// Idempotent: what did not commit is tried again, and a lost connection leaves open whether it did.
    ///
    /// # Errors
    /// When it did not commit. An outage is everyone's; after any other error each request is tried alone.
    async fn commit(&self, requests: &[Self::Request]) -> Result<Vec<Outcome<Self>>, DbErr>;
}

/// What one caller is told.
pub type Outcome<W> = Result<<W as Work>::Answer, <W as Work>::Error>;

/// There was no room for a request, or doing what it asks for panicked.
#[derive(Clone, Copy, Debug)]
pub struct NotTaken;

/// Gathers requests and commits them. Cheap to clone.
pub struct GroupCommit<W: Work>(Arc<Inner<W>>);

struct Inner<W: Work> {
    work: W,
    running: Running,
    queue: Mutex<Queue<W>>,
    alone: Semaphore,
}

struct Queue<W: Work> {
    waiting: VecDeque<Waiting<W>>,
    /// Whether a task is at it, which looks here again before it ends.
    committing: bool,
    /// How many are tried alone, or wait for that.
    alone: usize,
}

type Waiting<W> = (<W as Work>::Request, oneshot::Sender<Outcome<W>>);

impl<W: Work> GroupCommit<W> {
    /// Commits in tasks of `running`, which therefore ends only after what it has begun.
    #[must_use]
    pub fn new(work: W, running: &Running) -> Self {
        Self(Arc::new(Inner {
            work,
            running: running.clone(),
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                committing: false,
                alone: 0,
            }),
            alone: Semaphore::new(ALONE_AT_ONCE),
        }))
    }

    /// Has `request` done, also when the caller goes away meanwhile.
    ///
    /// # Errors
    /// As the work; [`NotTaken`].
    pub async fn submit(&self, request: W::Request) -> Outcome<W> {
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.0.queue();
            if queue.waiting.len() + queue.alone >= MAX_WAITING {
                return Err(NotTaken.into());
            }
            queue.waiting.push_back((request, answer));
            if !std::mem::replace(&mut queue.committing, true) {
                self.0.running.spawn(self.0.clone().commit_all());
            }
        }
        answered.await.unwrap_or_else(|_| Err(NotTaken.into()))
    }
}

impl<W: Work> Inner<W> {
    fn queue(&self) -> MutexGuard<'_, Queue<W>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group; none, and no task is at it any more, when nobody waits.
    fn next(&self) -> Option<Vec<Waiting<W>>> {
        let mut queue = self.queue();
        queue.committing = !queue.waiting.is_empty();
        let count = queue.waiting.len().min(MAX_GROUP);
        queue
            .committing
            .then(|| queue.waiting.drain(..count).collect())
    }

    async fn commit_all(self: Arc<Self>) {
        while let Some(group) = self.next() {
            let (requests, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            match self.attempt(&requests).await {
                // A caller that went away does not hear its answer.
                Ok(outcomes) => answers
                    .into_iter()
                    .zip(outcomes)
                    .for_each(|(answer, outcome)| {
                        let _ = answer.send(outcome);
                    }),
                Err(Failure::Everyones(error)) => answers.into_iter().for_each(|answer| {
                    let _ = answer.send(Err(error.clone().into()));
                }),
                Err(Failure::Database(_) | Failure::Panic) => {
                    // Beside the groups that follow, which need not wait for it.
                    let (inner, group) = (self.clone(), requests.into_iter().zip(answers));
                    let group: Vec<_> = group.collect();
                    self.queue().alone += group.len();
                    self.running
                        .spawn(async move { inner.commit_each(group).await });
                }
            }
        }
    }

    /// Tries each alone, which finds the one to blame.
    async fn commit_each(&self, group: Vec<Waiting<W>>) {
        let outage = OnceLock::new();
        let each = group.into_iter().map(|(request, answer)| {
            let outage = &outage;
            async move {
                let _ = answer.send(self.commit_alone(&request, outage).await);
                self.queue().alone -= 1;
            }
        });
        join_all(each).await;
    }

    /// `outage` ends it for those who are not tried yet: they need not find out one by one.
    async fn commit_alone(&self, request: &W::Request, outage: &OnceLock<DbErr>) -> Outcome<W> {
        // Never closed.
        let _permit = self.alone.acquire().await;
        let mut failed = NotTaken.into();
        for _ in 0..TRIES_ALONE {
            if let Some(error) = outage.get() {
                return Err(error.clone().into());
            }
            failed = match self.attempt(std::slice::from_ref(request)).await {
                Ok(mut one) => return one.pop().unwrap_or(Err(failed)),
                Err(Failure::Everyones(error)) => {
                    return Err(outage.get_or_init(|| error).clone().into());
                }
                Err(Failure::Database(error)) => error.into(),
                Err(Failure::Panic) => NotTaken.into(),
            };
        }
        Err(failed)
    }

    async fn attempt(&self, requests: &[W::Request]) -> Result<Vec<Outcome<W>>, Failure> {
        let count = requests.len();
        match AssertUnwindSafe(self.work.commit(requests))
            .catch_unwind()
            .await
        {
            Ok(Ok(outcomes)) => Ok(outcomes),
            Ok(Err(error)) if is_everyones(&error) => Err(Failure::Everyones(error)),
            Ok(Err(error)) => {
                tracing::info!(count, %error, "a group of requests did not commit");
                Err(Failure::Database(error))
            }
            Err(_) => {
                tracing::error!(count, "committing a group of requests panicked");
                Err(Failure::Panic)
            }
        }
    }
}

/// Whether trying again at once is of no use to anyone.
fn is_everyones(error: &DbErr) -> bool {
    database::is_transient(error)
        && !database::is_contention(error)
        // The next connection has no plans from before a migration.
        && !database::is_stale_plan(error)
}

/// Why a group did not commit.
enum Failure {
    /// An outage.
    Everyones(DbErr),
    /// Maybe because of one request only.
    Database(DbErr),
    /// The same.
    Panic,
}

impl<W: Work> Clone for GroupCommit<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Work> fmt::Debug for GroupCommit<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCommit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::RuntimeErr;

    use super::*;

    /// Doubles numbers, each group when it is let.
    #[derive(Clone)]
    struct Doubling {
        may: Arc<Semaphore>,
        groups: Arc<Mutex<Vec<Vec<i32>>>>,
    }

    /// Numbers with a meaning of their own.
    const BAD: i32 = -1;
    const OUTAGE: i32 = -2;
    const PANIC: i32 = -3;
    /// Somebody holds a lock that it wants, and never lets go.
    const LOCKED: i32 = -4;

    #[derive(Clone, Debug, PartialEq)]
    enum Error {
        NotTaken,
        Database(DbErr),
    }

    impl From<NotTaken> for Error {
        fn from(_: NotTaken) -> Self {
            Self::NotTaken
        }
    }

    impl From<DbErr> for Error {
        fn from(error: DbErr) -> Self {
            Self::Database(error)
        }
    }

    #[async_trait]
    impl Work for Doubling {
        type Request = i32;
        type Answer = i32;
        type Error = Error;

        async fn commit(&self, requests: &[i32]) -> Result<Vec<Outcome<Self>>, DbErr> {
            self.groups.lock().unwrap().push(requests.to_vec());
            self.may.acquire().await.unwrap().forget();
            if requests.contains(&BAD) {
                return Err(DbErr::Custom("bad".to_owned()));
            }
            if requests.contains(&OUTAGE) {
                return Err(DbErr::Conn(RuntimeErr::Internal("gone".to_owned())));
            }
            if requests == [LOCKED] {
                std::future::pending::<()>().await;
            }
            if requests.contains(&LOCKED) {
                return Err(DbErr::RecordNotUpdated);
            }
            assert!(!requests.contains(&PANIC));
            Ok(requests.iter().map(|number| Ok(number * 2)).collect())
        }
    }

    /// Submits `numbers` while another request is being committed; what was answered to them, and the groups
    /// that they came in.
    async fn meanwhile(numbers: Vec<i32>) -> (Vec<Result<i32, Error>>, Vec<Vec<i32>>) {
        let work = Doubling {
            may: Arc::new(Semaphore::new(0)),
            groups: Arc::default(),
        };
        let running = Running::new();
        let group = GroupCommit::new(work.clone(), &running);
        let first = tokio::spawn({
            let group = group.clone();
            async move { group.submit(0).await }
        });
        while work.groups.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let others = join_all(numbers.into_iter().map(|number| group.submit(number)));
        // Polled after the others, which wait by then.
        let let_all = async { work.may.add_permits(1_000) };
        let (others, ()) = tokio::join!(others, let_all);
        assert_eq!(first.await.unwrap(), Ok(0));
        running.stop().await;
        let groups = work.groups.lock().unwrap().split_off(1);
        (others, groups)
    }

    #[tokio::test]
    async fn callers_that_come_meanwhile_share_the_next_commit() {
        let (answers, groups) = meanwhile(vec![1, 2, 3]).await;
        assert_eq!(answers, [Ok(2), Ok(4), Ok(6)]);
        assert_eq!(groups, [[1, 2, 3]]);
    }

    #[tokio::test]
    async fn a_group_has_a_bound_and_nobody_is_forgotten() {
        let numbers: Vec<i32> = (1..).take(2 * MAX_GROUP + 1).collect();
        let (answers, groups) = meanwhile(numbers.clone()).await;
        let doubled: Vec<_> = numbers.iter().map(|number| Ok(number * 2)).collect();
        assert_eq!(answers, doubled);
        let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
        assert_eq!(sizes, [MAX_GROUP, MAX_GROUP, 1]);
    }

    #[tokio::test]
    async fn more_than_may_wait_are_not_taken() {
        let (answers, _) = meanwhile(vec![1; MAX_WAITING + 1]).await;
        let (last, others) = answers.split_last().unwrap();
        assert_eq!(*last, Err(Error::NotTaken));
        assert!(others.iter().all(|answer| *answer == Ok(2)));
    }

    #[tokio::test]
    async fn nobody_fails_for_anothers_fault() {
        let (answers, groups) = meanwhile(vec![1, BAD, 3]).await;
        let bad = Error::Database(DbErr::Custom("bad".to_owned()));
        assert_eq!(answers, [Ok(2), Err(bad), Ok(6)]);
        assert_eq!(groups[0], [1, BAD, 3]);
        let mut alone = groups[1..].concat();
        alone.sort_unstable();
        assert_eq!(alone, [BAD, BAD, 1, 3]);
    }

    #[tokio::test]
    async fn nobody_fails_for_anothers_panic() {
        let (answers, groups) = meanwhile(vec![1, PANIC, 3]).await;
        assert_eq!(answers, [Ok(2), Err(Error::NotTaken), Ok(6)]);
        assert_eq!(groups[0], [1, PANIC, 3]);
    }

    #[tokio::test]
    async fn an_outage_is_found_once_for_all() {
        let (answers, groups) = meanwhile(vec![1, OUTAGE]).await;
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(groups, [[1, OUTAGE]]);
        // Also among those who are tried alone.
        let mut numbers = vec![BAD, OUTAGE];
        numbers.extend(1..=100);
        let (answers, groups) = meanwhile(numbers).await;
        assert!(answers[..MAX_GROUP].iter().filter(|a| a.is_err()).count() > MAX_GROUP - 10);
        assert!(answers[MAX_GROUP..].iter().all(Result::is_ok));
        assert!(groups.len() < 10, "{groups:?}");
    }

    #[tokio::test]
    async fn nobody_waits_for_anothers_lock() {
        let work = Doubling {
            may: Arc::new(Semaphore::new(1_000)),
            groups: Arc::default(),
        };
        let group = GroupCommit::new(work, &Running::new());
        let mut locked = tokio::spawn({
            let group = group.clone();
            async move { join_all([1, LOCKED].map(|number| group.submit(number))).await }
        });
        for number in 2..100 {
            assert_eq!(group.submit(number).await, Ok(2 * number));
        }
        let waits = futures::poll!(&mut locked);
        assert!(waits.is_pending());
    }
}
