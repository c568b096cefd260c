//! Response streams: they count, they end in time, they may panic.

use std::{collections::BTreeMap, time::Duration};

use couponmesh_runtime::{grpc::GrpcConfig, status::reason_of};
use tonic::{Code, Request};

use crate::support::{ask_stream, at_least, soon, start};

const WATCH: &str = "couponmesh.mypage.v1.MyPageService/WatchMyPage";

fn one_stream() -> GrpcConfig {
    GrpcConfig {
        max_in_flight_of: BTreeMap::from([(WATCH.to_owned(), 1)]),
        request_timeout: Duration::from_millis(50),
        ..GrpcConfig::default()
    }
}

#[tokio::test]
async fn a_stream_counts_as_in_flight_until_it_ends() {
    let server = start(one_stream()).await;
    let mut client = server.client().await;
    let mut stream = client
        .watch_my_page(ask_stream("hang"))
        .await
        .unwrap()
        .into_inner();
    soon(stream.message()).await.unwrap().unwrap();
    let status = client.watch_my_page(ask_stream("hang")).await.unwrap_err();
    assert_eq!(reason_of(&status).as_deref(), Some("OVERLOADED"));

    drop(stream);
    at_least(&server.script.ended, 1).await;
    let again = async { while client.watch_my_page(ask_stream("hang")).await.is_err() {} };
    soon(again).await;
}

#[tokio::test]
async fn a_stream_outlives_the_request_timeout() {
    let server = start(one_stream()).await;
    let mut client = server.client().await;
    let mut stream = client
        .watch_my_page(ask_stream("hang"))
        .await
        .unwrap()
        .into_inner();
    soon(stream.message()).await.unwrap().unwrap();
    // A unary call that runs into the timeout is a clock for it.
    let status = crate::support::get(&mut client, "hang").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    server.release();
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "released")
    );
}

#[tokio::test]
async fn a_stream_ends_at_its_callers_deadline() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    let mut request = Request::new(ask_stream("hang"));
    request.set_timeout(Duration::from_millis(500));
    let mut stream = client.watch_my_page(request).await.unwrap().into_inner();
    soon(stream.message()).await.unwrap().unwrap();
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    at_least(&server.script.ended, 1).await;
}

#[tokio::test]
async fn a_stream_that_panics_ends_as_internal() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    let mut stream = client
        .watch_my_page(ask_stream("panic"))
        .await
        .unwrap()
        .into_inner();
    soon(stream.message()).await.unwrap().unwrap();
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!(reason_of(&status).as_deref(), Some("INTERNAL"));
    client.watch_my_page(ask_stream("hang")).await.unwrap();
}
