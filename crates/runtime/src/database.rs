//! One service's database: opening it, writing in transactions, telling an outage from a bug.

mod bounded;
mod config;
pub mod health;
mod outage;
mod postgres;
mod seldom;
mod session;
mod sqlite;
mod trust;

use std::{path::Path, sync::Arc, time::Duration};

use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    SqliteTransactionMode, StatementBuilder, TransactionOptions, TransactionTrait, sqlx::PgPool,
};
use tokio::time::Instant;

use self::bounded::{Bound, Source};
pub use self::{
    bounded::{Reader, Transaction, answered_by},
    config::DatabaseConfig,
    outage::{
        code_of, is_contention, is_stale_plan, is_transient, is_unique_violation, status_of,
        waited_in_vain,
    },
    postgres::OpenError,
    session::takes_writes,
    trust::Losses,
};
use crate::clock::{Clock, ServerTime};

/// A service's database.
///
/// SQLite allows one writer at a time, so there is one write connection, on which writers queue in
/// order instead of meeting BUSY, and a few read connections that never wait for it. PostgreSQL has
/// one pool for both.
#[derive(Clone, Debug)]
pub struct Database {
    write: DatabaseConnection,
    read: Reader,
    /// How long a statement may take before its connection is given up; none for a local file.
    bound: Option<Bound>,
    /// How long another process may keep this one from starting; none does with a file.
    start_timeout: Duration,
    /// The server's clock; none for a file, which one process has.
    time: Option<Arc<ServerTime>>,
}

/// How often it is said that another process migrates.
const SAY_AGAIN: Duration = Duration::from_secs(3);

/// PostgreSQL does not care for SQLite's mode.
const WRITES: TransactionOptions = TransactionOptions {
    isolation_level: None,
    access_mode: None,
    sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
};

impl Database {
    /// Opens a SQLite file, making it when it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened, is not a database, or cannot be written.
    pub async fn open_sqlite(path: &Path) -> Result<Self, DbErr> {
        let (write, read) = sqlite::open(path).await?;
        let read = Reader::new(read, None);
        Ok(Self {
            write,
            read,
            bound: None,
            start_timeout: Duration::ZERO,
            time: None,
        })
    }

    /// Connects to a PostgreSQL database. `config.url` has to be set and valid.
    ///
    /// # Errors
    /// When it cannot be reached or does not let us in, and when it is none for us; see [`OpenError`].
    pub async fn open_postgres(
        config: &DatabaseConfig,
        application: &str,
    ) -> Result<Self, OpenError> {
        // The server ends a statement that takes too long; when nothing comes even of that, the network is gone.
        let longest = config.statement_timeout + session::PATIENCE;
        let bound = Bound::new(config.acquire_timeout, longest, config.commit_timeout);
        let write = postgres::open(config, application, bound.clone()).await?;
        let bound = Some(bound);
        let read = Reader::new(write.clone(), bound.clone());
        let time = Some(Arc::new(postgres::server_time(&read).await?));
        Ok(Self {
            write,
            read,
            bound,
            start_timeout: config.start_timeout,
            time,
        })
    }

    /// Begins a transaction that writes.
    ///
    /// On SQLite it takes the write lock at once: a transaction that reads first and writes later
    /// would get BUSY without waiting.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin(&self) -> Result<Transaction, DbErr> {
        self.may_write()?;
        let begin = self.write.begin_with_options(WRITES);
        let begun = bounded::within(self.bound.as_ref(), Source::Pool, begin).await?;
        Ok(Transaction::new(begun, self.bound.clone()))
    }

    /// The clock that everyone who uses this database goes by: the server's, whatever the clocks of
    /// their machines say. A file is one process's, and has the clock that is given.
    #[must_use]
    pub fn clock(&self, ours: &Clock) -> Clock {
        match &self.time {
            Some(server) => ours.or_server(server),
            None => ours.clone(),
        }
    }

    /// For reads outside a transaction. They see what was committed when they began.
    #[must_use]
    pub fn read(&self) -> &Reader {
        &self.read
    }

    /// Executes a statement that is a transaction by itself, and may take as long as a commit: the server does not
    /// tell which of them it is at. Returns how many rows it changed.
    ///
    /// # Errors
    /// The database's. A connection lost meanwhile leaves open whether it took place.
    pub async fn execute<S: StatementBuilder>(&self, statement: &S) -> Result<u64, DbErr> {
        self.may_write()?;
        let execute = || {
            let execute = self.write.execute(statement);
            bounded::commits(self.bound.as_ref(), Source::Pool, execute)
        };
        let executed = match execute().await {
            // It did not run, and on another connection it is planned anew.
            Err(error) if is_stale_plan(&error) => execute().await?,
            executed => executed?,
        };
        Ok(executed.rows_affected())
    }

    /// Executes a statement that PostgreSQL takes outside of transactions only, e.g. to make an index while others
    /// write, however long that takes.
    ///
    /// # Errors
    /// The database's.
    pub async fn execute_alone<S: StatementBuilder>(&self, statement: &S) -> Result<(), DbErr> {
        match self.postgres() {
            Some(pool) => {
                let statement = self.write.get_database_backend().build(statement);
                postgres::execute_alone(pool, statement.sql).await
            }
            None => self.execute(statement).await.map(drop),
        }
    }

    fn may_write(&self) -> Result<(), DbErr> {
        match &self.bound {
            Some(bound) => bound.trust.may_write(),
            None => Ok(()),
        }
    }

    /// Hears whenever the connections of before are not to be used any more, e.g. since the primary moved.
    #[must_use]
    pub fn losses(&self) -> Losses {
        let bound = self.bound.as_ref();
        bound.map_or(Losses::NEVER, |bound| bound.trust.losses())
    }

    /// Begins a transaction that changes the schema, however long that takes. One at a time, also among
    /// replicas: the others wait. None when another was at it for as long as a database may be away at the
    /// start.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn begin_migration(&self) -> Result<Option<DatabaseTransaction>, DbErr> {
        let end = Instant::now() + self.start_timeout;
        loop {
            let tx = self.write.begin_with_options(WRITES).await?;
            let left = end.saturating_duration_since(Instant::now());
            if self.postgres().is_none()
                || postgres::lock_for_migration(&tx, left.min(SAY_AGAIN)).await?
            {
                return Ok(Some(tx));
            }
            if left <= SAY_AGAIN {
                return Ok(None);
            }
            tracing::warn!("waiting for another process to migrate the database");
        }
    }

    /// How long others may keep this process from starting.
    #[must_use]
    pub fn start_timeout(&self) -> Duration {
        self.start_timeout
    }

    /// The connections to PostgreSQL, for what no other database has; none on SQLite.
    #[must_use]
    pub fn postgres(&self) -> Option<&PgPool> {
        (self.write.get_database_backend() == DbBackend::Postgres)
            .then(|| self.write.get_postgres_connection_pool())
    }

    /// Lets go of what was erased and committed: SQLite keeps it in its write-ahead log until other pages happen to
    /// take its place there. False when a reader was in the way: try again. PostgreSQL has vacuum for it.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget_erased(&self) -> Result<bool, DbErr> {
        match self.postgres() {
            Some(_) => Ok(true),
            None => sqlite::empty_log(&self.write).await,
        }
    }

    /// Closes every connection; SQLite moves its log into the file.
    ///
    /// # Errors
    /// When a connection does not close cleanly; nothing committed is lost by it.
    pub async fn close(&self) -> Result<(), DbErr> {
        self.read.close().await?;
        self.write.close_by_ref().await
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait as _, Statement};

    use super::*;

    #[tokio::test]
    async fn every_pooled_connection_is_durable() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open_sqlite(&dir.path().join("a b#?.db"))
            .await
            .unwrap();
        for (pool, connections) in [
            (&database.write, 1),
            (&database.read.inner, sqlite::READERS),
        ] {
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
        database.write.execute_unprepared(create).await.unwrap();
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

    #[tokio::test]
    async fn the_log_is_emptied_of_what_was_erased_as_soon_as_nobody_reads_it() {
        const SECRET: &str = "zebulon.quux@example.com";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let database = Database::open_sqlite(&path).await.unwrap();
        let run = async |sql: &str| {
            let tx = database.begin().await.unwrap();
            tx.execute_unprepared(sql).await.unwrap();
            tx.commit().await.unwrap();
        };
        run("CREATE TABLE t (n INTEGER PRIMARY KEY, email TEXT UNIQUE)").await;
        for n in 0..500 {
            run(&format!("INSERT INTO t VALUES ({n}, '{n}{SECRET}')")).await;
        }
        let holds = |name: &str| {
            let bytes = std::fs::read(dir.path().join(name)).unwrap();
            let mut windows = bytes.windows(SECRET.len());
            windows.any(|window| window == SECRET.as_bytes())
        };
        assert!(holds("x.db-wal"));
        let reader = database.read().inner.begin().await.unwrap();
        reader.execute_unprepared("SELECT * FROM t").await.unwrap();
        run("UPDATE t SET email = NULL").await;
        let begun = Instant::now();
        assert!(!database.forget_erased().await.unwrap(), "it is read");
        assert!(begun.elapsed() < Duration::from_secs(2));
        // Whoever writes is not held up.
        run("INSERT INTO t VALUES (1000, 'a')").await;
        drop(reader);
        // A moment later: it is rolled back in the background.
        while !database.forget_erased().await.unwrap() {}
        assert!(!holds("x.db") && !holds("x.db-wal"));
        database.close().await.unwrap();
    }

    #[tokio::test]
    async fn only_the_owner_may_read_the_files() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        // As an older release left it.
        std::fs::write(&path, "").unwrap();
        let open_to_all = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&path, open_to_all).unwrap();
        let database = Database::open_sqlite(&path).await.unwrap();
        let tx = database.begin().await.unwrap();
        tx.execute_unprepared("CREATE TABLE t (n INTEGER)")
            .await
            .unwrap();
        tx.commit().await.unwrap();
        for name in ["x.db", "x.db-wal", "x.db-shm"] {
            let file = dir.path().join(name).metadata().unwrap();
            assert_eq!(file.permissions().mode() & 0o777, 0o600, "{name}");
        }
        database.close().await.unwrap();
    }
}
