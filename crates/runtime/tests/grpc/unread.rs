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
    let mut client = server.client().await;
    let full = client.watch_my_page(ask_stream("hang")).await.unwrap_err();
    assert_eq!(reason_of(&full).as_deref(), Some("OVERLOADED"));
    let head = soon(response).await.unwrap();
    let code = Code::DeadlineExceeded as i32;
    assert_eq!(head.headers()["grpc-status"], code.to_string().as_str());
    client.watch_my_page(ask_stream("hang")).await.unwrap();
}
