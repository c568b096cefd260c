//! The same commands on PostgreSQL, where `database.url` names the database.

use std::time::Duration;

use couponmesh_messaging::{
    checkpoint,
    dead_letter::{self, query},
    outbox,
};
use couponmesh_notification::{
    gate,
    notifications::{self, State},
};
use couponmesh_runtime::{Clock, database::Database, id::NotificationId};
use couponmesh_testbed::{Databases, config, on_servers};
use sea_orm::{
    ActiveModelTrait as _, ActiveValue::Set, EntityTrait as _, IntoActiveModel as _,
    sea_query::Expr,
};

use crate::{
    binary::process::{Call, Finished},
    desk::{REGISTERED, poison},
};

async fn ask(url: &str, arguments: &[&str]) -> Finished {
    let call = Call::new(arguments).set("DATABASE__URL", url);
    call.finish().await
}

async fn told(url: &str, arguments: &[&str]) -> String {
    let finished = ask(url, arguments).await;
    assert!(finished.status.success(), "{finished:?}");
    finished.stdout
}

#[tokio::test]
async fn notifications_on_a_server_are_operated_on_by_its_url() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["notification"]).await;
    let url = databases.url("notification");
    let list = ["notifications", "list", "--failed"];
    ask(&url, &list).await.assert_refused(&["database.url"]);
    told(&url, &["migrate", "notification"]).await;
    let database = Database::open_postgres(&config(&url), "test")
        .await
        .unwrap();
    let (poison, now) = (poison(), Clock::system().now());
    let row = notifications::Model {
        notification_id: NotificationId(poison.id.0),
        member_id: poison.member_id,
        recipient: "https://example.com/hook".to_owned(),
        channel: "webhook".to_owned(),
        subject: "A new member registered".to_owned(),
        body: String::new(),
        state: State::Failed,
        attempt_count: 7,
        create_time: now,
        next_attempt_time: None,
        send_time: None,
        last_error: "the webhook answered 410 Gone".to_owned(),
        failing_since: Some(now),
        correlation_id: "a-test".to_owned(),
        causation_id: None,
        traceparent: None,
    };
    let gate = gate::Model {
        name: "webhook https://example.com/hook".to_owned(),
        close_time: now,
        probe_time: now.plus(Duration::from_hours(1)),
    };
    let tx = database.begin().await.unwrap();
    let insert = notifications::Entity::insert(row.into_active_model().reset_all());
    insert.exec_without_returning(&tx).await.unwrap();
    let insert = gate::Entity::insert(gate.into_active_model().reset_all());
    insert.exec_without_returning(&tx).await.unwrap();
    tx.commit().await.unwrap();

    let listed = told(&url, &list).await;
    assert!(listed.ends_with("1 failed notification\n"), "{listed}");
    let told = told(&url, &["notifications", "resend", "--failed"]).await;
    assert!(
        told.contains("1 failed notification to be sent again"),
        "{told}"
    );
    let row = notifications::Entity::find().one(database.read()).await;
    let row = row.unwrap().unwrap();
    assert_eq!((row.state, row.attempt_count), (State::Pending, 7));
    assert_eq!(row.failing_since, None);
    let gate = gate::Entity::find().one(database.read()).await;
    let gate = gate.unwrap().unwrap();
    // Both are due at once.
    assert_eq!(row.next_attempt_time, Some(gate.probe_time));
    assert!(gate.probe_time <= Clock::system().now());
    database.close().await.unwrap();
}

#[tokio::test]
async fn dead_letters_and_events_on_a_server_are_operated_on_by_its_url() {
    if !on_servers() {
        return;
    }
    let databases = Databases::create(&["coupon"]).await;
    let url = databases.url("coupon");
    let refused = ask(&url, &["dlq", "list", "--service", "coupon"]).await;
    refused.assert_refused(&["database.url"]);
    told(&url, &["migrate", "coupon"]).await;
    let refused = ask(&url, &["dlq", "list", "--service", "member"]).await;
    refused.assert_refused(&["not the member database"]);

    let database = Database::open_postgres(&config(&url), "test")
        .await
        .unwrap();
    let (poisons, now) = ([poison(), poison()], Clock::system().now());
    let tx = database.begin().await.unwrap();
    for poison in poisons {
        let letter = dead_letter::ActiveModel {
            consumer: Set("coupon".to_owned()),
            event_id: Set(poison.id),
            event_type: Set(REGISTERED.to_owned()),
            source: Set("member".to_owned()),
            member_id: Set(poison.member_id),
            correlation_id: Set("a-test".to_owned()),
            causation_id: Set(None),
            traceparent: Set(None),
            event_time: Set(now),
            payload: Set(b"\xff Ann".to_vec()),
            error: Set("it was too\nbad".to_owned()),
            attempts: Set(5),
            park_time: Set(now),
            redrive_time: Set(None),
            close_time: Set(None),
            redrive_attempts: Set(0),
        };
        let insert = dead_letter::Entity::insert(letter);
        insert.exec_without_returning(&tx).await.unwrap();
        let event = outbox::ActiveModel {
            event_id: Set(poison.id),
            event_type: Set("couponmesh.coupon.v1.CouponIssued".to_owned()),
            member_id: Set(poison.member_id),
            correlation_id: Set("a-test".to_owned()),
            payload: Set(Vec::new()),
            create_time: Set(now),
            ..Default::default()
        };
        let insert = outbox::Entity::insert(event);
        insert.exec_without_returning(&tx).await.unwrap();
    }
    let published = checkpoint::Entity::update_many();
    let published = published.col_expr(checkpoint::Column::Position, Expr::value(2));
    published.exec(&tx).await.unwrap();
    tx.commit().await.unwrap();

    let list = told(&url, &["dlq", "list", "--service", "coupon"]).await;
    assert!(list.ends_with("2 dead letters at coupon\n"), "{list}");
    assert!(list.contains("it was too bad"), "{list}");
    let by_type = [
        "dlq",
        "list",
        "--service",
        "coupon",
        "--type",
        "MemberRegistered",
    ];
    assert_eq!(told(&url, &by_type).await, list);
    let first = poisons[0].id.to_string();
    let redrive = ["dlq", "redrive", "--service", "coupon", &first];
    told(&url, &redrive).await;
    let again = told(&url, &redrive).await;
    assert!(again.contains("asked for before"), "{again}");
    let letter = query::find(database.read(), "coupon", poisons[0].id).await;
    assert!(letter.unwrap().unwrap().redrive_time.is_some());
    let dropped = told(&url, &["dlq", "drop", "--service", "coupon", "--all"]).await;
    assert!(dropped.contains("2 dead letters dropped"), "{dropped}");
    let list = told(&url, &["dlq", "list", "--service", "coupon"]).await;
    assert_eq!(list, "0 dead letters at coupon\n");
    let republish = [
        "outbox",
        "republish",
        "--service",
        "coupon",
        "--since",
        "1h",
    ];
    let republished = told(&url, &republish).await;
    assert!(
        republished.starts_with("2 events to be published again"),
        "{republished}"
    );
    database.close().await.unwrap();
}
