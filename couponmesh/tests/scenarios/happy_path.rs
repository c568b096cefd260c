//! All goes well.

use couponmesh_proto::{
    coupon::v1::CouponState,
    member::v1::{MemberState, WithdrawalState},
};

use crate::harness::Mesh;

#[tokio::test]
async fn a_member_joins_gets_a_coupon_leaves_and_is_forgotten() {
    let mesh = Mesh::start().await;
    let registered = mesh.register("ann@example.com").await;
    assert_eq!(registered.state(), MemberState::Registered);
    assert_eq!(registered.version, 1);

    let joined = mesh.joined(&registered.member_id).await;
    assert_eq!(
        joined.version, 3,
        "registered, coupon issued, administrator notified"
    );
    let page = mesh.page_at(&joined.member_id, joined.version).await;
    assert_eq!(page.member_state(), MemberState::Active);
    assert_eq!(page.display_name, "Ann");
    assert_eq!(page.coupon_id, joined.coupon_id);
    assert!(page.coupon_code.starts_with("WELCOME-"), "{page:?}");
    assert_eq!(page.coupon_state(), CouponState::Issued);
    assert!(page.admin_notified && !page.coupon_cancelled);

    let withdrawal = mesh.withdraw(&joined.member_id).await;
    assert_eq!(withdrawal.state(), WithdrawalState::Completed);
    assert_eq!(withdrawal.attempt_count, 1);
    assert!(withdrawal.complete_time.is_some() && withdrawal.next_attempt_time.is_none());
    let left = mesh.member(&joined.member_id).await;
    assert_eq!(left.state(), MemberState::Withdrawn);
    assert_eq!((left.email.as_str(), left.display_name.as_str()), ("", ""));
    assert_eq!(left.version, 5);

    mesh.settled().await;
    let page = mesh.try_page(&joined.member_id).await.unwrap();
    assert_eq!(page.member_state(), MemberState::Withdrawn);
    assert_eq!(page.coupon_state(), CouponState::Cancelled);
    assert_eq!(page.display_name, "");
    assert!(page.coupon_cancelled);
    mesh.finish().await;
}
