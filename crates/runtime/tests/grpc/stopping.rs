//! The graceful end, and the one that is not.

use std::time::Duration;

use couponmesh_runtime::grpc::GrpcConfig;
use tokio::net::TcpStream;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{at_least, get, soon, start};

#[tokio::test]
async fn a_running_call_finishes_and_new_connections_are_refused() {
    let server = start(GrpcConfig::default()).await;
    let hanging = server.hanging().await;
    server.stop.cancel();
    let refused = async { while TcpStream::connect(server.addr).await.is_ok() {} };
    soon(refused).await;
    server.release();
    hanging.await.unwrap().unwrap();
    server.ended().await;
}

#[tokio::test]
async fn a_hanging_call_is_cut_off_at_the_drain_timeout() {
    let config = GrpcConfig {
        drain_timeout: Duration::from_millis(50),
        ..GrpcConfig::default()
    };
    let server = start(config).await;
    let hanging = server.hanging().await;
    server.stop.cancel();
    hanging.await.unwrap().unwrap_err();
    at_least(&server.script.ended, 1).await;
    server.ended().await;
}

#[tokio::test]
async fn a_server_that_is_dropped_cuts_off_its_calls() {
    let server = start(GrpcConfig::default()).await;
    let hanging = server.hanging().await;
    server.served.abort();
    hanging.await.unwrap().unwrap_err();
    at_least(&server.script.ended, 1).await;
}

#[tokio::test]
async fn an_idle_or_silent_connection_does_not_delay_the_end() {
    let config = GrpcConfig {
        drain_timeout: Duration::from_secs(3600),
        preface_timeout: Duration::from_millis(500),
        ..GrpcConfig::default()
    };
    let server = start(config).await;
    let mut idle = server.client().await;
    get(&mut idle, "echo").await.unwrap();
    let silent = TcpStream::connect(server.addr).await.unwrap();
    server.stop.cancel();
    server.ended().await;
    drop((idle, silent));
}

#[tokio::test]
async fn health_watchers_hear_of_the_end_and_do_not_delay_it() {
    let config = GrpcConfig {
        drain_timeout: Duration::from_secs(3600),
        ..GrpcConfig::default()
    };
    let server = start(config).await;
    let mut health = HealthClient::new(server.channel().await);
    let mut watchers = Vec::new();
    for service in ["", "couponmesh.mypage.v1.MyPageService"] {
        let service = service.to_owned();
        let watcher = health.watch(HealthCheckRequest { service }).await.unwrap();
        let mut watcher = watcher.into_inner();
        let status = soon(watcher.message()).await.unwrap().unwrap().status();
        assert_eq!(status, ServingStatus::Serving);
        watchers.push(watcher);
    }
    server.stop.cancel();
    for mut watcher in watchers {
        let status = soon(watcher.message()).await.unwrap().unwrap().status();
        assert_eq!(status, ServingStatus::NotServing);
        let end = soon(watcher.message()).await.unwrap_err();
        assert_eq!(end.code(), tonic::Code::Unavailable);
    }
    server.ended().await;
}
