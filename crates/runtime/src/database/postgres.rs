//! PostgreSQL: one pool of connections.

use std::{sync::Arc, time::Duration};

use futures::TryFutureExt as _;
use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database as SeaOrm, DatabaseConnection,
    DatabaseTransaction, DbErr, RuntimeErr,
    sqlx::{
        Connection as _, Error, PgConnection, PgPool, postgres::PgConnectOptions, query_scalar,
    },
};

use super::{
    DatabaseConfig,
    bounded::{Bound, within},
    code_of,
};

/// How much longer than the server's own timeout an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A connection that rested longer than this is tried before it is used: a server that was restarted
/// meanwhile costs no caller an error.
const FRESH: Duration = Duration::from_secs(1);
/// How long that may take: after a failover every resting connection may be one that the network forgot, and a
/// caller must get past several of them in the time that it waits for one.
const TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that is older is closed: servers move, and roles and primaries change.
const LIFETIME: Duration = Duration::from_secs(1_800);
/// How long a connection may take to show that it is in order when it is given back.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn open(
    config: &DatabaseConfig,
    application: &str,
    bound: Bound,
) -> Result<DatabaseConnection, DbErr> {
    knock(config).await?;
    let mut options = ConnectOptions::new(&config.url);
    let application = application.to_owned();
    let (statement_timeout, patience) = (config.statement_timeout, PATIENCE);
    options
        .max_connections(config.max_connections)
        .min_connections(1)
        .acquire_timeout(config.acquire_timeout)
        .sqlx_logging(false)
        // At every use would be one round trip each; see FRESH.
        .test_before_acquire(false)
        .map_sqlx_postgres_opts(move |postgres| {
            postgres.application_name(&application).options([
                ("statement_timeout", millis(statement_timeout)),
                // A replica that vanished in a transaction lets go of its locks.
                (
                    "idle_in_transaction_session_timeout",
                    millis(statement_timeout + patience),
                ),
                // Every statement of ours goes by an index. On a young database, whose statistics lag behind its
                // growth, the planner thinks that reading a whole table is cheaper, and keeps thinking so.
                ("enable_seqscan", "off".to_owned()),
                ("enable_bitmapscan", "off".to_owned()),
                ("enable_hashjoin", "off".to_owned()),
                ("enable_mergejoin", "off".to_owned()),
                // What is off counts as very dear, and dear statements would be compiled.
                ("jit", "off".to_owned()),
            ])
        })
        .map_sqlx_postgres_pool_opts(move |pool| {
            let bound = bound.clone();
            pool
                // The pool's own keeper of these two counts idle connections with a race, and may spin for good
                // (sqlx 0.9). Age is looked at below instead.
                .idle_timeout(None)
                .max_lifetime(None)
                .before_acquire(|connection, meta| {
                    Box::pin(async move {
                        if meta.age > LIFETIME {
                            return Ok(false);
                        }
                        if meta.idle_for > FRESH {
                            tokio::time::timeout(TRY_TIMEOUT, connection.ping())
                                .await
                                .map_err(|_| Error::PoolTimedOut)??;
                        }
                        Ok(true)
                    })
                })
                // A statement that was given up leaves its answer on the way, for which the pool would wait without end.
                .after_release(move |connection, _| {
                    let suspicious = bound.is_suspicious();
                    Box::pin(async move {
                        if suspicious {
                            tokio::time::timeout(CHECK_TIMEOUT, connection.ping())
                                .await
                                .map_err(|_| Error::PoolTimedOut)??;
                        }
                        Ok(true)
                    })
                })
        });
    SeaOrm::connect(options).await
}

/// Connects once. The pool would try again for as long as it may when nobody listens, and then say nothing but
/// that the time is over.
async fn knock(config: &DatabaseConfig) -> Result<(), DbErr> {
    let connect = async {
        let options = parse(&config.url)?;
        PgConnection::connect_with(&options).await?.close().await
    };
    let connect = connect.map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(error.into())));
    within(Some(&Bound::new(config.acquire_timeout)), connect).await
}

/// A connection beside the pool, made when it is first used.
pub(super) struct Own {
    options: Arc<PgConnectOptions>,
    connection: Option<PgConnection>,
}

impl Own {
    /// To the same database.
    pub(super) fn new(pool: &PgPool) -> Self {
        Self {
            options: pool.connect_options(),
            connection: None,
        }
    }

    /// Whether the server takes writes.
    pub(super) async fn takes_writes(&mut self) -> Result<bool, Error> {
        // Not put back when anything is wrong, or when this is given up: the next one may lead to another server.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => PgConnection::connect_with(&self.options).await?,
        };
        let asked =
            "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'";
        let takes_writes = query_scalar(asked).fetch_one(&mut connection).await?;
        if takes_writes {
            self.connection = Some(connection);
        }
        Ok(takes_writes)
    }
}

/// Takes the right to migrate for as long as `tx` lasts, and lets a migration take its time. False, and `tx` is of
/// no use any more, when another process had it for all of `patience`.
pub(super) async fn lock_for_migration(
    tx: &DatabaseTransaction,
    patience: Duration,
) -> Result<bool, DbErr> {
    /// PostgreSQL's code of a lock that was waited for in vain.
    const LOCK_NOT_AVAILABLE: &str = "55P03";
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
        Err(error) if code_of(&error).as_deref() == Some(LOCK_NOT_AVAILABLE) => return Ok(false),
        locked => locked?,
    };
    tx.execute_unprepared("SET LOCAL lock_timeout = 0").await?;
    Ok(true)
}

pub(super) fn parse(url: &str) -> Result<PgConnectOptions, Error> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        url.parse()
    } else {
        Err(Error::Configuration("no PostgreSQL URL".into()))
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
