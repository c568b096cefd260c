//! SQLite: one file, one writer, a few readers.

use std::{path::Path, time::Duration};

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database as SeaOrm, DatabaseConnection, DbErr, Statement,
    sqlx::{
        Connection as _,
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

/// The connection that writes and those that read.
pub(super) async fn open(path: &Path) -> Result<(DatabaseConnection, DatabaseConnection), DbErr> {
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
