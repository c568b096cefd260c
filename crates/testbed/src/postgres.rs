//! Databases of a test's own, on a server that all tests share.

use std::{process::Command, time::Duration};

use couponmesh_runtime::database::DatabaseConfig;
use sea_orm::{ConnectionTrait as _, Database};

/// Some databases; they are dropped with it.
#[derive(Debug)]
pub struct Databases {
    server: String,
    prefix: String,
    names: Vec<String>,
}

impl Databases {
    /// Makes an empty database for each of `names`, on the server that all tests share.
    pub async fn create(names: &[&str]) -> Self {
        let server = std::env::var("COUPONMESH_TEST_POSTGRES")
            .expect("COUPONMESH_TEST_POSTGRES is the URL of a server; `make test-full` sets it");
        Self::create_on(&server, names).await
    }

    /// The same on the server at `server`, the URL of a database there.
    pub async fn create_on(server: &str, names: &[&str]) -> Self {
        #[allow(clippy::disallowed_methods)] // a name that no other test has
        let prefix = format!("test_{}", uuid::Uuid::new_v4().simple());
        let databases = Self {
            server: server.to_owned(),
            prefix,
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let connection = Database::connect(databases.server.as_str()).await.unwrap();
        for name in names {
            let sql = format!("CREATE DATABASE {}_{name}", databases.prefix);
            connection.execute_unprepared(&sql).await.unwrap();
        }
        connection.close().await.unwrap();
        databases
    }

    /// Looks for them on another server from now on, e.g. on a standby that took over.
    pub fn are_on(&mut self, server: &str) {
        server.clone_into(&mut self.server);
    }

    /// The URL of one of them.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        let (server, _) = self.server.rsplit_once('/').unwrap();
        format!("{server}/{}_{name}", self.prefix)
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        let drops: Vec<String> = self
            .names
            .iter()
            .flat_map(|name| {
                let sql = format!("DROP DATABASE {}_{name} WITH (FORCE)", self.prefix);
                ["-c".to_owned(), sql]
            })
            .collect();
        // A server that is gone has no databases to drop.
        let _ = Command::new("psql")
            .args(["-q", &self.server])
            .args(drops)
            .output();
    }
}

/// How tests connect.
#[must_use]
pub fn config(url: &str) -> DatabaseConfig {
    DatabaseConfig {
        url: url.to_owned(),
        insecure: false,
        max_connections: 8,
        acquire_timeout: Duration::from_secs(5),
        statement_timeout: Duration::from_secs(10),
        commit_timeout: Duration::from_secs(4),
        start_timeout: Duration::from_secs(30),
    }
}
