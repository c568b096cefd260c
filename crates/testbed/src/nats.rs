//! A NATS server of a test's own.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running server with JetStream that syncs every event to disk. It ends with this value, and with the
/// test's process, however that ends.
#[derive(Debug)]
pub struct Nats {
    dir: TempDir,
    port: u16,
    server: Option<Child>,
}

impl Nats {
    /// Starts a server with an empty store.
    #[must_use]
    pub fn start() -> Self {
        let mut nats = Self {
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            server: None,
        };
        nats.restart();
        nats
    }

    /// Where it listens, the same in every life.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends the server with SIGKILL. What it said it has, it has on disk.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Deletes everything that a killed server had.
    pub fn lose_store(&mut self) {
        assert!(self.server.is_none(), "a running server has its store open");
        std::fs::remove_dir_all(self.store()).unwrap();
    }

    /// Starts it again after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        assert!(self.server.is_none(), "it runs");
        let config = self.dir.path().join("nats.conf");
        let text = format!(
            "listen: 127.0.0.1:{}\njetstream {{ store_dir: {:?}, sync_interval: always }}\n",
            self.port,
            self.store(),
        );
        std::fs::write(&config, text).unwrap();
        self.server = Some(spawn(&config, &self.dir.path().join("log")));
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < end, "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn store(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(config: &Path, log: &Path) -> Child {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "nats-server"])
        .arg("-c")
        .arg(config)
        .arg("-l")
        .arg(log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server is on the PATH; `make deps` installs it")
}

/// A port that nobody has now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
