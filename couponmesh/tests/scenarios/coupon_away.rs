//! The coupon service is gone, or there and silent.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use couponmesh::node::ServiceName;
use couponmesh_proto::member::v1::{MemberState, PendingReason, WithdrawalState};
use futures::future::join_all;
use tonic::Code;

use crate::harness::{Mesh, Way, eventually};

#[tokio::test]
async fn members_who_register_while_coupon_is_away_all_get_one_coupon() {
    let mut mesh = Mesh::start().await;
    mesh.stop(ServiceName::Coupon).await;
    let members = mesh.register_many(40).await;
    mesh.start_one(ServiceName::Coupon).await;
    // Gone again while it catches up.
    mesh.stop(ServiceName::Coupon).await;
    mesh.register("late@example.com").await;
    mesh.start_one(ServiceName::Coupon).await;
    for member in &members {
        mesh.joined(&member.member_id).await;
        assert_eq!(mesh.coupons_of(&member.member_id).await.len(), 1);
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawals_wait_for_a_coupon_service_that_is_gone_and_complete_by_themselves() {
    let mut mesh = Mesh::start().await;
    let members = mesh.join_many(10).await;
    let watchman = mesh.watched().await;
    mesh.stop(ServiceName::Coupon).await;
    let calls = members
        .iter()
        .map(|member| mesh.withdraw(&member.member_id));
    let withdrawals = join_all(calls).await;
    for withdrawal in &withdrawals {
        assert_eq!(withdrawal.state(), WithdrawalState::Pending);
        assert_eq!(withdrawal.pending_reason(), PendingReason::Unreachable);
        assert!(withdrawal.next_attempt_time.is_some());
        let member = mesh.member(&withdrawal.member_id).await;
        assert_eq!(member.state(), MemberState::Withdrawing);
    }
    mesh.start_one(ServiceName::Coupon).await;
    for withdrawal in &withdrawals {
        let completed = mesh.completed(&withdrawal.withdrawal_id).await;
        assert_eq!(completed.pending_reason(), PendingReason::Unspecified);
    }
    watchman.dismiss().await;
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_coupon_service_delays_withdrawals_and_nothing_else() {
    let deadline = Duration::from_millis(300);
    let mesh = Mesh::with(|config| config.member.withdrawal.deadline = deadline).await;
    let members = mesh.join_many(10).await;
    let watchman = mesh.watched().await;
    mesh.coupon_way().set(Way::Hang);
    let over = AtomicBool::new(false);
    let withdrawing = async {
        let calls = members
            .iter()
            .map(|member| mesh.withdraw(&member.member_id));
        let withdrawals = join_all(calls).await;
        over.store(true, Ordering::SeqCst);
        withdrawals
    };
    let registering = async {
        let mut registered = 0;
        while !over.load(Ordering::SeqCst) {
            // Panics at any error.
            mesh.join(&format!("new{registered}@example.com")).await;
            registered += 1;
        }
        registered
    };
    let (withdrawals, registered) = tokio::join!(withdrawing, registering);
    assert!(registered > 0);
    for withdrawal in &withdrawals {
        assert_eq!(withdrawal.state(), WithdrawalState::Pending);
        assert_eq!(withdrawal.pending_reason(), PendingReason::Timeout);
    }
    mesh.coupon_way().set(Way::Pass);
    for withdrawal in &withdrawals {
        mesh.completed(&withdrawal.withdrawal_id).await;
    }
    watchman.dismiss().await;
    mesh.finish().await;
}

#[tokio::test]
async fn a_refusal_that_is_no_outage_is_pending_and_tried_again_all_the_same() {
    let mesh = Mesh::start().await;
    let member = mesh.join("ann@example.com").await;
    mesh.coupon_way().set(Way::Answer(Code::PermissionDenied));
    let withdrawal = mesh.withdraw(&member.member_id).await;
    assert_eq!(withdrawal.state(), WithdrawalState::Pending);
    assert_eq!(withdrawal.pending_reason(), PendingReason::Rejected);
    mesh.coupon_way().set(Way::Pass);
    mesh.completed(&withdrawal.withdrawal_id).await;
    mesh.finish().await;
}

#[tokio::test]
async fn a_lost_answer_is_healed_by_the_event() {
    let forever = Duration::from_secs(3_600);
    let mesh = Mesh::with(|config| {
        // So that it is not the worker that heals it.
        config.member.withdrawal.first_pause = forever;
        config.member.withdrawal.longest_pause = forever;
    })
    .await;
    let member = mesh.join("ann@example.com").await;
    mesh.coupon_way().set(Way::LoseAnswers);
    let withdrawal = mesh.withdraw(&member.member_id).await;
    // The event may have been faster than the break was noticed.
    if withdrawal.state() == WithdrawalState::Pending {
        assert_eq!(withdrawal.pending_reason(), PendingReason::Unreachable);
    }
    mesh.completed(&withdrawal.withdrawal_id).await;
    assert_eq!(mesh.coupon_way().calls_of(&withdrawal.withdrawal_id), 1);
    mesh.finish().await;
}

#[tokio::test]
async fn a_withdrawal_survives_a_restart_of_member_while_coupon_is_away() {
    let mut mesh = Mesh::start().await;
    let member = mesh.join("ann@example.com").await;
    mesh.coupon_way().set(Way::Refuse);
    let withdrawal = mesh.withdraw(&member.member_id).await;
    assert_eq!(withdrawal.state(), WithdrawalState::Pending);
    mesh.stop(ServiceName::Member).await;
    mesh.coupon_way().set(Way::Pass);
    mesh.start_one(ServiceName::Member).await;
    mesh.completed(&withdrawal.withdrawal_id).await;
    mesh.finish().await;
}

#[tokio::test]
async fn a_full_bulkhead_answers_pending_at_once() {
    let mesh = Mesh::with(|config| {
        config.member.withdrawal.foreground = 1;
        config.member.withdrawal.deadline = Duration::from_secs(30);
        config.grpc.request_timeout = Duration::from_secs(60);
    })
    .await;
    let members = mesh.join_many(2).await;
    mesh.coupon_way().set(Way::Hang);
    let answered = AtomicBool::new(false);
    let first = async {
        let withdrawal = mesh.withdraw(&members[0].member_id).await;
        answered.store(true, Ordering::SeqCst);
        withdrawal
    };
    let second = async {
        eventually("the first call is under way", || async {
            !mesh.coupon_way().calls().is_empty()
        })
        .await;
        let withdrawal = mesh.withdraw(&members[1].member_id).await;
        assert!(!answered.load(Ordering::SeqCst));
        mesh.coupon_way().set(Way::Pass);
        withdrawal
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.state(), WithdrawalState::Completed);
    assert_eq!(second.state(), WithdrawalState::Pending);
    assert_eq!(second.pending_reason(), PendingReason::Overloaded);
    mesh.completed(&second.withdrawal_id).await;
    mesh.finish().await;
}
