//! Poison is parked, outages are waited out, and neither touches its neighbours.

use couponmesh_messaging::Event;
use couponmesh_runtime::id::MemberId;

use crate::{
    check::{Trouble, violations},
    support::{MAX_ATTEMPTS, Mesh, eventually},
};

/// A mesh with a batch of events waiting on the bus, and the consumer not yet started.
async fn waiting(mesh: &Mesh, count: usize) -> Vec<Event> {
    mesh.start_relay();
    mesh.register(count).await.unwrap();
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    let log = mesh.log().await;
    assert_eq!(log.len(), count);
    log
}

/// Everyone but `parked` is counted once.
async fn assert_only_parked(mesh: &Mesh, parked: MemberId) {
    assert_eq!(violations(mesh).await, [format!("{parked} is lost")]);
}

#[tokio::test]
async fn an_event_whose_handler_fails_is_parked_after_five_attempts_and_its_neighbours_are_handled()
{
    for (trouble, error) in [
        (Trouble::Fails, "the handler's own fault"),
        (Trouble::Panics, "the handler panicked"),
    ] {
        let (_home, mesh) = Mesh::new().await;
        let events = waiting(&mesh, 21).await;
        let poison = &events[10];
        mesh.handler.troubled_by(poison.member_id, trouble);
        mesh.start_consumer();
        mesh.settle().await;

        let letters = mesh.dead_letters().await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        let letter = &letters[0];
        assert_eq!(letter.event_id, poison.id);
        assert_eq!(letter.attempts, MAX_ATTEMPTS);
        assert!(letter.error.contains(error), "{}", letter.error);
        assert_eq!(letter.payload, poison.payload);
        assert_only_parked(&mesh, poison.member_id).await;
        // Counted before the handler ran: each time it saw the attempt that it was itself.
        let seen = mesh.handler.attempts_at(poison.id);
        assert_eq!(seen[seen.len() - 5..], [1, 2, 3, 4, 5], "{seen:?}");
        mesh.close().await;
    }
}

#[tokio::test]
async fn an_event_that_fails_while_the_consumer_is_in_full_swing_is_parked_the_same() {
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.settle().await;
    // Not the first batch: attempts are counted only once something failed.
    let mut events: Vec<Event> = (0..9).map(|_| mesh.loose_event()).collect();
    let poison = events[4].clone();
    mesh.handler.troubled_by(poison.member_id, Trouble::Fails);
    mesh.publish(events.clone()).await;
    mesh.settle().await;
    let letters = mesh.dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].event_id, letters[0].attempts), (poison.id, 5));
    assert_eq!(
        mesh.handler.attempts_at(poison.id),
        [0, 1, 2, 3, 4, 5],
        "once with its batch, then alone"
    );
    events.remove(4);
    for event in events {
        let count = mesh.handler.count_of(&mesh.consumer, event.member_id).await;
        assert_eq!(count, 1);
    }
    mesh.close().await;
}

#[tokio::test]
async fn what_cannot_be_understood_is_parked_at_once() {
    let (_home, mesh) = Mesh::new().await;
    mesh.start();
    let undecodable = Event {
        payload: b"\xff no message".to_vec(),
        ..mesh.loose_event()
    };
    let unknown = Event {
        event_type: "couponmesh.member.v1.NotKnownHere".to_owned(),
        ..mesh.loose_event()
    };
    mesh.register(3).await.unwrap();
    let poison = vec![undecodable.clone(), unknown.clone()];
    mesh.publish(poison).await;
    mesh.register(3).await.unwrap();
    mesh.settle().await;
    let mut letters = mesh.dead_letters().await;
    letters.sort_by_key(|letter| letter.event_type.clone());
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert_eq!(
        (letters[0].event_id, letters[0].attempts),
        (undecodable.id, 1)
    );
    assert!(letters[0].error.contains("cannot be understood"));
    assert_eq!((letters[1].event_id, letters[1].attempts), (unknown.id, 1));
    assert!(letters[1].error.contains("no handler"));
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

#[tokio::test]
async fn parking_itself_waits_out_an_outage() {
    let (_home, mesh) = Mesh::new().await;
    for point in ["begin", "commit", "committed"] {
        let point = format!("consumer.park:{point}");
        mesh.consumer.faults().arm(&point, 1);
    }
    mesh.start();
    let undecodable = Event {
        payload: b"\xff no message".to_vec(),
        ..mesh.loose_event()
    };
    mesh.publish(vec![undecodable.clone()]).await;
    mesh.settle().await;
    assert!(mesh.consumer.faults().spent());
    let letters = mesh.dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    mesh.close().await;
}

#[tokio::test]
async fn an_outage_is_waited_out_and_parks_nothing() {
    let points = [
        "consumer:begin",
        "consumer:commit",
        "consumer:committed",
        "consumer.count:commit",
    ];
    let outages = points.map(async |point| {
        let (_home, mesh) = Mesh::new().await;
        // Longer than any event of its own fault would be tried; what is committed is not tried again.
        let times = if point.ends_with("committed") { 1 } else { 6 };
        mesh.consumer.faults().arm(point, times);
        mesh.start();
        mesh.register(20).await.unwrap();
        mesh.settle().await;
        eventually(point, async || mesh.consumer.faults().spent()).await;
        assert_eq!(violations(&mesh).await, [""; 0], "{point}");
        assert_eq!(mesh.dead_letters().await, [], "{point}");
        mesh.close().await;
    });
    futures::future::join_all(outages).await;
}

#[tokio::test]
async fn an_outage_that_outlasts_many_restarts_parks_nothing() {
    let (_home, mesh) = Mesh::new().await;
    mesh.start_relay();
    mesh.register(20).await.unwrap();
    for _ in 0..7 {
        mesh.consumer.faults().arm("consumer:commit", 3);
        mesh.start_consumer();
        eventually("it failed three times", async || {
            mesh.consumer.faults().spent()
        })
        .await;
        // Armed again at once, so that the life ends before it succeeds.
        mesh.consumer.faults().arm("consumer:commit", u32::MAX);
        mesh.stop_consumer().await;
    }
    mesh.consumer.faults().arm("consumer:commit", 0);
    mesh.start_consumer();
    mesh.settle().await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    assert_eq!(mesh.dead_letters().await, []);
    mesh.close().await;
}
