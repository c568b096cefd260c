//! Databases and bus: where the backend is chosen.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use couponmesh_messaging::{Bus, MessagingConfig, Store, bus::EmbeddedBus};
use couponmesh_runtime::{Clock, Random, database::Database, fault::Faults};
use sea_orm::DbErr;
use uuid::Uuid;

use crate::data_dir::{DataDir, DataDirError};

/// Everyone who consumes events.
const CONSUMERS: [&str; 4] = [
    couponmesh_member::NAME,
    couponmesh_coupon::NAME,
    couponmesh_notification::NAME,
    couponmesh_mypage::NAME,
];

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
        source: DbErr,
    },
}

/// The embedded stack: one SQLite file per service and one for the bus, in a directory of its own.
pub struct Stack {
    data_dir: DataDir,
    log: EmbeddedBus,
    bus: Arc<dyn Bus>,
    sources: Sources,
    databases: Mutex<Vec<Database>>,
}

impl Stack {
    /// Opens the stack in `data_dir`, making what is missing.
    ///
    /// # Errors
    /// When the directory or the bus's file cannot be used.
    pub async fn open(
        data_dir: &Path,
        messaging: &MessagingConfig,
        sources: Sources,
    ) -> Result<Self, StackError> {
        let data_dir = DataDir::take(data_dir)?;
        let path = data_dir.database("bus");
        let open_log = async {
            let log = EmbeddedBus::open(&path, sources.clock.clone(), messaging.retention).await?;
            // Also of a service that `--without` has left out since the first day.
            log.keep_for(&CONSUMERS).await?;
            Ok(log)
        };
        let log = open_log
            .await
            .map_err(|source| StackError::Database { path, source })?;
        Ok(Self {
            data_dir,
            bus: Arc::new(log.clone()),
            log,
            sources,
            databases: Mutex::default(),
        })
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
    /// When its file cannot be used.
    pub async fn store(&self, service: &'static str) -> Result<Store, StackError> {
        let path = self.data_dir.database(service);
        let database = Database::open_sqlite(&path)
            .await
            .map_err(|source| StackError::Database { path, source })?;
        self.databases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(database.clone());
        let Sources {
            clock,
            random,
            faults,
        } = self.sources.clone();
        // One process owns the directory, so a restart takes its own leases over: they are all its own.
        Ok(Store::new(
            service,
            Uuid::nil(),
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

    /// Time, randomness and faults.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Closes every file. Services have to be stopped before.
    pub async fn close(self) {
        self.log.close().await;
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
