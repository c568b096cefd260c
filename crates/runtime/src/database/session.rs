//! What a session on a PostgreSQL server must be like before it is used.
//!
//! Our settings are set by a statement and not while connecting: PgBouncer refuses a connection that comes with any,
//! or forgets them without a word. Its session pooling keeps what is set; its transaction pooling is found out.

use std::{sync::Arc, time::Duration};

use sea_orm::sqlx::{self, AssertSqlSafe, Error, PgConnection, Row as _};

use crate::clock::Timestamp;

/// How much longer than the server's own timeout an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Sets a session up, in one round trip.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    sql: Arc<str>,
}

/// What a session that was set up is like.
#[derive(Debug)]
pub(super) struct Session {
    /// The server's process that answered.
    pub(super) process: i32,
    /// Whether the server takes writes.
    pub(super) takes_writes: bool,
    /// How the database stores text.
    pub(super) encoding: String,
    /// Whether the server loses commits with its power.
    pub(super) is_careless: bool,
}

impl Setup {
    pub(super) fn new(statement_timeout: Duration) -> Self {
        let mut selected = vec![
            "pg_backend_pid() AS process".to_owned(),
            format!("{TAKES_WRITES} AS takes_writes"),
            "current_setting('server_encoding') AS encoding".to_owned(),
            "current_setting('fsync') = 'off' AS is_careless".to_owned(),
            // Whatever a role or a database says: what was acknowledged has to be on the disk.
            "set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
             WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)"
                .to_owned(),
        ];
        for (name, value) in [
            ("statement_timeout", millis(statement_timeout)),
            // A replica that vanished in a transaction lets go of its locks.
            (
                "idle_in_transaction_session_timeout",
                millis(statement_timeout + PATIENCE),
            ),
            // Who was second has to see what the first one committed.
            ("default_transaction_isolation", "read committed".to_owned()),
            // Every statement of ours goes by an index. On a young database, whose statistics lag behind its
            // growth, the planner thinks that reading a whole table is cheaper, and keeps thinking so.
            ("enable_seqscan", "off".to_owned()),
            ("enable_bitmapscan", "off".to_owned()),
            ("enable_hashjoin", "off".to_owned()),
            ("enable_mergejoin", "off".to_owned()),
            // What is off counts as very dear, and dear statements would be compiled.
            ("jit", "off".to_owned()),
        ] {
            selected.push(format!("set_config('{name}', '{value}', false)"));
        }
        Self {
            sql: format!("SELECT {}", selected.join(", ")).into(),
        }
    }

    /// Sets `connection` up and looks where it leads.
    pub(super) async fn apply(&self, connection: &mut PgConnection) -> Result<Session, Error> {
        // Unprepared: one round trip.
        let sql = AssertSqlSafe(self.sql.clone());
        let row = sqlx::raw_sql(sql).fetch_one(connection).await?;
        Ok(Session {
            process: row.try_get("process")?,
            takes_writes: row.try_get("takes_writes")?,
            encoding: row.try_get("encoding")?,
            is_careless: row.try_get("is_careless")?,
        })
    }
}

/// False on a standby, and where sessions are told not to write, e.g. because the disk is full.
const TAKES_WRITES: &str =
    "(NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off')";

/// Whether the server that `connection` leads to takes writes.
///
/// # Errors
/// The connection's.
pub async fn takes_writes(connection: &mut PgConnection) -> Result<bool, Error> {
    let asked = AssertSqlSafe(format!("SELECT {TAKES_WRITES}"));
    sqlx::query_scalar(asked).fetch_one(connection).await
}

/// What a session finds out about its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether it takes writes.
    pub(super) takes_writes: bool,
    /// Whether commits of our role wait for a standby, longer than they may.
    pub(super) is_stuck: bool,
    /// What its clock says.
    pub(super) time: Timestamp,
}

/// Looks at the server, where a commit may take as long as `commit`.
pub(super) async fn look(connection: &mut PgConnection, commit: Duration) -> Result<Seen, Error> {
    // Sessions of others are hidden from us.
    let sql = format!(
        "SELECT {TAKES_WRITES} AS takes_writes, EXISTS (SELECT FROM pg_stat_activity \
         WHERE wait_event = 'SyncRep' AND query_start < now() - interval '{} milliseconds') AS is_stuck, \
         (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint AS time",
        millis(commit)
    );
    let row = sqlx::raw_sql(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await?;
    Ok(Seen {
        takes_writes: row.try_get("takes_writes")?,
        is_stuck: row.try_get("is_stuck")?,
        time: Timestamp(row.try_get("time")?),
    })
}

/// Whether a pooler between us and the server gives a session's statements to different processes of the server, as
/// PgBouncer does with `pool_mode = transaction` or `statement`. `one` and `other` are different connections on which
/// `first` and `second` answered just now.
///
/// Without such a pooler each connection is one process's, and stays so. With one each statement takes a free process:
/// the last that became free, which the other connection had just used, or the one that rests longest. Asking one,
/// other, other, one shows either: with the last one both are answered by the same process, with the longest at rest
/// the other connection is answered by two processes, or both by one. Two more round trips suffice, at the start.
pub(super) async fn shares_processes(
    (one, first): (&mut PgConnection, i32),
    (other, second): (&mut PgConnection, i32),
) -> Result<bool, Error> {
    let again = process(other).await?;
    let last = process(one).await?;
    Ok(first == second || second != again || first != last)
}

async fn process(connection: &mut PgConnection) -> Result<i32, Error> {
    // The simple protocol: a statement that was prepared could be unknown to the next process.
    let row = sqlx::raw_sql("SELECT pg_backend_pid()")
        .fetch_one(connection)
        .await?;
    row.try_get(0)
}

pub(super) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
