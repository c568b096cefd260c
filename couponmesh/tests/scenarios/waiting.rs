//! Waiting for a page that does not come, by more callers than may.

use std::time::Duration;

use couponmesh::node::ServiceName;
use couponmesh_proto::mypage::v1::{
    GetMyPageRequest, GetMyPageResponse, my_page_service_client::MyPageServiceClient,
};
use couponmesh_runtime::status;
use tokio::task::JoinSet;
use tonic::{Code, Request, Response, Status, transport::Endpoint};

use crate::harness::{Mesh, calls::refused, eventually};

/// As many as may wait, by default.
const ALL: usize = 1_024;
const PER_MEMBER: usize = 16;
/// Fewer than one connection may have at once.
const PER_CONNECTION: usize = 64;

type Waiting = JoinSet<Result<Response<GetMyPageResponse>, Status>>;

/// A mesh where who waits for a page that never comes waits longer than a test lasts.
async fn patient_mesh() -> Mesh {
    Mesh::with(|config| {
        config.mypage.wait = Duration::from_secs(60);
        config.grpc.request_timeout = Duration::from_secs(60);
    })
    .await
}

fn at_least(member_id: &str, min_version: i64) -> GetMyPageRequest {
    GetMyPageRequest {
        member_id: member_id.to_owned(),
        min_version,
    }
}

/// `calls` that wait for pages of members that are not there, `of_each` for each.
fn wait_for_nobody(mesh: &Mesh, calls: usize, of_each: usize) -> Waiting {
    let url = format!("http://{}", mesh.address(ServiceName::Mypage));
    let nobodies = std::iter::repeat_with(|| mesh.new_id().to_string());
    let ids: Vec<String> = nobodies
        .flat_map(|id| vec![id; of_each])
        .take(calls)
        .collect();
    let mut waiting = Waiting::new();
    for ids in ids.chunks(PER_CONNECTION) {
        let connection = Endpoint::from_shared(url.clone()).unwrap().connect_lazy();
        for id in ids {
            let (mut pages, request) = (
                MyPageServiceClient::new(connection.clone()),
                at_least(id, 1),
            );
            waiting.spawn(async move { pages.get_my_page(request).await });
        }
    }
    waiting
}

/// Of `waiting`, which are one more than there are places, one is refused: then all others wait.
async fn one_is_refused(waiting: &mut Waiting) {
    is_overloaded(waiting.join_next().await.unwrap().unwrap());
    assert!(waiting.try_join_next().is_none());
}

fn is_overloaded(answer: Result<Response<GetMyPageResponse>, Status>) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status::reason_of(&status).as_deref(), Some("OVERLOADED"));
    assert!(status::retry_delay_of(&status).is_some_and(|delay| delay > Duration::ZERO));
}

#[tokio::test]
async fn calls_that_wait_keep_out_nobody_who_is_answered_at_once() {
    let mesh = patient_mesh().await;
    let member = mesh.join("ann@example.com").await;
    let page = mesh.page_at(&member.member_id, 3).await;
    let mut waiting = wait_for_nobody(&mesh, ALL + 1, PER_MEMBER);
    one_is_refused(&mut waiting).await;

    let mut pages = mesh.pages();
    assert_eq!(mesh.try_page(&member.member_id).await.unwrap(), page);
    let shown = pages.get_my_page(at_least(&member.member_id, 3)).await;
    assert_eq!(shown.unwrap().into_inner().page.unwrap(), page);
    let watch = couponmesh_proto::mypage::v1::WatchMyPageRequest {
        member_id: member.member_id.clone(),
    };
    let mut watch = pages.watch_my_page(watch).await.unwrap().into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().page.as_ref(),
        Some(&page)
    );
    // But a version that is not there has to be waited for.
    is_overloaded(pages.get_my_page(at_least(&member.member_id, 4)).await);

    // Places of callers who hang up are free again.
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    eventually("there is a place to wait", async || {
        let mut newer = Request::new(at_least(&member.member_id, 4));
        newer.set_timeout(Duration::from_millis(200));
        pages.clone().get_my_page(newer).await
    })
    .await;
    drop(watch);
    mesh.finish().await;
}

#[tokio::test]
async fn calls_that_wait_for_one_member_keep_out_no_other() {
    let mesh = patient_mesh().await;
    let mut waiting = wait_for_nobody(&mesh, PER_MEMBER + 1, PER_MEMBER + 1);
    one_is_refused(&mut waiting).await;

    mesh.bus().hold("mypage");
    let member = mesh.register("ann@example.com").await;
    let mut pages = mesh.pages();
    let waited_for = pages.get_my_page(at_least(&member.member_id, 1));
    let release = async { mesh.bus().release("mypage") };
    let (page, ()) = tokio::join!(waited_for, release);
    assert!(page.unwrap().into_inner().page.unwrap().member_version >= 1);
    drop(waiting);
    mesh.finish().await;
}

#[tokio::test]
async fn a_call_that_waits_when_the_server_stops_is_told_to_call_again() {
    let mut mesh = patient_mesh().await;
    let mut waiting = wait_for_nobody(&mesh, PER_MEMBER + 1, PER_MEMBER + 1);
    one_is_refused(&mut waiting).await;
    mesh.stop(ServiceName::Mypage).await;
    let told = waiting.join_all().await;
    assert_eq!(told.len(), PER_MEMBER);
    for answer in told {
        let expected = (Code::Unavailable, "DRAINING".to_owned());
        assert_eq!(refused(answer), expected);
    }
    mesh.start_one(ServiceName::Mypage).await;
    mesh.finish().await;
}
