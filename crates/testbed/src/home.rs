//! What outlives a test's services: the one place where the stack under them is chosen.

use std::path::PathBuf;

use couponmesh_runtime::database::Database;
use tempfile::TempDir;

use crate::{Databases, Nats, config, on_servers};

/// Databases and the bus's store. They go with this value.
#[derive(Debug)]
pub enum Home {
    /// A directory with a file for each.
    Files(TempDir),
    /// Databases on the server that all tests share, and a bus of their own.
    Servers {
        /// PostgreSQL's.
        databases: Databases,
        /// The bus.
        nats: Nats,
    },
}

impl Home {
    /// An empty home of the stack that the tests run on, with a database for each of `names`.
    pub async fn new(names: &[&str]) -> Self {
        Self::with_bus(names, Nats::start).await
    }

    /// The same with a bus of that kind where it is a server.
    pub async fn with_bus(names: &[&str], nats: impl FnOnce() -> Nats) -> Self {
        if on_servers() {
            Self::Servers {
                databases: Databases::create(names).await,
                nats: nats(),
            }
        } else {
            Self::Files(tempfile::tempdir().unwrap())
        }
    }

    /// Loses everything that the bus had, while nobody has it open.
    pub fn lose_bus(&mut self) {
        match self {
            Self::Files(dir) => std::fs::remove_file(file(dir, "bus")).unwrap(),
            Self::Servers { nats, .. } => {
                nats.kill();
                nats.lose_store();
                nats.restart();
            }
        }
    }

    /// Opens one of the databases as a service does.
    pub async fn database(&self, name: &str) -> Database {
        match self {
            Self::Files(dir) => Database::open_sqlite(&file(dir, name)).await.unwrap(),
            Self::Servers { databases, .. } => {
                let config = config(&databases.url(name));
                Database::open_postgres(&config, name).await.unwrap()
            }
        }
    }
}

/// Where a directory has the database `name`.
fn file(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(format!("{name}.db"))
}
