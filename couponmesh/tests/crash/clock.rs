//! A machine whose clock is wrong for a while. On files, its clock is all that there is.

use std::{fs, path::Path};

use couponmesh_proto::member::v1::{
    WithdrawMemberRequest, WithdrawalState, member_service_client::MemberServiceClient,
};

use crate::{
    binary::{
        caller::{Acknowledged, registration},
        process::{Call, channel, eventually},
        rest::SERVICES,
    },
    books::{Books, number},
};

/// How many rows there are that are deleted by their age.
async fn kept(data_dir: &Path) -> Vec<i64> {
    let mut kept = Vec::new();
    for service in SERVICES {
        kept.push(number(data_dir, service, "SELECT count(*) FROM outbox").await);
    }
    kept
}

/// The time that each service noted last.
async fn noted(data_dir: &Path) -> Vec<i64> {
    let mut noted = Vec::new();
    for service in SERVICES {
        let last = "SELECT end_time FROM clock_spans ORDER BY seq DESC LIMIT 1";
        noted.push(number(data_dir, service, last).await);
    }
    noted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_with_a_clock_100_days_ahead_delete_nothing_and_hold_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, log) = (dir.path().join("data"), dir.path().join("log"));
    let call = Call::run(&data_dir).log_to(&log);
    let (process, address) = call.start().await;
    let mut members = MemberServiceClient::new(channel(address));
    let answer = members
        .register_member(registration("", "ann@example.com"))
        .await;
    let member = answer.unwrap().into_inner().member.unwrap();
    let mut acknowledged = Acknowledged {
        member_id: member.member_id.clone(),
        email: member.email,
        withdrawal_id: None,
    };
    Books::at(address).comes_to_its_end(&acknowledged).await;
    process.terminate().await;
    let before = kept(&data_dir).await;

    // The second time the clock agrees with the newest rows.
    let ahead = call.clone().with(&["--without", "coupon"]).ahead("+100d");
    for life in ["the first", "the second"] {
        let last = noted(&data_dir).await;
        let (process, address) = ahead.start().await;
        eventually("all janitors that are there come by", async || {
            let now = noted(&data_dir).await;
            let later = now.iter().zip(&last).filter(|(now, last)| now > last);
            (later.count() == SERVICES.len() - 1).then_some(())
        })
        .await;
        let mut members = MemberServiceClient::new(channel(address));
        let answer = members
            .withdraw_member(WithdrawMemberRequest {
                member_id: member.member_id.clone(),
                ..Default::default()
            })
            .await;
        let withdrawal = answer.unwrap().into_inner().withdrawal.unwrap();
        assert_eq!(withdrawal.state(), WithdrawalState::Pending, "{life}");
        acknowledged.withdrawal_id = Some(withdrawal.withdrawal_id);
        process.kill();
        for (before, now) in before.iter().zip(kept(&data_dir).await) {
            assert!(now >= *before, "{life}: {before} were there, now {now}");
        }
    }
    let logged = fs::read_to_string(&log).unwrap();
    let told = logged.matches("the clock is more than an hour away from the last time");
    assert_eq!(told.count(), SERVICES.len() - 1, "once each: {logged}");

    // What was to be done in 100 days is done now.
    let (process, address) = call.start().await;
    Books::at(address).check(&acknowledged, &[]).await;
    process.terminate().await;
    for (before, now) in before.iter().zip(kept(&data_dir).await) {
        assert!(now >= *before, "{before} were there, now {now}");
    }
}
