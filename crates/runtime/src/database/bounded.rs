//! Statements that come to an end: a network that swallows packets must not hold a task up for good.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, RuntimeErr, Statement,
};
use tokio::time::Instant;

/// How long after a statement was given up connections count as suspect.
const SUSPICION: Duration = Duration::from_secs(60);

/// How long statements on one database may take, and whether one was given up lately. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    longest: Duration,
    given_up: Arc<Mutex<Option<Instant>>>,
}

impl Bound {
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            given_up: Arc::default(),
        }
    }

    /// Whether a statement was given up lately: its answer may still be on the way, on a connection that is
    /// about to be given back.
    pub(super) fn is_suspicious(&self) -> bool {
        self.lock().is_some_and(|since| since.elapsed() < SUSPICION)
    }

    fn give_up(&self) {
        *self.lock() = Some(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks its statement as given up, unless that came to its end.
struct Begun<'a>(Option<&'a Bound>);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(bound) = self.0 {
            bound.give_up();
        }
    }
}

/// Ends `statement` after its bound with an error that counts as an outage.
pub(super) async fn within<T>(
    bound: Option<&Bound>,
    statement: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    let Some(bound) = bound else {
        return statement.await;
    };
    // Also when the caller itself goes away meanwhile, e.g. at its deadline.
    let mut begun = Begun(Some(bound));
    let outcome = tokio::time::timeout(bound.longest, statement).await;
    if let Ok(outcome) = outcome {
        begun.0 = None;
        return outcome;
    }
    Err(DbErr::Conn(RuntimeErr::Internal(format!(
        "no answer within {:?}",
        bound.longest
    ))))
}

/// Reads outside a transaction.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) inner: DatabaseConnection,
    bound: Option<Bound>,
}

impl Reader {
    pub(super) fn new(inner: DatabaseConnection, bound: Option<Bound>) -> Self {
        Self { inner, bound }
    }

    pub(super) async fn close(&self) -> Result<(), DbErr> {
        self.inner.close_by_ref().await
    }
}

/// An open transaction. Dropped without [`commit`](Self::commit) it never happened.
#[derive(Debug)]
pub struct Transaction {
    inner: DatabaseTransaction,
    bound: Option<Bound>,
}

impl Transaction {
    pub(super) fn new(inner: DatabaseTransaction, bound: Option<Bound>) -> Self {
        Self { inner, bound }
    }

    /// Commits.
    ///
    /// # Errors
    /// When the database refuses. A connection lost meanwhile leaves open whether it took place.
    pub async fn commit(self) -> Result<(), DbErr> {
        within(self.bound.as_ref(), self.inner.commit()).await
    }
}

/// Both pass every statement on, each within its bound.
macro_rules! pass_on {
    ($connection:ty) => {
        #[async_trait]
        impl ConnectionTrait for $connection {
            fn get_database_backend(&self) -> DbBackend {
                self.inner.get_database_backend()
            }

            async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
                within(self.bound.as_ref(), self.inner.execute_raw(statement)).await
            }

            async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
                within(self.bound.as_ref(), self.inner.execute_unprepared(sql)).await
            }

            async fn query_one_raw(
                &self,
                statement: Statement,
            ) -> Result<Option<QueryResult>, DbErr> {
                within(self.bound.as_ref(), self.inner.query_one_raw(statement)).await
            }

            async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
                within(self.bound.as_ref(), self.inner.query_all_raw(statement)).await
            }
        }
    };
}

pass_on!(Reader);
pass_on!(Transaction);
