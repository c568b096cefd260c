//! Traces of services and sidecars, as an OpenTelemetry collector gets them.

use std::collections::BTreeSet;

use couponmesh_proto::{
    member::v1::{RegisterMemberRequest, WithdrawMemberRequest},
    mypage::v1::GetMyPageRequest,
};
use couponmesh_runtime::{Clock, Random};

use crate::{
    callers::{members, pages},
    cluster::{Cluster, PATIENCE, eventually},
};

/// A caller that has its calls traced.
const CALLER: &str = "b7ad6b7169203331";

const GATEWAYS: &str = "istio-ingress";

/// A span, as the collector's debug exporter prints it.
#[derive(Debug, Default)]
struct Span {
    service: String,
    trace: String,
    id: String,
    parent: String,
    name: String,
}

/// The spans in what the collector printed.
fn spans(log: &str) -> Vec<Span> {
    let (mut service, mut spans) = (String::new(), Vec::<Span>::new());
    for line in log.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("-> service.name: Str(") {
            service = name.trim_end_matches(')').to_owned();
        }
        if line.starts_with("Span #") {
            let service = service.clone();
            spans.push(Span {
                service,
                ..Span::default()
            });
        }
        let (Some(span), Some((key, value))) = (spans.last_mut(), line.split_once(':')) else {
            continue;
        };
        let value = value.trim().to_owned();
        match key.trim() {
            "Trace ID" => span.trace = value,
            "Parent ID" => span.parent = value,
            "ID" => span.id = value,
            "Name" => span.name = value,
            _ => {}
        }
    }
    spans
}

fn traced<T>(trace: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let traceparent = format!("00-{trace}-{CALLER}-01");
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", traceparent.parse().unwrap());
    request
}

/// What docs/kubernetes.md tells to apply, for all calls.
fn gateway_traces_everything() -> String {
    let docs = include_str!("../../../docs/kubernetes.md");
    let blocks = docs.split("```yaml").skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("```").next());
    let telemetry = blocks.find(|block| block.contains("kind: Telemetry"));
    let telemetry = telemetry.expect("docs/kubernetes.md shows a Telemetry");
    let (before, percent) = telemetry.split_once("randomSamplingPercentage:").unwrap();
    assert_eq!(percent.trim().parse(), Ok(5), "its last line");
    format!("{before}randomSamplingPercentage: 100\n")
}

/// With the provider that docs/kubernetes.md shows.
#[tokio::test]
#[ignore = "needs a cluster: make mesh-test"]
async fn what_a_call_causes_is_one_trace_of_services_and_sidecars() {
    if std::env::var_os("COUPONMESH_MESH_TRACES").is_none() {
        println!("NOT TESTED: no collector whose spans could be read");
        return;
    }
    let cluster = Cluster::here();
    // So that the gateway is as it was, whatever comes of it.
    let seen = tokio::spawn(one_trace(cluster.clone())).await;
    let yaml = gateway_traces_everything();
    cluster.delete_in(GATEWAYS, &yaml).await;
    cluster.upgrade(&[]).await;
    seen.unwrap();
}

async fn one_trace(cluster: Cluster) {
    let yaml = gateway_traces_everything();
    cluster.apply_in(GATEWAYS, &yaml).await;
    cluster
        .upgrade(&[
            "telemetry.otlpEndpoint=http://otel-collector.observability:4317",
            // One of a hundred calls, but the gateway decides.
            "istio.telemetry.tracing.provider=otel",
        ])
        .await;
    let trace = Random::from_os().uuid_v7(Clock::system().now());
    let trace = trace.simple().to_string();
    let ann = RegisterMemberRequest {
        email: format!("{trace}@example.com"),
        display_name: "Ann".to_owned(),
        ..Default::default()
    };
    let registered = members(&cluster).register_member(traced(&trace, ann)).await;
    let member_id = registered.unwrap().into_inner().member.unwrap().member_id;
    // Who leaves earlier gets no coupon, and so no event of it.
    let page = GetMyPageRequest {
        member_id: member_id.clone(),
        min_version: 3,
    };
    let page = pages(&cluster).get_my_page(page).await.unwrap();
    assert_eq!(page.into_inner().page.unwrap().member_version, 3);
    let leaving = WithdrawMemberRequest {
        member_id,
        ..Default::default()
    };
    let leaving = traced(&trace, leaving);
    members(&cluster).withdraw_member(leaving).await.unwrap();

    let (register, withdraw, cancel) = (
        "couponmesh.member.v1.MemberService/RegisterMember",
        "couponmesh.member.v1.MemberService/WithdrawMember",
        "couponmesh.coupon.v1.CouponService/CancelCoupon",
    );
    let namespace = &cluster.namespace;
    let sidecar = |service: &str| format!("{service}.{namespace}");
    let before =
        |service: &str, call: &str| format!("{service}.{namespace}.svc.cluster.local:50051/{call}");
    let gateway = || "istio-ingressgateway.istio-ingress".to_owned();
    // Who did what.
    let wanted = BTreeSet::from([
        (gateway(), before("member", register)),
        (sidecar("member"), before("member", register)),
        ("member".to_owned(), register.to_owned()),
        ("member".to_owned(), "MemberRegistered".to_owned()),
        ("coupon".to_owned(), "CouponIssued".to_owned()),
        ("notification".to_owned(), "NotificationSent".to_owned()),
        (gateway(), before("member", withdraw)),
        (sidecar("member"), before("member", withdraw)),
        ("member".to_owned(), withdraw.to_owned()),
        (sidecar("member"), before("coupon", cancel)),
        (sidecar("coupon"), before("coupon", cancel)),
        ("coupon".to_owned(), cancel.to_owned()),
        ("coupon".to_owned(), "CouponCancelled".to_owned()),
        ("member".to_owned(), "MemberWithdrawn".to_owned()),
    ]);
    let log = [
        "--namespace",
        "observability",
        "logs",
        "deployment/otel-collector",
    ];
    eventually(PATIENCE, "the whole trace at the collector", async || {
        let log = cluster.kubectl(&log).await;
        assert!(!log.contains(&format!("{trace}@")), "an address on a span");
        let all = spans(&log);
        let ours: Vec<&Span> = all.iter().filter(|span| span.trace == trace).collect();
        let known: BTreeSet<&str> = ours.iter().map(|span| span.id.as_str()).collect();
        let there: BTreeSet<(String, String)> = ours
            .iter()
            .map(|span| (span.service.clone(), span.name.clone()))
            .collect();
        let missing = wanted.difference(&there).next();
        let in_the_air = ours
            .iter()
            .find(|span| span.parent != CALLER && !known.contains(span.parent.as_str()));
        let whole = missing.is_none() && in_the_air.is_none();
        if !whole {
            println!("still missing: {missing:?}, without a parent: {in_the_air:?}");
        }
        whole.then_some(())
    })
    .await;
}
