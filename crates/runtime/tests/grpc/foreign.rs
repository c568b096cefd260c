//! Requests that no gRPC library would send, and what HTTP/2 makes of too much.

use couponmesh_runtime::grpc::GrpcConfig;
use couponmesh_testbed::http2::{connect, framed, framed_bytes, text};
use h2::Reason;
use http::{Method, header};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, codec::CompressionEncoding};

use crate::support::{ask, get, soon, start};

const GET: &str = "/couponmesh.mypage.v1.MyPageService/GetMyPage";

#[tokio::test]
async fn http_1_is_told_what_speaks_here() {
    let server = start(GrpcConfig::default()).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    assert!(answer.contains("speaks gRPC over HTTP/2"), "{answer}");
}

#[tokio::test]
async fn only_posts_of_grpc_are_carried_out() {
    let server = start(GrpcConfig::default()).await;
    let mut raw = connect(server.addr, 65_535).await;
    for content_type in [
        Some("text/plain"),
        Some("application/grpc-web"),
        Some("application/grpc+json"),
        None,
    ] {
        let mut head = raw.head(GET);
        head.headers_mut().remove(header::CONTENT_TYPE);
        if let Some(content_type) = content_type {
            let content_type = content_type.parse().unwrap();
            head.headers_mut()
                .insert(header::CONTENT_TYPE, content_type);
        }
        let mut answer = raw.call(head, framed(&ask("echo"))).await;
        assert_eq!(answer.status(), 415, "{content_type:?}");
        let says = text(answer.body_mut()).await;
        assert!(says.contains("application/grpc"), "{says}");
    }
    let mut head = raw.head(GET);
    *head.method_mut() = Method::GET;
    let answer = raw.call(head, framed(&ask("echo"))).await;
    assert_eq!(answer.status(), 405);
    assert_eq!(answer.headers()[header::ALLOW], "POST");
    for content_type in ["application/grpc+proto", "application/grpc;charset=utf-8"] {
        let mut head = raw.head(GET);
        let value = content_type.parse().unwrap();
        head.headers_mut().insert(header::CONTENT_TYPE, value);
        let answer = raw.call(head, framed(&ask("echo"))).await;
        assert_eq!(answer.status(), 200, "{content_type}");
        assert!(!answer.headers().contains_key("grpc-status"));
    }
}

#[tokio::test]
async fn an_unknown_method_is_named() {
    let server = start(GrpcConfig::default()).await;
    let mut raw = connect(server.addr, 65_535).await;
    let head = raw.head("/couponmesh.mypage.v1.MyPageService/GetPage");
    let answer = raw.call(head, framed(&ask("echo"))).await;
    let code = Code::Unimplemented as i32;
    assert_eq!(answer.headers()["grpc-status"], code.to_string().as_str());
    let message = answer.headers()["grpc-message"].to_str().unwrap();
    assert!(message.contains("MyPageService/GetPage"), "{message}");
}

#[tokio::test]
async fn a_compressed_request_is_answered() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    client = client.send_compressed(CompressionEncoding::Gzip);
    get(&mut client, "echo").await.unwrap();
}

/// 200 KB of zeros are 225 bytes of gzip: the bound holds for what comes out.
#[tokio::test]
async fn a_message_that_inflates_beyond_the_bound_is_refused() {
    let server = start(GrpcConfig::default()).await;
    let mut client = server.client().await;
    client = client.send_compressed(CompressionEncoding::Gzip);
    let status = get(&mut client, &"x".repeat(200_000)).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    assert!(!status.message().is_empty(), "{status:?}");
    get(&mut client, "echo").await.unwrap();
    let mut raw = connect(server.addr, 65_535).await;
    let mut head = raw.head(GET);
    let gzip = "gzip".parse().unwrap();
    head.headers_mut().insert("grpc-encoding", gzip);
    let answer = raw.call(head, framed_bytes(b"no gzip", true)).await;
    assert!(answer.headers().contains_key("grpc-status"));
}

#[tokio::test]
async fn too_many_headers_hurt_nobody_else_on_the_connection() {
    let server = start(GrpcConfig::default()).await;
    let mut raw = connect(server.addr, 65_535).await;
    for (kilobytes, status) in [(48, 200), (100, 431), (150, 431)] {
        let mut head = raw.head(GET);
        for n in 0..kilobytes {
            let name: header::HeaderName = format!("x-{n}").parse().unwrap();
            let value = "v".repeat(980).parse().unwrap();
            head.headers_mut().insert(name, value);
        }
        let answer = raw.call(head, framed(&ask("echo"))).await;
        assert_eq!(answer.status(), status, "{kilobytes} KB");
    }
    let head = raw.head(GET);
    let answer = raw.call(head, framed(&ask("echo"))).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn as_many_calls_as_a_connection_may_have_are_cancelled_at_once() {
    let server = start(GrpcConfig::default()).await;
    let mut raw = connect(server.addr, 65_535).await;
    let mut calls = Vec::new();
    for _ in 0..GrpcConfig::default().max_streams_per_connection {
        let head = raw.head(GET);
        calls.push(raw.send(head, None).await);
    }
    // Dropped, each is a RST_STREAM, and all of them leave in one packet.
    drop(calls);
    // Until the server has seen them it refuses further calls, and the connection lives.
    let again = async {
        loop {
            let head = raw.head(GET);
            let (response, _) = raw.send(head, Some(framed(&ask("echo")))).await;
            match soon(response).await {
                Ok(answer) => return answer.status(),
                Err(error) => assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM)),
            }
        }
    };
    assert_eq!(soon(again).await, 200);
}
