//! What the embedded bus does beyond the contract of every bus: order, files, offsets. On either stack: the
//! bus is opened here.

use std::{path::Path, time::Duration};

use couponmesh_messaging::{Bus as _, Event, bus::EmbeddedBus};
use couponmesh_runtime::{Timestamp, database::Database};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::support::{Mesh, RETENTION, TICKED, TICKS, eventually};

/// Runs a bus of its own on `dir` with events from a mesh elsewhere.
async fn open(dir: &Path) -> EmbeddedBus {
    EmbeddedBus::open(&dir.join("log.db")).await.unwrap()
}

fn ticks(mesh: &Mesh, count: usize) -> Vec<Event> {
    let tick = || Event {
        event_type: TICKED.to_owned(),
        ..mesh.loose_event()
    };
    std::iter::repeat_with(tick).take(count).collect()
}

/// The next `count` events of `consumer`, without acknowledging them.
async fn read(bus: &EmbeddedBus, consumer: &'static str, count: usize) -> Vec<Event> {
    let mut subscription = bus.subscribe(consumer, TICKS).await.unwrap();
    let mut read = Vec::new();
    while read.len() < count {
        let left = count - read.len();
        for delivery in subscription.next(left.min(128)).await.unwrap() {
            read.push(delivery.as_ref().clone());
        }
    }
    read
}

async fn read_and_ack(bus: &EmbeddedBus, consumer: &'static str, count: usize) {
    let mut subscription = bus.subscribe(consumer, TICKS).await.unwrap();
    assert_eq!(subscription.next(count).await.unwrap().len(), count);
    subscription.ack().await.unwrap();
}

/// The offset in the file.
async fn stored_offset(dir: &Path, consumer: &str) -> i64 {
    number(dir, "SELECT seq FROM offsets WHERE consumer = ?", consumer).await
}

async fn number(dir: &Path, sql: &str, parameter: &str) -> i64 {
    let database = Database::open_sqlite(&dir.join("log.db")).await.unwrap();
    let backend = database.read().get_database_backend();
    let query = Statement::from_sql_and_values(backend, sql, [parameter.into()]);
    let row = database.read().query_one_raw(query).await.unwrap();
    database.close().await.unwrap();
    row.map_or(0, |row| row.try_get_by_index(0).unwrap())
}

#[tokio::test]
async fn events_keep_their_order_across_restarts() {
    let (_home, mesh) = Mesh::new().await;
    let dir = tempfile::tempdir().unwrap();
    let events = ticks(&mesh, 30);
    for run in events.chunks(10) {
        let bus = open(dir.path()).await;
        bus.publish(run[..4].to_vec(), 0).await.unwrap();
        bus.publish(run[4..].to_vec(), 0).await.unwrap();
        bus.close().await;
    }
    let bus = open(dir.path()).await;
    assert_eq!(read(&bus, "a", 30).await, events);
    bus.close().await;
    mesh.close().await;
}

#[tokio::test]
async fn publishers_at_once_get_places_without_gaps() {
    let (_home, mesh) = Mesh::new().await;
    let dir = tempfile::tempdir().unwrap();
    let bus = open(dir.path()).await;
    let all = ticks(&mesh, 200);
    let publishing = all.chunks(5).map(|run| bus.publish(run.to_vec(), 0));
    for published in futures::future::join_all(publishing).await {
        published.unwrap();
    }
    assert_eq!(read(&bus, "a", 200).await.len(), 200);
    bus.close().await;
    let last = "SELECT max(seq) FROM events WHERE event_type = ?";
    assert_eq!(number(dir.path(), last, TICKED).await, 200);
    mesh.close().await;
}

#[tokio::test]
async fn a_consumer_that_was_away_for_longer_than_memory_reaches_back_misses_nothing() {
    let (_home, mesh) = Mesh::new().await;
    let dir = tempfile::tempdir().unwrap();
    let bus = open(dir.path()).await;
    // More than twice what is kept in memory, so that reading crosses from the file into it.
    let events = ticks(&mesh, 9_000);
    for run in events.chunks(500) {
        bus.publish(run.to_vec(), 0).await.unwrap();
    }
    assert_eq!(read(&bus, "a", events.len()).await, events);
    bus.close().await;
    mesh.close().await;
}

#[tokio::test]
async fn types_that_nobody_wants_are_passed_over_and_never_looked_at_again() {
    let (_home, mesh) = Mesh::new().await;
    let dir = tempfile::tempdir().unwrap();
    let bus = open(dir.path()).await;
    let unwanted = Event {
        event_type: "couponmesh.test.v1.NotWanted".to_owned(),
        ..mesh.loose_event()
    };
    bus.publish(vec![unwanted; 300], 0).await.unwrap();
    let wanted = ticks(&mesh, 1);
    let mut subscription = bus.subscribe("a", TICKS).await.unwrap();
    let (delivered, published) =
        tokio::join!(subscription.next(64), bus.publish(wanted.clone(), 0));
    published.unwrap();
    assert_eq!(*delivered.unwrap()[0], wanted[0]);
    // Not acknowledged; the place is already past what was not wanted.
    eventually("the offset is stored", async || {
        stored_offset(dir.path(), "a").await >= 256
    })
    .await;
    assert!(stored_offset(dir.path(), "a").await <= 300);
    bus.close().await;
    mesh.close().await;
}

#[tokio::test]
async fn a_stored_offset_is_never_ahead_of_what_was_acknowledged() {
    let (_home, mesh) = Mesh::new().await;
    let dir = tempfile::tempdir().unwrap();
    let bus = open(dir.path()).await;
    let events = ticks(&mesh, 20);
    bus.publish(events.clone(), 0).await.unwrap();
    read_and_ack(&bus, "a", 5).await;
    assert_eq!(read(&bus, "a", 10).await, events[5..15], "not acknowledged");
    eventually("the offset is stored", async || {
        stored_offset(dir.path(), "a").await == 5
    })
    .await;
    bus.close().await;
    assert_eq!(stored_offset(dir.path(), "a").await, 5);

    let bus = open(dir.path()).await;
    assert_eq!(read(&bus, "a", 15).await, events[5..], "delivered again");
    // Stored when the bus is closed, however short a time after.
    read_and_ack(&bus, "a", 8).await;
    bus.close().await;
    assert_eq!(stored_offset(dir.path(), "a").await, 13);
    mesh.close().await;
}

#[tokio::test]
async fn only_events_that_are_old_and_that_every_consumer_is_past_are_deleted() {
    let (_home, mesh) = Mesh::new().await;
    let dir = tempfile::tempdir().unwrap();
    let long_ago = Timestamp(1_800_000_000_000_000);
    let old = Timestamp(1_800_000_000_000_001);
    let now = long_ago.plus(Duration::from_secs(86_400));
    let bus = open(dir.path()).await;
    let mut events = ticks(&mesh, 10);
    for event in &mut events {
        event.time = long_ago;
    }
    // Of a clock that was wrong: nothing behind it waits for that time to come.
    events[0].time = now.plus(RETENTION);
    events[9].time = now;
    bus.publish(events.clone(), 0).await.unwrap();
    read_and_ack(&bus, "fast", 10).await;
    read_and_ack(&bus, "slow", 6).await;
    // Offsets are stored when it closes.
    bus.close().await;

    let count = "SELECT count(*) FROM events WHERE event_type = ?";
    let bus = open(dir.path()).await;
    bus.delete_before(long_ago, now).await.unwrap();
    assert_eq!(number(dir.path(), count, TICKED).await, 10);
    bus.delete_before(old, now).await.unwrap();
    assert_eq!(number(dir.path(), count, TICKED).await, 5);
    read_and_ack(&bus, "slow", 4).await;
    bus.close().await;

    let bus = open(dir.path()).await;
    bus.delete_before(old, now).await.unwrap();
    assert_eq!(number(dir.path(), count, TICKED).await, 2);
    // New events come after all that were deleted.
    let news = ticks(&mesh, 1);
    bus.publish(news.clone(), 0).await.unwrap();
    assert_eq!(read(&bus, "slow", 1).await, news);
    assert_eq!(read(&bus, "fast", 1).await, news);
    bus.close().await;
    mesh.close().await;
}
