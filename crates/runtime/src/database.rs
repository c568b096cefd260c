//! One service's database: opening it, writing in transactions, telling an outage from a bug.

use std::{path::Path, time::Duration};

use sea_orm::{
    ConnAcquireErr, ConnectOptions, ConnectionTrait, Database as SeaOrm, DatabaseConnection,
    DatabaseTransaction, DbErr, RuntimeErr, SqliteTransactionMode, SqlxError, Statement,
    TransactionOptions, TransactionTrait,
    sqlx::{
        Connection as _,
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};

use tonic::Status;

use crate::status::{self, Reason};

/// Connections that read a SQLite file beside its one writer.
const SQLITE_READERS: u32 = 2;
/// Page cache of the writer and of each reader, in KiB. The operating system caches the file too, so this
/// need only hold what a transaction touches.
const WRITER_CACHE: u32 = 2_048;
const READER_CACHE: u32 = 512;
/// How long a caller waits for a connection before the storage counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long SQLite waits for another process's lock, e.g. an operator's command.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A service's database.
///
/// SQLite allows one writer at a time, so there is one write connection, on which writers queue in
/// order instead of meeting BUSY, and a few read connections that never wait for it.
#[derive(Clone, Debug)]
pub struct Database {
    write: DatabaseConnection,
    read: DatabaseConnection,
}

impl Database {
    /// Opens a SQLite file, making it when it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened, is not a database, or cannot be written.
    pub async fn open_sqlite(path: &Path) -> Result<Self, DbErr> {
        let write = SeaOrm::connect(sqlite_options(path, 1, false)).await?;
        // SQLite reads the file's header at the first statement only: fail now, not at the first caller.
        write
            .query_one_raw(Statement::from_string(
                write.get_database_backend(),
                "SELECT count(*) FROM sqlite_schema",
            ))
            .await?;
        let read = SeaOrm::connect(sqlite_options(path, SQLITE_READERS, true)).await?;
        Ok(Self { write, read })
    }

    /// Begins a transaction that writes.
    ///
    /// On SQLite it takes the write lock at once: a transaction that reads first and writes later
    /// would get BUSY without waiting.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        self.write
            .begin_with_options(TransactionOptions {
                isolation_level: None,
                access_mode: None,
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            })
            .await
    }

    /// The connection for reads outside a transaction. They see what was committed when they began.
    #[must_use]
    pub fn read(&self) -> &DatabaseConnection {
        &self.read
    }

    /// The connection that writes, for migrations.
    #[must_use]
    pub fn write(&self) -> &DatabaseConnection {
        &self.write
    }

    /// Closes every connection; SQLite moves its log into the file.
    ///
    /// # Errors
    /// When a connection does not close cleanly; nothing committed is lost by it.
    pub async fn close(&self) -> Result<(), DbErr> {
        self.read.close_by_ref().await?;
        self.write.close_by_ref().await
    }
}

fn sqlite_options(path: &Path, connections: u32, query_only: bool) -> ConnectOptions {
    let file = path.to_path_buf();
    let mut options = ConnectOptions::new("sqlite::memory:");
    options
        .max_connections(connections)
        .min_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .sqlx_logging(false)
        // A local file's connection does not go stale: no ping at every use, no reopening.
        .test_before_acquire(false)
        .map_sqlx_sqlite_pool_opts(|pool| {
            pool.idle_timeout(None)
                .max_lifetime(None)
                // When SQLite gives a transaction up by itself, as it does on a full disk, the rollback that
                // follows fails, and sqlx takes the next transaction for one inside the last: its commit
                // would commit nothing. Such a connection is closed, and a new one takes its place.
                .before_acquire(|connection, _| {
                    let at_rest = !connection.is_in_transaction();
                    Box::pin(async move { Ok(at_rest) })
                })
        })
        .map_sqlx_sqlite_opts(move |sqlite| {
            sqlite
                // As a path, not a URL: a directory's name may hold any character.
                .filename(&file)
                .in_memory(false)
                .shared_cache(false)
                .create_if_missing(true)
                .busy_timeout(BUSY_TIMEOUT)
                // FULL: every commit is on the disk before it is acknowledged.
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                // Temporary b-trees of sorts stay in memory, not in files elsewhere.
                .pragma("temp_store", "MEMORY")
                // What is erased is overwritten, wherever that costs no further write.
                .pragma("secure_delete", "FAST")
                // Negative: in KiB, not pages.
                .pragma(
                    "cache_size",
                    format!(
                        "-{}",
                        if query_only {
                            READER_CACHE
                        } else {
                            WRITER_CACHE
                        }
                    ),
                )
                .pragma("query_only", if query_only { "ON" } else { "OFF" })
        });
    options
}

/// Whether an error is the storage's and not the statement's: an outage, which passes, or a lost
/// race. Retrying is right; nothing is wrong with the event or request at hand.
#[must_use]
pub fn is_transient(error: &DbErr) -> bool {
    match error {
        // A row that another transaction changed first.
        DbErr::RecordNotUpdated
        | DbErr::ConnectionAcquire(ConnAcquireErr::Timeout | ConnAcquireErr::ConnectionClosed)
        | DbErr::Conn(_) => true,
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
            match error.as_ref() {
                SqlxError::Io(_)
                | SqlxError::Tls(_)
                | SqlxError::Protocol(_)
                | SqlxError::PoolTimedOut
                | SqlxError::PoolClosed
                | SqlxError::WorkerCrashed => true,
                SqlxError::Database(error) => error.code().is_some_and(|code| is_outage(&code)),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether a database's error code names an outage. PostgreSQL's codes have five characters; SQLite's
/// are numbers whose low byte is the primary code.
fn is_outage(code: &str) -> bool {
    if code.len() == 5 {
        let class = &code[..2];
        // Connection, resources, operator intervention, system; and lost races, which are retried.
        return matches!(class, "08" | "53" | "57" | "58")
            || matches!(code, "40001" | "40P01" | "55P03" | "25006");
    }
    let primary = code.parse::<i32>().unwrap_or_default() & 0xff;
    // BUSY, LOCKED, NOMEM, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOTADB
    matches!(primary, 5 | 6 | 7 | 8 | 10 | 11 | 13 | 14 | 15 | 26)
}

/// What a caller is told of a database error, which is logged here, once: an outage is UNAVAILABLE,
/// anything else a bug.
#[must_use]
pub fn status_of(error: &DbErr) -> Status {
    if is_transient(error) {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "storage unavailable"
        );
        status::status(
            Reason::StorageUnavailable,
            "the database is not available now",
        )
    } else {
        tracing::error!(error = error as &dyn std::error::Error, "database error");
        status::status(Reason::Internal, "internal error")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_pooled_connection_is_durable() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open_sqlite(&dir.path().join("a b#?.db"))
            .await
            .unwrap();
        for (pool, connections) in [(&database.write, 1), (&database.read, SQLITE_READERS)] {
            let pool = pool.get_sqlite_connection_pool();
            let mut held = Vec::new();
            for _ in 0..connections {
                let mut connection = pool.acquire().await.unwrap();
                for (pragma, expected) in [("journal_mode", "wal"), ("synchronous", "2")] {
                    let sql = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
                    let value: String =
                        sea_orm::sqlx::query_scalar(sea_orm::sqlx::AssertSqlSafe(sql))
                            .fetch_one(&mut *connection)
                            .await
                            .unwrap();
                    assert_eq!(value, expected, "{pragma}");
                }
                held.push(connection);
            }
        }
        database.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_commit_after_a_transaction_that_sqlite_gave_up_is_a_commit() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open_sqlite(&dir.path().join("x.db")).await;
        let database = database.unwrap();
        let create = "CREATE TABLE t (n INTEGER)";
        database.write().execute_unprepared(create).await.unwrap();
        // As on a full disk: the transaction is over before it is left.
        let given_up = database.begin().await.unwrap();
        given_up.execute_unprepared("ROLLBACK").await.unwrap();
        drop(given_up);
        drop(database.begin().await.unwrap());
        let tx = database.begin().await.unwrap();
        let insert = "INSERT INTO t VALUES (1)";
        tx.execute_unprepared(insert).await.unwrap();
        tx.commit().await.unwrap();
        let query =
            Statement::from_string(database.read().get_database_backend(), "SELECT n FROM t");
        let row = database.read().query_one_raw(query).await.unwrap();
        assert!(row.is_some(), "committed, and not there");
        database.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused_when_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        std::fs::write(&path, vec![b'x'; 8192]).unwrap();
        assert!(Database::open_sqlite(&path).await.is_err());
    }

    #[test]
    fn outages_are_told_from_bugs_by_code() {
        for outage in ["5", "13", "778", "08006", "40P01", "57P01", "53300"] {
            assert!(is_outage(outage), "{outage}");
        }
        for bug in ["19", "2067", "1", "23505", "42P01", "22001"] {
            assert!(!is_outage(bug), "{bug}");
        }
    }
}
