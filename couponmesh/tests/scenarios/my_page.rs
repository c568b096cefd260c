//! My Page: the read model, asked, waited for and watched.

use std::time::Duration;

use couponmesh::node::ServiceName;
use couponmesh_proto::{
    coupon::v1::CouponState,
    member::v1::MemberState,
    mypage::v1::{
        GetMyPageRequest, MyPage, WatchMyPageRequest, WatchMyPageResponse,
        my_page_service_client::MyPageServiceClient,
    },
};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

use crate::harness::{Mesh, calls::refused};

async fn watch(
    mut pages: MyPageServiceClient<Channel>,
    id: &str,
) -> Streaming<WatchMyPageResponse> {
    let request = WatchMyPageRequest {
        member_id: id.to_owned(),
    };
    pages.watch_my_page(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchMyPageResponse>) -> MyPage {
    stream.message().await.unwrap().unwrap().page.unwrap()
}

/// What shows what a watcher sees: nothing of it may ever go back.
fn versions(page: &MyPage) -> (i64, i64) {
    (page.member_version, page.coupon_version)
}

#[tokio::test]
async fn a_watcher_sees_the_page_at_once_and_every_change_until_the_node_stops() {
    let mut mesh = Mesh::start().await;
    // Watched before it is there: the page is waited for.
    let member = mesh.register("ann@example.com").await;
    let mut stream = watch(mesh.pages(), &member.member_id).await;
    let mut page = next(&mut stream).await;
    assert!(page.member_version >= 1);
    while page.coupon_code.is_empty() || !page.admin_notified {
        let newer = next(&mut stream).await;
        let (now, before) = (versions(&newer), versions(&page));
        assert!(
            now.0 >= before.0 && now.1 >= before.1 && now != before,
            "{before:?} {now:?}"
        );
        page = newer;
    }
    let mut late = watch(mesh.pages(), &member.member_id).await;
    assert_eq!(next(&mut late).await, page);
    mesh.withdraw(&member.member_id).await;
    for stream in [&mut stream, &mut late] {
        let mut page = next(stream).await;
        while page.member_state() != MemberState::Withdrawn
            || page.coupon_state() != CouponState::Cancelled
        {
            page = next(stream).await;
        }
    }
    mesh.settled().await;
    mesh.stop(ServiceName::Mypage).await;
    for mut stream in [stream, late] {
        let draining = (Code::Unavailable, "DRAINING".to_owned());
        assert_eq!(refused(stream.message().await), draining);
    }
    mesh.start_one(ServiceName::Mypage).await;
    mesh.finish().await;
}

#[tokio::test]
async fn a_slow_watcher_gets_the_newest_page_and_nothing_piles_up() {
    let mesh = Mesh::start().await;
    mesh.bus().hold("coupon");
    mesh.bus().hold("notification");
    let member = mesh.register("ann@example.com").await;
    // Takes one byte before it has to be read, so the server cannot send ahead.
    let slow = format!("http://{}", mesh.address(ServiceName::Mypage));
    let slow = Endpoint::from_shared(slow).unwrap();
    let slow = slow.initial_stream_window_size(1).connect().await.unwrap();
    let mut stream = watch(MyPageServiceClient::new(slow), &member.member_id).await;
    mesh.bus().release("coupon");
    mesh.page_at(&member.member_id, 2).await;
    mesh.bus().release("notification");
    mesh.page_at(&member.member_id, 3).await;
    mesh.withdraw(&member.member_id).await;
    mesh.settled().await;

    let newest = mesh.try_page(&member.member_id).await.unwrap();
    assert_eq!(newest.member_version, 5);
    assert_eq!(next(&mut stream).await.member_version, 1);
    // One page more was on its way already.
    if next(&mut stream).await != newest {
        assert_eq!(next(&mut stream).await, newest);
    }
    drop(stream);
    mesh.finish().await;
}

#[tokio::test]
async fn a_page_is_waited_for_until_it_shows_the_version_or_the_wait_is_over() {
    let mesh = Mesh::with(|config| config.mypage.wait = Duration::from_secs(9)).await;
    let member = mesh.join("ann@example.com").await;
    let at_least = |min_version| GetMyPageRequest {
        member_id: member.member_id.clone(),
        min_version,
    };
    mesh.bus().hold("mypage");
    mesh.withdraw(&member.member_id).await;
    let mut pages = mesh.pages();
    let waited_for = pages.get_my_page(at_least(5));
    let release = async { mesh.bus().release("mypage") };
    let (page, ()) = tokio::join!(waited_for, release);
    let page = page.unwrap().into_inner().page.unwrap();
    assert_eq!(page.member_version, 5);
    assert_eq!(page.member_state(), MemberState::Withdrawn);
    mesh.finish().await;

    let mesh = Mesh::with(|config| config.mypage.wait = Duration::from_millis(50)).await;
    let member = mesh.join("ann@example.com").await;
    mesh.page_at(&member.member_id, 3).await;
    let request = GetMyPageRequest {
        member_id: member.member_id,
        min_version: 99,
    };
    let page = mesh.pages().get_my_page(request).await.unwrap();
    // As it is: the caller compares.
    assert_eq!(page.into_inner().page.unwrap().member_version, 3);
    let not_there = (Code::NotFound, "PAGE_NOT_FOUND".to_owned());
    let nobody = mesh.new_id().to_string();
    let request = GetMyPageRequest {
        member_id: nobody.clone(),
        min_version: 1,
    };
    assert_eq!(refused(mesh.pages().get_my_page(request).await), not_there);
    let request = WatchMyPageRequest { member_id: nobody };
    let answer = mesh.pages().watch_my_page(request).await;
    assert_eq!(refused(answer.map(|_| ())), not_there);
    mesh.finish().await;
}

#[tokio::test]
async fn my_page_works_while_all_others_are_down() {
    let mut mesh = Mesh::start().await;
    let member = mesh.join("ann@example.com").await;
    let page = mesh.page_at(&member.member_id, 3).await;
    mesh.settled().await;
    for service in [
        ServiceName::Member,
        ServiceName::Coupon,
        ServiceName::Notification,
    ] {
        mesh.stop(service).await;
    }
    // Restarted too: nothing is in memory that it needs.
    mesh.stop(ServiceName::Mypage).await;
    mesh.start_one(ServiceName::Mypage).await;
    assert_eq!(mesh.try_page(&member.member_id).await.unwrap(), page);
    let mut stream = watch(mesh.pages(), &member.member_id).await;
    assert_eq!(next(&mut stream).await, page);
    drop(stream);
    mesh.finish().await;
}
