//! `couponmesh outbox republish` fills a bus again that lost its events.

use couponmesh_messaging::{checkpoint, dead_letter, outbox};
use couponmesh_proto::mypage::v1::{GetMyPageRequest, my_page_service_client::MyPageServiceClient};
use sea_orm::{EntityTrait as _, PaginatorTrait as _};

use crate::{
    binary::process::{channel, eventually},
    desk::{Desk, register},
};

const SERVICES: [&str; 4] = ["member", "coupon", "notification", "mypage"];

/// Events of all services; those that wait to be published.
async fn events(desk: &Desk) -> (u64, u64) {
    let (mut all, mut waiting) = (0, 0);
    for service in SERVICES {
        let database = desk.database(service).await;
        let db = database.read();
        let published = checkpoint::load(db).await.unwrap().position;
        all += outbox::count_after(db, 0).await.unwrap();
        waiting += outbox::count_after(db, published).await.unwrap();
        database.close().await.unwrap();
    }
    (all, waiting)
}

async fn republish(desk: &Desk, more: &[&str]) -> Vec<String> {
    let mut told = Vec::new();
    for service in SERVICES {
        let republish = ["outbox", "republish", "--service", service];
        told.push(desk.told(&[&republish[..], more].concat()).await);
    }
    told
}

#[tokio::test]
async fn a_bus_that_was_lost_is_filled_again_and_nothing_is_done_twice() {
    let desk = Desk::new();
    // My Page is away, and hears of nothing before the bus is lost.
    let away = desk.run().with(&["--without", "mypage"]);
    let (process, _) = desk.run().start().await;
    process.terminate().await;
    let (process, address) = away.start().await;
    let mut members = Vec::new();
    for number in 0..5 {
        let email = format!("{number}@example.com");
        members.push(register(channel(address), &email).await);
    }
    // A registration, a coupon, a notification, and member's two changes.
    eventually("all is published", async || {
        (events(&desk).await == (25, 0)).then_some(())
    })
    .await;
    process.terminate().await;
    for file in ["bus.db", "bus.db-wal", "bus.db-shm"] {
        let _ = std::fs::remove_file(desk.path().join(file));
    }

    let told = republish(&desk, &["--since", "1h", "--dry-run"]).await;
    assert_eq!(
        told[0],
        "15 events of member would be published again; nothing was done\n"
    );
    assert_eq!(events(&desk).await, (25, 0));
    let told = republish(&desk, &["--since", "0s"]).await;
    assert!(
        told.iter()
            .all(|told| told.contains("no event of that time")),
        "{told:?}"
    );
    assert_eq!(events(&desk).await, (25, 0));
    let told = republish(&desk, &["--since", "1h"]).await;
    assert!(
        told[1].starts_with("5 events to be published again by coupon"),
        "{told:?}"
    );
    assert_eq!(events(&desk).await, (25, 25));

    let (process, address) = desk.run().start().await;
    for member_id in members {
        let request = GetMyPageRequest {
            member_id: member_id.clone(),
            min_version: 3,
        };
        eventually("the page is complete", async || {
            let mut pages = MyPageServiceClient::new(channel(address));
            let page = pages.get_my_page(request.clone()).await.ok()?;
            let page = page.into_inner().page?;
            (page.member_version == 3 && !page.coupon_code.is_empty()).then_some(())
        })
        .await;
    }
    eventually("all is published", async || {
        (events(&desk).await == (25, 0)).then_some(())
    })
    .await;
    for service in SERVICES {
        let database = desk.database(service).await;
        let letters = dead_letter::Entity::find();
        assert_eq!(letters.count(database.read()).await.unwrap(), 0);
        database.close().await.unwrap();
    }
    process.terminate().await;
}

#[tokio::test]
async fn what_retention_has_deleted_is_warned_of() {
    let desk = Desk::new();
    let (process, address) = desk.run().start().await;
    for number in 0..2 {
        register(channel(address), &format!("{number}@example.com")).await;
    }
    let republish = [
        "outbox",
        "republish",
        "--service",
        "member",
        "--since",
        "30days",
    ];
    let complete = desk.ask(&republish).await;
    assert_eq!(
        complete.stderr.matches("warning").count(),
        0,
        "{complete:?}"
    );
    let member = desk.database("member").await;
    let tx = member.begin().await.unwrap();
    let oldest = outbox::Entity::delete_by_id(1_i64);
    oldest.exec(&tx).await.unwrap();
    tx.commit().await.unwrap();
    member.close().await.unwrap();
    let gap = desk.ask(&republish).await;
    assert!(gap.status.success(), "{gap:?}");
    assert!(
        gap.stderr
            .contains("warning: the oldest event that member still has"),
        "{gap:?}"
    );
    process.kill();
}
