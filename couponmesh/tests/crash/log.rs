//! The log, into a pipe that nobody reads, that is read late, and onto a terminal.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _, pipe},
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use couponmesh_proto::member::v1::member_service_client::MemberServiceClient;
use futures::{StreamExt as _, stream};
use serde_json::Value;
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::binary::{
    caller::registration,
    process::{Call, channel, eventually, patient_channel},
};

/// How many lines the log holds back is bounded by their bytes: this many are more.
const MEMBERS: usize = 6_000;
/// Of a pipe, unless somebody changes it.
const PIPE: usize = 65_536;
/// Enough for a stop that nothing holds up, on a machine that has much to do.
const SOON: Duration = Duration::from_secs(5);

/// Registers members, many at once; each is answered.
async fn register(address: SocketAddr, members: usize) {
    let channel = patient_channel(address, Duration::from_secs(20));
    let calls = (0..members).map(|number| {
        let mut members = MemberServiceClient::new(channel.clone());
        async move {
            let request = registration("", &format!("{number}@example.com"));
            members.register_member(request).await.unwrap();
        }
    });
    stream::iter(calls).buffer_unordered(64).count().await;
}

async fn health(address: SocketAddr, name: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest {
        service: name.to_owned(),
    };
    let answer = HealthClient::new(channel(address)).check(request).await?;
    Ok(answer.into_inner().status())
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_neither_calls_nor_health_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (_unread, pipe) = pipe().unwrap();
    let call = Call::run(dir.path())
        .set("TELEMETRY__LOG_FORMAT", "json")
        .log_into(pipe);
    let (process, address) = call.start().await;
    register(address, MEMBERS).await;
    for name in ["", "liveness"] {
        let status = health(address, name).await.unwrap();
        assert_eq!(status, ServingStatus::Serving, "{name:?}");
    }
    let (status, took) = process.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < SOON, "the log held the end up for {took:?}");
}

/// Reads the log late. `lost` finds in a line how many lines were lost.
async fn is_told(format: &str, lost: impl Fn(&str) -> Option<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let (reader, pipe) = pipe().unwrap();
    let call = Call::run(dir.path())
        .set("TELEMETRY__LOG_FORMAT", format)
        .log_into(pipe);
    let (process, address) = call.start().await;
    drop(call);
    register(address, MEMBERS).await;

    let (read, lines) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(reader)
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| read.send(line))
    });
    let (mut notified, mut losses) = (0, 0);
    while notified + losses < MEMBERS {
        let line = lines
            .recv_timeout(SOON)
            .expect("every line is here or lost");
        notified += usize::from(line.contains("notification for the administrator"));
        losses += lost(&line).unwrap_or_default();
    }
    assert!(losses > 0, "nothing was lost");
    // Beside the notifications there are a few lines about the start.
    assert!(notified + losses < MEMBERS + 20, "{notified} and {losses}");

    // It goes on, and its last lines are written before the end.
    let (status, _) = process.terminate().await;
    assert_eq!(status.code(), Some(0));
    let last = lines.iter().last().unwrap();
    assert!(last.contains("stopped"), "{last}");
}

#[tokio::test]
async fn what_a_log_lost_is_counted_when_it_is_read_again() {
    is_told("human", |line| {
        let (_, count) = line
            .split_once("log lines were lost")?
            .1
            .split_once("lost=")?;
        Some(count.trim().parse().unwrap())
    })
    .await;
}

#[tokio::test]
async fn what_a_json_log_lost_is_counted_in_json() {
    is_told("json", |line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let lost = line["fields"]["lost"].as_u64()?;
        Some(usize::try_from(lost).unwrap())
    })
    .await;
}

/// Lets the log go to a pipe that is full from the start, and standard output as well.
const ONE_PIPE: [&str; 3] = ["sh", "-c", "exec \"$0\" \"$@\" >&2"];

#[tokio::test]
async fn a_full_pipe_holds_up_neither_the_start_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (_unread, mut pipe) = pipe().unwrap();
    pipe.write_all(&vec![b'x'; PIPE]).unwrap();
    // It cannot say where it listens.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let path = dir.path().to_str().unwrap();
    let call = Call::new(&["run", "--listen", &address.to_string(), "--data-dir", path]);
    let call = call.under(&ONE_PIPE).log_into(pipe);
    let process = call.spawn();
    eventually("it is serving", async || health(address, "").await.ok()).await;

    // Another one cannot start, and cannot say why.
    let begin = Instant::now();
    assert_eq!(call.spawn().ended().await.code(), Some(1));
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    let (status, took) = process.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < SOON, "the log held the end up for {took:?}");
}

/// What is logged on a terminal whose user has set NO_COLOR to `no_color`.
fn on_a_terminal(no_color: Option<&str>) -> String {
    // It logs that nothing listens there, and ends.
    let logs = format!("{} migrate coupon", env!("CARGO_BIN_EXE_couponmesh"));
    let mut terminal = Command::new("script");
    terminal
        .args(["--quiet", "--command", &logs, "/dev/null"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("COUPONMESH__DATABASE__URL", "postgres://127.0.0.1:1/coupon")
        .env("COUPONMESH__DATABASE__START_TIMEOUT", "1s")
        .envs(no_color.map(|value| ("NO_COLOR", value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut terminal = terminal.spawn().expect("script, of util-linux, is needed");
    let mut text = String::new();
    let mut output = terminal.stdout.take().unwrap();
    output.read_to_string(&mut text).unwrap();
    terminal.wait().unwrap();
    assert!(text.contains("WARN"), "{text}");
    text
}

#[test]
fn a_terminal_gets_colors_unless_its_user_wants_none() {
    const COLOR: &str = "\u{1b}[";
    assert!(on_a_terminal(None).contains(COLOR));
    assert!(on_a_terminal(Some("")).contains(COLOR));
    assert!(!on_a_terminal(Some("1")).contains(COLOR));
}
