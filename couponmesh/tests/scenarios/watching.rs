//! Watches of many pages, and many watches of one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use couponmesh::node::ServiceName;
use couponmesh_mypage::pages;
use couponmesh_proto::{
    coupon::v1::CouponState,
    member::v1::MemberState,
    mypage::v1::{
        MyPage, WatchMyPageRequest, WatchMyPageResponse,
        my_page_service_client::MyPageServiceClient,
    },
};
use couponmesh_runtime::{id::MemberId, status};
use futures::{StreamExt as _, stream};
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr};
use tokio::{task::JoinSet, time::timeout};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::harness::{Mesh, calls::refused, eventually};

type Watch = Streaming<WatchMyPageResponse>;

/// Watches of one member's page at once, by default.
const PER_MEMBER: usize = 16;
/// Pages are read again every ten seconds, whatever is heard.
const PATIENCE: Duration = Duration::from_secs(60);

async fn watch(mut pages: MyPageServiceClient<Channel>, id: &str) -> Result<Watch, Status> {
    let member_id = id.to_owned();
    let watch = pages.watch_my_page(WatchMyPageRequest { member_id }).await;
    watch.map(tonic::Response::into_inner)
}

async fn next(stream: &mut Watch) -> Result<MyPage, Status> {
    let answer = timeout(PATIENCE, stream.message()).await;
    let answer = answer.expect("neither a page nor the end");
    let answer = answer?.expect("a watch ends with an error");
    Ok(answer.page.unwrap())
}

#[tokio::test]
async fn a_page_is_watched_sixteen_times_at_once_and_another_page_too() {
    let mesh = Mesh::start().await;
    let (ann, ben) = (
        mesh.join("ann@example.com").await,
        mesh.join("ben@example.com").await,
    );
    mesh.page_at(&ann.member_id, 3).await;
    mesh.page_at(&ben.member_id, 3).await;
    let mut watches = Vec::new();
    for _ in 0..PER_MEMBER {
        watches.push(watch(mesh.pages(), &ann.member_id).await.unwrap());
    }
    let status = watch(mesh.pages(), &ann.member_id).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status::reason_of(&status).as_deref(), Some("OVERLOADED"));
    assert!(status::retry_delay_of(&status).is_some_and(|delay| delay > Duration::ZERO));
    let mut other = watch(mesh.pages(), &ben.member_id).await.unwrap();
    next(&mut other).await.unwrap();

    watches.pop();
    let mut again = eventually("there is a place", || watch(mesh.pages(), &ann.member_id)).await;
    assert_eq!(next(&mut again).await.unwrap().member_id, ann.member_id);
    drop((watches, other, again));
    mesh.finish().await;
}

#[tokio::test]
async fn a_watch_ends_at_its_age_and_may_be_begun_anew() {
    let age = Duration::from_millis(600);
    let mesh = Mesh::with(|config| config.mypage.watch_max_age = age).await;
    let member = mesh.join("ann@example.com").await;
    let page = mesh.page_at(&member.member_id, 3).await;
    for _ in 0..2 {
        let begin = Instant::now();
        let mut stream = watch(mesh.pages(), &member.member_id).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap(), page);
        let end = refused(next(&mut stream).await);
        assert_eq!(end, (Code::Unavailable, "DRAINING".to_owned()));
        let lasted = begin.elapsed();
        assert!(lasted >= age * 2 / 3, "{lasted:?}");
    }
    mesh.finish().await;
}

/// Follows a page until its member is gone, and asks to be counted once it saw the page.
async fn until_gone(mut stream: Watch) -> MyPage {
    loop {
        let page = next(&mut stream).await.unwrap();
        let is_gone = page.member_state() == MemberState::Withdrawn;
        if is_gone && page.coupon_state() == CouponState::Cancelled {
            return page;
        }
    }
}

#[tokio::test]
async fn however_many_watch_a_page_is_read_once_per_change() {
    const MEMBERS: usize = 64;
    /// Withdrawing, withdrawn and the coupon cancelled; each may be its own.
    const CHANGES: u64 = 3;
    let mesh = Mesh::start().await;
    let members = mesh.join_many(MEMBERS).await;
    let stays = mesh.join("stays@example.com").await;
    for member in members.iter().chain([&stays]) {
        mesh.page_at(&member.member_id, 3).await;
    }
    let url = format!("http://{}", mesh.address(ServiceName::Mypage));
    let mut watchers = JoinSet::new();
    for members in members.chunks(4) {
        let connection = Endpoint::from_shared(url.clone()).unwrap();
        let pages = MyPageServiceClient::new(connection.connect_lazy());
        for member in members {
            for _ in 0..PER_MEMBER {
                let mut stream = watch(pages.clone(), &member.member_id).await.unwrap();
                next(&mut stream).await.unwrap();
                watchers.spawn(until_gone(stream));
            }
        }
    }
    let reads = || mesh.faults().times("mypage.pages:find");
    let before = reads();
    let over = Arc::new(AtomicBool::new(false));
    let others = async {
        // Meanwhile nobody else is kept waiting.
        let mut answers = 0;
        while !over.load(Ordering::Relaxed) {
            mesh.try_page(&stays.member_id).await.unwrap();
            answers += 1;
        }
        answers
    };
    let leave = async {
        let leave = members
            .iter()
            .map(|member| mesh.withdraw(&member.member_id));
        stream::iter(leave)
            .buffer_unordered(MEMBERS)
            .collect::<Vec<_>>()
            .await;
        let mut seen = 0;
        while let Some(page) = watchers.join_next().await {
            assert_eq!(page.unwrap().member_version, 5);
            seen += 1;
        }
        over.store(true, Ordering::Relaxed);
        seen
    };
    let (answers, seen) = tokio::join!(others, leave);
    assert_eq!(seen, MEMBERS * PER_MEMBER);
    assert!(answers > 0);
    let (reads, most) = (reads() - before, MEMBERS as u64 * CHANGES);
    assert!(reads <= most, "{reads} reads of {most} changes");
    mesh.finish().await;
}

#[tokio::test]
async fn a_change_that_nobody_told_of_is_seen_all_the_same() {
    let mesh = Mesh::start().await;
    let member = mesh.join("ann@example.com").await;
    let page = mesh.page_at(&member.member_id, 3).await;
    mesh.settled().await;
    let mut stream = watch(mesh.pages(), &member.member_id).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap(), page);
    // As if another replica had shown it, and its signal had been lost.
    let version = |version: i64| {
        let id = MemberId::parse(&member.member_id).unwrap();
        pages::Entity::update_many()
            .col_expr(pages::Column::MemberVersion, Expr::value(version))
            .filter(pages::Column::MemberId.eq(id))
    };
    let file = mesh.file("mypage").await;
    version(4).exec(file.db()).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().member_version, 4);
    version(3).exec(file.db()).await.unwrap();
    drop((file, stream));
    mesh.finish().await;
}

#[tokio::test]
async fn reads_that_fail_for_a_while_end_no_watch_and_refuse_who_comes() {
    let mesh = Mesh::start().await;
    let (ann, ben) = (
        mesh.join("ann@example.com").await,
        mesh.join("ben@example.com").await,
    );
    mesh.page_at(&ann.member_id, 3).await;
    mesh.page_at(&ben.member_id, 3).await;
    let mut watches = Vec::new();
    for id in [&ann.member_id, &ann.member_id, &ben.member_id] {
        let mut stream = watch(mesh.pages(), id).await.unwrap();
        next(&mut stream).await.unwrap();
        watches.push(stream);
    }
    mesh.faults().arm("mypage.pages:find", u32::MAX);
    mesh.withdraw(&ann.member_id).await;
    let status = watch(mesh.pages(), &ben.member_id).await.unwrap_err();
    let end = refused::<()>(Err(status));
    assert_eq!(end, (Code::Unavailable, "STORAGE_UNAVAILABLE".to_owned()));
    mesh.faults().arm("mypage.pages:find", 0);
    let ben_watch = watches.pop().unwrap();
    for stream in watches {
        until_gone(stream).await;
    }
    mesh.withdraw(&ben.member_id).await;
    until_gone(ben_watch).await;
    mesh.finish().await;
}
