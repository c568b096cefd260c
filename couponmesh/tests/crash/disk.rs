//! The disk: full, and asked to keep what is acknowledged.

use std::{net::SocketAddr, path::Path, process::Command};

use couponmesh_proto::member::v1::{Member, member_service_client::MemberServiceClient};
use couponmesh_runtime::status::reason_of;
use tonic::{Code, Status};

use crate::{
    binary::{
        caller::{Acknowledged, registration},
        process::{Call, channel, eventually},
    },
    books::Books,
};

/// Starts the binary with files that cannot grow above 1.5 MiB, as if the disk were full then. Without the
/// ignored signal the kernel would end the process instead of refusing the write.
const SMALL_DISK: [&str; 3] = [
    "sh",
    "-c",
    "trap '' XFSZ; ulimit -S -f 3072; exec \"$0\" \"$@\"",
];

async fn register(address: SocketAddr, number: usize) -> Result<Member, Status> {
    let mut members = MemberServiceClient::new(channel(address));
    let request = registration("", &format!("{number}@example.com"));
    let answer = members.register_member(request).await?;
    Ok(answer.into_inner().member.unwrap())
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let call = Call::run(dir.path());
    let (process, address) = call.clone().under(&SMALL_DISK).start().await;
    let mut acknowledged = Vec::new();
    let refused = loop {
        match register(address, acknowledged.len()).await {
            Ok(member) => acknowledged.push(Acknowledged {
                member_id: member.member_id,
                email: member.email,
                withdrawal_id: None,
            }),
            Err(refused) => break refused,
        }
        assert!(acknowledged.len() < 2_000, "the disk never was full");
    };
    assert!(!acknowledged.is_empty());
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(reason_of(&refused).as_deref(), Some("STORAGE_UNAVAILABLE"));
    // It lives, refuses, and still answers what it knows.
    let books = Books::at(address);
    for number in acknowledged.len()..acknowledged.len() + 5 {
        register(address, number).await.unwrap_err();
    }
    for member in &acknowledged {
        assert_eq!(books.member(&member.member_id).await.email, member.email);
    }

    // There is room again: the same process goes on by itself.
    let pid = process.id().to_string();
    let prlimit = ["--pid", &pid, "--fsize=unlimited"];
    let made_room = Command::new("prlimit").args(prlimit).status();
    assert!(
        made_room
            .expect("prlimit, of util-linux, is needed")
            .success()
    );
    let member = eventually("it takes registrations again", async || {
        register(address, acknowledged.len()).await.ok()
    })
    .await;
    acknowledged.push(Acknowledged {
        member_id: member.member_id,
        email: member.email,
        withdrawal_id: None,
    });
    for member in &acknowledged {
        books.comes_to_its_end(member).await;
    }
    process.kill();

    // And so does the next one: nothing was acknowledged that is not on the disk.
    let (process, address) = call.start().await;
    let books = Books::at(address);
    for member in &acknowledged {
        let found = books.comes_to_its_end(member).await;
        assert_eq!(found.email, member.email);
    }
    process.kill();
}

/// How often the file at `path` was synced, by what strace wrote.
fn syncs(trace: &Path, path: &Path) -> usize {
    let trace = std::fs::read_to_string(trace).unwrap();
    let file = format!("<{}>", path.display());
    let lines = trace.lines();
    lines
        .filter(|line| line.contains("sync(") && line.contains(&file))
        .count()
}

#[tokio::test]
async fn every_acknowledged_registration_was_synced_to_the_disk() {
    const REGISTRATIONS: usize = 25;
    let found = Command::new("strace").arg("-V").output().is_ok();
    assert!(
        found,
        "strace is needed to see that commits are synced: install it"
    );
    let dir = tempfile::tempdir().unwrap();
    let (data, trace) = (dir.path().join("data"), dir.path().join("trace"));
    let strace = [
        // The tracer steps back, so that signals reach the binary itself.
        "strace",
        "-D",
        "-f",
        "-y",
        "-e",
        "trace=fdatasync,fsync",
        "-o",
        trace.to_str().unwrap(),
    ];
    // Alone: what others tell of the members would be synced, too.
    let alone = [
        "--without",
        "coupon",
        "--without",
        "notification",
        "--without",
        "mypage",
    ];
    let call = Call::run(&data).with(&alone).under(&strace);
    let (process, address) = call.start().await;
    let log = data.join("member.db-wal").canonicalize().unwrap();
    let before = syncs(&trace, &log);
    // One after another, so that no two share a commit; each is on the disk before its answer.
    for number in 0..REGISTRATIONS {
        register(address, number).await.unwrap();
        let synced = syncs(&trace, &log);
        assert!(
            synced > before + number,
            "{synced} syncs, {before} before registration {number}"
        );
    }
    process.kill();
}
