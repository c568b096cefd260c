//! What every bus has to do, whichever it is.

use std::time::Duration;

use couponmesh_messaging::{
    Event,
    bus::{Delivery, Place, Reading},
};
use futures::StreamExt as _;
use tokio::time::timeout;

use crate::support::{Mesh, TICKED, TICKS, read};

/// Longer than any bus takes for what waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// The next `expected` events, and nothing else; returns where the last one is.
async fn receive(reading: &mut Reading, expected: &[Event]) -> Place {
    let (mut last, mut got) = (None, Vec::new());
    while got.len() < expected.len() {
        let delivery: Delivery = timeout(PATIENCE, reading.next())
            .await
            .expect("an event was to come")
            .unwrap()
            .unwrap();
        let before = last.replace(delivery.place);
        let order = before.map(|place: Place| place.sequence) < Some(delivery.place.sequence);
        assert!(order, "in their order");
        got.extend(delivery.event);
    }
    assert_eq!(got, expected);
    last.unwrap()
}

/// The outboxes, or NATS: whichever the tests run on.
#[tokio::test]
async fn the_bus_keeps_its_promises() {
    let (_home, mesh) = Mesh::new().await;
    let bus = &mesh.bus;
    let event = |event_type: &str| Event {
        event_type: event_type.to_owned(),
        ..mesh.loose_event()
    };
    let ticks = |count| (0..count).map(|_| event(TICKED)).collect::<Vec<Event>>();

    // Every consumer gets every event of its types and no other, unchanged and in order, also what came before it did.
    let mut mixed = ticks(3);
    mixed.insert(1, event("couponmesh.member.v1.NotWanted"));
    mesh.publish(mixed.clone()).await;
    mixed.remove(1);
    let mut first = read(bus, "contract-first", TICKS, 0).await;
    let mut second = read(bus, "contract-second", TICKS, 0).await;
    receive(&mut first, &mixed).await;
    let there = receive(&mut second, &mixed).await;

    // One that waits is woken.
    let late = ticks(1);
    let (place, ()) = tokio::join!(receive(&mut first, &late), mesh.publish(late.clone()));
    // It says what it has, and what it has not.
    let partitions = bus.partitions("contract-first", TICKS).await.unwrap();
    let partition = &partitions[0].name;
    let holds = async |sequence, stamp| {
        let place = Place { sequence, stamp };
        bus.holds(partition, place).await.unwrap()
    };
    assert!(holds(place.sequence, place.stamp).await);
    assert!(!holds(place.sequence, there.stamp).await);
    assert!(!holds(place.sequence + 1, place.stamp).await);

    // A reading begins wherever one wants, as often as one wants, and ends the one before it.
    drop(first);
    for _ in 0..3 {
        let mut again = read(bus, "contract-first", TICKS, there.sequence).await;
        receive(&mut again, &late).await;
    }
    let mut anew = read(bus, "contract-first", TICKS, 0).await;
    receive(&mut anew, &[mixed.clone(), late.clone()].concat()).await;

    // Waiting may be given up at any time without losing anything.
    assert!(
        timeout(Duration::from_millis(1), anew.next())
            .await
            .is_err()
    );
    let many = ticks(1_000);
    let publish = async {
        for ten in many.chunks(10) {
            mesh.publish(ten.to_vec()).await;
        }
    };
    let give_up_again_and_again = async {
        let mut got = Vec::new();
        while got.len() < many.len() {
            if let Ok(next) = timeout(Duration::from_micros(50), anew.next()).await {
                got.extend(next.unwrap().unwrap().event);
            }
            // A bus that has something at hand lets nobody else run.
            tokio::task::yield_now().await;
        }
        got
    };
    let (got, ()) = tokio::join!(give_up_again_and_again, publish);
    assert_eq!(got, many);

    // The other consumer has its own place: it misses nothing of what happened meanwhile.
    receive(&mut second, &[late, many].concat()).await;
    mesh.close().await;
}
