//! Databases and bus: where the backend is chosen.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use couponmesh_messaging::{
    Bus, Store,
    bus::{EmbeddedBus, NatsBus, NeverReached},
    migrations::MigrateError,
};
use couponmesh_runtime::{
    Clock, Random,
    database::{Database, DatabaseConfig, OpenError},
    fault::Faults,
};
use sea_orm::DbErr;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    config::Config,
    data_dir::{DataDir, DataDirError},
};

/// Everyone who consumes events.
const CONSUMERS: [&str; 4] = [
    couponmesh_member::NAME,
    couponmesh_coupon::NAME,
    couponmesh_notification::NAME,
    couponmesh_mypage::NAME,
];
/// How often a database that is not there at the start is tried, and said so.
const TRY_AGAIN: Duration = Duration::from_secs(3);

/// Where time, randomness and, in tests, faults come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Wall-clock time.
    pub clock: Clock,
    /// Ids, codes and jitter.
    pub random: Random,
    /// None outside tests.
    pub faults: Faults,
}

impl Sources {
    /// The machine's own.
    #[must_use]
    pub fn system() -> Self {
        Self {
            clock: Clock::system(),
            random: Random::from_os(),
            faults: Faults::none(),
        }
    }
}

/// Why the stack did not open.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file in it cannot.
    #[error("database file {}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: MigrateError,
    },
    /// The server stayed away, or did not let us in.
    #[error("database.url: no connection within {:?}: {source}", .after)]
    Unreachable {
        /// How long it was tried.
        after: Duration,
        /// What the last attempt said.
        source: DbErr,
    },
    /// The server is there, and its database cannot be used.
    #[error("database.url: {0}")]
    Unfit(OpenError),
}

/// Databases and bus of one process.
pub struct Stack {
    backend: Backend,
    bus: Arc<dyn Bus>,
    replica: Uuid,
    sources: Sources,
    databases: Mutex<Vec<Database>>,
}

enum Backend {
    /// One SQLite file per service and one for the bus, in a directory of its own.
    Embedded { data_dir: DataDir, log: EmbeddedBus },
    /// The PostgreSQL database of one service, and NATS.
    Servers {
        database: DatabaseConfig,
        nats: NatsBus,
    },
}

impl Stack {
    /// The embedded stack in `data_dir`, whose files are made when they are missing.
    ///
    /// # Errors
    /// When the directory or the bus's file cannot be used.
    pub async fn embedded(data_dir: &Path, sources: Sources) -> Result<Self, StackError> {
        let data_dir = DataDir::take(data_dir)?;
        let path = data_dir.database("bus");
        let open_log = async {
            let log = EmbeddedBus::open(&path).await?;
            // Also of a service that `--without` has left out since the first day.
            log.keep_for(&CONSUMERS).await?;
            Ok(log)
        };
        let log = open_log
            .await
            .map_err(|source| StackError::Database { path, source })?;
        Ok(Self {
            bus: Arc::new(log.clone()),
            backend: Backend::Embedded { data_dir, log },
            // One process owns the directory, so a restart takes its own leases over: they are all its own.
            replica: Uuid::nil(),
            sources,
            databases: Mutex::default(),
        })
    }

    /// The servers that `config` names, for a replica of `service`. The bus is connected in the background.
    #[must_use]
    pub fn servers(config: &Config, service: &str, sources: Sources) -> Self {
        if config.bus.is_exposed() {
            tracing::warn!("bus.insecure: the bus is beyond this machine, and called without TLS");
        }
        let Sources { clock, random, .. } = &sources;
        let replica = random.uuid_v7(clock.now());
        let nats = NatsBus::start(
            &config.bus,
            &config.messaging,
            &format!("{service} {replica}"),
            &CONSUMERS,
        );
        Self {
            bus: Arc::new(nats.clone()),
            backend: Backend::Servers {
                database: config.database.clone(),
                nats,
            },
            replica,
            sources,
            databases: Mutex::default(),
        }
    }

    /// Puts `wrap` around the bus, e.g. one that delivers as badly as a bus may. For services started after.
    #[must_use]
    pub fn with_bus(mut self, wrap: impl FnOnce(Arc<dyn Bus>) -> Arc<dyn Bus>) -> Self {
        self.bus = wrap(self.bus);
        self
    }

    /// Opens the database of `service`.
    ///
    /// # Errors
    /// When its file cannot be used, or its server stays away for too long.
    pub async fn store(&self, service: &'static str) -> Result<Store, StackError> {
        let database = match &self.backend {
            Backend::Embedded { data_dir, .. } => {
                let path = data_dir.database(service);
                Database::open_sqlite(&path)
                    .await
                    .map_err(|source| StackError::Database {
                        path,
                        source: source.into(),
                    })?
            }
            Backend::Servers { database, .. } => connect(database, service).await?,
        };
        self.databases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(database.clone());
        let Sources {
            clock,
            random,
            faults,
        } = self.sources.clone();
        let clock = database.clock(&clock);
        Ok(Store::new(
            service,
            self.replica,
            database,
            clock,
            random,
            faults,
        ))
    }

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn Bus> {
        self.bus.clone()
    }

    /// Waits until the bus was reached once; the embedded one is there from the start.
    ///
    /// # Errors
    /// When it was not within the configured time.
    pub async fn bus_reached(&self) -> Result<(), NeverReached> {
        match &self.backend {
            Backend::Embedded { .. } => Ok(()),
            Backend::Servers { nats, .. } => nats.reached().await,
        }
    }

    /// Time, randomness and faults.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Closes every file and connection. Services have to be stopped before.
    pub async fn close(self) {
        match &self.backend {
            Backend::Embedded { log, .. } => log.close().await,
            Backend::Servers { nats, .. } => nats.close().await,
        }
        let databases = self
            .databases
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for database in databases {
            if let Err(error) = database.close().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a database did not close cleanly"
                );
            }
        }
    }
}

/// Connects to a server that may still be starting, or that was given wrong, which cannot be told apart.
///
/// # Errors
/// When it stays away, or does not let us in, for as long as configured; at once when it cannot be used.
pub async fn connect(config: &DatabaseConfig, service: &str) -> Result<Database, StackError> {
    if config.is_exposed() {
        tracing::warn!(
            "database.insecure: the database is beyond this machine, and whether it is the right one is not verified"
        );
    }
    let end = Instant::now() + config.start_timeout;
    loop {
        let source = match Database::open_postgres(config, service).await {
            Ok(database) => return Ok(database),
            Err(OpenError::Unreachable(source)) => source,
            Err(unfit) => return Err(StackError::Unfit(unfit)),
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let after = config.start_timeout;
            return Err(StackError::Unreachable { after, source });
        }
        tracing::warn!(
            service,
            error = &source as &dyn std::error::Error,
            "the database is not there yet (database.url)"
        );
        sleep(TRY_AGAIN.min(left)).await;
    }
}
