//! Databases and bus: where the backend is chosen.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use couponmesh_messaging::{
    Bus, Store,
    bus::{NatsBus, Outboxes, Service, StartError, TakeOverError},
    identity,
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
    migrate::migrate,
    node::ServiceName,
};

/// The one process that owns a directory. A restart takes its own leases over: they are all its own.
const EMBEDDED: Uuid = Uuid::nil();
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
    /// What an earlier release left in the directory cannot be taken over.
    #[error("the log of an earlier release {}: {source}", path.display())]
    TakeOver {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: TakeOverError,
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
    /// Its tables cannot be brought up to date.
    #[error("the {service} database cannot be brought up to date: {source}")]
    Migrate {
        /// Whose database.
        service: &'static str,
        /// What the database said.
        source: MigrateError,
    },
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
    /// One SQLite file per service, in a directory of its own.
    Embedded {
        /// Keeps others out.
        _data_dir: DataDir,
        stores: BTreeMap<ServiceName, Store>,
    },
    /// The PostgreSQL database of one service, and NATS.
    Servers {
        database: DatabaseConfig,
        nats: NatsBus,
    },
}

impl Stack {
    /// The embedded stack in `data_dir`, whose files are made when they are missing: those of all services, since what
    /// one that does not run has published is read, and what it has not read is kept.
    ///
    /// # Errors
    /// When the directory or one of its files cannot be used.
    pub async fn embedded(data_dir: &Path, sources: Sources) -> Result<Self, StackError> {
        let data_dir = DataDir::take(data_dir)?;
        let mut databases = Vec::new();
        let opened = open_all(&data_dir, &sources, &mut databases).await;
        let (outboxes, stores) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                close_all(databases).await;
                return Err(error);
            }
        };
        Ok(Self {
            bus: Arc::new(outboxes),
            backend: Backend::Embedded {
                _data_dir: data_dir,
                stores,
            },
            replica: EMBEDDED,
            sources,
            databases: Mutex::new(databases),
        })
    }

    /// The servers that `config` names, for a replica of `service`. The bus is connected in the background.
    #[must_use]
    pub fn servers(config: &Config, service: ServiceName, sources: Sources) -> Self {
        if config.bus.is_exposed() {
            tracing::warn!("bus.insecure: the bus is beyond this machine, and called without TLS");
        }
        let Sources { clock, random, .. } = &sources;
        let replica = random.uuid_v7(clock.now());
        let nats = NatsBus::start(
            &config.bus,
            &config.messaging,
            service.role(),
            &format!("{} {replica}", service.name()),
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

    /// Opens the database of `service` and brings it up to date.
    ///
    /// # Errors
    /// When its server stays away for too long, or it cannot be brought up to date.
    pub async fn store(&self, service: ServiceName) -> Result<Store, StackError> {
        let (config, nats) = match &self.backend {
            Backend::Embedded { stores, .. } => return Ok(stores[&service].clone()),
            Backend::Servers { database, nats } => (database, nats),
        };
        let database = connect(config, service.name()).await?;
        self.databases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(database.clone());
        let unfit = |source| StackError::Migrate {
            service: service.name(),
            source,
        };
        migrate(service, &database).await.map_err(unfit)?;
        let store = store(service, self.replica, database, &self.sources);
        let id = identity::load_or_make(&store).await;
        nats.serve(id.map_err(MigrateError::from).map_err(unfit)?);
        Ok(store)
    }

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn Bus> {
        self.bus.clone()
    }

    /// Waits until the bus was reached once; the embedded one is there from the start.
    ///
    /// # Errors
    /// When it was not within the configured time, or is another installation's. A service's store has to be opened before.
    pub async fn bus_reached(&self) -> Result<(), StartError> {
        match &self.backend {
            Backend::Embedded { .. } => Ok(()),
            Backend::Servers { nats, .. } => nats.reached().await,
        }
    }

    /// Waits until the bus turns out to be another installation's; for ever where it cannot.
    pub async fn bus_refused(&self) -> StartError {
        match &self.backend {
            Backend::Embedded { .. } => std::future::pending().await,
            Backend::Servers { nats, .. } => nats.refused().await,
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
            Backend::Embedded { .. } => {}
            Backend::Servers { nats, .. } => nats.close().await,
        }
        let databases = self
            .databases
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        close_all(databases).await;
    }
}

async fn close_all(databases: Vec<Database>) {
    for database in databases {
        if let Err(error) = database.close().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a database did not close cleanly"
            );
        }
    }
}

/// The outboxes of all services as a bus, and their stores, on databases that are brought up to date.
async fn open_all(
    data_dir: &DataDir,
    sources: &Sources,
    databases: &mut Vec<Database>,
) -> Result<(Outboxes, BTreeMap<ServiceName, Store>), StackError> {
    let mut stores = BTreeMap::new();
    for name in ServiceName::all() {
        let path = data_dir.database(name.name());
        let open = async {
            let database = Database::open_sqlite(&path).await?;
            databases.push(database.clone());
            migrate(name, &database).await?;
            Ok(database)
        };
        let database = open.await.map_err(|source| StackError::Database {
            path: path.clone(),
            source,
        })?;
        stores.insert(name, store(name, EMBEDDED, database, sources));
    }
    let service = |(name, store): (&ServiceName, &Store)| Service {
        store: store.clone(),
        types: name.types(),
    };
    let outboxes = Outboxes::new(stores.iter().map(service).collect());
    // Releases up to 0.3 kept a log beside them.
    let path = data_dir.database("bus");
    let taken_over = outboxes.take_over(&path).await;
    taken_over.map_err(|source| StackError::TakeOver { path, source })?;
    Ok((outboxes, stores))
}

fn store(service: ServiceName, replica: Uuid, database: Database, sources: &Sources) -> Store {
    let Sources {
        clock,
        random,
        faults,
    } = sources.clone();
    let clock = database.clock(&clock);
    Store::new(service.name(), replica, database, clock, random, faults)
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
