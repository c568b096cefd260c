//! Commands that cannot be meant are refused, and say what to change.

use crate::{binary::process::Call, desk::Desk};

#[tokio::test]
async fn a_directory_without_the_database_is_named_and_nothing_is_made() {
    let desk = Desk::new();
    let path = desk.path().join("coupon.db");
    let refused = desk.ask(&["dlq", "list", "--service", "coupon"]).await;
    refused.assert_refused(&[path.to_str().unwrap(), "--data-dir"]);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_database_of_another_service_is_not_touched() {
    let desk = Desk::new();
    let (process, _) = desk.run().start().await;
    process.terminate().await;
    let (member, coupon) = (desk.path().join("member.db"), desk.path().join("coupon.db"));
    std::fs::copy(&member, &coupon).unwrap();
    let refused = desk
        .ask(&["dlq", "drop", "--all", "--service", "coupon"])
        .await;
    refused.assert_refused(&["not the coupon database", "--service"]);
    std::fs::write(&coupon, "").unwrap();
    let refused = desk.ask(&["dlq", "list", "--service", "coupon"]).await;
    refused.assert_refused(&[coupon.to_str().unwrap()]);
}

#[tokio::test]
async fn an_unknown_service_id_time_or_nothing_at_all_is_refused() {
    let desk = Desk::new();
    let (process, _) = desk.run().start().await;
    let id = "0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11";
    for (arguments, said) in [
        (&["dlq", "list", "--service", "cupon"][..], "cupon"),
        (&["dlq", "drop", "--service", "coupon", "x"], "UUID"),
        (
            &["dlq", "drop", "--service", "coupon", id, "--all"],
            "--all",
        ),
        (
            &[
                "dlq",
                "list",
                "--service",
                "coupon",
                "--parked-since",
                "soon",
            ],
            "2h",
        ),
        (&["outbox", "republish", "--service", "coupon"], "--since"),
        (&["notifications", "resend", "x"], "UUID"),
        (&["notifications", "resend", id, "--failed"], "--failed"),
    ] {
        let refused = desk.ask(arguments).await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    let refused = desk.ask(&["dlq", "list"]).await;
    refused.assert_refused(&["--service"]);
    for verb in ["redrive", "drop"] {
        let which = ["dlq", verb, "--service", "coupon", "--dry-run"];
        desk.ask(&which).await.assert_refused(&["--all"]);
    }
    for verb in ["show", "redrive", "drop"] {
        let refused = desk.ask(&["dlq", verb, id, "--service", "coupon"]).await;
        refused.assert_refused(&["no dead letter", id]);
    }
    let resend = ["notifications", "resend"];
    desk.ask(&resend).await.assert_refused(&["--failed"]);
    let unknown = desk.ask(&["notifications", "resend", id]).await;
    unknown.assert_refused(&["no notification", id]);
    process.kill();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let refused = Call::new(&["dlq", "list", "--service", "coupon"])
        .set(
            "DATABASE__URL",
            "postgres://coupon:hunter2@127.0.0.1:1/coupon",
        )
        .finish()
        .await;
    refused.assert_refused(&["database.url"]);
    assert!(!refused.stderr.contains("hunter2"), "{refused:?}");
}
