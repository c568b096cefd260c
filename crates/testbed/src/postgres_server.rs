//! PostgreSQL servers of a test's own, to be restarted, demoted and promoted at will.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// A running server. It ends with this value.
#[derive(Debug)]
pub struct PostgresServer {
    dir: TempDir,
    port: u16,
    options: &'static str,
    runs: bool,
}

/// Answers no commit before a standby has it on its disk. Not in a file, which a standby would get a copy of.
const SYNCHRONOUS: &str = "-c synchronous_standby_names=walreceiver";

impl PostgresServer {
    /// Makes an empty server and starts it.
    #[must_use]
    pub fn start() -> Self {
        let mut server = Self::idle("");
        server.restart();
        server
    }

    /// The same with a standby, without which it answers no commit.
    #[must_use]
    pub fn start_with_standby() -> (Self, Self) {
        let (mut primary, mut standby) = (Self::idle(SYNCHRONOUS), Self::idle(""));
        primary.restart();
        standby.follow(&primary);
        (primary, standby)
    }

    fn idle(options: &'static str) -> Self {
        Self {
            // Not where TMPDIR may point to, e.g. under a home directory, which the server's user may not enter.
            dir: tempfile::Builder::new()
                .prefix("couponmesh-postgres.")
                .tempdir_in("/tmp")
                .unwrap(),
            port: crate::nats::free_port(),
            options,
            runs: false,
        }
    }

    /// The URL of its first database, the same in every life.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://couponmesh@127.0.0.1:{}/postgres", self.port)
    }

    /// Ends it at once, as a power failure does: without a checkpoint, and with every connection torn.
    pub fn kill(&mut self) {
        if std::mem::take(&mut self.runs) {
            script(&["stop", self.path(), "immediate"]);
        }
    }

    /// Ends it in order: standbys get all that was committed.
    pub fn stop(&mut self) {
        if std::mem::take(&mut self.runs) {
            script(&["stop", self.path(), "fast"]);
        }
    }

    /// Starts it again after [`kill`](Self::kill) or [`stop`](Self::stop); it recovers what was committed.
    pub fn restart(&mut self) {
        assert!(!self.runs, "it runs");
        let port = self.port.to_string();
        script(&["start", self.path(), &port, self.options]);
        self.runs = true;
    }

    /// Starts it as a standby of `primary`, which has all that it has.
    pub fn follow(&mut self, primary: &Self) {
        assert!(!self.runs, "it runs");
        let (port, of) = (self.port.to_string(), primary.port.to_string());
        script(&["standby", self.path(), &port, &of]);
        self.options = "";
        self.runs = true;
    }

    /// Lets a standby take writes.
    pub fn promote(&self) {
        script(&["promote", self.path()]);
    }

    /// Asks `user` for its password, where everyone else is trusted. Takes effect at the next
    /// [`restart`](Self::restart).
    pub fn ask_for_password_of(&self, user: &str) {
        let file = self.dir.path().join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&file).unwrap();
        // The first rule that fits is the one that counts.
        let rules = format!("host all {user} 127.0.0.1/32 scram-sha-256\n{rules}");
        std::fs::write(&file, rules).unwrap();
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn script(arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres");
    let status = Command::new(script)
        .args(arguments)
        // What it starts lives on, and would hold a pipe open.
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "scripts/postgres {arguments:?}: {status}");
}
