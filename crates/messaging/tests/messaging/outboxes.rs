//! What the outboxes do as a bus, beyond the contract of every bus. On files only.

use std::{collections::BTreeSet, path::Path, time::Duration};

use couponmesh_messaging::{
    Event, Handler as _, Store,
    bus::{Outboxes, Service},
    checkpoint,
    consume::positions,
    janitor::{Retention, clean},
    outbox,
};
use couponmesh_runtime::{database::Database, id::EventId};
use couponmesh_testbed::{Home, on_servers};
use futures::StreamExt as _;
use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, EntityTrait as _, QueryFilter as _, Statement,
};

use tokio::time::timeout;

use crate::{
    check::{Counting, violations, violations_of},
    support::{Mesh, TICKED, TICKS, eventually, read},
};

/// The directory; none when the tests run on servers.
fn directory(home: &Home) -> Option<&Path> {
    match home {
        Home::Files(dir) => Some(dir.path()),
        Home::Servers { .. } => None,
    }
}

async fn position(mesh: &Mesh) -> i64 {
    let positions = positions::list(mesh.consumer.read()).await.unwrap();
    positions.iter().map(|one| one.sequence).sum()
}

#[tokio::test]
async fn nothing_is_copied_and_no_relay_runs() {
    let (home, mesh) = Mesh::new().await;
    let Some(dir) = directory(&home) else { return };
    mesh.start();
    mesh.register(20).await.unwrap();
    mesh.settle().await;
    mesh.stop().await;
    let checkpoint = checkpoint::load(mesh.publisher.read()).await.unwrap();
    assert_eq!(checkpoint.position, 0);
    let files = std::fs::read_dir(dir).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let databases: BTreeSet<String> = files.filter(|file| file.ends_with(".db")).collect();
    assert_eq!(
        databases,
        ["consumer.db", "member.db"].map(str::to_owned).into()
    );
    mesh.close().await;
}

#[tokio::test]
async fn a_consumer_that_was_away_for_long_misses_nothing() {
    let (_home, mesh) = Mesh::new().await;
    if on_servers() {
        return;
    }
    for _ in 0..9 {
        mesh.register(1_000).await.unwrap();
    }
    mesh.start();
    mesh.settle().await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

/// Whoever commits hears of it before the others do; a wake-up between must not be lost.
#[tokio::test]
async fn events_that_come_one_by_one_are_read_at_once() {
    let (_home, mesh) = Mesh::new().await;
    if on_servers() {
        return;
    }
    let tick = || Event {
        event_type: TICKED.to_owned(),
        ..mesh.loose_event()
    };
    let mut reading = read(&mesh.bus, "a", TICKS, 0).await;
    for _ in 0..500 {
        let tick = tick();
        let (delivery, ()) = tokio::join!(reading.next(), mesh.publish(vec![tick.clone()]));
        assert_eq!(delivery.unwrap().unwrap().event, Some(tick));
    }
    mesh.close().await;
}

#[tokio::test]
async fn an_operator_moves_a_position_of_a_consumer_that_runs() {
    let (_home, mesh) = Mesh::new().await;
    if on_servers() {
        return;
    }
    mesh.start();
    mesh.register(10).await.unwrap();
    mesh.settle().await;
    let tx = mesh.consumer.begin("test").await.unwrap();
    assert_eq!(positions::rewind(&*tx, "member", 4).await.unwrap(), 1);
    tx.commit().await.unwrap();
    eventually("the position is where it was", async || {
        position(&mesh).await == 11
    })
    .await;
    assert_eq!(violations_of(&mesh, 1..=2).await, [""; 0]);
    assert_eq!(
        violations(&mesh).await.len(),
        7,
        "those after it, once more"
    );
    mesh.close().await;
}

#[tokio::test]
async fn a_publisher_that_was_restored_from_an_older_backup_is_read_from_its_beginning() {
    let (home, mesh) = Mesh::new().await;
    let Some(dir) = directory(&home) else { return };
    let (file, backup) = (dir.join("member.db"), dir.join("backup"));
    mesh.start();
    mesh.register(10).await.unwrap();
    mesh.settle().await;
    mesh.close().await;
    std::fs::copy(&file, &backup).unwrap();
    let mesh = Mesh::open(&home).await;
    mesh.start();
    mesh.register(20).await.unwrap();
    mesh.settle().await;
    mesh.close().await;
    std::fs::copy(&backup, &file).unwrap();

    // Its next events stand where others stood that are lost.
    let mesh = Mesh::open(&home).await;
    mesh.start_relay();
    mesh.register(40).await.unwrap();
    mesh.start_consumer();
    mesh.settle().await;
    let found = violations_of(&mesh, 1..=2).await;
    assert_eq!(found.len(), 21, "{found:?}");
    assert!(
        found.iter().all(|one| one.ends_with("was never committed")),
        "{found:?}"
    );
    mesh.close().await;
}

#[tokio::test]
async fn an_outbox_is_cut_below_every_consumer_that_there_is() {
    let (_home, mesh) = Mesh::new().await;
    if on_servers() {
        return;
    }
    let over = Retention {
        events: Duration::ZERO,
        dead_letters: Duration::from_secs(86_400),
    };
    let left = async || {
        let clean = clean(&mesh.publisher, mesh.bus.as_ref(), over, || false);
        clean.await.unwrap();
        mesh.outbox().await.0
    };
    mesh.register(10).await.unwrap();
    assert_eq!(left().await, 10, "the consumer was never here");
    mesh.start();
    mesh.settle().await;
    mesh.stop_consumer().await;
    mesh.register(5).await.unwrap();
    assert_eq!(left().await, 5);
    mesh.start_consumer();
    mesh.settle().await;
    assert_eq!(left().await, 0);
    mesh.close().await;
}

/// A log as a release up to 0.3 left it, with these events in it.
async fn old_log(path: &Path, events: &[Event], offsets: &[(&str, i64)]) {
    let log = Database::open_sqlite(path).await.unwrap();
    let tx = log.begin().await.unwrap();
    let backend = tx.get_database_backend();
    tx.execute_unprepared(
        "CREATE TABLE seaql_migrations (version varchar NOT NULL PRIMARY KEY, applied_at bigint NOT NULL); \
         INSERT INTO seaql_migrations VALUES ('m0001_create_log', 1); \
         CREATE TABLE events (seq bigint NOT NULL PRIMARY KEY, event_id blob NOT NULL, event_type varchar NOT NULL, \
         source varchar NOT NULL, member_id blob NOT NULL, event_time bigint NOT NULL, correlation_id varchar NOT NULL, \
         causation_id blob, traceparent varchar, payload blob NOT NULL); \
         CREATE TABLE offsets (consumer varchar NOT NULL PRIMARY KEY, seq bigint NOT NULL)",
    )
    .await
    .unwrap();
    for (seq, event) in (1_i64..).zip(events) {
        let row = [
            seq.into(),
            event.id.into(),
            event.event_type.clone().into(),
            event.source.clone().into(),
            event.member_id.into(),
            event.time.into(),
            event.context.correlation_id.as_str().into(),
            event.payload.clone().into(),
        ];
        let sql = "INSERT INTO events (seq, event_id, event_type, source, member_id, event_time, correlation_id, payload) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        let insert = Statement::from_sql_and_values(backend, sql, row);
        tx.execute_raw(insert).await.unwrap();
    }
    for (consumer, seq) in offsets {
        let sql = "INSERT INTO offsets VALUES (?, ?)";
        let row = [(*consumer).into(), (*seq).into()];
        let insert = Statement::from_sql_and_values(backend, sql, row);
        tx.execute_raw(insert).await.unwrap();
    }
    tx.commit().await.unwrap();
    log.close().await.unwrap();
}

fn services(mesh: &Mesh) -> Outboxes {
    let service = |store: &Store, types| Service {
        store: store.clone(),
        types,
    };
    let publisher = service(&mesh.publisher, &[] as &[&str]);
    Outboxes::new(vec![publisher, service(&mesh.consumer, Counting::TYPES)])
}

/// Ten members; the relay had copied eight of them, of which the consumer had read `read`, and retention has cut the
/// first `cut` of the outbox.
async fn after_taking_over(read: i64, cut: i64, interrupted: bool) -> Option<(Vec<String>, u64)> {
    let (home, mesh) = Mesh::new().await;
    let path = directory(&home)?.join("bus.db");
    mesh.register(10).await.unwrap();
    let events = mesh.log().await;
    old_log(&path, &events[..8], &[("consumer", read)]).await;
    let tx = mesh.publisher.begin("test").await.unwrap();
    let oldest = outbox::Entity::delete_many().filter(outbox::Column::Seq.lte(cut));
    oldest.exec(&*tx).await.unwrap();
    let copied = checkpoint::Entity::update_many().col_expr(
        checkpoint::Column::Position,
        sea_orm::sea_query::Expr::value(8_i64),
    );
    copied.exec(&*tx).await.unwrap();
    tx.commit().await.unwrap();
    if interrupted {
        let copy = path.with_extension("copy");
        std::fs::copy(&path, &copy).unwrap();
        services(&mesh).take_over(&path).await.unwrap();
        std::fs::rename(&copy, &path).unwrap();
    }
    services(&mesh).take_over(&path).await.unwrap();
    assert!(!path.exists());
    mesh.start();
    mesh.settle().await;
    let handled: BTreeSet<EventId> = mesh.log().await.iter().map(|event| event.id).collect();
    let rows = mesh.outbox().await.0;
    assert_eq!(rows, handled.len() as u64, "each is there once");
    let violations = violations(&mesh).await;
    mesh.close().await;
    Some((violations, rows))
}

#[tokio::test]
async fn the_log_of_an_earlier_release_is_taken_over_and_nothing_unread_is_lost() {
    for interrupted in [false, true] {
        // Nothing was read, and all of it is in the outbox; one more settles.
        let Some(found) = after_taking_over(0, 0, interrupted).await else {
            return;
        };
        assert_eq!(found, (vec![], 11));
        // Some were read.
        let (violations, rows) = after_taking_over(5, 0, interrupted).await.unwrap();
        assert_eq!((violations.len(), rows), (5, 11), "{violations:?}");
        assert!(violations.iter().all(|one| one.ends_with("is lost")));
        // The outbox was cut below what was read …
        let (violations, rows) = after_taking_over(5, 3, interrupted).await.unwrap();
        assert_eq!((violations.len(), rows), (5, 8), "{violations:?}");
        // … and above it: what is unread comes back from the log.
        let (violations, rows) = after_taking_over(5, 7, interrupted).await.unwrap();
        assert_eq!((violations.len(), rows), (5, 6), "{violations:?}");
        // All was read.
        let (violations, _) = after_taking_over(8, 8, interrupted).await.unwrap();
        assert_eq!(violations.len(), 8, "{violations:?}");
    }
}

/// Callers wait for a version of a member, and expect to see what had led to it.
#[tokio::test]
async fn an_event_of_member_s_does_not_come_before_what_had_caused_it() {
    const TOCKED: &str = "couponmesh.consumer.v1.Tocked";
    const BOTH: &[&str] = &[TICKED, TOCKED];
    let (_home, mesh) = Mesh::new().await;
    if on_servers() {
        return;
    }
    let tock = Event {
        event_type: TOCKED.to_owned(),
        source: "consumer".to_owned(),
        ..mesh.loose_event()
    };
    let tick = Event {
        event_type: TICKED.to_owned(),
        ..mesh.loose_event()
    };
    let tx = mesh.consumer.begin("test").await.unwrap();
    tx.append_all(vec![tock.clone()]);
    tx.commit().await.unwrap();
    mesh.publish(vec![tick.clone()]).await;

    let mut effects = mesh.bus.read("a", "member", BOTH, 0).await.unwrap();
    let mut causes = mesh.bus.read("a", "consumer", BOTH, 0).await.unwrap();
    let soon = Duration::from_millis(300);
    assert!(
        timeout(soon, effects.next()).await.is_err(),
        "it came first"
    );
    let cause = causes.next().await.unwrap().unwrap();
    assert_eq!(cause.event, Some(tock));
    // Whoever asks for more has taken it.
    let waits = async { assert!(timeout(soon, causes.next()).await.is_err()) };
    let (effect, ()) = tokio::join!(effects.next(), waits);
    assert_eq!(effect.unwrap().unwrap().event, Some(tick));
    mesh.close().await;
}
