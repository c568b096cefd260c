//! What callers can cost who mean no good: memory is bounded, whatever they hold.

use std::net::SocketAddr;

use bytes::Bytes;
use couponmesh_proto::{
    member::v1::{ListMembersRequest, member_service_client::MemberServiceClient},
    mypage::v1::{GetMyPageRequest, my_page_service_client::MyPageServiceClient},
};
use couponmesh_testbed::http2::{RecvStream, Response, connect, framed};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tonic::Code;

use crate::binary::{
    caller::registration,
    process::{Call, channel},
};

const LIST: &str = "/couponmesh.member.v1.MemberService/ListMembers";
const GET: &str = "/couponmesh.mypage.v1.MyPageService/GetMyPage";
/// As many as one connection may have.
const STREAMS: usize = 128;
/// Members that fill a page of a list.
const MEMBERS: usize = 1_000;
const MEGABYTE: usize = 1024 * 1024;

async fn register(address: SocketAddr) {
    let members = MemberServiceClient::new(channel(address));
    let registrations = (0..MEMBERS).map(|number| {
        let mut members = members.clone();
        async move {
            let email = format!("{number}@example.com");
            let registered = members.register_member(registration("", &email)).await;
            registered.map(drop)
        }
    });
    let registrations = stream::iter(registrations).buffer_unordered(64);
    registrations.try_collect::<()>().await.unwrap();
}

/// Makes calls on connections whose windows are shut, and reads no answer. Returns once each call
/// was answered or refused.
async fn unread(
    address: SocketAddr,
    connections: usize,
    path: &str,
    message: &Bytes,
) -> (Vec<Response<RecvStream>>, usize) {
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..connections {
        let mut raw = connect(address, 0).await;
        let mut answers = Vec::new();
        for _ in 0..STREAMS {
            let head = raw.head(path);
            answers.push(raw.send(head, Some(message.clone())).await.0);
        }
        for answer in answers {
            let head = answer.await.unwrap();
            refused += usize::from(head.headers().contains_key("grpc-status"));
            // Dropped, it would be a cancelled call.
            held.push(head);
        }
    }
    (held, refused)
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let call = Call::run(dir.path()).set("GRPC__REQUEST_TIMEOUT", "60s");
    let (process, address) = call.start().await;
    register(address).await;
    let list = framed(&ListMembersRequest {
        page_size: 1_000,
        ..ListMembersRequest::default()
    });
    let before = process.resident();
    let (lists, refused) = unread(address, 4, LIST, &list).await;
    assert_eq!(refused, 4 * STREAMS - 64, "64 lists may be in flight");
    let grown = process.resident().saturating_sub(before);
    eprintln!("512 lists that nobody reads: {} KB", grown / 1024);
    assert!(grown < 40 * MEGABYTE, "{grown} bytes");

    // Who reads is served, but for the list, which is full for the time of a call.
    let mut members = MemberServiceClient::new(channel(address));
    let registered = members.register_member(registration("", "ann@example.com"));
    let member = registered.await.unwrap().into_inner().member.unwrap();
    let full = members.list_members(ListMembersRequest::default()).await;
    assert_eq!(full.unwrap_err().code(), Code::Unavailable);

    // Once the page is there, no call waits for it, and each holds a place of its RPC.
    let mut get = GetMyPageRequest {
        member_id: member.member_id,
        min_version: 1,
    };
    let mut read = MyPageServiceClient::new(channel(address));
    read.get_my_page(get.clone()).await.unwrap();
    get.min_version = 0;
    let before = process.resident();
    let (pages, refused) = unread(address, 20, GET, &framed(&get)).await;
    assert_eq!(refused, 20 * STREAMS - 1024, "1,024 pages may be in flight");
    let grown = process.resident().saturating_sub(before);
    eprintln!("2,560 pages that nobody reads: {} KB", grown / 1024);
    assert!(grown < 40 * MEGABYTE, "{grown} bytes");
    drop((lists, pages));
}
