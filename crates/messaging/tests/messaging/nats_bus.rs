//! What the bus does on NATS beyond the contract of every bus: its stream, and servers that die.
//!
//! Each test begins with [`server`] or [`mesh`], and ends there where there is no server to be had.

use std::{collections::HashSet, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, PullConsumer},
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};
use couponmesh_messaging::{
    Bus as _, Event,
    bus::{NatsBus, NatsConfig, Place, Publisher as _},
    consume::positions,
};
use couponmesh_runtime::{
    Clock, Context, CorrelationId, Random,
    id::{EventId, MemberId},
};
use couponmesh_testbed::{Home, Nats, on_servers};
use futures::StreamExt as _;

use crate::{
    check::{violations, violations_of},
    support::{Mesh, RETENTION, TICKED, TICKS, eventually, nats_bus, nats_config, start_bus},
};

/// A server of the test's own; none when the tests run on files.
fn server() -> Option<Nats> {
    on_servers().then(Nats::start)
}

/// A mesh that runs, and its server; none when the tests run on files.
async fn mesh() -> Option<(Home, Mesh)> {
    if !on_servers() {
        return None;
    }
    let (home, mesh) = Mesh::new().await;
    mesh.start();
    mesh.settle().await;
    Some((home, mesh))
}

pub(crate) fn nats(home: &mut Home) -> &mut Nats {
    match home {
        Home::Servers { nats, .. } => nats,
        Home::Files(_) => panic!("files have no server"),
    }
}

pub(crate) fn events(event_type: &str, count: usize) -> Vec<Event> {
    let (clock, random) = (Clock::system(), Random::from_os());
    let event = || {
        let id = random.uuid_v7(clock.now());
        Event {
            id: EventId(id),
            event_type: event_type.to_owned(),
            source: "member".to_owned(),
            member_id: MemberId(id),
            time: clock.now(),
            context: Context::new(CorrelationId::from(id)),
            payload: vec![7; 1_000],
        }
    };
    std::iter::repeat_with(event).take(count).collect()
}

/// The next `count` events after position `after`, of which the bus is told where that is wanted.
async fn read(
    bus: &NatsBus,
    consumer: &'static str,
    after: i64,
    count: usize,
    passes: bool,
) -> HashSet<EventId> {
    let mut reading = bus.read(consumer, "0", TICKS, after).await.unwrap();
    let mut ids = HashSet::new();
    while ids.len() < count {
        let delivery = reading.next().await.unwrap().unwrap();
        ids.extend(delivery.event.map(|event| event.id));
        if passes {
            bus.passed(delivery.receipt.into_iter().collect()).await;
        }
    }
    ids
}

pub(crate) fn ids(events: &[Event]) -> HashSet<EventId> {
    events.iter().map(|event| event.id).collect()
}

async fn messages_in(nats: &Nats) -> usize {
    nats.events().messages().await.len()
}

#[tokio::test]
async fn the_url_may_bring_user_name_and_password() {
    if !on_servers() {
        return;
    }
    let nats = Nats::start_guarded("coupon mesh", "p@ss/w:rd%");
    let mut config = nats_config(&nats);
    let login = "nats://coupon%20mesh:p%40ss%2Fw%3Ard%25@";
    config.url = config.url.replace("nats://", login);
    let bus = start_bus(&config, &[]);
    bus.reached().await.unwrap();
    bus.publish(events(TICKED, 1), 0).await.unwrap();
}

#[tokio::test]
async fn stream_and_consumers_are_made_as_the_contract_says() {
    let Some(nats) = server() else { return };
    let bus = nats_bus(&nats).await;
    let _reading = bus.read("a", "0", TICKS, 0).await.unwrap();

    let stream = nats.events().stream().await;
    let is = stream.cached_info().config.clone();
    assert_eq!(is.subjects, ["couponmesh.>"]);
    assert_eq!(is.retention, RetentionPolicy::Limits);
    assert_eq!(is.storage, StorageType::File);
    assert_eq!(is.discard, DiscardPolicy::New);
    assert_eq!(is.max_age, Duration::ZERO);
    assert_eq!(is.max_messages, -1);
    assert_eq!(is.max_bytes, nats_config(&nats).max_bytes);
    assert_eq!(is.num_replicas, 1);
    assert_eq!(is.duplicate_window, Duration::from_secs(120));

    let consumer: PullConsumer = stream.get_consumer("a-0").await.unwrap();
    let is = consumer.cached_info().config.clone();
    assert_eq!(is.durable_name.as_deref(), Some("a-0"));
    assert_eq!(is.ack_policy, AckPolicy::All);
    assert_eq!(is.max_deliver, -1);
    let filter = is.filter_subjects.iter().chain([&is.filter_subject]);
    assert_eq!(
        filter.filter(|one| !one.is_empty()).collect::<Vec<_>>(),
        [&format!("couponmesh.0.{TICKED}")]
    );
    bus.close().await;
}

#[tokio::test]
async fn a_stream_that_is_set_up_otherwise_is_used_and_left_as_it_is() {
    let Some(nats) = server() else { return };
    let others = Config {
        name: "COUPONMESH".to_owned(),
        subjects: vec!["couponmesh.>".to_owned()],
        max_bytes: 1_000_000,
        max_age: Duration::from_secs(3_600),
        ..Config::default()
    };
    let js = jetstream::new(nats.events().client().await);
    let before = js.create_stream(others).await.unwrap();
    let bus = nats_bus(&nats).await;
    // As many as are published as a batch where the stream takes them; this one does not.
    let ticks = events(TICKED, 40);
    bus.publish(ticks.clone(), 0).await.unwrap();
    assert_eq!(read(&bus, "a", 0, 40, false).await, ids(&ticks));
    let after = nats.events().stream().await;
    let mut after = after.cached_info().config.clone();
    // But for how it is divided.
    after
        .metadata
        .retain(|name, _| !name.starts_with("couponmesh-"));
    let mut before = before.cached_info().config.clone();
    before.metadata.clone_from(&after.metadata);
    assert_eq!(after, before);
    bus.close().await;
}

#[tokio::test]
async fn a_full_stream_refuses_events_and_takes_them_when_there_is_room() {
    let Some(nats) = server() else { return };
    let small = NatsConfig {
        max_bytes: 20_000,
        ..nats_config(&nats)
    };
    let bus = start_bus(&small, &["a"]);
    bus.reached().await.unwrap();
    let first = events(TICKED, 10);
    bus.publish(first.clone(), 0).await.unwrap();
    // One by one, and as a batch.
    for too_many in [5, 40] {
        let mut refused = None;
        for _ in 0..5 {
            refused = bus.publish(events(TICKED, too_many), 0).await.err();
        }
        let refused = refused.unwrap().to_string();
        assert!(refused.contains("maximum bytes"), "{refused}");
    }
    // Nothing was pushed out.
    let kept = nats.events().messages().await;
    assert_eq!(
        kept[0].header("ce-id"),
        Some(first[0].id.to_string().as_str())
    );

    nats.events().stream().await.purge().await.unwrap();
    let news = events(TICKED, 10);
    bus.publish(news.clone(), 0).await.unwrap();
    assert_eq!(read(&bus, "a", 0, 10, false).await, ids(&news));
    bus.close().await;
}

#[tokio::test]
async fn only_events_that_are_old_and_that_every_consumer_is_past_are_deleted() {
    let Some(nats) = server() else { return };
    let bus = start_bus(&nats_config(&nats), &["fast", "slow"]);
    bus.reached().await.unwrap();
    bus.publish(events(TICKED, 10), 0).await.unwrap();
    read(&bus, "fast", 0, 10, true).await;
    let clock = Clock::system();
    let delete_before = async |before| bus.delete_before(before, clock.now()).await.unwrap();
    let long_ago = clock.now().minus(RETENTION);

    // "slow" has never come.
    delete_before(clock.now()).await;
    assert_eq!(messages_in(&nats).await, 10);

    // It has done with some, which are young.
    read(&bus, "slow", 0, 6, true).await;
    delete_before(long_ago).await;
    assert_eq!(messages_in(&nats).await, 10);
    eventually("the first six are deleted", async || {
        delete_before(clock.now()).await;
        messages_in(&nats).await == 4
    })
    .await;

    // What is left is still delivered, and goes when that is done with.
    read(&bus, "slow", 6, 4, true).await;
    // Not by a clock that is not the server's.
    let wrong = clock.now().plus(Duration::from_secs(2 * 3_600));
    bus.delete_before(wrong, wrong).await.unwrap();
    assert_eq!(messages_in(&nats).await, 4);
    eventually("all are deleted", async || {
        delete_before(clock.now()).await;
        messages_in(&nats).await == 0
    })
    .await;
    bus.close().await;
}

#[tokio::test]
async fn a_message_without_an_envelope_is_parked_once() {
    let Some((mut home, mesh)) = mesh().await else {
        return;
    };
    let nats = nats(&mut home);
    let js = jetstream::new(nats.events().client().await);
    let subject = "couponmesh.0.couponmesh.member.v1.MemberRegistered";
    let published = js.publish(subject, "by hand".into()).await.unwrap();
    published.await.unwrap();
    mesh.settle().await;
    // It is the last one when the next reader looks whether the bus has lost something.
    let published = js.publish(subject, "once more".into()).await.unwrap();
    let sequence = i64::try_from(published.await.unwrap().sequence).unwrap();
    eventually("it is parked", async || {
        mesh.dead_letters().await.len() == 2
    })
    .await;
    let positions = positions::list(mesh.consumer.read()).await.unwrap();
    assert_eq!(positions[0].sequence, sequence);
    let place = Place {
        sequence,
        stamp: positions[0].stamp.unwrap(),
    };
    assert!(mesh.bus.holds("0", place).await.unwrap());
    mesh.settle().await;
    let mut letters = mesh.dead_letters().await;
    letters.sort_by_key(|letter| letter.event_time);
    letters.retain(|letter| letter.payload == b"by hand");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(
        letters[0]
            .event_type
            .starts_with(&format!("unreadable:{subject} (message "))
    );
    assert_eq!(letters[0].payload, b"by hand");
    assert_eq!(violations(&mesh).await, [""; 0]);
    mesh.close().await;
}

/// As happens when a replica has lost its turn and does not know it.
#[tokio::test]
async fn a_reading_ends_when_another_reads_the_same_partition() {
    let Some(nats) = server() else { return };
    let (one, two) = (nats_bus(&nats).await, nats_bus(&nats).await);
    let ticks = events(TICKED, 20);
    one.publish(ticks.clone(), 0).await.unwrap();
    let mut reading = one.read("a", "0", TICKS, 0).await.unwrap();
    for tick in &ticks[..10] {
        let delivery = reading.next().await.unwrap().unwrap();
        assert_eq!(delivery.event.unwrap().id, tick.id);
    }
    assert_eq!(read(&two, "a", 5, 15, true).await, ids(&ticks[5..]));
    one.publish(events(TICKED, 300), 0).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        // What it was sent before still comes, in order.
        while let Some(Ok(_)) = reading.next().await {}
        reading.next().await
    });
    assert!(ended.await.unwrap().is_none());
    two.close().await;
    one.close().await;
}

#[tokio::test]
async fn a_stream_of_a_newer_release_is_left_alone_and_named() {
    let Some(nats) = server() else { return };
    let newer = Config {
        name: "COUPONMESH".to_owned(),
        subjects: vec!["couponmesh.>".to_owned()],
        metadata: [("couponmesh-layout", "3"), ("couponmesh-partitions", "8")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Config::default()
    };
    let js = jetstream::new(nats.events().client().await);
    js.create_stream(newer).await.unwrap();
    let bus = start_bus(&nats_config(&nats), &[]);
    let refused = async || {
        bus.publish(events(TICKED, 1), 0)
            .await
            .unwrap_err()
            .to_string()
    };
    eventually("it is named", async || {
        refused()
            .await
            .contains("has layout 3 with 8 partitions, and this release knows layout 2")
    })
    .await;
    bus.close().await;
}

#[tokio::test]
async fn events_that_are_published_together_with_known_ones_all_arrive() {
    let Some(nats) = server() else { return };
    let bus = nats_bus(&nats).await;
    let known = events(TICKED, 20);
    bus.publish(known.clone(), 0).await.unwrap();
    // As a relay does that died before it marked them; enough of them for a batch.
    let all: Vec<Event> = [known, events(TICKED, 20)].concat();
    bus.publish(all.clone(), 0).await.unwrap();
    assert_eq!(read(&bus, "a", 0, 40, false).await, ids(&all));
    assert_eq!(messages_in(&nats).await, 40, "known ones are dropped");
    bus.close().await;
}

#[tokio::test]
async fn a_server_that_is_killed_keeps_its_events_and_everyone_goes_on_when_it_is_back() {
    let Some((mut home, mesh)) = mesh().await else {
        return;
    };
    let nats = nats(&mut home);
    mesh.stop_consumer().await;
    mesh.register(20).await.unwrap();
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    nats.kill();
    let publisher = mesh.bus.publisher().unwrap();
    let refused = publisher.publish(events(TICKED, 1), 0).await;
    assert!(refused.is_err(), "published at nobody");
    // Neither the member nor its event waits for the bus.
    mesh.register(20).await.unwrap();
    mesh.start_consumer();
    nats.restart();
    mesh.settle().await;
    assert_eq!(violations(&mesh).await, [""; 0]);
    assert_eq!(mesh.dead_letters().await, []);
    mesh.close().await;
}

#[tokio::test]
async fn a_stream_that_is_lost_while_all_run_is_made_anew_and_filled_again() {
    let Some((mut home, mesh)) = mesh().await else {
        return;
    };
    mesh.register(20).await.unwrap();
    mesh.settle().await;
    mesh.stop_consumer().await;
    mesh.register(20).await.unwrap();
    eventually("all is published", async || mesh.outbox().await.1 == 0).await;
    home.lose_bus();
    mesh.start_consumer();
    // The first ones once more.
    eventually("all are handled", async || {
        violations_of(&mesh, 1..=2).await.is_empty()
    })
    .await;
    mesh.settle().await;
    assert!(messages_in(nats(&mut home)).await > 41);
    mesh.close().await;
}
