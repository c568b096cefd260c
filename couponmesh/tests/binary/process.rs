//! The binary as a child process.

use std::{
    fs::OpenOptions,
    future::Future,
    io::{BufRead as _, BufReader, PipeWriter, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::transport::{Channel, Endpoint};

/// Deliveries that were on their way to a replica that died come again after 30 seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// `run` says "couponmesh is listening on ADDRESS (…)", `serve` "couponmesh member is listening on ADDRESS".
const GREETING: &str = " is listening on ";

/// Looks until there is something to see.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    look: impl FnMut() -> F,
) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// The same with another patience.
pub(crate) async fn eventually_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < end, "not so after {patience:?}: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The binary of this build, or another one that is to be tested, e.g. a release.
fn binary() -> String {
    std::env::var("COUPONMESH_TEST_BINARY")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_couponmesh").to_owned())
}

/// The binary of the release before this one; none when it was said to go without.
pub(crate) fn previous_release() -> Option<PathBuf> {
    let binary = std::env::var("COUPONMESH_TEST_PREVIOUS").unwrap_or_default();
    // Not taken for nothing to do: then nobody would notice that releases are no longer tried together.
    assert!(
        !binary.is_empty(),
        "COUPONMESH_TEST_PREVIOUS is not set: make test-full sets it to what scripts/previous prints; \
         COUPONMESH_TEST_PREVIOUS=none goes without this test"
    );
    (binary != "none").then(|| binary.into())
}

/// How to call the binary: `couponmesh run` on a data directory, or `couponmesh serve`, on a port of its own.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    program: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: Log,
}

/// Where the log goes.
#[derive(Clone, Debug)]
enum Log {
    Nowhere,
    File(PathBuf),
    Pipe(Arc<PipeWriter>),
}

impl Call {
    pub(crate) fn run(data_dir: &Path) -> Self {
        let data_dir = data_dir.to_str().unwrap();
        Self::new(&["run", "--listen", "127.0.0.1:0", "--data-dir", data_dir])
    }

    pub(crate) fn serve(service: &str) -> Self {
        Self::new(&["serve", service, "--listen", "127.0.0.1:0"])
    }

    pub(crate) fn new(arguments: &[&str]) -> Self {
        Self {
            program: vec![binary()],
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
            environment: Vec::new(),
            log: Log::Nowhere,
        }
    }

    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&text| text.to_owned()));
        self
    }

    /// Sets a key of the configuration, e.g. `MYPAGE__WAIT`.
    pub(crate) fn set(self, key: &str, value: &str) -> Self {
        self.environment(&format!("COUPONMESH__{key}"), value)
    }

    /// Sets any variable of its environment.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Calls another build than the one that is tested.
    pub(crate) fn built_as(mut self, binary: &Path) -> Self {
        *self.program.last_mut().unwrap() = binary.to_str().unwrap().to_owned();
        self
    }

    /// Lets `program` start the binary, e.g. under limits.
    pub(crate) fn under(mut self, program: &[&str]) -> Self {
        let outer = program.iter().map(|&text| text.to_owned());
        self.program = outer.chain(self.program).collect();
        self
    }

    /// Lets it run on a machine whose clock is ahead, e.g. by `+100d`, with Debian's faketime.
    pub(crate) fn ahead(self, by: &str) -> Self {
        // Not by the program faketime, which forks: a kill would not reach the binary.
        let library = std::fs::read_dir("/usr/lib").unwrap().find_map(|dir| {
            let library = dir.unwrap().path().join("faketime/libfaketimeMT.so.1");
            library.exists().then_some(library)
        });
        let library = library.expect("faketime is needed: scripts/deps faketime");
        let preload = format!("LD_PRELOAD={}", library.display());
        let offset = format!("FAKETIME={by}");
        self.under(&["env", &preload, &offset, "FAKETIME_DONT_FAKE_MONOTONIC=1"])
    }

    /// Appends what it logs to `file`.
    pub(crate) fn log_to(mut self, file: &Path) -> Self {
        self.log = Log::File(file.to_owned());
        self
    }

    /// Logs into `pipe`.
    pub(crate) fn log_into(mut self, pipe: PipeWriter) -> Self {
        self.log = Log::Pipe(Arc::new(pipe));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command
            .args(&self.program[1..])
            .args(&self.arguments)
            // Nothing of the developer's own settings.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Starts it and does not wait until it listens.
    pub(crate) fn spawn(&self) -> Process {
        let mut command = self.command();
        let log = match &self.log {
            Log::Nowhere => Stdio::null(),
            Log::File(file) => {
                let file = OpenOptions::new().create(true).append(true).open(file);
                file.unwrap().into()
            }
            Log::Pipe(pipe) => pipe.try_clone().unwrap().into(),
        };
        command.stdout(Stdio::piped()).stderr(log);
        Process(command.spawn().unwrap())
    }

    /// Starts it and waits until it listens.
    pub(crate) async fn start(&self) -> (Process, SocketAddr) {
        let process = self.spawn();
        tokio::task::spawn_blocking(|| {
            let mut process = process;
            let address = process.address().expect("it was to say where it listens");
            (process, address)
        })
        .await
        .unwrap()
    }

    /// Runs it until it ends by itself.
    pub(crate) async fn finish(&self) -> Finished {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process(command.spawn().unwrap());
        let status = process.ended().await;
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let pipes = (process.0.stdout.take(), process.0.stderr.take());
        pipes.0.unwrap().read_to_string(&mut stdout).unwrap();
        pipes.1.unwrap().read_to_string(&mut stderr).unwrap();
        Finished {
            status,
            stdout,
            stderr,
        }
    }
}

/// What became of a call that ended by itself.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Asserts that it failed with one line on standard error that names `what`.
    pub(crate) fn assert_refused(&self, what: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        assert_eq!(self.stdout, "");
        let lines: Vec<&str> = self.stderr.lines().collect();
        let [line] = lines[..] else {
            panic!("more or less than one line: {self:?}");
        };
        assert!(line.starts_with("couponmesh: "), "{line}");
        for what in what {
            assert!(line.contains(what), "{what:?} is not in {line:?}");
        }
    }
}

/// A running binary. It is killed when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Where it listens, from its standard output; none when it ends before it says so.
    fn address(&mut self) -> Option<SocketAddr> {
        let stdout = self.0.stdout.take()?;
        let mut lines = BufReader::new(stdout).lines();
        let greeting = lines.next()?.ok()?;
        let (_, rest) = greeting.split_once(GREETING)?;
        let address = rest.split(' ').next()?;
        Some(address.parse().unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
        kilobytes.parse::<usize>().unwrap() * 1024
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM; returns how it ended and how long that took.
    pub(crate) async fn terminate(mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        self.signal("TERM");
        (self.ended().await, begin.elapsed())
    }

    /// Sends a signal, e.g. `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own kill: an image may have no other.
        let kill = format!("kill -{name} {}", self.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success());
    }

    /// How it ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.0);
        eventually("the process ends", async || {
            child.borrow_mut().try_wait().unwrap()
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it ended, which is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection that is made when it is first used, on which no call takes longer than 5 seconds.
pub(crate) fn channel(address: SocketAddr) -> Channel {
    patient_channel(address, Duration::from_secs(5))
}

/// The same with another bound.
pub(crate) fn patient_channel(address: SocketAddr, patience: Duration) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .timeout(patience)
        .connect_lazy()
}
