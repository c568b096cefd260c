//! What the proxies were told, read back from them: a renamed RPC or subset must not switch the breaker off in silence.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use couponmesh_proto::member::v1::GetMemberRequest;

use crate::{
    callers::members,
    cluster::{Cluster, PATIENCE, SERVICES, eventually},
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
        assert_ejects(guarded, "5s", 100);
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

/// A proxy's cluster ejects a pod for `base` after three failures in a row, and at most `percent`
/// of the pods.
fn assert_ejects(cluster: &Value, base: &str, percent: u32) {
    let outliers = &cluster["outlierDetection"];
    for (setting, value) in [
        ("consecutiveGatewayFailure", json!(3)),
        ("enforcingConsecutiveGatewayFailure", json!(100)),
        ("interval", json!("5s")),
        ("baseEjectionTime", json!(base)),
        ("maxEjectionPercent", json!(percent)),
        // Off, not merely left out: the default of five would eject for errors of our own.
        ("enforcingConsecutive5xx", json!(0)),
    ] {
        assert_eq!(outliers[setting], value, "{setting} in {outliers}");
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

/// Routes, ejections and limits, as `istio/values.yaml` says.
pub(crate) async fn the_gateway_is_as_installed(cluster: &Cluster) {
    let pods = [
        "--namespace",
        "istio-ingress",
        "get",
        "pods",
        "--selector=istio=ingressgateway",
        "--output=jsonpath={.items[*].metadata.name}",
    ];
    let printed = cluster.kubectl(&pods).await;
    assert!(!printed.trim().is_empty(), "no pod of the gateway");
    for gateway in printed.split_whitespace() {
        let address = format!("{gateway}.istio-ingress");
        let look = async |what: &[&str]| {
            let mut arguments = vec!["proxy-config", what[0], &address];
            arguments.extend(&what[1..]);
            cluster.istioctl(&arguments).await
        };
        assert_routes(&look(&["route", "--name", "http.80"]).await);
        for service in ["member", "mypage"] {
            let host = format!("{service}.{}.svc.cluster.local", cluster.namespace);
            let clusters = look(&["cluster", "--fqdn", &host]).await;
            let clusters = clusters.as_array().unwrap();
            assert_eq!(clusters.len(), 1, "{clusters:?}");
            assert_ejects(&clusters[0], "10s", 50);
        }
        let listeners = look(&["listener", "--port", "80"]).await.to_string();
        let limited = listeners.contains(r#""maxRequestHeadersKb":15"#);
        assert!(limited, "no maxRequestHeadersKb in {listeners}");
    }
}

fn assert_routes(config: &Value) {
    let hosts = config[0]["virtualHosts"].as_array().unwrap();
    let routes = hosts
        .iter()
        .flat_map(|host| host["routes"].as_array().unwrap());
    let routed: BTreeMap<_, _> = routes
        .map(|route| {
            let path = route["match"]["path"].as_str().unwrap();
            let (route, retries) = (&route["route"], &route["route"]["retryPolicy"]);
            let retried = retries["retryOn"].as_str().unwrap();
            let one_try = retries["perTryTimeout"].as_str().unwrap_or_default();
            (path, (retried, one_try, route["timeout"].as_str().unwrap()))
        })
        .collect();
    let unseen = "connect-failure,refused-stream";
    let seen = "connect-failure,refused-stream,unavailable,reset";
    // A watch lasts.
    let (write, watch) = ((unseen, "", "12s"), (unseen, "", "0s"));
    let read = (seen, "6s", "12s");
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

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn the_gateway_routes_what_is_public_and_never_sends_a_write_twice() {
    the_gateway_is_as_installed(&Cluster::here()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn each_hop_lets_in_smaller_headers_than_the_next() {
    let cluster = Cluster::here();
    for service in SERVICES {
        for pod in cluster.ready(service).await {
            let runtime = Sidecar::of(&cluster, &pod).admin("GET", "runtime").await;
            let runtime: Value = serde_json::from_str(&runtime).unwrap();
            let limit = "envoy.reloadable_features.max_request_headers_size_kb";
            assert_eq!(runtime["entries"][limit]["final_value"], "20", "{pod}");
        }
    }
}
