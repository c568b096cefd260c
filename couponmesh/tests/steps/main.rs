//! A fault at every step: the saga runs once to find its steps, and then once for each of them from the
//! beginning, with that step failing. Whichever it is, everything comes to the right end.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

use std::{collections::BTreeSet, future::Future};

use couponmesh_member::members;
use couponmesh_proto::member::v1::{MemberState, RegisterMemberRequest, WithdrawalState};
use futures::{StreamExt as _, stream};
use harness::{Mesh, Way, eventually};
use sea_orm::{EntityTrait as _, PaginatorTrait as _};
use tonic::{Code, Status};

/// Sagas at once: most of one's time is waiting for a pause to end.
const AT_ONCE: usize = 12;
const REGISTER: &str = "0198c1f0-5c3e-7d7a-a1b5-000000000001";
const WITHDRAW: &str = "0198c1f0-5c3e-7d7a-a1b5-000000000002";

/// Calls again, under the same request id, while the service says UNAVAILABLE: what a sensible caller does.
async fn patiently<T, F: Future<Output = Result<T, Status>>>(call: impl Fn() -> F) -> T {
    eventually("the call succeeds", async || match call().await {
        Err(refused) if refused.code() == Code::Unavailable => None,
        answer => Some(answer.unwrap()),
    })
    .await
}

async fn register(mesh: &Mesh) -> String {
    let request = RegisterMemberRequest {
        request_id: REGISTER.to_owned(),
        email: "ann@example.com".to_owned(),
        display_name: "Ann".to_owned(),
    };
    let member = patiently(|| mesh.try_register(request.clone())).await;
    mesh.joined(&member.member_id).await;
    member.member_id
}

/// A member comes, gets its coupon, is announced, and leaves.
async fn comes_and_leaves(mesh: &Mesh) {
    let member_id = register(mesh).await;
    let withdrawal = patiently(|| mesh.try_withdraw(WITHDRAW, &member_id)).await;
    mesh.completed(&withdrawal.withdrawal_id).await;
    is_gone(mesh, &member_id).await;
}

/// The same, but coupon is away when the member leaves.
async fn leaves_while_coupon_is_away(mesh: &Mesh) {
    let member_id = register(mesh).await;
    mesh.coupon_way().set(Way::Refuse);
    let withdrawal = patiently(|| mesh.try_withdraw(WITHDRAW, &member_id)).await;
    assert_eq!(withdrawal.state(), WithdrawalState::Pending);
    let member = mesh.member(&member_id).await;
    assert_eq!(member.state(), MemberState::Withdrawing);
    // The worker has asked in vain, too.
    eventually("a second attempt", async || {
        let withdrawal = mesh.withdrawal(&withdrawal.withdrawal_id).await;
        withdrawal.attempt_count > 1
    })
    .await;
    mesh.coupon_way().set(Way::Pass);
    mesh.completed(&withdrawal.withdrawal_id).await;
    is_gone(mesh, &member_id).await;
}

async fn is_gone(mesh: &Mesh, member_id: &str) {
    let member = mesh.member(member_id).await;
    assert_eq!(member.state(), MemberState::Withdrawn);
    assert!(member.coupon_cancelled && member.admin_notified);
    mesh.page_at(member_id, member.version).await;
}

/// Runs `saga` in a mesh of its own with `point` failing once; the steps that it passed.
async fn with_fault(saga: impl AsyncFn(&Mesh), point: Option<&str>) -> BTreeSet<String> {
    let mesh = Mesh::start().await;
    if let Some(point) = point {
        mesh.faults().arm(point, 1);
    }
    saga(&mesh).await;
    if let Some(point) = point {
        eventually(point, async || mesh.faults().spent()).await;
    }
    mesh.settled().await;
    let members = members::Entity::find();
    let members = members.count(mesh.file("member").await.db()).await.unwrap();
    assert_eq!(members, 1, "{point:?}");
    let faults = mesh.faults().clone();
    // One member, one coupon, one notification, one event a version, the page right, nothing parked.
    mesh.finish().await;
    // Only now: an attempt that lost against the event CouponCancelled comes to its last step a little later.
    faults.reached().into_iter().collect()
}

/// Runs `saga` with each step in turn failing. `steps` are the scopes that it has to go through.
async fn survives_a_fault_at_every_step(saga: impl AsyncFn(&Mesh), scopes: &[&str]) {
    let mut reached = with_fault(&saga, None).await;
    for scope in scopes {
        for step in ["begin", "commit", "committed"] {
            let point = format!("{scope}:{step}");
            assert!(reached.contains(&point), "{point} is no step any more");
        }
    }
    // A step that is reached on some days only would be waited for in vain.
    reached.retain(|point| {
        scopes
            .iter()
            .any(|scope| point.starts_with(&format!("{scope}:")))
    });
    stream::iter(&reached)
        .for_each_concurrent(AT_ONCE, async |point| {
            with_fault(&saga, Some(point)).await;
        })
        .await;
}

#[tokio::test]
async fn a_fault_at_any_step_of_coming_and_leaving_changes_nothing_in_the_end() {
    let mut scopes = vec![
        "member.register",
        "member.withdraw",
        "member.complete",
        "coupon.cancel",
        "notification.claim",
        "notification.note",
        "consumer",
        "consumer.count",
        "positions",
    ];
    if couponmesh_testbed::on_servers() {
        scopes.extend(["lease", "relay.checkpoint", "share"]);
    }
    survives_a_fault_at_every_step(comes_and_leaves, &scopes).await;
}

#[tokio::test]
async fn a_fault_at_any_step_of_a_paused_withdrawal_changes_nothing_in_the_end() {
    let scopes = [
        "member.withdraw",
        "member.pause",
        "member.claim",
        "member.complete",
    ];
    survives_a_fault_at_every_step(leaves_while_coupon_is_away, &scopes).await;
}

/// A member leaves while coupon is away; what the safety check says then.
async fn safety_while_coupon_is_away(sabotage: Option<&str>) -> Result<(), String> {
    let mesh = Mesh::start().await;
    if let Some(property) = sabotage {
        mesh.faults().sabotage(property);
    }
    let member_id = register(&mesh).await;
    mesh.coupon_way().set(Way::Refuse);
    mesh.withdraw(&member_id).await;
    let found = mesh.safe().await;
    mesh.shut().await.remove().await;
    found
}

#[tokio::test]
async fn the_safety_check_goes_red_when_members_leave_before_their_coupon_is_cancelled() {
    safety_while_coupon_is_away(None).await.unwrap();
    let finding = safety_while_coupon_is_away(Some("withdraw.cancel_first")).await;
    let finding = finding.unwrap_err();
    assert!(
        finding.ends_with("is WITHDRAWN, and its coupon is not CANCELLED"),
        "{finding}"
    );
}
