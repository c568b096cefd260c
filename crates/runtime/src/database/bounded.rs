//! Statements that come to an end: a network that swallows packets must not hold a task up for good, and neither
//! must a standby.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, RuntimeErr, Statement,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    outage::{is_stale_plan, tells_of_a_lost_connection},
    trust::Trust,
};

/// How long statements on one database may take, and what they tell of its connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    /// The longest that the pool lets a caller wait for a connection.
    acquire: Duration,
    /// The longest that a statement may take.
    pub(super) statement: Duration,
    /// The longest that a commit may take: one that waits for a standby is not bounded by the server.
    pub(super) commit: Duration,
    pub(super) trust: Trust,
}

/// Where a statement gets its connection from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// It has one already.
    Held,
    /// It waits for one of the pool's, which is no time of the statement: when callers are many, a server that
    /// answers well would look like one that is gone.
    Pool,
}

tokio::task_local! {
    /// Told when a statement of this task has its connection.
    static CONNECTED: Arc<Notify>;
}

/// Says that the statement for which this task waits has its connection: the pool looks at one in the task that
/// waits for it.
pub(super) fn connected() {
    // Nobody waits in the pool's own tasks.
    let _ = CONNECTED.try_with(|connected| connected.notify_one());
}

impl Bound {
    pub(super) fn new(acquire: Duration, statement: Duration, commit: Duration) -> Self {
        Self {
            acquire,
            statement,
            commit,
            trust: Trust::default(),
        }
    }

    /// Ends after `longest` with a connection; none when it took longer.
    async fn end<T>(
        &self,
        longest: Duration,
        from: Source,
        statement: impl Future<Output = Result<T, DbErr>>,
    ) -> Option<Result<T, DbErr>> {
        let connected = Arc::new(Notify::new());
        let over = async {
            if matches!(from, Source::Pool) {
                // The pool ends this by itself, and the statement with it.
                let _ = timeout(self.acquire, connected.notified()).await;
            }
            sleep(longest).await;
        };
        let outcome = tokio::select! {
            biased;
            outcome = CONNECTED.scope(connected.clone(), statement) => outcome,
            () = over => return None,
        };
        if let Err(error) = &outcome
            && tells_of_a_lost_connection(error)
        {
            self.trust.lose();
        }
        Some(outcome)
    }
}

/// Ends `statement` after its bound with an error that counts as an outage.
pub(super) async fn within<T>(
    bound: Option<&Bound>,
    from: Source,
    statement: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    let Some(bound) = bound else {
        return statement.await;
    };
    let longest = bound.statement;
    let outcome = bound.end(longest, from, statement).await;
    outcome.unwrap_or_else(|| {
        // The server would have ended it: the network is gone, and the other connections with it.
        bound.trust.lose();
        Err(no_answer(longest))
    })
}

/// The same for what commits. Whether it took place is not known when it is given up.
pub(super) async fn commits<T>(
    bound: Option<&Bound>,
    from: Source,
    statement: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    let Some(bound) = bound else {
        return statement.await;
    };
    let longest = bound.commit;
    let outcome = bound.end(longest, from, statement).await;
    outcome.unwrap_or_else(|| Err(no_answer(longest)))
}

/// A caller that gave less time than this is told that its own time is over.
const PATIENT: Duration = Duration::from_secs(1);

/// Waits for `work` until it is time to answer its caller, who learns then that the storage is unavailable and not
/// only that its deadline passed. The work goes on, in a task of its own.
///
/// # Errors
/// As `work`, and an outage when it took too long: what was asked for may have happened, or still will.
pub async fn answered_by<T, E: From<DbErr>>(
    answer_by: Option<Instant>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let patience = answer_by.map(|end| end.saturating_duration_since(Instant::now()));
    match patience {
        Some(patience) if patience >= PATIENT => timeout(patience, work)
            .await
            .unwrap_or_else(|_| Err(no_answer(patience).into())),
        _ => work.await,
    }
}

fn no_answer(after: Duration) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!(
        "no answer within {after:.1?}"
    )))
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
        commits(self.bound.as_ref(), Source::Held, self.inner.commit()).await
    }
}

/// Asks within the bound. A statement whose plan is older than a migration did not run: where connections are the
/// pool's it is asked again, on another one, which plans it anew.
macro_rules! ask {
    ($on:ident, $from:expr, $method:ident, $statement:ident) => {{
        let again = matches!($from, Source::Pool).then(|| $statement.clone());
        let outcome = within($on.bound.as_ref(), $from, $on.inner.$method($statement)).await;
        match (outcome, again) {
            (Err(error), Some(again)) if is_stale_plan(&error) => {
                within($on.bound.as_ref(), $from, $on.inner.$method(again)).await
            }
            (outcome, _) => outcome,
        }
    }};
}

/// Both pass every statement on. A transaction has one connection only.
macro_rules! pass_on {
    ($connection:ty, $from:expr) => {
        #[async_trait]
        impl ConnectionTrait for $connection {
            fn get_database_backend(&self) -> DbBackend {
                self.inner.get_database_backend()
            }

            async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
                ask!(self, $from, execute_raw, statement)
            }

            async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
                within(
                    self.bound.as_ref(),
                    $from,
                    self.inner.execute_unprepared(sql),
                )
                .await
            }

            async fn query_one_raw(
                &self,
                statement: Statement,
            ) -> Result<Option<QueryResult>, DbErr> {
                ask!(self, $from, query_one_raw, statement)
            }

            async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
                ask!(self, $from, query_all_raw, statement)
            }
        }
    };
}

pass_on!(Reader, Source::Pool);
pass_on!(Transaction, Source::Held);
