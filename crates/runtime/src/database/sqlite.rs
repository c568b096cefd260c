//! SQLite: one file, one writer, a few readers.

use std::{
    fs::{OpenOptions, Permissions, set_permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database as SeaOrm, DatabaseConnection, DbErr, RuntimeErr,
    Statement,
    sqlx::{
        AssertSqlSafe, Connection as _, Error, SqliteConnection, query, query_as,
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};

/// Connections that read a file beside its one writer.
pub(super) const READERS: u32 = 2;
/// Page cache of the writer and of each reader, in KiB. The operating system caches the file too, so this
/// need only hold what a transaction touches.
const WRITER_CACHE: u32 = 2_048;
const READER_CACHE: u32 = 512;
/// How long a caller waits for a connection before the storage counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long SQLite waits for another process's lock, e.g. an operator's command.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long writers wait for readers of the write-ahead log when it is to be emptied.
const EMPTY_TIMEOUT: Duration = Duration::from_millis(200);
/// The write-ahead log is cut to as many bytes when it begins anew; SQLite alone never cuts it.
const LOG_LIMIT: u32 = 16 * 1_024 * 1_024;
/// Only the owner may read what is in a database.
const OWNER_ONLY: u32 = 0o600;

/// The connection that writes and those that read.
pub(super) async fn open(path: &Path) -> Result<(DatabaseConnection, DatabaseConnection), DbErr> {
    make_private(path).map_err(|error| {
        let what = format!("its files cannot be made readable by their owner only: {error}");
        DbErr::Conn(RuntimeErr::Internal(what))
    })?;
    let write = SeaOrm::connect(options(path, 1, false)).await?;
    // SQLite reads the file's header at the first statement only: fail now, not at the first caller.
    write
        .query_one_raw(Statement::from_string(
            write.get_database_backend(),
            "SELECT count(*) FROM sqlite_schema",
        ))
        .await?;
    let read = SeaOrm::connect(options(path, READERS, true)).await?;
    Ok((write, read))
}

/// Makes the file when it is missing, and lets nobody but its owner at it and at what belongs to it. SQLite makes the
/// others like the first.
fn make_private(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(OWNER_ONLY)
        .open(path)?;
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        match file.metadata() {
            // Not asked for without need: whoever may write need not be the owner.
            Ok(is) if is.permissions().mode() & 0o777 & !OWNER_ONLY == 0 => {}
            Ok(_) => set_permissions(&file, Permissions::from_mode(OWNER_ONLY))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Moves all of the write-ahead log into the file, where what was erased is overwritten, and cuts it to nothing. False
/// when somebody read it all the while.
pub(super) async fn empty_log(write: &DatabaseConnection) -> Result<bool, DbErr> {
    let pool = write.get_sqlite_connection_pool();
    let emptied = async {
        let mut connection = pool.acquire().await?;
        // Most of it, without anybody waiting.
        query("PRAGMA wal_checkpoint(PASSIVE)")
            .execute(&mut *connection)
            .await?;
        set_busy_timeout(&mut connection, EMPTY_TIMEOUT).await?;
        let emptied: Result<(i64, i64, i64), Error> = query_as("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut *connection)
            .await;
        set_busy_timeout(&mut connection, BUSY_TIMEOUT).await?;
        let (busy, _, _) = emptied?;
        Ok::<bool, Error>(busy == 0)
    };
    emptied
        .await
        .map_err(|error| DbErr::Exec(RuntimeErr::SqlxError(error.into())))
}

async fn set_busy_timeout(
    connection: &mut SqliteConnection,
    timeout: Duration,
) -> Result<(), Error> {
    let sql = format!("PRAGMA busy_timeout = {}", timeout.as_millis());
    query(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

fn options(path: &Path, connections: u32, query_only: bool) -> ConnectOptions {
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
                // What is erased is overwritten, in pages that are given back as well.
                .pragma("secure_delete", "ON")
                .pragma("journal_size_limit", LOG_LIMIT.to_string())
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
