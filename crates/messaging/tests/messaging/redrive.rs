//! A redrive takes effect once, wherever it is interrupted, or leaves the letter open as it was.

use couponmesh_messaging::{
    Event,
    dead_letter::{self, operate, query},
};
use couponmesh_runtime::{fault::Faults, id::EventId};
use couponmesh_testbed::{Home, on_servers};
use sea_orm::EntityTrait as _;

use crate::{
    check::{Trouble, violations},
    lives::{home, life},
    support::{MAX_ATTEMPTS, Mesh, eventually},
};

/// Parks an event, and takes its trouble away.
async fn parked(mesh: &Mesh) -> Event {
    let id = mesh.register_troubled_and_parked().await;
    mesh.handler.untroubled();
    letter(mesh, id).await.to_event()
}

async fn ask(mesh: &Mesh, id: EventId) {
    let tx = mesh.consumer.begin("test").await.unwrap();
    let asked = operate::redrive(&*tx, "consumer", vec![id], tx.now()).await;
    assert_eq!(asked.unwrap().len(), 1);
    tx.commit().await.unwrap();
}

async fn letter(mesh: &Mesh, id: EventId) -> dead_letter::Model {
    let found = query::find(mesh.consumer.read(), "consumer", id).await;
    found.unwrap().unwrap()
}

async fn closed(mesh: &Mesh, id: EventId) {
    eventually("the letter is closed", async || {
        letter(mesh, id).await.close_time.is_some()
    })
    .await;
}

/// The letter is not asked for any more, and tried again.
async fn open_again(mesh: &Mesh, id: EventId) -> dead_letter::Model {
    eventually("the letter is open again", async || {
        letter(mesh, id).await.redrive_time.is_none()
    })
    .await;
    let letter = letter(mesh, id).await;
    assert_eq!((letter.close_time, letter.redrive_attempts), (None, 0));
    letter
}

/// How many registrations the bus was given.
async fn registrations(mesh: &Mesh) -> usize {
    let log = mesh.log().await.into_iter();
    log.filter(|event| event.event_type.ends_with("MemberRegistered"))
        .count()
}

#[tokio::test]
async fn a_letter_that_is_asked_for_is_handled_once_and_closed_and_nothing_is_published() {
    let (_dir, mesh) = Mesh::new().await;
    let event = parked(&mesh).await;
    let published = registrations(&mesh).await;
    ask(&mesh, event.id).await;
    closed(&mesh, event.id).await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    assert_eq!(registrations(&mesh).await, published);
    mesh.close().await;
}

#[tokio::test]
async fn a_letter_that_fails_again_is_open_again_with_the_new_error() {
    for (trouble, error) in [
        (Trouble::Fails, "the handler's own fault"),
        (Trouble::Panics, "the handler panicked"),
    ] {
        let (_dir, mesh) = Mesh::new().await;
        let event = parked(&mesh).await;
        mesh.handler.troubled_by(event.member_id, trouble);
        ask(&mesh, event.id).await;
        let letter = open_again(&mesh, event.id).await;
        assert_eq!(letter.attempts, MAX_ATTEMPTS + 1);
        assert!(letter.error.contains(error), "{}", letter.error);
        assert_eq!(
            violations(&mesh).await,
            [format!("{} is lost", event.member_id)]
        );
        mesh.handler.untroubled();
        ask(&mesh, event.id).await;
        closed(&mesh, event.id).await;
        assert_eq!(violations(&mesh).await, [""; 0]);
        mesh.close().await;
    }
}

#[tokio::test]
async fn a_redrive_that_is_interrupted_at_any_step_takes_effect_once() {
    let points = ["redrive.count", "redrive"]
        .map(|scope| ["begin", "commit", "committed"].map(|point| format!("{scope}:{point}")));
    let interrupted = points.as_flattened().iter().map(async |point| {
        let (_dir, mesh) = Mesh::new().await;
        let event = parked(&mesh).await;
        // More often than a failure of the event's own would be forgiven.
        mesh.consumer.faults().arm(point, 6);
        ask(&mesh, event.id).await;
        if point.ends_with("redrive:committed") {
            // The first one is the last: the letter is closed, and nobody comes by here again.
            closed(&mesh, event.id).await;
        } else {
            eventually(point, async || mesh.consumer.faults().spent()).await;
            closed(&mesh, event.id).await;
        }
        let letter = letter(&mesh, event.id).await;
        assert_eq!(letter.attempts, MAX_ATTEMPTS, "{point}");
        assert_eq!(violations(&mesh).await, [""; 0], "{point}");
        mesh.close().await;
    });
    futures::future::join_all(interrupted).await;
}

#[tokio::test]
async fn a_failure_whose_note_is_interrupted_is_noted_once() {
    let points = ["begin", "commit", "committed"];
    let interrupted = points.map(async |point| {
        let (_dir, mesh) = Mesh::new().await;
        let event = parked(&mesh).await;
        mesh.handler.troubled_by(event.member_id, Trouble::Fails);
        let point = format!("redrive.failed:{point}");
        mesh.consumer.faults().arm(&point, 1);
        ask(&mesh, event.id).await;
        eventually(&point, async || mesh.consumer.faults().spent()).await;
        let letter = open_again(&mesh, event.id).await;
        assert_eq!(letter.attempts, MAX_ATTEMPTS + 1, "{point}");
        mesh.close().await;
    });
    futures::future::join_all(interrupted).await;
}

#[tokio::test]
async fn an_outage_that_outlasts_many_restarts_leaves_a_letter_asked_for() {
    let (_dir, mesh) = Mesh::new().await;
    let event = parked(&mesh).await;
    mesh.stop_consumer().await;
    ask(&mesh, event.id).await;
    for _ in 0..=MAX_ATTEMPTS {
        mesh.consumer.faults().arm("redrive:commit", 2);
        mesh.start_consumer();
        eventually("it failed twice", async || mesh.consumer.faults().spent()).await;
        mesh.consumer.faults().arm("redrive:commit", u32::MAX);
        mesh.stop_consumer().await;
        assert!(letter(&mesh, event.id).await.redrive_time.is_some());
    }
    mesh.consumer.faults().arm("redrive:commit", 0);
    mesh.start_consumer();
    closed(&mesh, event.id).await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn a_letter_is_handled_after_outbox_and_bus_have_forgotten_its_event() {
    let (mut home, mesh) = Mesh::new().await;
    let event = parked(&mesh).await;
    mesh.stop().await;
    let tx = mesh.publisher.begin("test").await.unwrap();
    let rows = couponmesh_messaging::outbox::Entity::delete_many();
    rows.exec(&*tx).await.unwrap();
    tx.commit().await.unwrap();
    mesh.close().await;
    if on_servers() {
        home.lose_bus();
    }
    let mesh = Mesh::open(&home).await;
    ask(&mesh, event.id).await;
    mesh.start();
    closed(&mesh, event.id).await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn two_workers_handle_many_letters_once_each() {
    let (_dir, mesh) = Mesh::new().await;
    mesh.start();
    let mut poison = Vec::new();
    for _ in 0..5 {
        poison.push(mesh.register_one_troubled(Trouble::Fails).await);
    }
    mesh.settle().await;
    mesh.handler.untroubled();
    let ids: Vec<EventId> = mesh
        .dead_letters()
        .await
        .iter()
        .map(|l| l.event_id)
        .collect();
    assert_eq!(ids.len(), poison.len());
    let another = mesh.start_another_consumer();
    for &id in &ids {
        ask(&mesh, id).await;
    }
    for &id in &ids {
        closed(&mesh, id).await;
    }
    assert_eq!(violations(&mesh).await, [""; 0]);
    another.stop().await;
    mesh.close().await;
}

#[tokio::test]
async fn many_replicas_that_meet_an_outage_at_a_letter_do_not_count_as_its_failures() {
    let (_dir, mesh) = Mesh::new().await;
    let event = parked(&mesh).await;
    mesh.stop_consumer().await;
    ask(&mesh, event.id).await;
    let replicas: Vec<_> = (0..MAX_ATTEMPTS * 2)
        .map(|_| {
            let faults = Faults::none();
            // Longer than it takes each of them to look.
            faults.arm("redrive:begin", 6);
            mesh.start_replica(faults)
        })
        .collect();
    eventually("a verdict", async || {
        let letter = letter(&mesh, event.id).await;
        letter.close_time.is_some() || letter.redrive_time.is_none()
    })
    .await;
    let letter = letter(&mesh, event.id).await;
    assert!(letter.close_time.is_some(), "refused: {}", letter.error);
    assert_eq!(violations(&mesh).await, [""; 0]);
    for replica in replicas {
        replica.stop().await;
    }
    mesh.close().await;
}

#[tokio::test]
async fn a_dropped_letter_is_not_handled() {
    let (_dir, mesh) = Mesh::new().await;
    let event = parked(&mesh).await;
    let tx = mesh.consumer.begin("test").await.unwrap();
    let dropped = operate::discard(&tx, "consumer", vec![event.id]).await;
    assert_eq!(dropped.unwrap().len(), 1);
    tx.commit().await.unwrap();
    assert_eq!(mesh.dead_letters().await, []);
    mesh.settle().await;
    assert_eq!(
        violations(&mesh).await,
        [format!("{} is lost", event.member_id)]
    );
    mesh.close().await;
}

/// One life in which the letter is handled until the process dies.
fn dies_of(home: &Home, event: &Event) {
    life(home, async |mesh| {
        mesh.handler.troubled_by(event.member_id, Trouble::Hangs);
        mesh.start();
        mesh.handler.hangs().await;
    });
}

#[test]
fn a_letter_whose_redrive_dies_with_the_process_is_handled_in_the_next_life() {
    let home = home();
    let event = life(&home, async |mesh| {
        let event = parked(mesh).await;
        mesh.stop_consumer().await;
        ask(mesh, event.id).await;
        mesh.close().await;
        event
    });
    dies_of(&home, &event);
    life(&home, async |mesh| {
        mesh.start();
        closed(mesh, event.id).await;
        assert_eq!(violations(mesh).await, [""; 0]);
        mesh.close().await;
    });
}

#[test]
fn a_letter_that_kills_the_process_is_open_again_after_five_lives() {
    let home = home();
    let event = life(&home, async |mesh| {
        let event = parked(mesh).await;
        mesh.stop_consumer().await;
        ask(mesh, event.id).await;
        mesh.close().await;
        event
    });
    for _ in 0..MAX_ATTEMPTS {
        dies_of(&home, &event);
    }
    life(&home, async |mesh| {
        mesh.handler.troubled_by(event.member_id, Trouble::Hangs);
        mesh.start();
        let letter = open_again(mesh, event.id).await;
        assert!(letter.error.contains("died"), "{}", letter.error);
        assert_eq!(letter.attempts, MAX_ATTEMPTS * 2);
        mesh.handler.untroubled();
        ask(mesh, event.id).await;
        closed(mesh, event.id).await;
        assert_eq!(violations(mesh).await, [""; 0]);
        mesh.close().await;
    });
}
