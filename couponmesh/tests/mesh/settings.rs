//! What the proxies were told, read back from them: a renamed RPC or subset must not switch the breaker off in silence.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use couponmesh_proto::member::v1::GetMemberRequest;

use crate::{
    callers::members,
    cluster::{Cluster, PATIENCE, eventually},
    sidecar::{PORT, SUBSET, Sidecar},
};

const CANCEL: &str = "/couponmesh.coupon.v1.CouponService/CancelCoupon";

/// The breaker is around CancelCoupon, as `istio/values.yaml` says, and around nothing else.
pub(crate) async fn the_breaker_is_as_installed(cluster: &Cluster) {
    let sidecars = Sidecar::of_members(cluster).await;
    assert!(!sidecars.is_empty());
    for sidecar in sidecars {
        let routes = sidecar.routes_to("coupon").await;
        let host = format!("coupon.{}.svc.cluster.local", cluster.namespace);
        let [cancel, others] = &routes[..] else {
            panic!("not two routes: {routes:?}");
        };
        assert_eq!(cancel["match"]["path"], CANCEL, "{cancel}");
        let guarded = format!("outbound|{PORT}|{SUBSET}|{host}");
        let led_to = &cancel["route"]["cluster"];
        assert_eq!(led_to, &json!(guarded), "the cluster of CancelCoupon");
        assert_eq!(cancel["route"]["timeout"], "2s", "{cancel}");
        assert_eq!(cancel["route"]["retryPolicy"], Value::Null, "{cancel}");
        let unguarded = format!("outbound|{PORT}||{host}");
        assert_eq!(others["route"]["cluster"], json!(unguarded), "{others}");
        let retried = &others["route"]["retryPolicy"]["retryOn"];
        assert_eq!(retried, "connect-failure,refused-stream", "{others}");

        let clusters = sidecar.cluster_of("coupon", SUBSET).await;
        let [guarded] = &clusters[..] else {
            panic!("not one cluster: {clusters:?}");
        };
        let limits = &guarded["circuitBreakers"]["thresholds"][0];
        assert_eq!(limits["maxRequests"], 32, "{limits}");
        assert_eq!(limits["maxPendingRequests"], 64, "{limits}");
        let outliers = &guarded["outlierDetection"];
        for (setting, value) in [
            ("consecutiveGatewayFailure", json!(3)),
            ("enforcingConsecutiveGatewayFailure", json!(100)),
            ("interval", json!("5s")),
            ("baseEjectionTime", json!("30s")),
            ("maxEjectionPercent", json!(100)),
        ] {
            assert_eq!(outliers[setting], value, "{setting} in {outliers}");
        }
        // Off, not merely left out: the default of five would eject for errors of our own.
        assert_eq!(outliers["enforcingConsecutive5xx"], 0, "{outliers}");
        let clusters = sidecar.cluster_of("coupon", "").await;
        let mut clusters = clusters.iter();
        let others = clusters.find(|other| other["name"] == json!(unguarded));
        let others = others.unwrap_or_else(|| panic!("no cluster {unguarded}"));
        assert_eq!(others["outlierDetection"], Value::Null, "{others}");
        let limits = &others["circuitBreakers"]["thresholds"][0];
        for limit in ["maxConnections", "maxPendingRequests", "maxRequests"] {
            assert_eq!(limits[limit], u32::MAX, "{limit} in {limits}");
        }
        assert_eq!(limits["maxRetries"], 64, "{limits}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn members_sidecars_have_the_breaker_around_cancel_coupon_and_nothing_else() {
    the_breaker_is_as_installed(&Cluster::here()).await;
}

/// With the provider that docs/kubernetes.md shows.
#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn the_access_log_knows_the_grpc_status_and_the_correlation_id() {
    if std::env::var_os("COUPONMESH_MESH_ACCESS_LOG").is_none() {
        println!("NOT TESTED: the mesh has no provider grpc-access-log");
        return;
    }
    let cluster = Cluster::here();
    let mut request = tonic::Request::new(GetMemberRequest {
        member_id: "01a20843-c32b-7dd6-aefb-17a3e6e22d00".to_owned(),
    });
    let correlation = format!("log-{}", std::process::id());
    request
        .metadata_mut()
        .insert("x-correlation-id", correlation.parse().unwrap());
    let refused = members(&cluster).get_member(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    let logged = eventually(PATIENCE, "the call is in the access log", async || {
        let selector = "--selector=app=member";
        let log = ["logs", selector, "--container=istio-proxy", "--tail=200"];
        let log = cluster.kubectl(&log).await;
        let line = log.lines().find(|line| line.contains(&correlation))?;
        serde_json::from_str::<Value>(line).ok()
    })
    .await;
    assert_eq!(logged["grpc_status"], "NotFound", "{logged}");
    assert_eq!(logged["response_flags"], "-", "{logged}");
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn the_gateway_routes_what_is_public_and_never_sends_a_write_twice() {
    let cluster = Cluster::here();
    let here = ["--namespace", "istio-ingress"];
    let printed = cluster
        .kubectl(&[
            here[0],
            here[1],
            "get",
            "pods",
            "--selector=istio=ingressgateway",
            "--output=jsonpath={.items[*].metadata.name}",
        ])
        .await;
    assert!(!printed.trim().is_empty(), "no pod of the gateway");
    for gateway in printed.split_whitespace() {
        let address = format!("{gateway}.istio-ingress");
        let routes = ["proxy-config", "route", &address, "--name", "http.80"];
        let config = cluster.istioctl(&routes).await;
        let hosts = config[0]["virtualHosts"].as_array().unwrap();
        let routes = hosts
            .iter()
            .flat_map(|host| host["routes"].as_array().unwrap());
        let routed: BTreeMap<_, _> = routes
            .map(|route| {
                let path = route["match"]["path"].as_str().unwrap();
                let retried = route["route"]["retryPolicy"]["retryOn"].as_str().unwrap();
                (path, (retried, route["route"]["timeout"].as_str().unwrap()))
            })
            .collect();
        let unseen = "connect-failure,refused-stream";
        let seen = "connect-failure,refused-stream,unavailable,reset";
        // A watch lasts.
        let (write, read, watch) = ((unseen, "12s"), (seen, "12s"), (unseen, "0s"));
        let expected = BTreeMap::from([
            ("/couponmesh.member.v1.MemberService/RegisterMember", write),
            ("/couponmesh.member.v1.MemberService/WithdrawMember", write),
            ("/couponmesh.member.v1.MemberService/GetMember", read),
            ("/couponmesh.member.v1.MemberService/GetWithdrawal", read),
            ("/couponmesh.mypage.v1.MyPageService/GetMyPage", read),
            ("/couponmesh.mypage.v1.MyPageService/WatchMyPage", watch),
        ]);
        assert_eq!(routed, expected);
    }
}
