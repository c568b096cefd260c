//! What the bus does on NATS beyond the contract of every bus: its stream, and servers that die.
//!
//! Each test begins with [`server`] or [`mesh`], and ends there where there is no server to be had.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer},
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};
use couponmesh_messaging::{
    Bus as _, Event, Handler as _,
    bus::{NatsBus, NatsConfig, Subscription},
};
use couponmesh_runtime::{
    Clock, Context, CorrelationId, Random,
    id::{EventId, MemberId},
};
use couponmesh_testbed::{Home, Nats, on_servers};

use crate::{
    check::{Counting, violations},
    support::{Mesh, RETENTION, TICKED, TICKS, config, eventually, nats_bus, nats_config},
};

const TOCKED: &str = "couponmesh.test.v1.Tocked";
const TICKS_AND_TOCKS: &[&str] = &[TICKED, TOCKED];

/// A server of the test's own; none when the tests run on files.
fn server() -> Option<Nats> {
    on_servers().then(Nats::start)
}

/// A mesh that runs, and its server; none when the tests run on files.
async fn mesh() -> Option<(Home, Mesh)> {
    if !on_servers() {
        return None;
    }
    let (mut home, mesh) = Mesh::new().await;
    // A server that is killed forgets the last acknowledgements, and waits half a minute for them.
    let events = nats(&mut home).events();
    events.redeliver_soon("consumer", Counting::TYPES).await;
    mesh.start();
    mesh.settle().await;
    Some((home, mesh))
}

fn nats(home: &mut Home) -> &mut Nats {
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
            source: "a test".to_owned(),
            member_id: MemberId(id),
            time: clock.now(),
            context: Context::new(CorrelationId::from(id)),
            payload: vec![7; 1_000],
        }
    };
    std::iter::repeat_with(event).take(count).collect()
}

/// Takes deliveries until there were `count` different events.
pub(crate) async fn read(
    subscription: &mut Box<dyn Subscription>,
    count: usize,
) -> HashSet<EventId> {
    let mut ids = HashSet::new();
    while ids.len() < count {
        let deliveries = subscription.next(count - ids.len()).await.unwrap();
        ids.extend(deliveries.iter().map(|event| event.id));
    }
    ids
}

async fn read_and_ack(bus: &NatsBus, consumer: &'static str, count: usize) {
    let mut subscription = bus.subscribe(consumer, TICKS).await.unwrap();
    read(&mut subscription, count).await;
    subscription.ack().await.unwrap();
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
    let bus = NatsBus::start(&config, &self::config(), "a test", &[]);
    bus.reached().await.unwrap();
    bus.publish(events(TICKED, 1), 0).await.unwrap();
}

#[tokio::test]
async fn stream_and_consumers_are_made_as_the_contract_says() {
    let Some(nats) = server() else { return };
    let bus = nats_bus(&nats).await;
    let _subscription = bus.subscribe("a", TICKS).await.unwrap();

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

    let consumer: PullConsumer = stream.get_consumer("a").await.unwrap();
    let is = consumer.cached_info().config.clone();
    assert_eq!(is.durable_name.as_deref(), Some("a"));
    assert_eq!(is.ack_policy, AckPolicy::Explicit);
    assert_eq!(is.deliver_policy, DeliverPolicy::All);
    assert_eq!(is.max_deliver, -1);
    let filter = is.filter_subjects.iter().chain([&is.filter_subject]);
    assert_eq!(
        filter.filter(|one| !one.is_empty()).collect::<Vec<_>>(),
        TICKS
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
    let mut subscription = bus.subscribe("a", TICKS).await.unwrap();
    assert_eq!(read(&mut subscription, 40).await, ids(&ticks));
    let after = nats.events().stream().await;
    assert_eq!(after.cached_info().config, before.cached_info().config);
    bus.close().await;
}

#[tokio::test]
async fn a_full_stream_refuses_events_and_takes_them_when_there_is_room() {
    let Some(nats) = server() else { return };
    let small = NatsConfig {
        max_bytes: 20_000,
        ..nats_config(&nats)
    };
    let bus = NatsBus::start(&small, &config(), "a test", &["a"]);
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
    let mut subscription = bus.subscribe("a", TICKS).await.unwrap();
    assert_eq!(read(&mut subscription, 10).await, ids(&news));
    bus.close().await;
}

#[tokio::test]
async fn only_events_that_are_old_and_that_every_consumer_is_past_are_deleted() {
    let Some(nats) = server() else { return };
    let bus = NatsBus::start(&nats_config(&nats), &config(), "a test", &["fast", "slow"]);
    bus.reached().await.unwrap();
    bus.publish(events(TICKED, 10), 0).await.unwrap();
    read_and_ack(&bus, "fast", 10).await;
    let clock = Clock::system();
    let delete_before = async |before| bus.delete_before(before, clock.now()).await.unwrap();
    let long_ago = clock.now().minus(RETENTION);

    // "slow" has never come.
    delete_before(clock.now()).await;
    assert_eq!(messages_in(&nats).await, 10);

    // It has done with some, which are young.
    let mut slow = bus.subscribe("slow", TICKS).await.unwrap();
    read(&mut slow, 6).await;
    slow.ack().await.unwrap();
    drop(slow);
    delete_before(long_ago).await;
    assert_eq!(messages_in(&nats).await, 10);
    eventually("the first six are deleted", async || {
        delete_before(clock.now()).await;
        messages_in(&nats).await == 4
    })
    .await;

    // What is left is still delivered, and goes when that is done with.
    read_and_ack(&bus, "slow", 4).await;
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
    let subject = "couponmesh.member.v1.MemberRegistered";
    let published = js.publish(subject, "by hand".into()).await.unwrap();
    published.await.unwrap();
    mesh.settle().await;
    // Once more from the beginning.
    mesh.stop_consumer().await;
    nats.events().forget_consumers().await;
    mesh.start_consumer();
    mesh.settle().await;
    let letters = mesh.dead_letters().await;
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

#[tokio::test]
async fn what_a_dead_replica_did_not_acknowledge_goes_to_another() {
    let Some(nats) = server() else { return };
    let (dead, alive) = (nats_bus(&nats).await, nats_bus(&nats).await);
    nats.events().redeliver_soon("a", TICKS).await;
    let ticks = events(TICKED, 20);
    dead.publish(ticks.clone(), 0).await.unwrap();
    let mut subscription = dead.subscribe("a", TICKS).await.unwrap();
    read(&mut subscription, 20).await;
    // It neither acknowledges them nor gives them back.
    std::mem::forget(subscription);
    let mut subscription = alive.subscribe("a", TICKS).await.unwrap();
    assert_eq!(read(&mut subscription, 20).await, ids(&ticks));
    alive.close().await;
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
    let mut subscription = bus.subscribe("a", TICKS).await.unwrap();
    assert_eq!(read(&mut subscription, 40).await, ids(&all));
    assert_eq!(messages_in(&nats).await, 40, "known ones are dropped");
    bus.close().await;
}

#[tokio::test]
async fn deliveries_come_as_full_batches_while_more_wait() {
    // Not what the bus asks the server for at once, so that each takes more than one request.
    const BATCH: usize = 100;
    let Some(nats) = server() else { return };
    let bus = nats_bus(&nats).await;
    let ticks = events(TICKED, BATCH * 40);
    for some in ticks.chunks(500) {
        bus.publish(some.to_vec(), 0).await.unwrap();
    }
    let mut subscription = bus.subscribe("a", TICKS).await.unwrap();
    let (mut read, mut batches) = (HashSet::new(), 0);
    while read.len() < ticks.len() {
        let deliveries = subscription.next(BATCH).await.unwrap();
        read.extend(deliveries.iter().map(|event| event.id));
        subscription.ack().await.unwrap();
        batches += 1;
    }
    assert_eq!(read, ids(&ticks));
    // A server that is slow for a moment ends one before it is full.
    assert!((40..55).contains(&batches), "{batches} batches");
    bus.close().await;
}

#[tokio::test]
async fn all_that_came_one_by_one_meanwhile_is_one_batch() {
    // More than a task of tokio may receive in one turn.
    const COUNT: usize = 200;
    let Some(nats) = server() else { return };
    let bus = nats_bus(&nats).await;
    let mut config = config();
    config.batch = COUNT * 2;
    let consumer = NatsBus::start(&nats_config(&nats), &config, "a consumer", &[]);
    consumer.reached().await.unwrap();
    let mut subscription = consumer.subscribe("a", TICKS).await.unwrap();
    // A request to the server that ends while they come cuts the batch; it does not do so every time.
    let mut batches = Vec::new();
    while batches.len() < 10 && !batches.contains(&COUNT) {
        bus.publish(events(TICKED, 1), 0).await.unwrap();
        read(&mut subscription, 1).await;
        for tick in events(TICKED, COUNT) {
            bus.publish(vec![tick], 0).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let batch = subscription.next(COUNT).await.unwrap().len();
        if batch < COUNT {
            read(&mut subscription, COUNT - batch).await;
        }
        subscription.ack().await.unwrap();
        batches.push(batch);
    }
    assert!(batches.contains(&COUNT), "batches of {batches:?}");
    consumer.close().await;
    bus.close().await;
}

#[tokio::test]
async fn types_that_a_replica_does_not_know_are_left_to_those_who_do() {
    let Some(nats) = server() else { return };
    let (older, newer) = (nats_bus(&nats).await, nats_bus(&nats).await);
    let mut knows_ticks = older.subscribe("a", TICKS).await.unwrap();
    let heard_by_older = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = heard_by_older.clone();
    tokio::spawn(async move {
        while let Ok(deliveries) = knows_ticks.next(64).await {
            heard.lock().unwrap().extend(deliveries);
            knows_ticks.ack().await.unwrap();
        }
    });
    let mut knows_both = newer.subscribe("a", TICKS_AND_TOCKS).await.unwrap();
    let tocks = events(TOCKED, 40);
    newer.publish(tocks.clone(), 0).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(60), read(&mut knows_both, 40)).await;
    assert_eq!(read.unwrap(), ids(&tocks));
    knows_both.ack().await.unwrap();
    // An older one that comes back does not narrow it.
    drop(older.subscribe("a", TICKS).await.unwrap());
    let consumer: PullConsumer = nats
        .events()
        .stream()
        .await
        .get_consumer("a")
        .await
        .unwrap();
    assert_eq!(consumer.cached_info().config.filter_subjects.len(), 2);
    let heard = heard_by_older.lock().unwrap().clone();
    assert!(heard.iter().all(|event| event.event_type == TICKED));
    newer.close().await;
    older.close().await;
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
    let refused = mesh.bus.publish(events(TICKED, 1), 0).await;
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
    eventually("all are handled", async || {
        violations(&mesh).await.is_empty()
    })
    .await;
    mesh.settle().await;
    assert!(messages_in(nats(&mut home)).await > 41);
    mesh.close().await;
}
