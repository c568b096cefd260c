//! Answers that nobody reads and requests that nobody finishes are bounded in number and time.

use std::{collections::BTreeMap, time::Duration};

use couponmesh_runtime::{grpc::GrpcConfig, status::reason_of};
use couponmesh_testbed::http2::{connect, framed};
use h2::{Reason, RecvStream};
use tonic::Code;

use crate::support::{LARGE, ask, ask_stream, get, soon, start};

const GET: &str = "/couponmesh.mypage.v1.MyPageService/GetMyPage";
const WATCH: &str = "/couponmesh.mypage.v1.MyPageService/WatchMyPage";

fn one_at_once(method: &str) -> GrpcConfig {
    GrpcConfig {
        max_in_flight_of: BTreeMap::from([(method[1..].to_owned(), 1)]),
        request_timeout: Duration::from_secs(1),
        ..GrpcConfig::default()
    }
}

async fn reset_of(body: &mut RecvStream) -> Option<Reason> {
    loop {
        match soon(body.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.reason(),
            None => return None,
        }
    }
}

/// A window of 0 holds a whole answer up, a small one all but the first part of it.
#[tokio::test]
async fn an_answer_that_nobody_reads_is_in_flight_until_its_deadline_resets_it() {
    for (what, window) in [("echo", 0), ("large", 1)] {
        let server = start(one_at_once(GET)).await;
        let mut raw = connect(server.addr, window).await;
        let head = raw.head(GET);
        let answer = raw.call(head, framed(&ask(what))).await;
        let mut client = server.client().await;
        let status = get(&mut client, "echo").await.unwrap_err();
        assert_eq!(reason_of(&status).as_deref(), Some("OVERLOADED"), "{what}");
        let mut body = answer.into_body();
        assert_eq!(reset_of(&mut body).await, Some(Reason::CANCEL), "{what}");
        get(&mut client, "echo").await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_of_many_frames_arrives_whole() {
    let server = start(GrpcConfig::default()).await;
    let page = get(&mut server.client().await, "large").await.unwrap();
    assert_eq!(page.display_name.len(), LARGE);
}

#[tokio::test]
async fn a_stream_whose_request_never_comes_ends_in_time() {
    let server = start(one_at_once(WATCH)).await;
    let mut raw = connect(server.addr, 65_535).await;
    let head = raw.head(WATCH);
    let (response, _silent) = raw.send(head, None).await;
    // Once a later call of the connection is answered, the server has seen the earlier one.
    let head = raw.head(GET);
    raw.call(head, framed(&ask("echo"))).await;
    let mut client = server.client().await;
    let full = client.watch_my_page(ask_stream("hang")).await.unwrap_err();
    assert_eq!(reason_of(&full).as_deref(), Some("OVERLOADED"));
    let head = soon(response).await.unwrap();
    let code = Code::DeadlineExceeded as i32;
    assert_eq!(head.headers()["grpc-status"], code.to_string().as_str());
    client.watch_my_page(ask_stream("hang")).await.unwrap();
}

/// Nobody asks the body for more while its peer reads nothing, so that its own rules are not asked, either.
#[tokio::test]
async fn a_stream_that_nobody_reads_is_reset() {
    let config = GrpcConfig {
        keepalive_interval: Duration::from_millis(500),
        keepalive_timeout: Duration::from_millis(500),
        ..one_at_once(WATCH)
    };
    let server = start(config).await;
    let mut raw = connect(server.addr, 0).await;
    let head = raw.head(WATCH);
    let watch = raw.call(head, framed(&ask_stream("hang"))).await;
    let mut client = server.client().await;
    let full = client.watch_my_page(ask_stream("hang")).await.unwrap_err();
    assert_eq!(reason_of(&full).as_deref(), Some("OVERLOADED"));
    let mut body = watch.into_body();
    assert_eq!(reset_of(&mut body).await, Some(Reason::CANCEL));
    // One that is read lasts: its second message comes later than any could have been left unread.
    let lasting = client.watch_my_page(ask_stream("hang")).await.unwrap();
    let mut lasting = lasting.into_inner();
    soon(lasting.message()).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.release();
    let end = soon(lasting.message()).await.unwrap_err();
    assert_eq!(end.message(), "released");
}

#[tokio::test]
async fn a_refusal_that_nobody_reads_is_reset() {
    let server = start(one_at_once(GET)).await;
    let mut raw = connect(server.addr, 0).await;
    let mut head = raw.head(GET);
    *head.method_mut() = http::Method::GET;
    let refusal = raw.call(head, framed(&ask("echo"))).await;
    assert_eq!(refusal.status(), 405);
    let mut body = refusal.into_body();
    assert_eq!(reset_of(&mut body).await, Some(Reason::CANCEL));
}
