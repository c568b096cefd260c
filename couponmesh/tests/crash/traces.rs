//! Traces, as a collector receives them: everything that one request causes is one trace.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex},
};

use couponmesh_proto::{
    member::v1::{WithdrawMemberRequest, member_service_client::MemberServiceClient},
    mypage::v1::{GetMyPageRequest, my_page_service_client::MyPageServiceClient},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::binary::{
    caller::registration,
    process::{Call, channel},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans;
        let spans = spans.into_iter().flat_map(|resource| resource.scope_spans);
        let spans = spans.flat_map(|scope| scope.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", traceparent.parse().unwrap());
    request
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn all_that_a_request_causes_is_one_trace_without_gaps() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(collector.clone());
    let serving = Server::builder().add_service(service);
    let serving = tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));

    let dir = tempfile::tempdir().unwrap();
    let call = Call::run(dir.path()).set("TELEMETRY__OTLP_ENDPOINT", &endpoint);
    let (process, address) = call.start().await;
    let mut members = MemberServiceClient::new(channel(address));
    let registered = members.register_member(traced(registration("", "ann@example.com")));
    let member_id = registered
        .await
        .unwrap()
        .into_inner()
        .member
        .unwrap()
        .member_id;
    let mut pages = MyPageServiceClient::new(channel(address));
    let page_at = |member_id: String, min_version| GetMyPageRequest {
        member_id,
        min_version,
    };
    pages
        .get_my_page(page_at(member_id.clone(), 3))
        .await
        .unwrap();
    let leaving = WithdrawMemberRequest {
        request_id: String::new(),
        member_id: member_id.clone(),
    };
    members.withdraw_member(traced(leaving)).await.unwrap();
    pages.get_my_page(page_at(member_id, 5)).await.unwrap();
    // The last spans leave before the process does.
    process.terminate().await;
    serving.abort();

    let spans = std::mem::take(&mut *collector.0.lock().unwrap());
    let ours: Vec<&Span> = spans
        .iter()
        .filter(|span| hex(&span.trace_id) == TRACE)
        .collect();
    let names: BTreeSet<&str> = ours.iter().map(|span| span.name.as_str()).collect();
    for name in [
        "couponmesh.member.v1.MemberService/RegisterMember",
        "MemberRegistered",
        "CouponIssued",
        "NotificationSent",
        "MemberChanged",
        "couponmesh.member.v1.MemberService/WithdrawMember",
        "CancelCoupon",
        "couponmesh.coupon.v1.CouponService/CancelCoupon",
        "CouponCancelled",
        "MemberWithdrawn",
    ] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    let known: HashSet<String> = ours.iter().map(|span| hex(&span.span_id)).collect();
    for span in &ours {
        let parent = hex(&span.parent_span_id);
        let found = parent == CALLER || known.contains(&parent);
        assert!(found, "{} hangs in the air", span.name);
    }
    let told = format!("{spans:?}");
    assert!(!told.contains("ann@example.com"), "an address on a span");
}
