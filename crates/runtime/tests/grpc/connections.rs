//! Peers that do not speak gRPC, or nothing at all, hurt nobody else.

use std::time::Duration;

use couponmesh_runtime::grpc::GrpcConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{get, soon, start};

/// Reads until the server closes the connection.
async fn closed(mut stream: TcpStream) {
    let mut answer = Vec::new();
    // A reset is as good as a close.
    let _ = soon(stream.read_to_end(&mut answer)).await;
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        [preface.as_slice(), &[0xff; 64]].concat(),
    ] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&garbage).await.unwrap();
        closed(stream).await;
        get(&mut client, "echo").await.unwrap();
    }
}

#[tokio::test]
async fn silent_connections_make_room_for_others() {
    let config = GrpcConfig {
        max_connections: 2,
        preface_timeout: Duration::from_millis(500),
        ..GrpcConfig::default()
    };
    let server = start(config).await;
    let silent = TcpStream::connect(server.addr).await.unwrap();
    let mut hesitant = TcpStream::connect(server.addr).await.unwrap();
    hesitant.write_all(b"PRI * HT").await.unwrap();
    get(&mut server.client().await, "echo").await.unwrap();
    closed(silent).await;
    closed(hesitant).await;
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_closed() {
    let config = GrpcConfig {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(500),
        ..GrpcConfig::default()
    };
    let server = start(config).await;
    let mut client = server.client().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(&empty_settings).await.unwrap();
    closed(stream).await;
    get(&mut client, "echo").await.unwrap();
}
