//! Withdrawing: many callers, several replicas, one withdrawal.

use std::{collections::BTreeSet, time::Duration};

use couponmesh::node::ServiceName;
use couponmesh_proto::member::v1::{
    Member, PendingReason, WithdrawMemberRequest, WithdrawalState,
    member_service_client::MemberServiceClient,
};
use futures::future::join_all;
use tonic::Code;

use crate::harness::{Mesh, Way, calls::refused, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_withdraw_one_member_together_get_one_withdrawal() {
    let mesh = Mesh::start().await;
    let member = mesh.join("ann@example.com").await;
    let calls = (0..32).map(|_| mesh.withdraw(&member.member_id));
    let withdrawals = join_all(calls).await;
    let id = &withdrawals[0].withdrawal_id;
    for withdrawal in &withdrawals {
        assert_eq!(&withdrawal.withdrawal_id, id);
    }
    let states = withdrawals.iter().map(|withdrawal| withdrawal.state());
    assert!(
        states
            .into_iter()
            .any(|state| state == WithdrawalState::Completed)
    );
    assert_eq!(mesh.coupon_way().calls_of(id), 1);
    let again = mesh.withdraw(&member.member_id).await;
    assert_eq!(
        (&again.withdrawal_id, again.state()),
        (id, WithdrawalState::Completed)
    );
    mesh.finish().await;
}

#[tokio::test]
async fn a_repeated_request_to_withdraw_gets_the_same_withdrawal() {
    let mesh = Mesh::start().await;
    let members = mesh.join_many(2).await;
    let request_id = mesh.new_id().to_string();
    let first = mesh.try_withdraw(&request_id, &members[0].member_id).await;
    let second = mesh.try_withdraw(&request_id, &members[0].member_id).await;
    assert_eq!(first.unwrap().withdrawal_id, second.unwrap().withdrawal_id);
    let other = mesh.try_withdraw(&request_id, &members[1].member_id).await;
    let reused = (Code::InvalidArgument, "REQUEST_ID_REUSED".to_owned());
    assert_eq!(refused(other), reused);
    // The same id names another call at the other RPC.
    let registration = couponmesh_proto::member::v1::RegisterMemberRequest {
        request_id,
        ..crate::harness::calls::registration("new@example.com")
    };
    mesh.try_register(registration).await.unwrap();
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_repeats_a_finished_withdrawal_fills_no_disk() {
    let mesh = Mesh::start().await;
    let member = mesh.join("ann@example.com").await;
    let request_id = mesh.new_id().to_string();
    let first = mesh.try_withdraw(&request_id, &member.member_id).await;
    let first = first.unwrap().withdrawal_id;
    let file = mesh.file("member").await;
    let calls = (0..50).map(|_| async {
        let request_id = mesh.new_id().to_string();
        let again = mesh.try_withdraw(&request_id, &member.member_id).await;
        assert_eq!(again.unwrap().withdrawal_id, first);
    });
    join_all(calls).await;
    assert_eq!(file.count("requests").await, 1);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_the_coupon_is_being_issued_has_left_when_the_call_ends() {
    let mesh = Mesh::with(|config| {
        // However busy the machine is.
        config.member.withdrawal.deadline = Duration::from_secs(30);
    })
    .await;
    let calls = (0..48).map(|number| {
        let mesh = &mesh;
        async move {
            let member = mesh.register(&format!("member{number}@example.com")).await;
            mesh.withdraw(&member.member_id).await
        }
    });
    for withdrawal in join_all(calls).await {
        assert_eq!(withdrawal.state(), WithdrawalState::Completed);
    }
    mesh.finish().await;
}

// At two replicas at once, most rounds find nothing when they look, and one of each comes too late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_agree_on_what_a_request_to_withdraw_made() {
    let mut mesh = Mesh::start().await;
    let other = mesh.start_another(ServiceName::Member).await;
    let replicas = [mesh.members(), MemberServiceClient::new(other)];
    let members = mesh.join_many(30).await;
    for round in members.chunks(3) {
        let [one, two, three] = round else {
            panic!("thirty are ten times three")
        };
        let at_both = async |members: [&Member; 2]| {
            let request_id = mesh.new_id().to_string();
            let calls = replicas.iter().zip(members).map(|(replica, member)| {
                let request = WithdrawMemberRequest {
                    request_id: request_id.clone(),
                    member_id: member.member_id.clone(),
                };
                let mut replica = replica.clone();
                async move { replica.withdraw_member(request).await }
            });
            join_all(calls).await
        };
        let answers = at_both([one, one]).await.into_iter();
        let ids = answers.map(|answer| answer.unwrap().into_inner().withdrawal.unwrap());
        let ids: BTreeSet<_> = ids.map(|withdrawal| withdrawal.withdrawal_id).collect();
        assert_eq!(ids.len(), 1);

        let answers = at_both([two, three]).await;
        let (stored, mut refusals): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(stored.len(), 1);
        let reused = (Code::InvalidArgument, "REQUEST_ID_REUSED".to_owned());
        assert_eq!(refused(refusals.remove(0)), reused);
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_never_call_for_one_withdrawal_at_the_same_time() {
    let mut mesh = Mesh::with(|config| {
        config.member.withdrawal.deadline = Duration::from_millis(200);
        config.member.withdrawal.first_pause = Duration::from_millis(300);
    })
    .await;
    let other = mesh.start_another(ServiceName::Member).await;
    let replicas = [mesh.members(), MemberServiceClient::new(other)];
    let members = mesh.join_many(30).await;
    mesh.coupon_way().set(Way::Hang);
    let calls = members.iter().zip(replicas.iter().cycle());
    let calls = calls.map(|(member, replica)| async move {
        let request = WithdrawMemberRequest {
            request_id: String::new(),
            member_id: member.member_id.clone(),
        };
        let answer = replica.clone().withdraw_member(request).await;
        answer.unwrap().into_inner().withdrawal.unwrap()
    });
    let withdrawals = join_all(calls).await;
    for withdrawal in &withdrawals {
        assert_eq!(withdrawal.pending_reason(), PendingReason::Timeout);
    }
    let by_callers = mesh.coupon_way().calls().len();
    eventually("the workers probe", || async {
        mesh.coupon_way().calls().len() > by_callers + 1
    })
    .await;
    mesh.coupon_way().set(Way::Pass);
    for withdrawal in &withdrawals {
        mesh.completed(&withdrawal.withdrawal_id).await;
    }
    assert_eq!(mesh.coupon_way().overlaps(), 0);
    mesh.finish().await;
}
