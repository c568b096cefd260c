//! Dead letters and published events stay as long as they may be needed and no longer.

use std::time::Duration;

use couponmesh_messaging::{
    MessagingConfig, checkpoint,
    consume::positions,
    dead_letter::{self, operate},
    janitor::{self, Retention, clean},
    outbox,
};
use couponmesh_runtime::{Clock, config::Problems};
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr};

use crate::{
    check::violations,
    log::Log,
    support::{Mesh, RETENTION, eventually},
};

const LONG: Duration = Duration::from_secs(86_400);
const OVER: Duration = Duration::ZERO;

async fn clean_up(mesh: &Mesh, events: Duration, dead_letters: Duration) {
    let retention = Retention {
        events,
        dead_letters,
    };
    let clean = clean(&mesh.consumer, mesh.bus.as_ref(), retention, || false);
    clean.await.unwrap();
}

/// A mesh with one dead letter of an event that cannot be understood.
async fn with_letter(mesh: &Mesh) -> dead_letter::Model {
    mesh.start();
    let poison = couponmesh_messaging::Event {
        payload: b"\xff no message".to_vec(),
        ..mesh.loose_event()
    };
    mesh.publish(vec![poison]).await;
    mesh.register(3).await.unwrap();
    mesh.settle().await;
    let letters = mesh.dead_letters().await;
    assert_eq!(letters.len(), 1);
    letters[0].clone()
}

#[tokio::test]
async fn a_letter_that_was_handled_goes_with_the_retention() {
    let (_dir, mesh) = Mesh::new().await;
    let poison = mesh.register_troubled_and_parked().await;
    mesh.handler.untroubled();
    let tx = mesh.consumer.begin("test").await.unwrap();
    let asked = operate::redrive(&*tx, "consumer", vec![poison], tx.now()).await;
    asked.unwrap();
    tx.commit().await.unwrap();
    eventually("the letter is closed", async || {
        mesh.dead_letters().await[0].close_time.is_some()
    })
    .await;
    clean_up(&mesh, LONG, OVER).await;
    assert_eq!(mesh.dead_letters().await.len(), 1, "not an open one");
    clean_up(&mesh, OVER, LONG).await;
    assert_eq!(mesh.dead_letters().await, []);
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn an_open_letter_is_given_up_in_the_end_with_one_line_that_names_it() {
    let (_dir, mesh) = Mesh::new().await;
    let letter = with_letter(&mesh).await;
    let log = Log::default();
    {
        let _listening = log.listen_from(tracing::Level::ERROR);
        clean_up(&mesh, LONG, LONG).await;
        assert_eq!(mesh.dead_letters().await.len(), 1);
        clean_up(&mesh, LONG, OVER).await;
    }
    assert_eq!(mesh.dead_letters().await, []);
    let text = log.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "{text}");
    for named in [
        "consumer",
        &letter.event_id.to_string(),
        &letter.event_type,
        &letter.member_id.to_string(),
        "given up",
    ] {
        assert!(lines[0].contains(named), "{named} is not in {text}");
    }
    mesh.close().await;
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn nothing_is_deleted_by_a_clock_that_jumped_and_an_idle_service_goes_on_by_itself() {
    let (_dir, mesh) = Mesh::new().await;
    mesh.start();
    mesh.register(3).await.unwrap();
    mesh.settle().await;
    eventually("all is published", async || mesh.outbox().await == (4, 0)).await;
    mesh.stop().await;
    let clock = Clock::manual(mesh.publisher.now());
    let retention = Retention {
        events: RETENTION,
        dead_letters: RETENTION * 10,
    };
    let clean = async |clock: &Clock| {
        // As after a restart.
        let store = mesh.publisher_as(mesh.publisher.new_id(), clock);
        let clean = janitor::clean(&store, mesh.bus.as_ref(), retention, || false);
        clean.await.unwrap();
        mesh.outbox().await.0
    };
    assert_eq!(clean(&clock).await, 4);

    clock.advance(Duration::from_secs(100 * 86_400));
    assert_eq!(clean(&clock).await, 4);
    // Now the clock agrees with the newest row, and the rows look old.
    mesh.register(1).await.unwrap();
    let store = mesh.publisher_as(mesh.publisher.new_id(), &clock);
    let tx = store.begin("test").await.unwrap();
    let newest = outbox::Entity::update_many()
        .col_expr(outbox::Column::CreateTime, Expr::value(clock.now()))
        .filter(outbox::Column::Seq.eq(5));
    assert_eq!(newest.exec(&*tx).await.unwrap().rows_affected, 1);
    // As if it had been published, or read, too.
    let published =
        checkpoint::Entity::update_many().col_expr(checkpoint::Column::Position, Expr::value(5));
    assert_eq!(published.exec(&*tx).await.unwrap().rows_affected, 1);
    tx.commit().await.unwrap();
    let tx = mesh.consumer.begin("test").await.unwrap();
    let read = positions::Entity::update_many()
        .col_expr(positions::Column::Sequence, Expr::value(5))
        .filter(positions::Column::Partition.eq("member"));
    read.exec(&*tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(clean(&clock).await, 5);

    // An hour a time, and nothing else happens.
    let hours = u32::try_from(RETENTION.as_secs() / HOUR.as_secs()).unwrap();
    for _ in 0..hours - 1 {
        clock.advance(HOUR);
        assert_eq!(clean(&clock).await, 5);
    }
    clock.advance(HOUR);
    clean(&clock).await;
    clock.advance(HOUR);
    assert_eq!(clean(&clock).await, 0);
    mesh.close().await;
}

/// More than the janitor looks at at once.
const MANY: usize = 600;

#[tokio::test]
async fn events_that_somebody_may_need_stay_whatever_their_age() {
    let (_dir, mesh) = Mesh::new().await;
    mesh.start();
    mesh.register(MANY).await.unwrap();
    mesh.settle().await;
    let first = mesh.outbox().await.0;
    mesh.register(20).await.unwrap();
    mesh.settle().await;
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    mesh.stop().await;
    // As an operator does: the last ones have to be published, or read, once more.
    let position = i64::try_from(first).unwrap();
    let tx = mesh.publisher.begin("test").await.unwrap();
    checkpoint::rewind(&*tx, position).await.unwrap();
    tx.commit().await.unwrap();
    let tx = mesh.consumer.begin("test").await.unwrap();
    positions::rewind(&*tx, "member", position).await.unwrap();
    tx.commit().await.unwrap();
    let retention = Retention {
        events: OVER,
        dead_letters: LONG,
    };
    let clean = clean(&mesh.publisher, mesh.bus.as_ref(), retention, || false);
    clean.await.unwrap();
    assert_eq!(mesh.outbox().await.0, 21);
    mesh.close().await;
}

#[test]
fn a_retention_of_dead_letters_that_is_too_short_is_named() {
    let config = |dead_letter_retention| MessagingConfig {
        batch: 1,
        partitions: 1,
        retention: RETENTION,
        dead_letter_retention,
    };
    assert_eq!(Problems::of(&config(LONG)), [""; 0]);
    let problems = Problems::of(&config(LONG - Duration::from_secs(1)));
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("dead_letter_retention must be"),
        "{problems:?}"
    );
}
