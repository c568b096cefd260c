//! Who may call what inside the mesh.

use serde_json::json;

use crate::{
    cluster::{Cluster, PATIENCE, eventually},
    stranger::Stranger,
};

const CANCEL: &str = "couponmesh.coupon.v1.CouponService/CancelCoupon";
const GET_COUPON: &str = "couponmesh.coupon.v1.CouponService/GetCoupon";
const LIST_MEMBERS: &str = "couponmesh.member.v1.MemberService/ListMembers";
const REGISTER: &str = "couponmesh.member.v1.MemberService/RegisterMember";
const LIST_NOTIFICATIONS: &str = "couponmesh.notification.v1.NotificationService/ListNotifications";
const GET_PAGE: &str = "couponmesh.mypage.v1.MyPageService/GetMyPage";
/// The services refuse it: an answer that says so was let through by the mesh.
const NONSENSE: &str = r#"{"member_id":"nonsense"}"#;

/// Members' own service account may cancel, and do nothing else; others may not even do that.
pub(crate) async fn only_member_may_cancel(cluster: &Cluster) {
    let stranger = Stranger::come(cluster, "notification", true).await;
    for (service, method) in [
        ("coupon", CANCEL),
        ("coupon", GET_COUPON),
        ("member", LIST_MEMBERS),
        ("member", REGISTER),
        ("mypage", GET_PAGE),
        ("notification", LIST_NOTIFICATIONS),
    ] {
        let answer = stranger.call(service, method, "{}").await;
        let refused = answer.expect_err(&format!("{method}: a stranger was let in"));
        assert!(
            refused.contains("PermissionDenied"),
            "{method}: a stranger was let in: {refused}"
        );
    }
    stranger.go().await;
    let member = Stranger::come(cluster, "member", true).await;
    let answered = member.call("coupon", CANCEL, NONSENSE).await.unwrap_err();
    assert!(answered.contains("InvalidArgument"), "{answered}");
    let refused = member.call("coupon", GET_COUPON, "{}").await.unwrap_err();
    assert!(refused.contains("PermissionDenied"), "{refused}");
    member.go().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn a_workload_with_another_service_account_may_not_cancel() {
    only_member_may_cancel(&Cluster::here()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn plaintext_from_outside_the_mesh_is_refused() {
    let cluster = Cluster::here();
    let outside = Stranger::come(&cluster, "member", false).await;
    // It gets through where plaintext is let in: what follows is no broken network.
    let lenient = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": "lenient" },
        "spec": { "selector": { "matchLabels": { "app": "coupon" } }, "mtls": { "mode": "PERMISSIVE" } },
    });
    cluster.apply(&lenient.to_string()).await;
    eventually(PATIENCE, "a policy answers plaintext", async || {
        let refused = outside.call("coupon", CANCEL, NONSENSE).await.unwrap_err();
        refused.contains("PermissionDenied").then_some(())
    })
    .await;
    let lenient = ["delete", "peerauthentication", "lenient"];
    cluster.kubectl(&lenient).await;
    eventually(PATIENCE, "nothing answers plaintext", async || {
        let refused = outside.call("coupon", CANCEL, NONSENSE).await.unwrap_err();
        (!refused.contains("PermissionDenied")).then_some(())
    })
    .await;
    for (service, method) in [("coupon", CANCEL), ("member", LIST_MEMBERS)] {
        let refused = outside.call(service, method, NONSENSE).await.unwrap_err();
        // Neither the service nor a policy answered: the connection was not taken.
        for answer in ["InvalidArgument", "PermissionDenied"] {
            assert!(!refused.contains(answer), "{method}: {refused}");
        }
        let broken = ["connection reset", "EOF", "Failed to dial"];
        assert!(
            broken.iter().any(|text| refused.contains(text)),
            "{refused}"
        );
    }
    outside.go().await;
}

/// What `internalClients` is for: `desk` is named in the test's values.
#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn a_client_that_the_values_name_may_call_what_they_name_and_no_more() {
    let cluster = Cluster::here();
    let desk = Stranger::come(&cluster, "desk", true).await;
    desk.call("member", LIST_MEMBERS, r#"{"page_size":1}"#)
        .await
        .unwrap();
    let refused = desk.call("coupon", CANCEL, NONSENSE).await.unwrap_err();
    assert!(refused.contains("PermissionDenied"), "{refused}");
    desk.go().await;
}
