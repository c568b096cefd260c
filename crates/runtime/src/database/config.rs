//! What can be set about a database on a server.

use std::time::Duration;

use sea_orm::sqlx::postgres::PgSslMode;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Problems, Validate, serialize_url},
    net::is_this_machine,
};

/// A PostgreSQL database. The keys are explained in `config.default.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Where it is, and who we are there; empty for none.
    #[serde(serialize_with = "serialize_url")]
    pub url: String,
    /// Whether a server beyond this machine may do without `sslmode=verify-full`.
    pub insecure: bool,
    /// Connections at the most.
    pub max_connections: u32,
    /// How long a caller waits for a connection.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// How long one statement may take.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// How long a commit may take.
    #[serde(with = "humantime_serde")]
    pub commit_timeout: Duration,
    /// How long a database that cannot be reached at the start is tried.
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
}

impl DatabaseConfig {
    /// Whether a server beyond this machine is taken at its word: anyone on the way could be it, or read along.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        super::postgres::parse(&self.url).is_ok_and(|options| {
            let host = options.get_host();
            let is_socket = options.get_socket().is_some() || host.starts_with('/');
            !is_socket
                && !is_this_machine(host)
                && !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull)
        })
    }
}

impl Validate for DatabaseConfig {
    fn validate(&self, problems: &mut Problems) {
        let second = Duration::from_secs(1);
        if !self.url.is_empty() && super::postgres::parse(&self.url).is_err() {
            // The parser's own words could quote the password.
            problems.add(
                "url",
                "must be like postgres://user:password@host:5432/database",
            );
        }
        if self.is_exposed() && !self.insecure {
            problems.add(
                "url",
                "leads beyond this machine without ?sslmode=verify-full (and sslrootcert=FILE): add it, or set \
                 database.insecure = true where the network is trusted, e.g. inside a mesh",
            );
        }
        // Migrations hold one while they use another.
        problems.range("max_connections", self.max_connections, 4..=1_000);
        problems.duration(
            "acquire_timeout",
            self.acquire_timeout,
            second..=second * 60,
        );
        problems.duration(
            "statement_timeout",
            self.statement_timeout,
            second..=second * 600,
        );
        problems.duration("commit_timeout", self.commit_timeout, second..=second * 60);
        problems.duration(
            "start_timeout",
            self.start_timeout,
            second..=second * 86_400,
        );
    }
}
