//! `couponmesh outbox republish` in a data directory, where the outboxes are the bus.

use couponmesh_messaging::{consume::positions, dead_letter, outbox};
use couponmesh_mypage::pages;
use couponmesh_proto::mypage::v1::{GetMyPageRequest, my_page_service_client::MyPageServiceClient};
use sea_orm::{EntityTrait as _, PaginatorTrait as _};

use crate::{
    binary::process::{channel, eventually},
    desk::{Desk, register},
};

const SERVICES: [&str; 4] = ["member", "coupon", "notification", "mypage"];

/// How far My Page is in member's outbox.
async fn position(desk: &Desk) -> i64 {
    let database = desk.database("mypage").await;
    let found = positions::find(database.read(), "member").await.unwrap();
    database.close().await.unwrap();
    found.map_or(0, |found| found.sequence)
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
async fn events_are_read_once_more_by_services_that_run_and_nothing_is_done_twice() {
    let desk = Desk::new();
    let (process, address) = desk.run().start().await;
    let mut members = Vec::new();
    for number in 0..5 {
        let email = format!("{number}@example.com");
        members.push(register(channel(address), &email).await);
    }
    // A registration and two changes each.
    eventually("all is read", async || {
        (position(&desk).await == 15).then_some(())
    })
    .await;

    let told = republish(&desk, &["--since", "1h", "--dry-run"]).await;
    assert_eq!(
        told[0],
        "15 events of member would be read again by coupon, notification, mypage; nothing was done\n"
    );
    let told = republish(&desk, &["--since", "0s"]).await;
    assert!(
        told.iter()
            .all(|told| told.contains("no event of that time")),
        "{told:?}"
    );
    // As an operator does who has restored My Page from an old backup, or has deleted its pages.
    let database = desk.database("mypage").await;
    let tx = database.begin().await.unwrap();
    pages::Entity::delete_many().exec(&tx).await.unwrap();
    tx.commit().await.unwrap();
    database.close().await.unwrap();
    let told = republish(&desk, &["--since", "1h"]).await;
    assert!(
        told[1].starts_with("5 events of coupon to be read again by member, mypage"),
        "{told:?}"
    );
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
