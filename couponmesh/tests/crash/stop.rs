//! Stopping in good order, and going on where a run without a service left off.

use std::time::Duration;

use couponmesh_proto::{
    coupon::v1::CouponState,
    member::v1::{
        MemberState, WithdrawMemberRequest, WithdrawalState,
        member_service_client::MemberServiceClient,
    },
    mypage::v1::{WatchMyPageRequest, my_page_service_client::MyPageServiceClient},
};
use couponmesh_runtime::status::reason_of;
use tonic::Code;

use crate::{
    binary::{
        caller::{Acknowledged, registration},
        process::{Call, channel, eventually},
    },
    books::Books,
};

#[tokio::test]
async fn sigterm_ends_open_watches_and_the_process_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let drain = Duration::from_secs(8);
    let call = Call::run(dir.path()).set("GRPC__DRAIN_TIMEOUT", "8s");
    let (process, address) = call.start().await;
    let mut members = MemberServiceClient::new(channel(address));
    let registered = members.register_member(registration("", "ann@example.com"));
    let member = registered.await.unwrap().into_inner().member.unwrap();
    let request = WatchMyPageRequest {
        member_id: member.member_id,
    };
    // Without a deadline: a watch lasts.
    let lasting = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut pages = MyPageServiceClient::new(lasting.connect_lazy());
    let mut watch = pages.watch_my_page(request).await.unwrap().into_inner();
    watch.message().await.unwrap().expect("a page");

    let (stopped, ended) = tokio::join!(process.terminate(), async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                ended => return ended,
            }
        }
    });
    let (status, took) = stopped;
    assert_eq!(status.code(), Some(0));
    assert!(
        took < drain,
        "an open watch held the process up for {took:?}"
    );
    let ended = ended.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(reason_of(&ended).as_deref(), Some("DRAINING"));

    // Cleanly: the files are whole without their logs.
    let logs = std::fs::read_dir(dir.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().ends_with("-wal")
    });
    assert_eq!(logs.count(), 0);
}

#[tokio::test]
async fn a_hangup_ends_the_process_cleanly_unless_it_is_to_outlive_its_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let call = Call::run(dir.path());
    // The tests themselves may have been started to outlive theirs.
    let usual = call.clone().under(&["env", "--default-signal=HUP"]);
    let (mut process, _) = usual.start().await;
    process.signal("HUP");
    assert_eq!(process.ended().await.code(), Some(0));
    assert!(!dir.path().join("member.db-wal").exists());

    let nohup = ["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""];
    let (process, address) = call.under(&nohup).start().await;
    process.signal("HUP");
    // One that stops refuses connections within milliseconds.
    for number in 0..50 {
        let mut members = MemberServiceClient::new(channel(address));
        let request = registration("", &format!("{number}@example.com"));
        members.register_member(request).await.unwrap();
    }
    let (status, _) = process.terminate().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_withdrawal_that_began_without_coupon_completes_when_coupon_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let call = Call::run(dir.path()).set("MEMBER__WITHDRAWAL__FIRST_PAUSE", "100ms");
    let (process, address) = call.clone().with(&["--without", "coupon"]).start().await;
    let mut members = MemberServiceClient::new(channel(address));
    let registered = members.register_member(registration("", "ann@example.com"));
    let member = registered.await.unwrap().into_inner().member.unwrap();
    let request = WithdrawMemberRequest {
        request_id: String::new(),
        member_id: member.member_id.clone(),
    };
    let withdrawal = members.withdraw_member(request).await.unwrap();
    let withdrawal = withdrawal.into_inner().withdrawal.unwrap();
    assert_eq!(withdrawal.state(), WithdrawalState::Pending);
    let books = Books::at(address);
    let state = books.member(&member.member_id).await.state();
    assert_eq!(state, MemberState::Withdrawing);
    let (status, _) = process.terminate().await;
    assert!(status.success());

    let (process, address) = call.start().await;
    let books = Books::at(address);
    let acknowledged = Acknowledged {
        member_id: member.member_id.clone(),
        email: member.email,
        withdrawal_id: Some(withdrawal.withdrawal_id.clone()),
    };
    books.comes_to_its_end(&acknowledged).await;
    eventually("the withdrawal is COMPLETED", async || {
        let state = books.withdrawal_state(&withdrawal.withdrawal_id).await;
        (state == WithdrawalState::Completed).then_some(())
    })
    .await;
    let coupons = books.coupons(&member.member_id).await;
    assert_eq!(coupons.len(), 1);
    assert_eq!(coupons[0].state(), CouponState::Cancelled);
    let (status, _) = process.terminate().await;
    assert!(status.success());
}

#[tokio::test]
async fn a_receiver_that_hangs_does_not_hold_the_stop_up() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", receiver.local_addr().unwrap());
    let patience = Duration::from_secs(60);
    let call = Call::run(dir.path())
        .set("NOTIFICATION__CHANNEL__KIND", "webhook")
        .set("NOTIFICATION__CHANNEL__WEBHOOK__URL", &url)
        .set(
            "NOTIFICATION__CHANNEL__WEBHOOK__SECRET",
            "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
        )
        .set("NOTIFICATION__CHANNEL__WEBHOOK__TIMEOUT", "60s");
    let (process, address) = call.start().await;
    let mut members = MemberServiceClient::new(channel(address));
    let registered = members.register_member(registration("", "ann@example.com"));
    registered.await.unwrap();
    // The delivery is under way, and will not end by itself.
    let _held = receiver.accept().await.unwrap();
    let (status, took) = process.terminate().await;
    assert_eq!(status.code(), Some(0));
    assert!(
        took < patience / 2,
        "a hanging receiver held the process up for {took:?}"
    );
}

#[tokio::test]
async fn the_address_of_a_member_who_left_is_nowhere_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let (process, address) = Call::run(dir.path()).start().await;
    let mut members = MemberServiceClient::new(channel(address));
    let registered = members.register_member(registration("", "gone-for-good@example.com"));
    let member = registered.await.unwrap().into_inner().member.unwrap();
    let found = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let contents = entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        let holds = |bytes: Vec<u8>| bytes.windows(13).any(|part| part == b"gone-for-good");
        contents.map(holds).filter(|found| *found).count()
    };
    // The search finds what is there.
    assert!(found() > 0);
    let request = WithdrawMemberRequest {
        request_id: String::new(),
        member_id: member.member_id,
    };
    let withdrawn = members.withdraw_member(request).await.unwrap().into_inner();
    let state = withdrawn.withdrawal.unwrap().state();
    assert_eq!(state, WithdrawalState::Completed);
    process.terminate().await;
    assert_eq!(found(), 0);
}
