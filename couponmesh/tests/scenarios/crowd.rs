//! As many watched pages as there may be, all of which change at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use couponmesh::node::ServiceName;
use couponmesh_messaging::Event;
use couponmesh_mypage::pages;
use couponmesh_proto::{
    member::v1::{MemberChanged, MemberSnapshot, MemberState},
    mypage::v1::{
        WatchMyPageRequest, WatchMyPageResponse, my_page_service_client::MyPageServiceClient,
    },
};
use couponmesh_runtime::{
    Context, Timestamp,
    id::{EventId, MemberId},
};
use futures::{StreamExt as _, TryStreamExt as _, future::join_all, stream};
use prost::{Message as _, Name as _};
use sea_orm::{ActiveValue::Set, EntityTrait as _};
use tokio::task::JoinSet;
use tonic::{Streaming, transport::Endpoint};
use uuid::Uuid;

use crate::harness::Mesh;

type Watch = Streaming<WatchMyPageResponse>;

/// Pages, each watched once: as many watches as a replica takes by default.
const PAGES: usize = 10_000;
/// As many as one connection may have.
const PER_CONNECTION: usize = 128;
/// Watches that are opened at the same time.
const AT_ONCE: usize = 64;
/// Pages that one statement reads.
const PER_READ: usize = 256;
/// Statements a second that read all pages again every ten seconds, two parts a second.
const AGAIN: u64 = 4;
/// Calls of others that go on all the while.
const OTHERS: usize = 4;

fn member(number: usize) -> MemberId {
    MemberId(Uuid::from_u128(number as u128 + 1))
}

fn time() -> Timestamp {
    Timestamp(1_700_000_000_000_000)
}

/// Puts the pages into the read model, as if their members had joined long ago.
async fn write_pages(mesh: &Mesh) {
    let rows: Vec<_> = (0..PAGES)
        .map(|number| pages::ActiveModel {
            member_id: Set(member(number)),
            display_name: Set("Ann Other Example".to_owned()),
            member_state: Set(MemberState::Active.into()),
            admin_notified: Set(false),
            coupon_cancelled: Set(false),
            register_time: Set(Some(time())),
            withdraw_time: Set(None),
            member_version: Set(2),
            coupon_id: Set(None),
            coupon_code: Set(String::new()),
            coupon_state: Set(0),
            coupon_issue_time: Set(None),
            coupon_cancel_time: Set(None),
            coupon_version: Set(0),
            update_time: Set(time()),
        })
        .collect();
    let file = mesh.file("mypage").await;
    for rows in rows.chunks(500) {
        let insert = pages::Entity::insert_many(rows.to_vec());
        insert.exec(file.db()).await.unwrap();
    }
}

/// Watches all pages, each seen once.
async fn watch_all(mesh: &Mesh) -> Vec<Watch> {
    let url = format!("http://{}", mesh.address(ServiceName::Mypage));
    let connections: Vec<_> = (0..PAGES.div_ceil(PER_CONNECTION))
        .map(|_| Endpoint::from_shared(url.clone()).unwrap().connect_lazy())
        .collect();
    let watches = (0..PAGES).map(|number| {
        let mut pages = MyPageServiceClient::new(connections[number / PER_CONNECTION].clone());
        async move {
            let member_id = member(number).to_string();
            let watch = pages.watch_my_page(WatchMyPageRequest { member_id }).await;
            let mut watch = watch?.into_inner();
            assert!(watch.message().await?.is_some());
            Ok::<_, tonic::Status>(watch)
        }
    });
    let watches = stream::iter(watches).buffer_unordered(AT_ONCE);
    watches.try_collect().await.unwrap()
}

/// The news of one member, in its third version.
fn change(mesh: &Mesh, number: usize) -> Event {
    let changed = MemberChanged {
        member: Some(MemberSnapshot {
            member_id: member(number).to_string(),
            display_name: "Ann Other Example".to_owned(),
            state: MemberState::Active.into(),
            admin_notified: true,
            register_time: Some(time().into()),
            version: 3,
            ..Default::default()
        }),
    };
    Event {
        id: EventId(mesh.new_id()),
        event_type: MemberChanged::full_name(),
        source: "member".to_owned(),
        member_id: member(number),
        time: mesh.now(),
        context: Context::stored("", member(number).0, None, None),
        payload: changed.encode_to_vec(),
    }
}

/// Reads pages, or registers members, one after the other until `over`. Returns how many calls were
/// answered, which is all of them.
async fn goes_on_calling(mesh: &Mesh, name: usize, over: &AtomicBool) -> usize {
    let mut answers = 0;
    while !over.load(Ordering::Relaxed) {
        if name.is_multiple_of(2) {
            let id = member(answers % PAGES).to_string();
            mesh.try_page(&id).await.unwrap();
        } else {
            let email = format!("{name}-{answers}@example.com");
            mesh.register(&email).await;
        }
        answers += 1;
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watched_pages_that_change_at_once_keep_nobody_out() {
    let mesh = Mesh::start().await;
    write_pages(&mesh).await;
    let watches = watch_all(&mesh).await;
    let events = (0..PAGES).map(|number| change(&mesh, number)).collect();
    let reads = || mesh.faults().times("mypage.pages:find");
    let (before, begin) = (reads(), Instant::now());
    let over = AtomicBool::new(false);
    let others = (0..OTHERS).map(|name| goes_on_calling(&mesh, name, &over));
    let all_change = async {
        let mut watchers = JoinSet::new();
        for mut watch in watches {
            watchers.spawn(async move { watch.message().await });
        }
        mesh.publish(events).await;
        while let Some(answer) = watchers.join_next().await {
            let page = answer.unwrap().unwrap().unwrap().page.unwrap();
            assert_eq!(page.member_version, 3);
        }
        over.store(true, Ordering::Relaxed);
    };
    let (answers, ()) = tokio::join!(join_all(others), all_change);
    assert!(answers.iter().all(|&answers| answers > 0), "{answers:?}");
    // 40 full statements read each page once; those that are not full, and what is read again in
    // any case while this lasts, come on top.
    let reads = reads() - before;
    let most = 3 * PAGES.div_ceil(PER_READ) as u64 + AGAIN * (begin.elapsed().as_secs() + 1);
    assert!(reads <= most, "{reads} reads of {PAGES} changes");
    mesh.shut().await.remove().await;
}
