//! PostgreSQL: one pool of connections, all of which lead to a server that takes writes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::TryFutureExt as _;
use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database as SeaOrm, DatabaseConnection,
    DatabaseTransaction, DbBackend, DbErr, RuntimeErr, Statement,
    sqlx::{
        self, AssertSqlSafe, Connection as _, Error, PgConnection, PgPool,
        postgres::PgConnectOptions,
    },
};

use super::{
    DatabaseConfig, Reader,
    bounded::{Bound, Source, connected, within},
    outage::{breaks_connections, waited_in_vain},
    session::{self, Seen, Setup, millis},
    trust::Trust,
};
use crate::clock::{ServerTime, Timestamp};

/// A connection that rested longer than this is tried before it is used: a server that was restarted
/// meanwhile costs no caller an error.
const FRESH: Duration = Duration::from_secs(1);
/// How long that may take: after a failover every resting connection may be one that the network forgot, and a
/// caller must get past several of them in the time that it waits for one.
const TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that is older is closed: servers move, and roles and primaries change.
const LIFETIME: Duration = Duration::from_secs(1_800);
/// How long a connection may take to show that it is in order when it is given back, and is nobody's meanwhile.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a PostgreSQL database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is away, or does not let us in, which may pass.
    #[error("no connection: {0}")]
    Unreachable(#[from] DbErr),
    /// Names in other scripts could not be stored.
    #[error(
        "the database's encoding is {0} and must be UTF8: make another one, by \
         CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding(String),
    /// Settings, prepared statements and LISTEN need a session.
    #[error(
        "it leads through a pooler that gives the statements of one connection to different sessions \
         of the server: set PgBouncer's pool_mode to session"
    )]
    SharedSessions,
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        Self::Unreachable(connection_error(error))
    }
}

/// The error of a server that answers and takes no writes.
fn takes_no_writes() -> Error {
    Error::Configuration(
        "the server takes no writes: it is a standby, or told to be read-only".into(),
    )
}

fn connection_error(error: Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error.into()))
}

pub(super) async fn open(
    config: &DatabaseConfig,
    application: &str,
    bound: Bound,
) -> Result<DatabaseConnection, OpenError> {
    let setup = Setup::new(config.statement_timeout);
    // Their names could be parts of a password with an & in it.
    let unknown = unknown_parameters(&config.url).count();
    if unknown > 0 {
        tracing::warn!(
            unknown,
            "database.url has parameters that are not known and do nothing"
        );
    }
    knock(config, &setup).await?;
    let mut options = ConnectOptions::new(&config.url);
    let application = application.to_owned();
    options
        .max_connections(config.max_connections)
        .min_connections(1)
        .acquire_timeout(config.acquire_timeout)
        .sqlx_logging(false)
        // At every use would be one round trip each; see FRESH.
        .test_before_acquire(false)
        .map_sqlx_postgres_opts(move |postgres| {
            without_settings(postgres).application_name(&application)
        })
        .map_sqlx_postgres_pool_opts(move |pool| {
            let (setup, before, after) = (setup.clone(), bound.clone(), bound.clone());
            pool
                // The pool's own keeper of these two counts idle connections with a race, and may spin for good
                // (sqlx 0.9). Age is looked at below instead.
                .idle_timeout(None)
                .max_lifetime(None)
                // While an address still leads to a server that was demoted, the pool tries again until the caller
                // has waited for long enough.
                .after_connect(move |connection, _| {
                    let setup = setup.clone();
                    Box::pin(async move {
                        let session = setup.apply(connection).await?;
                        if !session.takes_writes {
                            return Err(takes_no_writes());
                        }
                        connected();
                        Ok(())
                    })
                })
                .before_acquire(move |connection, meta| {
                    let trust = before.trust.clone();
                    Box::pin(async move {
                        if meta.age > LIFETIME || trust.is_lost(meta.age) {
                            return Ok(false);
                        }
                        let is_of_use =
                            meta.idle_for <= FRESH || is_of_use(connection, meta.age, &trust).await;
                        if is_of_use {
                            connected();
                        }
                        Ok(is_of_use)
                    })
                })
                .after_release(move |connection, meta| {
                    let trust = after.trust.clone();
                    Box::pin(async move {
                        // The pool asks it as well, and would wait without end, e.g. for the answer to a statement
                        // that was given up.
                        let is_of_use =
                            !trust.is_lost(meta.age) && answers(connection, CHECK_TIMEOUT).await;
                        if is_of_use {
                            trust.answered(meta.age);
                        }
                        // An error has it closed without a word to the server, for which it could wait as well.
                        is_of_use.then_some(true).ok_or(Error::PoolTimedOut)
                    })
                })
        });
    Ok(SeaOrm::connect(options).await?)
}

/// The client says so itself, with the value, which may be a misspelt password's.
fn unknown_parameters(url: &str) -> impl Iterator<Item = &str> {
    /// What the client knows.
    const KNOWN: [&str; 18] = [
        "sslmode",
        "ssl-mode",
        "sslrootcert",
        "ssl-root-cert",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
        "statement-cache-capacity",
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "application_name",
        "options",
    ];
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter_map(|one| one.split('=').next());
    names.filter(|name| !name.is_empty() && !KNOWN.contains(name) && !name.starts_with("options["))
}

/// PgBouncer refuses a connection that sets what it does not know.
fn without_settings(options: PgConnectOptions) -> PgConnectOptions {
    // Ours are set afterwards, and all that this one does is the server's default.
    options.extra_float_digits(None)
}

async fn answers(connection: &mut PgConnection, within: Duration) -> bool {
    let asked = tokio::time::timeout(within, connection.ping()).await;
    asked.is_ok_and(|answer| answer.is_ok())
}

/// Tries a connection that rested, and was made `age` ago.
async fn is_of_use(connection: &mut PgConnection, age: Duration, trust: &Trust) -> bool {
    match tokio::time::timeout(TRY_TIMEOUT, connection.ping()).await {
        Ok(Ok(())) => {
            trust.answered(age);
            true
        }
        // It broke, and the others lead to the same server.
        Ok(Err(_)) => {
            trust.lose();
            false
        }
        // The server may be gone, or only slow: it would be slower yet if all callers connected anew.
        Err(_) => {
            trust.silent_for(TRY_TIMEOUT, age);
            false
        }
    }
}

/// Connects twice and looks whether it is a database for us. The pool would try again for as long as it may when nobody
/// listens, and then say nothing but that the time is over.
async fn knock(config: &DatabaseConfig, setup: &Setup) -> Result<(), OpenError> {
    let knock = async {
        let options = without_settings(parse(&config.url)?);
        let mut one = PgConnection::connect_with(&options).await?;
        let first = setup.apply(&mut one).await?;
        let mut other = PgConnection::connect_with(&options).await?;
        let second = setup.apply(&mut other).await?;
        let shared =
            session::shares_processes((&mut one, first.process), (&mut other, second.process));
        let shared = shared.await?;
        one.close().await?;
        other.close().await?;
        Ok((second, shared))
    };
    let knock = knock.map_err(connection_error);
    let longest = config.acquire_timeout;
    let bound = Bound::new(Duration::ZERO, longest, longest);
    let (session, shared) = within(Some(&bound), Source::Held, knock).await?;
    if shared {
        return Err(OpenError::SharedSessions);
    }
    if session.encoding != "UTF8" {
        return Err(OpenError::Encoding(session.encoding));
    }
    if !session.takes_writes {
        return Err(takes_no_writes().into());
    }
    if session.is_careless {
        tracing::warn!(
            "the database server runs with fsync = off: a power failure loses what was acknowledged"
        );
    }
    Ok(())
}

/// Reads the server's clock for the first time. Not now(), which stands still in a transaction.
pub(super) async fn server_time(read: &Reader) -> Result<ServerTime, DbErr> {
    let query = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint";
    let query = Statement::from_string(DbBackend::Postgres, query);
    let asked = Instant::now();
    let row = read.query_one_raw(query).await?;
    let answered = Instant::now();
    let row = row.ok_or_else(|| DbErr::RecordNotFound("the server's time".to_owned()))?;
    let time = Timestamp(row.try_get_by_index(0)?);
    Ok(ServerTime::new(time, asked, answered))
}

/// How long a probe waits for one of the callers' connections.
const BUSY: Duration = Duration::from_millis(500);

/// Looks at the server, on a connection of the callers' or, while they hold every one, on its own.
pub(super) struct Lookout {
    pool: PgPool,
    bound: Bound,
    options: Arc<PgConnectOptions>,
    own: Option<PgConnection>,
    /// Updated with each look.
    time: Option<Arc<ServerTime>>,
}

impl Lookout {
    pub(super) fn new(pool: &PgPool, bound: &Bound, time: Option<Arc<ServerTime>>) -> Self {
        Self {
            pool: pool.clone(),
            bound: bound.clone(),
            options: pool.connect_options(),
            own: None,
            time,
        }
    }

    pub(super) async fn look(&mut self) -> Result<Seen, Error> {
        match tokio::time::timeout(BUSY, self.pool.acquire()).await {
            Ok(Ok(mut connection)) => {
                let seen = look_on(&mut connection, self.bound.commit, self.time.as_deref()).await;
                let is_lost = match &seen {
                    Ok(seen) => !seen.takes_writes,
                    // Not one that the server ended for its time: it is there, and slow.
                    Err(error) => breaks_connections(error),
                };
                if is_lost {
                    // The others lead to the same server.
                    self.bound.trust.lose();
                }
                seen
            }
            Err(_) | Ok(Err(Error::PoolTimedOut)) => self.look_by_itself().await,
            Ok(Err(error)) => Err(error),
        }
    }

    async fn look_by_itself(&mut self) -> Result<Seen, Error> {
        // Not put back when anything is wrong, or when this is given up: the next one may lead to another server.
        let mut connection = match self.own.take() {
            Some(connection) => connection,
            None => PgConnection::connect_with(&self.options).await?,
        };
        let seen = look_on(&mut connection, self.bound.commit, self.time.as_deref()).await?;
        if seen.takes_writes {
            self.own = Some(connection);
        }
        Ok(seen)
    }
}

/// Looks at the server on `connection`, and updates `time` by what it says.
async fn look_on(
    connection: &mut PgConnection,
    commit: Duration,
    time: Option<&ServerTime>,
) -> Result<Seen, Error> {
    let asked = Instant::now();
    let seen = session::look(connection, commit).await?;
    // Not a standby's, which goes by a clock of its own.
    if let Some(time) = time.filter(|_| seen.takes_writes) {
        time.update(seen.time, asked, Instant::now());
    }
    Ok(seen)
}

/// Executes `sql` on a connection of its own, without an end to its time.
pub(super) async fn execute_alone(pool: &PgPool, sql: String) -> Result<(), DbErr> {
    let options = pool.connect_options();
    let connected = PgConnection::connect_with(&options).await;
    let mut connection = connected.map_err(connection_error)?;
    let execute = async {
        // Whatever the role or the database says.
        for sql in [
            "SET statement_timeout = 0".to_owned(),
            "SET lock_timeout = 0".to_owned(),
            sql,
        ] {
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await?;
        }
        Ok(())
    };
    let executed = execute.await;
    executed.map_err(|error: Error| DbErr::Exec(RuntimeErr::SqlxError(error.into())))?;
    connection.close().await.map_err(connection_error)
}

/// How long a migration waits for a table: whoever comes after it waits behind it. Longer than `deadlock_timeout`, a second
/// by default, after which PostgreSQL sends a vacuum of its own away.
const TABLE_LOCK_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Takes the right to migrate for as long as `tx` lasts, and lets a migration take its time, but for locks. False, and `tx` is of
/// no use any more, when another process had it for all of `patience`.
pub(super) async fn lock_for_migration(
    tx: &DatabaseTransaction,
    patience: Duration,
) -> Result<bool, DbErr> {
    tx.execute_unprepared("SET LOCAL statement_timeout = 0")
        .await?;
    tx.execute_unprepared("SET LOCAL idle_in_transaction_session_timeout = 0")
        .await?;
    // None would be no bound.
    let patience = millis(patience.max(Duration::from_millis(1)));
    tx.execute_unprepared(&format!("SET LOCAL lock_timeout = {patience}"))
        .await?;
    // Released with the transaction, however it ends. The number is this project's own and arbitrary.
    let lock = "SELECT pg_advisory_xact_lock(7305804402)";
    match tx.execute_unprepared(lock).await {
        Err(error) if waited_in_vain(&error) => return Ok(false),
        locked => locked?,
    };
    let patience = millis(TABLE_LOCK_TIMEOUT);
    tx.execute_unprepared(&format!("SET LOCAL lock_timeout = {patience}"))
        .await?;
    Ok(true)
}

pub(super) fn parse(url: &str) -> Result<PgConnectOptions, Error> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        url.parse()
    } else {
        Err(Error::Configuration("no PostgreSQL URL".into()))
    }
}
