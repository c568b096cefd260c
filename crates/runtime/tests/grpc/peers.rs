//! Connections: so many and no more, and the idle ones make room.

use std::time::Duration;

use couponmesh_proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use couponmesh_runtime::grpc::GrpcConfig;
use couponmesh_testbed::http2::{connect, framed};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{Harness, ask, at_least, get, soon, start};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A connection that is idle after its handshake.
async fn idle(server: &Harness) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&EMPTY_SETTINGS).await.unwrap();
    // The server's own settings: it has taken the connection.
    let mut head = [0; 9];
    soon(stream.read_exact(&mut head)).await.unwrap();
    let mut rest = vec![0; usize::from(head[2])];
    soon(stream.read_exact(&mut rest)).await.unwrap();
    stream
}

/// The types of the frames that come until the server closes the connection.
async fn frames(mut stream: TcpStream) -> Vec<u8> {
    let mut types = Vec::new();
    let mut head = [0; 9];
    while soon(stream.read_exact(&mut head)).await.is_ok() {
        types.push(head[3]);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut rest = vec![0; usize::try_from(length).unwrap()];
        soon(stream.read_exact(&mut rest)).await.unwrap();
    }
    types
}

fn two(max_connections_per_peer: usize) -> GrpcConfig {
    GrpcConfig {
        max_connections: 2,
        max_connections_per_peer,
        ..GrpcConfig::default()
    }
}

#[tokio::test]
async fn the_longest_idle_connection_makes_room_for_a_new_one() {
    let server = start(two(2)).await;
    let oldest = idle(&server).await;
    let hanging = server.hanging().await;
    let newest = server.client().await;
    let goodbye = frames(oldest).await;
    assert!(goodbye.contains(&GOAWAY), "{goodbye:?}");
    get(&mut newest.clone(), "echo").await.unwrap();
    // The one with a call in flight stays, however old; the idle one makes room again.
    get(&mut server.client().await, "echo").await.unwrap();
    server.release();
    hanging.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_only_answers_pings_counts_as_idle() {
    let config = GrpcConfig {
        keepalive_interval: Duration::from_millis(20),
        ..two(2)
    };
    let server = start(config).await;
    let pinged = watch::Sender::new(0);
    let pings = pinged.clone();
    let mut stream = idle(&server).await;
    let pinging = tokio::spawn(async move {
        let mut frame = [0; 17];
        loop {
            soon(stream.read_exact(&mut frame[..9])).await.unwrap();
            let length = usize::from(frame[2]);
            soon(stream.read_exact(&mut frame[9..9 + length]))
                .await
                .unwrap();
            match frame[3] {
                GOAWAY => return,
                PING => {
                    frame[4] = 1;
                    stream.write_all(&frame).await.unwrap();
                    pings.send_modify(|n| *n += 1);
                }
                _ => {}
            }
        }
    });
    let mut quiet = server.client().await;
    get(&mut quiet, "echo").await.unwrap();
    at_least(&pinged, 3).await;
    get(&mut server.client().await, "echo").await.unwrap();
    soon(pinging).await.unwrap();
    get(&mut quiet, "echo").await.unwrap();
}

#[tokio::test]
async fn one_address_has_no_more_connections_than_it_may() {
    let server = start(GrpcConfig {
        max_connections: 100,
        ..two(2)
    })
    .await;
    let first = idle(&server).await;
    let second = idle(&server).await;
    let third = idle(&server).await;
    assert!(frames(first).await.contains(&GOAWAY));
    let hanging = (server.hanging().await, server.hanging().await);
    assert!(frames(second).await.contains(&GOAWAY));
    assert!(frames(third).await.contains(&GOAWAY));
    // With calls on both there is no room, and a further one is closed at once.
    let refused = TcpStream::connect(server.addr).await.unwrap();
    assert!(frames(refused).await.is_empty());
    server.release();
    hanging.0.await.unwrap().unwrap();
    hanging.1.await.unwrap().unwrap();
}

#[tokio::test]
async fn health_has_a_way_of_its_own() {
    let server = start(two(2)).await;
    let hanging = (server.hanging().await, server.hanging().await);
    let endpoint = Channel::from_shared(format!("http://{}", server.health_addr)).unwrap();
    let channel = soon(endpoint.connect()).await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    soon(health.check(HealthCheckRequest::default()))
        .await
        .unwrap();
    // Nothing else is served there.
    let status = get(&mut MyPageServiceClient::new(channel), "echo").await;
    assert_eq!(status.unwrap_err().code(), tonic::Code::Unimplemented);
    server.release();
    hanging.0.await.unwrap().unwrap();
    hanging.1.await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_elsewhere_takes_the_places_of_health_checks() {
    let config = GrpcConfig {
        max_in_flight: 1,
        ..GrpcConfig::default()
    };
    let server = start(config).await;
    let mut raw = connect(server.addr, 65_535).await;
    let head = raw.head("/grpc.health.v1.Health/Check");
    // Its message never comes.
    let unfinished = raw.send(head, None).await;
    // Once a later call of the connection is answered, the server has seen the earlier one.
    let head = raw.head("/couponmesh.mypage.v1.MyPageService/GetMyPage");
    raw.call(head, framed(&ask("echo"))).await;
    let full = HealthClient::new(server.channel().await)
        .check(HealthCheckRequest::default())
        .await;
    assert_eq!(full.unwrap_err().code(), tonic::Code::Unavailable);
    let endpoint = Channel::from_shared(format!("http://{}", server.health_addr)).unwrap();
    let mut health = HealthClient::new(soon(endpoint.connect()).await.unwrap());
    for _ in 0..3 {
        soon(health.check(HealthCheckRequest::default()))
            .await
            .unwrap();
    }
    drop(unfinished);
}

#[tokio::test]
async fn calls_within_the_process_need_no_connection() {
    let server = start(two(2)).await;
    let hanging = (server.hanging().await, server.hanging().await);
    let mut client = MyPageServiceClient::new(server.calls.channel());
    get(&mut client, "echo").await.unwrap();
    server.release();
    hanging.0.await.unwrap().unwrap();
    hanging.1.await.unwrap().unwrap();
    server.stop.cancel();
    server.ended().await;
}
