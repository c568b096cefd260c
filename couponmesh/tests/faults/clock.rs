//! Machines whose clocks are wrong: all that replicas agree on goes by their database's clock.

use couponmesh::node::ServiceName;
use couponmesh_proto::member::v1::{
    WithdrawMemberRequest, WithdrawalState, member_service_client::MemberServiceClient,
};
use couponmesh_runtime::Clock;

use crate::{
    binary::{
        caller::{Acknowledged, registration},
        process::channel,
    },
    production::{Plan, Production},
};

/// An hour in microseconds.
const HOUR: i64 = 3_600_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_replicas_whose_clocks_were_an_hour_ahead_hold_nothing_up() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let mut production = Production::idle(Plan::replicas(1)).await;
    let wrong = ServiceName::all().into_iter().map(|service| (service, 0));
    production
        .start_all_ahead("+1h", &wrong.collect::<Vec<_>>())
        .await;
    let address = production.addresses(ServiceName::Member)[0];
    let mut members = MemberServiceClient::new(channel(address));
    let answer = members
        .register_member(registration("", "ann@example.com"))
        .await;
    let member = answer.unwrap().into_inner().member.unwrap();
    production.kill(ServiceName::Coupon, 0);
    let answer = members
        .withdraw_member(WithdrawMemberRequest {
            member_id: member.member_id.clone(),
            ..Default::default()
        })
        .await;
    let withdrawal = answer.unwrap().into_inner().withdrawal.unwrap();
    assert_eq!(withdrawal.state(), WithdrawalState::Pending);
    // The coupon may not have been issued yet: that is for the others, too.
    for (service, number) in production.running() {
        production.kill(service, number);
    }
    let right = ServiceName::all().into_iter().map(|service| (service, 1));
    production.start_all(&right.collect::<Vec<_>>()).await;
    let acknowledged = [Acknowledged {
        member_id: member.member_id,
        email: member.email,
        withdrawal_id: Some(withdrawal.withdrawal_id),
    }];
    let auditor = production.auditor().await;
    let took = auditor.check(&acknowledged).await;
    // A dead holder's lease lasts ten seconds.
    assert!(took.as_secs() < 60, "it took {took:?}");
    let registered = auditor
        .number("member", "SELECT max(register_time) FROM members")
        .await;
    let off = Clock::system().now().0 - registered;
    assert!(off.abs() < HOUR / 2, "registered {off} microseconds ago");
}
