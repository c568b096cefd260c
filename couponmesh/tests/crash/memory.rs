//! What an open watch costs: the bound on watches times this has to fit what a container gets.

use std::path::Path;

use couponmesh_mypage::pages;
use couponmesh_proto::mypage::v1::{
    WatchMyPageRequest, WatchMyPageResponse, my_page_service_client::MyPageServiceClient,
};
use couponmesh_runtime::{Timestamp, id::MemberId};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sea_orm::{ActiveValue::Set, ConnectOptions, Database, EntityTrait as _};
use tonic::{Streaming, transport::Endpoint};
use uuid::Uuid;

use crate::binary::process::Call;

/// Close to the bound, which is 10,000.
const WATCHES: usize = 9_900;
/// As many as one connection may have.
const PER_CONNECTION: usize = 128;
/// Watches that are opened at the same time.
const AT_ONCE: usize = 64;
/// What a watch may take in this process, its part of the connection included.
const BYTES: usize = 4_096;
/// What the allocator leaves unused differs with the number of cores.
const LEEWAY: usize = 512;

fn member(number: usize) -> MemberId {
    MemberId(Uuid::from_u128(number as u128))
}

/// Puts a page for each of `WATCHES` members into the read model, as if they had joined long ago.
async fn write_pages(dir: &Path) {
    let url = format!("sqlite://{}?mode=rw", dir.join("mypage.db").display());
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    let db = Database::connect(options).await.unwrap();
    let rows: Vec<_> = (0..WATCHES)
        .map(|number| pages::ActiveModel {
            member_id: Set(member(number)),
            display_name: Set("Ann Other Example".to_owned()),
            member_state: Set(2),
            admin_notified: Set(true),
            coupon_cancelled: Set(false),
            register_time: Set(Some(Timestamp(1_700_000_000_000_000))),
            withdraw_time: Set(None),
            member_version: Set(3),
            coupon_id: Set(None),
            coupon_code: Set("WELCOME-ZFCX-SKD9".to_owned()),
            coupon_state: Set(1),
            coupon_issue_time: Set(Some(Timestamp(1_700_000_000_000_001))),
            coupon_cancel_time: Set(None),
            coupon_version: Set(1),
            update_time: Set(Timestamp(1_700_000_000_000_002)),
        })
        .collect();
    for rows in rows.chunks(500) {
        let insert = pages::Entity::insert_many(rows.to_vec());
        insert.exec(&db).await.unwrap();
    }
    db.close().await.unwrap();
}

/// Watches the pages of `count` members from `first` on, each seen once.
async fn watch(url: &str, first: usize, count: usize) -> Vec<Streaming<WatchMyPageResponse>> {
    let connections: Vec<_> = (0..count.div_ceil(PER_CONNECTION))
        .map(|_| {
            Endpoint::from_shared(url.to_owned())
                .unwrap()
                .connect_lazy()
        })
        .collect();
    let watches = (0..count).map(|index| {
        let mut pages = MyPageServiceClient::new(connections[index / PER_CONNECTION].clone());
        async move {
            let member_id = member(first + index).to_string();
            let watch = pages.watch_my_page(WatchMyPageRequest { member_id }).await;
            let mut watch = watch?.into_inner();
            let page = watch.message().await?;
            assert!(page.is_some());
            Ok::<_, tonic::Status>(watch)
        }
    });
    let watches = stream::iter(watches).buffer_unordered(AT_ONCE);
    watches.try_collect().await.unwrap()
}

#[tokio::test]
async fn an_idle_watch_takes_four_kilobytes() {
    let dir = tempfile::tempdir().unwrap();
    let call = Call::run(dir.path());
    let (process, _) = call.start().await;
    process.terminate().await;
    write_pages(dir.path()).await;

    let (process, address) = call.start().await;
    let url = format!("http://{address}");
    // Whatever is needed once for all is there then.
    drop(watch(&url, 0, PER_CONNECTION).await);
    let before = process.resident();
    let watches = watch(&url, 0, WATCHES).await;
    assert_eq!(watches.len(), WATCHES);
    let after = process.resident();
    let each = (after - before) / WATCHES;
    eprintln!("{before} bytes without, {after} with {WATCHES} watches: {each} each");
    assert!(each <= BYTES + LEEWAY, "{each} bytes a watch");
}
