//! A NATS server of a test's own.

mod cluster;
mod stream;

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub use self::{
    cluster::NatsCluster,
    stream::{Events, Message},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running server with JetStream that syncs every event to disk. It ends with this value, and with the
/// test's process, however that ends.
#[derive(Debug)]
pub struct Nats {
    dir: TempDir,
    port: u16,
    /// Lines of the server's configuration beside those of every server.
    more: String,
    /// The user and the password of the tests themselves, as a URL has them, and a `@`.
    login: &'static str,
    server: Option<Child>,
}

impl Nats {
    /// Starts a server with an empty store.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with("", "")
    }

    /// The same, which lets in only who has that user name and password. Neither of them is in its URL.
    #[must_use]
    pub fn start_guarded(user: &str, password: &str) -> Self {
        Self::start_with(
            &format!("authorization {{ user: {user:?}, password: {password:?} }}\n"),
            "",
        )
    }

    /// The same, which lets in only by these logins, the `users` of its configuration, whose passwords are variables. The
    /// tests themselves are the operator; see [`url_of`](Self::url_of) for the others.
    #[must_use]
    pub fn start_with_logins(logins: &str) -> Self {
        let mut more = String::new();
        for login in logins.split("user: ").skip(1) {
            let (user, rest) = login.split_once(", password: $").unwrap();
            let variable = rest.split_whitespace().next().unwrap();
            more += &format!("{variable}: {:?}\n", password_of(user));
        }
        more += &format!("authorization {{\n{logins}}}\n");
        Self::start_with(
            &more,
            "couponmesh-operator:the-password-of-couponmesh-operator@",
        )
    }

    /// Starts a server with those lines in its configuration, beside those of every server.
    #[must_use]
    pub fn start_configured(more: &str) -> Self {
        Self::start_with(more, "")
    }

    fn start_with(more: &str, login: &'static str) -> Self {
        let mut nats = Self::new(more.to_owned(), login);
        // Another may have taken the port meanwhile.
        while !nats.try_start() {
            nats.port = free_port();
        }
        nats
    }

    /// A server that does not run yet.
    fn new(more: String, login: &'static str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            more,
            login,
            server: None,
        }
    }

    /// Where it listens, the same in every life.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}127.0.0.1:{}", self.login, self.port)
    }

    /// The same with the login of that service, where it was started with logins.
    #[must_use]
    pub fn url_of(&self, service: &str) -> String {
        let user = format!("couponmesh-{service}");
        let password = password_of(&user);
        format!("nats://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// Its stream of all events.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.url())
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

    /// What a killed server has, as a backup would have it.
    #[must_use]
    pub fn copy_store(&self) -> TempDir {
        assert!(self.server.is_none(), "a running server has its store open");
        let copy = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .args(["--archive", "--no-target-directory"])
            .args([self.store().as_path(), copy.path()])
            .status();
        assert!(copied.unwrap().success());
        copy
    }

    /// Gives a killed server what it had when `copy` was made.
    pub fn put_back(&mut self, copy: TempDir) {
        self.lose_store();
        std::fs::rename(copy.keep(), self.store()).unwrap();
    }

    /// Starts it again after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        assert!(self.try_start(), "nats-server ended at once");
    }

    /// False when the server ends at once.
    fn try_start(&mut self) -> bool {
        assert!(self.server.is_none(), "it runs");
        let config = self.dir.path().join("nats.conf");
        let text = format!(
            "listen: 127.0.0.1:{}\njetstream {{ store_dir: {:?}, sync_interval: always }}\n{}",
            self.port,
            self.store(),
            self.more,
        );
        std::fs::write(&config, text).unwrap();
        let mut server = spawn(&config, &self.dir.path().join("log"));
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if server.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < end, "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.server = Some(server);
        true
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

fn password_of(user: &str) -> String {
    format!("the password of {user}").replace(' ', "-")
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

/// A port that nobody has now, and that nobody is given who asks for any: those are from 32,768 on.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static TRIED: AtomicU16 = AtomicU16::new(0);
    loop {
        // Processes that run side by side begin at different places.
        let start = std::process::id().wrapping_mul(7_919) % u32::from(COUNT);
        let start = u16::try_from(start).unwrap();
        let port = FIRST + (start + TRIED.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
