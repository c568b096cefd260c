//! On PostgreSQL positions become visible in another order than that in which they were handed out, or
//! never. The relay skips none, publishes none twice and waits for nobody but those who write.

use std::{collections::HashSet, time::Duration};

use couponmesh_messaging::{Transaction, outbox};
use couponmesh_runtime::id::{EventId, MemberId};
use couponmesh_testbed::on_servers;
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ConnectionTrait as _, EntityTrait as _,
};
use tokio::time::{interval, timeout};

use crate::{
    check::violations,
    support::{Mesh, eventually},
};

/// How soon others are published, whoever else writes on the server.
const SOON: Duration = Duration::from_secs(30);

/// A transaction that has taken a position and not ended.
async fn open_transaction(mesh: &Mesh) -> Transaction {
    let tx = mesh.publisher.begin("test").await.unwrap();
    let row = outbox::ActiveModel {
        seq: NotSet,
        event_id: Set(EventId(tx.new_id())),
        event_type: Set("couponmesh.member.v1.MemberRegistered".to_owned()),
        member_id: Set(MemberId(tx.new_id())),
        correlation_id: Set("a-test".to_owned()),
        causation_id: Set(None),
        traceparent: Set(None),
        payload: Set(Vec::new()),
        create_time: Set(tx.now()),
    };
    outbox::Entity::insert(row)
        .exec_without_returning(&*tx)
        .await
        .unwrap();
    tx
}

/// How many registrations the bus has, and how many of them it has once.
async fn published(mesh: &Mesh) -> (usize, usize) {
    let log = mesh.log().await;
    let ids: HashSet<_> = log.iter().map(|event| event.id).collect();
    (log.len(), ids.len())
}

/// Keeps a transaction open, which the server ends when it is idle for long.
async fn keep_open(tx: &Transaction) {
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        tx.execute_unprepared("SELECT 1").await.unwrap();
    }
}

/// Registers one member in each of 10,000 transactions, and waits until all are handled.
async fn register_ten_thousand(mesh: &Mesh) {
    let register = || async {
        for _ in 0..1_000 {
            mesh.register(1).await.unwrap();
        }
    };
    futures::future::join_all((0..10).map(|_| register())).await;
    eventually("they are handled", async || {
        violations(mesh).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_is_open_across_ten_thousand_commits_holds_up_none_and_is_not_skipped() {
    if !on_servers() {
        return;
    }
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    let open = open_transaction(&mesh).await;
    tokio::select! {
        () = keep_open(&open) => {}
        () = register_ten_thousand(&mesh) => {}
    }
    assert_eq!(mesh.outbox().await, (10_000, 10_000), "behind the open one");
    open.commit().await.unwrap();
    eventually("all is published", async || {
        mesh.outbox().await == (10_001, 0)
    })
    .await;
    assert_eq!(published(&mesh).await, (10_001, 10_001));
    mesh.close().await;
}

#[tokio::test]
async fn positions_of_transactions_that_were_given_up_hold_nothing_up() {
    if !on_servers() {
        return;
    }
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    for _ in 0..20 {
        drop(open_transaction(&mesh).await);
        mesh.register(1).await.unwrap();
    }
    // As after a server that crashed, or a dump that was restored.
    let tx = mesh.publisher.begin("test").await.unwrap();
    tx.execute_unprepared("SELECT setval('outbox_seq_seq', 100000)")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    mesh.register(20).await.unwrap();
    let published_soon = eventually("all is published", async || mesh.outbox().await == (40, 0));
    timeout(SOON, published_soon).await.unwrap();
    mesh.settle().await;
    assert_eq!(published(&mesh).await, (41, 41));
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn a_long_transaction_in_another_database_holds_nothing_up() {
    if !on_servers() {
        return;
    }
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    let long = mesh.consumer.begin("test").await.unwrap();
    long.execute_unprepared("CREATE TABLE taking_long (id int)")
        .await
        .unwrap();
    let others = async {
        drop(open_transaction(&mesh).await);
        mesh.register(10).await.unwrap();
        eventually("all is published", async || mesh.outbox().await == (10, 0)).await;
    };
    tokio::select! {
        () = keep_open(&long) => {}
        published = timeout(SOON, others) => published.unwrap(),
    }
    drop(long);
    mesh.close().await;
}

/// Whether a row that commits after one that follows it is ever published.
async fn is_published_late(sabotage: Option<&str>) -> bool {
    let (_home, mesh) = Mesh::new().await;
    if let Some(property) = sabotage {
        mesh.publisher.faults().sabotage(property);
    }
    mesh.start();
    let late = open_transaction(&mesh).await;
    let next = async {
        mesh.register(1).await.unwrap();
        eventually("the one after it is handled", async || {
            violations(&mesh).await.is_empty()
        })
        .await;
    };
    tokio::select! {
        () = keep_open(&late) => {}
        () = next => {}
    }
    late.commit().await.unwrap();
    mesh.settle().await;
    eventually("all is published", async || mesh.outbox().await == (3, 0)).await;
    let published = published(&mesh).await;
    mesh.close().await;
    published == (3, 3)
}

#[tokio::test]
async fn a_row_that_commits_late_is_skipped_when_gaps_are_given_up_at_once() {
    if !on_servers() {
        return;
    }
    assert!(is_published_late(None).await);
    assert!(!is_published_late(Some("relay.gaps")).await);
}
