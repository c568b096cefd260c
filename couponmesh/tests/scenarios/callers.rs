//! Callers who hang up, or have little time.

use std::time::Duration;

use couponmesh_proto::{
    coupon::v1::ListCouponsRequest,
    member::v1::{ListMembersRequest, PendingReason, WithdrawMemberRequest, WithdrawalState},
    mypage::v1::GetMyPageRequest,
    notification::v1::ListNotificationsRequest,
};
use tokio::time::timeout;
use tonic::{Request, codec::CompressionEncoding::Gzip};

use crate::harness::{Mesh, Way, calls::registration, eventually};

/// When callers hang up: from before their call arrives to after it is answered.
fn moments() -> impl Iterator<Item = (usize, Duration)> {
    (0..30).map(|number| (number, Duration::from_micros(400) * number as u32))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_whose_caller_hangs_up_is_there_wholly_or_not_at_all() {
    let mesh = Mesh::start().await;
    let email = |number| format!("member{number}@example.com");
    for (number, moment) in moments() {
        // Over or not, both are fine: what counts is what becomes of it.
        let _ = timeout(moment, mesh.try_register(registration(&email(number)))).await;
    }
    mesh.settled().await;
    let mut there = 0;
    for (number, _) in moments() {
        let members = mesh.members_with(&email(number)).await;
        assert!(members.len() <= 1);
        there += members.len();
    }
    assert!(there > 0, "the last callers waited long enough");
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawal_whose_caller_hangs_up_goes_on() {
    let mesh = Mesh::start().await;
    let members = mesh.join_many(30).await;
    for (number, moment) in moments() {
        let _ = timeout(moment, mesh.withdraw(&members[number].member_id)).await;
    }
    // None is left WITHDRAWING.
    mesh.settled().await;
    mesh.finish().await;
}

#[tokio::test]
async fn a_withdrawal_goes_on_when_its_caller_hangs_up_during_the_attempt() {
    let mesh = Mesh::start().await;
    let member = mesh.join("ann@example.com").await;
    mesh.coupon_way().set(Way::Hang);
    let under_way = eventually("the attempt is under way", || async {
        mesh.coupon_way().calls().pop()
    });
    let call = tokio::select! {
        call = under_way => call,
        _ = mesh.withdraw(&member.member_id) => panic!("answered while coupon hangs"),
    };
    mesh.coupon_way().set(Way::Pass);
    mesh.completed(&call.withdrawal_id).await;
    assert_eq!(
        mesh.coupon_way().calls_of(&call.withdrawal_id),
        1,
        "no second attempt"
    );
    mesh.finish().await;
}

#[tokio::test]
async fn a_caller_with_little_time_gets_pending_before_its_deadline() {
    let mesh = Mesh::with(|config| {
        config.member.withdrawal.deadline = Duration::from_secs(30);
    })
    .await;
    let member = mesh.join("ann@example.com").await;
    mesh.coupon_way().set(Way::Hang);
    let mut request = Request::new(WithdrawMemberRequest {
        request_id: String::new(),
        member_id: member.member_id,
    });
    request.set_timeout(Duration::from_millis(400));
    // The client gives up at the deadline, so an answer came before it.
    let answer = mesh.members().withdraw_member(request).await.unwrap();
    let withdrawal = answer.into_inner().withdrawal.unwrap();
    assert_eq!(withdrawal.state(), WithdrawalState::Pending);
    assert_eq!(withdrawal.pending_reason(), PendingReason::Unspecified);
    mesh.coupon_way().set(Way::Pass);
    mesh.completed(&withdrawal.withdrawal_id).await;
    mesh.finish().await;
}

#[tokio::test]
async fn every_service_takes_compressed_requests() {
    let mesh = Mesh::start().await;
    let member = mesh.join("ann@example.com").await;
    let mut members = mesh.members().send_compressed(Gzip);
    let listed = members.list_members(ListMembersRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().members.len(), 1);
    let mut coupons = mesh.coupons().send_compressed(Gzip);
    let listed = coupons.list_coupons(ListCouponsRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().coupons.len(), 1);
    let mut notifications = mesh.notifications().send_compressed(Gzip);
    let listed = notifications.list_notifications(ListNotificationsRequest::default());
    assert_eq!(listed.await.unwrap().into_inner().notifications.len(), 1);
    let mut pages = mesh.pages().send_compressed(Gzip);
    let page = pages.get_my_page(GetMyPageRequest {
        member_id: member.member_id,
        min_version: 3,
    });
    assert!(page.await.unwrap().into_inner().page.is_some());
    mesh.finish().await;
}
