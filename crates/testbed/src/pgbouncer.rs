//! A PgBouncer of a test's own.

use std::{
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running pooler before a server. It ends with this value, and with the test's process.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    process: Child,
    _dir: TempDir,
}

impl PgBouncer {
    /// Starts one before the server of `url` that pools by `mode`: session, transaction or statement.
    #[must_use]
    pub fn start(url: &str, mode: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("couponmesh-pgbouncer.")
            .tempdir_in("/tmp")
            .unwrap();
        // Its user has to get there.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let (user, server) = url
            .strip_prefix("postgres://")
            .and_then(|rest| rest.split_once('/')?.0.split_once('@'))
            .unwrap();
        let (host, server_port) = server.split_once(':').unwrap();
        let port = crate::nats::free_port();
        let config = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={server_port} user={user}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\ndefault_pool_size = 40\n"
        );
        std::fs::write(&config, text).unwrap();
        // It refuses to run as root.
        let root = std::fs::metadata("/proc/self").is_ok_and(|own| {
            use std::os::unix::fs::MetadataExt as _;
            own.uid() == 0
        });
        let user: &[&str] = if root {
            &[
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--init-groups",
            ]
        } else {
            &[]
        };
        let process = Command::new("setpriv")
            .args(user)
            .args(["--pdeathsig", "KILL", "pgbouncer", "-q"])
            .arg(&config)
            // Debian keeps it where only root looks.
            .env(
                "PATH",
                format!("{}:/usr/sbin", std::env::var("PATH").unwrap()),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer is there; `make deps` installs it");
        let mut bouncer = Self {
            port,
            process,
            _dir: dir,
        };
        bouncer.wait();
        bouncer
    }

    fn wait(&mut self) {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "pgbouncer ended: {ended:?}");
            assert!(Instant::now() < end, "pgbouncer does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The URL of a server's database by way of it.
    #[must_use]
    pub fn url(&self, direct: &str) -> String {
        let (login, rest) = direct.rsplit_once('@').unwrap();
        let (_, database) = rest.split_once('/').unwrap();
        format!("{login}@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Both fail when it ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
