//! What every bus has to do, whichever it is.

use std::{collections::HashSet, sync::Arc, time::Duration};

use couponmesh_messaging::{Bus, Event, bus::Subscription};
use couponmesh_runtime::id::EventId;

use crate::support::{Mesh, TICKED, TICKS};

/// Longer than any bus takes to deliver again what was not acknowledged.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shorter than that: how long what was given back may take.
const SOON: Duration = Duration::from_secs(20);

/// Checks the promises of [`Bus`]. Consumers' names are the contract's own, and `event` makes events that no
/// other test knows, so the bus may be in use and may hold other events.
pub(crate) async fn keeps_its_promises(bus: &Arc<dyn Bus>, event: impl Fn(&str) -> Event) {
    let ticks = |count| (0..count).map(|_| event(TICKED)).collect::<Vec<Event>>();

    // Nothing to publish is no error.
    bus.publish(Vec::new(), 0).await.unwrap();

    // Every consumer gets every event of its types and no other, unchanged, also what came before it did.
    let mut mixed = ticks(3);
    mixed.insert(1, event("couponmesh.test.v1.NotWanted"));
    bus.publish(mixed.clone(), 0).await.unwrap();
    mixed.remove(1);
    let mut first = join(bus, "contract-first").await;
    let mut second = join(bus, "contract-second").await;
    for subscription in [&mut first, &mut second] {
        let mut got = receive(subscription, &mixed, 2).await;
        got.sort_by_key(|event| mixed.iter().position(|known| known.id == event.id));
        assert_eq!(got, mixed);
        subscription.ack().await.unwrap();
    }

    // A consumer that waits is woken.
    let late = ticks(1);
    let (woken, published) =
        tokio::join!(receive(&mut first, &late, 8), bus.publish(late.clone(), 0));
    published.unwrap();
    assert_eq!(woken, late);
    first.ack().await.unwrap();

    // What was delivered and not acknowledged is delivered again to the consumer's next subscription …
    let again = ticks(20);
    bus.publish(again.clone(), 0).await.unwrap();
    receive(&mut first, &again, 8).await;
    drop(first);
    let mut first = join(bus, "contract-first").await;
    receive(&mut first, &again, 8).await;
    first.ack().await.unwrap();
    drop(first);

    // … and what was acknowledged is not: only the news arrive.
    let news = ticks(1);
    bus.publish(news.clone(), 0).await.unwrap();
    let mut first = join(bus, "contract-first").await;
    let delivered = next(&mut first, 8).await;
    assert_eq!(delivered, news);

    // Publishing again is allowed: one or more deliveries, never none.
    let repeated = ticks(2);
    bus.publish(repeated.clone(), 0).await.unwrap();
    bus.publish(repeated.clone(), 0).await.unwrap();
    receive(&mut first, &repeated, 8).await;

    // What was on its way to subscriptions that left, one after another while events came, is delivered soon.
    drop(first);
    let flood = ticks(1_000);
    // All of it within that time, or what nobody gave back might be among it.
    let given_back = tokio::time::timeout(SOON, async {
        come_and_go(bus, "contract-first", flood.clone()).await;
        let mut first = join(bus, "contract-first").await;
        receive(&mut first, &flood, 1_000).await;
        first
    });
    let _first = given_back.await.expect("what was given back comes soon");

    // The other consumer has its own place: it misses nothing of what happened meanwhile.
    let meanwhile: Vec<Event> = [late, again, news, repeated, flood].concat();
    receive(&mut second, &meanwhile, 1_000).await;

    // Waiting may be given up at any time without losing anything.
    second.ack().await.unwrap();
    let unheard = tokio::time::timeout(Duration::from_millis(1), second.next(8));
    let _ = unheard.await;
    let after = ticks(1);
    bus.publish(after.clone(), 0).await.unwrap();
    receive(&mut second, &after, 8).await;
}

/// Subscriptions that leave as soon as something is delivered to them, while `events` are published.
async fn come_and_go(bus: &Arc<dyn Bus>, consumer: &'static str, events: Vec<Event>) {
    let publisher = bus.clone();
    let publishing = tokio::spawn(async move {
        for ten in events.chunks(10) {
            publisher.publish(ten.to_vec(), 0).await.unwrap();
        }
    });
    while !publishing.is_finished() {
        let mut leaving = join(bus, consumer).await;
        let _ = tokio::time::timeout(Duration::from_millis(10), leaving.next(8)).await;
        // A bus that has something at hand lets nobody else run.
        tokio::task::yield_now().await;
    }
    publishing.await.unwrap();
}

async fn join(bus: &Arc<dyn Bus>, consumer: &'static str) -> Box<dyn Subscription> {
    bus.subscribe(consumer, TICKS).await.unwrap()
}

async fn next(subscription: &mut Box<dyn Subscription>, max: usize) -> Vec<Event> {
    let delivered = tokio::time::timeout(PATIENCE, subscription.next(max)).await;
    let delivered = delivered.expect("an event was to come").unwrap();
    assert!((1..=max).contains(&delivered.len()));
    delivered
        .iter()
        .map(|delivery| delivery.as_ref().clone())
        .collect()
}

/// Takes deliveries until every event of `expected` came; returns those, each once.
async fn receive(
    subscription: &mut Box<dyn Subscription>,
    expected: &[Event],
    max: usize,
) -> Vec<Event> {
    let mut missing: HashSet<EventId> = expected.iter().map(|event| event.id).collect();
    let mut got = Vec::new();
    while !missing.is_empty() {
        for event in next(subscription, max).await {
            assert!(TICKS.contains(&event.event_type.as_str()));
            if missing.remove(&event.id) {
                got.push(event);
            }
        }
    }
    got
}

/// The embedded bus, or NATS: whichever the tests run on.
#[tokio::test]
async fn the_bus_keeps_its_promises() {
    let (_home, mesh) = Mesh::new().await;
    let event = |event_type: &str| Event {
        event_type: event_type.to_owned(),
        ..mesh.loose_event()
    };
    keeps_its_promises(&mesh.bus, event).await;
    mesh.close().await;
}
