//! A supervisor that asks to be told, as systemd does, and the unit that asks it to.

use std::{
    io::ErrorKind, os::unix::net::UnixDatagram, path::Path, process::Command, time::Duration,
};

use crate::binary::process::Call;

const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(5);

/// Calls the binary under a supervisor.
fn supervised(dir: &Path) -> (Call, UnixDatagram) {
    let socket = dir.join("notify");
    let supervisor = UnixDatagram::bind(&socket).unwrap();
    supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    let call = Call::run(&dir.join("data"));
    (
        call.environment("NOTIFY_SOCKET", socket.to_str().unwrap()),
        supervisor,
    )
}

fn told(supervisor: &UnixDatagram) -> String {
    let mut message = [0; 1024];
    let length = supervisor.recv(&mut message).unwrap();
    String::from_utf8_lossy(&message[..length]).into_owned()
}

#[tokio::test]
async fn a_supervisor_is_told_when_calls_are_answered_and_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (call, supervisor) = supervised(dir.path());
    let (mut process, _) = call.start().await;
    assert_eq!(told(&supervisor), "READY=1\n");
    // One that cannot start is never ready.
    call.finish().await.assert_refused(&["--data-dir"]);
    process.signal("TERM");
    assert_eq!(told(&supervisor), "STOPPING=1\n");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_supervisor_that_does_not_read_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let (call, _supervisor) = supervised(dir.path());
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    let full = loop {
        if let Err(full) = other.send_to(b"x", dir.path().join("notify")) {
            break full;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let (process, _) = call.start().await;
    let (status, took) = process.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(took < SOON, "the supervisor held the end up for {took:?}");
}

#[tokio::test]
async fn the_unit_calls_the_binary_as_it_wants_to_be_called() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/couponmesh.service");
    let unit = std::fs::read_to_string(file).unwrap();
    let value = |key: &str| {
        unit.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let start = value("ExecStart").unwrap();
    let (program, arguments) = start.split_once(' ').unwrap();
    let arguments: Vec<&str> = arguments.split(' ').chain(["--help"]).collect();
    let help = Call::new(&arguments).finish().await;
    assert!(help.status.success(), "{help:?}");
    assert_eq!(value("Type"), Some("notify"));
    // Its data is where it may write.
    let state = format!("/var/lib/{}", value("StateDirectory").unwrap());
    assert!(arguments.contains(&state.as_str()), "{arguments:?}");

    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("couponmesh.service");
    // The check wants the program to be there.
    let there = unit.replace(program, env!("CARGO_BIN_EXE_couponmesh"));
    std::fs::write(&copy, there).unwrap();
    let mut verify = Command::new("systemd-analyze");
    let Ok(verified) = verify.args(["verify", "--man=no"]).arg(&copy).output() else {
        println!("NOT TESTED: no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
}
