//! What comes in from outside.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use couponmesh_proto::{
    coupon::v1::CouponState,
    member::v1::MemberState,
    mypage::v1::{GetMyPageRequest, MyPage, WatchMyPageRequest},
};
use serde_json::Value;
use tonic::Code;

use crate::{
    callers::{Callers, pages, register, withdraw},
    cluster::{Cluster, PATIENCE, eventually},
};

/// Runs grpcurl against the gateway, as somebody with a checkout does.
fn grpcurl(cluster: &Cluster, method: &str, request: &str) -> Result<Value, String> {
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let package = method.rsplit_once('.').unwrap().0.replace('.', "/");
    let file = package.split('/').nth(1).unwrap();
    let output = Command::new("grpcurl")
        .args(["-plaintext", "-import-path", protos])
        .args(["-proto", &format!("{package}/{file}.proto")])
        .args(["-d", request, &cluster.gateway.to_string(), method])
        .output()
        .unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn a_member_comes_gets_a_coupon_and_leaves_through_the_gateway() {
    let cluster = Cluster::here();
    let email = format!("{}@example.com", std::process::id());
    let ann = grpcurl(
        &cluster,
        "couponmesh.member.v1.MemberService/RegisterMember",
        &format!(r#"{{"email":"{email}","display_name":"Ann"}}"#),
    );
    let ann = ann.unwrap()["member"].clone();
    let id = ann["memberId"].as_str().unwrap();
    let page = |version: i32| {
        let request = format!(r#"{{"member_id":"{id}","min_version":{version}}}"#);
        let method = "couponmesh.mypage.v1.MyPageService/GetMyPage";
        grpcurl(&cluster, method, &request).unwrap()["page"].clone()
    };
    // Each answers as soon as the page shows the version, or after the wait, as it is then.
    eventually(PATIENCE, "the coupon is on the page", async || {
        let page = page(3);
        let shown = page["memberVersion"] == "3" && page["couponState"] == "COUPON_STATE_ISSUED";
        shown.then_some(())
    })
    .await;
    assert_eq!(page(3)["memberState"], "MEMBER_STATE_ACTIVE");
    assert_eq!(page(3)["adminNotified"], true);
    let gone = grpcurl(
        &cluster,
        "couponmesh.member.v1.MemberService/WithdrawMember",
        &format!(r#"{{"member_id":"{id}"}}"#),
    );
    let gone = gone.unwrap()["withdrawal"].clone();
    assert_eq!(gone["state"], "WITHDRAWAL_STATE_COMPLETED", "{gone}");
    eventually(PATIENCE, "the page shows it", async || {
        let page = page(5);
        let cancelled = page["couponState"] == "COUPON_STATE_CANCELLED";
        (cancelled && page["couponCancelled"] == true).then_some(())
    })
    .await;
    assert_eq!(page(5)["memberState"], "MEMBER_STATE_WITHDRAWN");
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn what_is_not_for_the_public_is_not_routed() {
    let cluster = Cluster::here();
    for method in [
        "couponmesh.member.v1.MemberService/ListMembers",
        "couponmesh.coupon.v1.CouponService/CancelCoupon",
        "couponmesh.coupon.v1.CouponService/GetCoupon",
        "couponmesh.coupon.v1.CouponService/ListCoupons",
        "couponmesh.notification.v1.NotificationService/GetNotification",
        "couponmesh.notification.v1.NotificationService/ListNotifications",
    ] {
        let refused = grpcurl(&cluster, method, "{}").unwrap_err();
        assert!(refused.contains("Unimplemented"), "{method}: {refused}");
    }
    // What would not even be known without reflection, which is not routed either.
    let listed = Command::new("grpcurl")
        .args(["-plaintext", &cluster.gateway.to_string(), "list"])
        .output()
        .unwrap();
    assert!(!listed.status.success());
}

/// Watches until the member is gone; calls again whenever the stream ends. Returns how often, and the last page.
async fn watch_to_the_end(cluster: Cluster, member_id: String) -> (usize, MyPage) {
    let mut streams = 0;
    loop {
        let request = WatchMyPageRequest {
            member_id: member_id.clone(),
        };
        streams += 1;
        let mut stream = match pages(&cluster).watch_my_page(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => panic!("watch {streams} was refused: {status:?}"),
        };
        loop {
            match stream.message().await {
                Ok(Some(answer)) => {
                    let page = answer.page.unwrap();
                    let gone = page.member_state() == MemberState::Withdrawn;
                    if gone && page.coupon_state() == CouponState::Cancelled {
                        return (streams, page);
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn a_watch_comes_back_over_a_rollout_and_sees_the_end() {
    let cluster = Cluster::here();
    let ids = register(&cluster, 8).await;
    let watches: Vec<_> = ids
        .iter()
        .map(|id| tokio::spawn(watch_to_the_end(cluster.clone(), id.clone())))
        .collect();
    cluster
        .kubectl(&["rollout", "restart", "deployment/mypage"])
        .await;
    // Half of them leave during the rollout, some while their watch is broken, and half when the last old pod is gone,
    // which has ended their watch however long the rollout took.
    let (during, after) = ids.split_at(4);
    let leaving = async {
        for id in during {
            tokio::time::sleep(Duration::from_secs(4)).await;
            withdraw(&cluster, std::slice::from_ref(id), 1).await;
        }
    };
    tokio::join!(leaving, cluster.settled());
    withdraw(&cluster, after, 1).await;
    let mut again = 0;
    for watch in watches {
        let watch = tokio::time::timeout(PATIENCE, watch).await;
        let (streams, page) = watch.expect("the watch sees the end").unwrap();
        again += streams - 1;
        assert!(page.coupon_cancelled, "{page:?}");
    }
    assert!(again > 0, "the rollout ended no stream: it tested nothing");
}

/// Asks for the page of nobody with a header of that many bytes.
async fn page_with_header(cluster: &Cluster, size: usize) -> Code {
    let mut request = tonic::Request::new(GetMyPageRequest {
        member_id: "01a20843-c32b-7dd6-aefb-17a3e6e22d00".to_owned(),
        min_version: 0,
    });
    let metadata = request.metadata_mut();
    metadata.insert("x-large", "a".repeat(size).parse().unwrap());
    pages(cluster)
        .get_my_page(request)
        .await
        .unwrap_err()
        .code()
}

/// The gateway refuses large headers: all callers share the services' connections.
pub(crate) async fn large_headers_are_refused(cluster: &Cluster) {
    // As large as it may be, through every hop.
    let largest = page_with_header(cluster, 13_000).await;
    assert_eq!(largest, Code::NotFound);
    let ids = register(cluster, 16).await;
    let callers = Callers::begin("large headers", cluster, 2, 0, ids);
    let end = Instant::now() + Duration::from_secs(10);
    for size in [17_000, 30_000, 48_000, 60_000].into_iter().cycle() {
        if Instant::now() > end {
            break;
        }
        let refused = page_with_header(cluster, size).await;
        assert_ne!(refused, Code::NotFound, "{size} bytes were let through");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    callers.go_home().await.assert_kept();
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn headers_that_are_too_large_cost_nobody_but_their_caller() {
    large_headers_are_refused(&Cluster::here()).await;
}
