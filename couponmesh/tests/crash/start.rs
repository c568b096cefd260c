//! Runs that cannot start say why, in one line that names what to change.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _};

use crate::binary::process::Call;

#[tokio::test]
async fn a_second_run_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let call = Call::run(dir.path());
    let (first, _) = call.start().await;
    let path = dir.path().to_str().unwrap();
    let refused = call.finish().await;
    refused.assert_refused(&[path, "in use by another couponmesh run", "--data-dir"]);
    // The first one neither noticed nor ended.
    let (status, _) = first.terminate().await;
    assert!(status.success());
    let (again, _) = call.start().await;
    again.kill();
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let path = dir.path().to_str().unwrap();
    let call = Call::new(&["run", "--listen", &address, "--data-dir", path]);
    let refused = call.finish().await;
    refused.assert_refused(&[&address, "--listen"]);
}

#[tokio::test]
async fn a_key_that_does_not_exist_or_makes_no_sense_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let call = Call::run(&dir.path().join("data"));
    let refused = call.clone().set("MESSAGING__BATHC", "1").finish().await;
    refused.assert_refused(&["bathc"]);
    let refused = call.clone().set("MESSAGING__BATCH", "0").finish().await;
    refused.assert_refused(&["messaging.batch"]);

    let file = dir.path().join("couponmesh.toml");
    let path = file.to_str().unwrap();
    let call = call.with(&["--config", path]);
    fs::write(&file, "[member.withdrawal]\ndeadlin = \"1s\"\n").unwrap();
    call.finish().await.assert_refused(&["deadlin", path]);
    fs::write(&file, "[member.withdrawal]\ndeadline = \"1ms\"\n").unwrap();
    let refused = call.finish().await;
    refused.assert_refused(&["member.withdrawal.deadline"]);
    fs::remove_file(&file).unwrap();
    call.finish().await.assert_refused(&[path]);
    // Nothing was made for a run that never was.
    assert!(!dir.path().join("data").exists());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_and_left_alone() {
    for name in ["bus.db", "coupon.db"] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        let rubbish = vec![b'x'; 8_192];
        fs::write(&file, &rubbish).unwrap();
        let refused = Call::run(dir.path()).finish().await;
        refused.assert_refused(&[file.to_str().unwrap()]);
        assert_eq!(fs::read(&file).unwrap(), rubbish);
    }
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let inside = file.join("data");
    // Not even root can make a directory there.
    let nowhere = std::path::PathBuf::from("/proc/couponmesh");
    for path in [file, inside, nowhere] {
        let refused = Call::run(&path).finish().await;
        refused.assert_refused(&[path.to_str().unwrap(), "--data-dir"]);
    }
}

#[tokio::test]
async fn database_files_are_their_owner_s_alone_whatever_the_directory_allows() {
    let dir = tempfile::tempdir().unwrap();
    let for_all = fs::Permissions::from_mode;
    fs::set_permissions(dir.path(), for_all(0o777)).unwrap();
    let call = Call::run(dir.path()).under(&["sh", "-c", "umask 000; exec \"$0\" \"$@\""]);
    let files = || {
        let entries = fs::read_dir(dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().path())
    };
    // The second time on files as older releases left them.
    for _ in 0..2 {
        let (process, _) = call.start().await;
        for file in files() {
            let mode = file.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
        // Logs stay behind.
        process.kill();
        assert!(files().any(|file| file.ends_with("member.db-wal")));
        for file in files().filter(|file| !file.ends_with("couponmesh.lock")) {
            fs::set_permissions(file, for_all(0o666)).unwrap();
        }
    }
}

#[tokio::test]
async fn the_printed_configuration_hides_what_is_secret() {
    let call = Call::new(&["config", "print"])
        .set("NOTIFICATION__CHANNEL__KIND", "webhook")
        .set(
            "NOTIFICATION__CHANNEL__WEBHOOK__URL",
            "https://ann:hunter2@example.com/hook?token=hunter2",
        )
        .set(
            "NOTIFICATION__CHANNEL__WEBHOOK__SECRET",
            "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==",
        )
        .set(
            "NOTIFICATION__CHANNEL__SMTP__URL",
            "smtps://ann:hunter2@mail.example.com",
        );
    let printed = call.finish().await;
    assert!(printed.status.success(), "{printed:?}");
    assert!(printed.stdout.contains("kind = \"webhook\""), "{printed:?}");
    for secret in ["hunter2", "whsec_", "aHVudGVyMmh1"] {
        assert!(!printed.stdout.contains(secret), "{printed:?}");
    }
}

#[tokio::test]
async fn an_address_of_coupon_that_is_no_url_is_refused_and_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    // Where it is no URL, nobody can tell which part of it is secret.
    let address = "ann:hunter2@127.0.0.1:50052";
    let call = Call::run(dir.path()).with(&["--coupon-address", address]);
    let refused = call.finish().await;
    refused.assert_refused(&["--coupon-address", "http://coupon:50051"]);
    assert!(!refused.stderr.contains("hunter2"), "{refused:?}");
}
