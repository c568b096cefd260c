//! Statements that come to an end: a network that swallows packets must not hold a task up for good.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, RuntimeErr, Statement,
};

/// Ends `statement` after `bound` with an error that counts as an outage.
pub(super) async fn within<T>(
    bound: Option<Duration>,
    statement: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    let Some(bound) = bound else {
        return statement.await;
    };
    match tokio::time::timeout(bound, statement).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DbErr::Conn(RuntimeErr::Internal(format!(
            "no answer within {bound:?}"
        )))),
    }
}

/// Reads outside a transaction.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) inner: DatabaseConnection,
    bound: Option<Duration>,
}

impl Reader {
    pub(super) fn new(inner: DatabaseConnection, bound: Option<Duration>) -> Self {
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
    bound: Option<Duration>,
}

impl Transaction {
    pub(super) fn new(inner: DatabaseTransaction, bound: Option<Duration>) -> Self {
        Self { inner, bound }
    }

    /// Commits.
    ///
    /// # Errors
    /// When the database refuses. A connection lost meanwhile leaves open whether it took place.
    pub async fn commit(self) -> Result<(), DbErr> {
        within(self.bound, self.inner.commit()).await
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
                within(self.bound, self.inner.execute_raw(statement)).await
            }

            async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
                within(self.bound, self.inner.execute_unprepared(sql)).await
            }

            async fn query_one_raw(
                &self,
                statement: Statement,
            ) -> Result<Option<QueryResult>, DbErr> {
                within(self.bound, self.inner.query_one_raw(statement)).await
            }

            async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
                within(self.bound, self.inner.query_all_raw(statement)).await
            }
        }
    };
}

pass_on!(Reader);
pass_on!(Transaction);
