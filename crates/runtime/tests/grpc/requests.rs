//! Unary calls: correlation, bounds, deadlines, panics.

use std::{collections::BTreeMap, time::Duration};

use couponmesh_proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use couponmesh_runtime::{
    grpc::GrpcConfig,
    status::{reason_of, retry_delay_of},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::{Code, Request, metadata::MetadataMap};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use uuid::Uuid;

use crate::support::{ask, at_least, get, soon, start};

const GET: &str = "couponmesh.mypage.v1.MyPageService/GetMyPage";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn correlation_id(metadata: &MetadataMap) -> String {
    metadata
        .get("x-correlation-id")
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

fn with(key: &'static str, value: &str) -> Request<couponmesh_proto::mypage::v1::GetMyPageRequest> {
    let mut request = Request::new(ask("echo"));
    request.metadata_mut().insert(key, value.parse().unwrap());
    request
}

#[tokio::test]
async fn a_well_formed_correlation_id_reaches_the_handler_and_comes_back() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    let response = client
        .get_my_page(with("x-correlation-id", "abc-1"))
        .await
        .unwrap();
    assert_eq!(correlation_id(response.metadata()), "abc-1");
    assert_eq!(response.into_inner().page.unwrap().display_name, "abc-1");
}

#[tokio::test]
async fn a_missing_or_malformed_correlation_id_is_replaced() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    let long = "x".repeat(129);
    for request in [
        Request::new(ask("echo")),
        with("x-correlation-id", "two words"),
        with("x-correlation-id", &long),
        with("x-correlation-id", ""),
    ] {
        let response = client.get_my_page(request).await.unwrap();
        let id = correlation_id(response.metadata());
        assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 7);
        assert_eq!(response.into_inner().page.unwrap().display_name, id);
    }
}

#[tokio::test]
async fn refusals_carry_the_correlation_id_too() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    for what in ["refuse", "panic"] {
        let mut request = with("x-correlation-id", "abc-2");
        request.get_mut().member_id = what.to_owned();
        let status = client.get_my_page(request).await.unwrap_err();
        assert_eq!(correlation_id(status.metadata()), "abc-2");
    }
}

#[tokio::test]
async fn a_trace_context_is_taken_only_when_well_formed() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    for (sent, taken) in [(TRACEPARENT, TRACEPARENT), ("00-nonsense", "")] {
        let response = client.get_my_page(with("traceparent", sent)).await.unwrap();
        assert_eq!(response.into_inner().page.unwrap().coupon_code, taken);
    }
}

#[tokio::test]
async fn a_full_rpc_is_overloaded_and_hurts_nobody_else() {
    let config = GrpcConfig {
        max_in_flight_of: BTreeMap::from([(GET.to_owned(), 1)]),
        ..GrpcConfig::default()
    };
    let server = start(config).await;
    let hanging = server.hanging().await;

    let channel = server.channel().await;
    let mut client = MyPageServiceClient::new(channel.clone());
    let status = get(&mut client, "echo").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason_of(&status).as_deref(), Some("OVERLOADED"));
    assert_eq!(retry_delay_of(&status), Some(Duration::from_secs(1)));
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    let stream = crate::support::ask_stream("echo");
    client.watch_my_page(stream).await.unwrap();

    server.release();
    hanging.await.unwrap().unwrap();
    get(&mut client, "echo").await.unwrap();
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_ended() {
    let config = GrpcConfig {
        request_timeout: Duration::from_millis(200),
        ..GrpcConfig::default()
    };
    let server = start(config).await;
    let mut client = server.client().await;
    let status = get(&mut client, "hang").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), "deadline exceeded");
    at_least(&server.script.ended, 1).await;
    let left = get(&mut client, "echo").await.unwrap().member_version;
    assert!((0..=200).contains(&left), "{left}");
}

#[tokio::test]
async fn the_callers_shorter_deadline_is_answered_as_exceeded() {
    let server = start(GrpcConfig::default()).await;
    // Hyper's client, because tonic's would give up by itself.
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let executor = TokioExecutor::new();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let service = tower::service_fn(move |request| sender.clone().send_request(request));
    let origin = format!("http://{}", server.addr).parse().unwrap();
    let mut client = MyPageServiceClient::with_origin(service, origin);
    for timeout in ["100m", "20m", "1m", "0n"] {
        let mut request = with("grpc-timeout", timeout);
        request.get_mut().member_id = "hang".to_owned();
        let status = client.get_my_page(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{timeout}: {status}");
    }
    let left = client
        .get_my_page(with("grpc-timeout", "5S"))
        .await
        .unwrap();
    let left = left.into_inner().page.unwrap().member_version;
    assert!((0..=5_000).contains(&left), "{left}");
    drop(client);
    soon(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_is_internal_and_the_connection_lives() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    let mut other = client.clone();
    let hanging = tokio::spawn(async move { get(&mut other, "hang").await });
    at_least(&server.script.begun, 1).await;
    let status = get(&mut client, "panic").await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(reason_of(&status).as_deref(), Some("INTERNAL"));
    assert_eq!(status.message(), "internal error");
    server.release();
    hanging.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_oversized_message_is_refused() {
    let config = GrpcConfig {
        max_message_bytes: 1024,
        ..GrpcConfig::default()
    };
    let server = start(config).await;
    let mut client = server.client().await;
    let status = get(&mut client, &"x".repeat(1025)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    get(&mut client, "echo").await.unwrap();
}
