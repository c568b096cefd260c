//! A publishing and a consuming service on one bus, in a home of their own.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use couponmesh_messaging::{
    Bus, Event, Handler as _, MessagingConfig, Store,
    bus::{NatsBus, NatsConfig, Outboxes, Reading, Role, Service},
    checkpoint, dead_letter,
    migrations::{bring_up, migrations},
    outbox,
};
use couponmesh_proto::member::v1::{MemberRegistered, MemberSnapshot};
use couponmesh_runtime::{
    Clock, Context, CorrelationId, Random,
    fault::Faults,
    id::{EventId, MemberId},
    running::Running,
};
use couponmesh_testbed::{Events, Home, Nats};
use futures::StreamExt as _;
use prost::{Message as _, Name as _};
use sea_orm::{DbErr, EntityTrait as _, QueryOrder as _};
use sea_orm_migration::{MigratorTrait, prelude::*};
use uuid::Uuid;

use crate::check::{Counting, CreateTables, Idle, Trouble};

/// Attempts at an event before it is parked.
pub(crate) const MAX_ATTEMPTS: i32 = 5;
pub(crate) const RETENTION: Duration = Duration::from_secs(7 * 86_400);
const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `done`; a test that waits in vain says what for.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let end = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut migrations = migrations();
        migrations.push(Box::new(CreateTables));
        migrations
    }
}

/// Reads the one partition that buses have here.
pub(crate) async fn read(
    bus: &Arc<dyn Bus>,
    consumer: &'static str,
    types: &'static [&'static str],
    after: i64,
) -> Reading {
    let partitions = bus.partitions(consumer, types).await.unwrap();
    assert_eq!(partitions.len(), 1, "{partitions:?}");
    let name = &partitions[0].name;
    bus.read(consumer, name, types, after).await.unwrap()
}

/// One run of both services; their home outlives it.
pub(crate) struct Mesh {
    pub(crate) bus: Arc<dyn Bus>,
    server: Option<Server>,
    pub(crate) publisher: Store,
    pub(crate) consumer: Store,
    pub(crate) handler: Counting,
    relaying: Running,
    consuming: Mutex<Running>,
}

/// The server's bus, to be closed and looked into; none where the outboxes are the bus.
struct Server {
    bus: NatsBus,
    events: Events,
}

/// A replica's bus that has found the stream, or made it.
pub(crate) async fn nats_bus(nats: &Nats) -> NatsBus {
    let bus = start_bus(&nats_config(nats), &["consumer"]);
    bus.reached().await.unwrap();
    bus
}

/// A bus of the service member, which keeps the stream; the same database's each time.
pub(crate) fn start_bus(config: &NatsConfig, consumers: &'static [&'static str]) -> NatsBus {
    let bus = NatsBus::start(config, &self::config(), role("member", consumers), "a test");
    bus.serve(Uuid::from_u128(1));
    bus
}

/// What a service is on the bus. Member keeps the stream.
pub(crate) fn role(service: &'static str, consumers: &'static [&'static str]) -> Role {
    Role {
        service,
        keeps: service == "member",
        consumers,
    }
}

pub(crate) fn nats_config(nats: &Nats) -> NatsConfig {
    nats_config_at(nats.url())
}

pub(crate) fn nats_config_at(url: String) -> NatsConfig {
    NatsConfig {
        insecure: false,
        url,
        prefix: "couponmesh".to_owned(),
        registrations_per_day: 0,
        credentials_file: Default::default(),
        tls_ca_file: Default::default(),
        max_bytes: 64 * 1_024 * 1_024,
        replicas: 1,
        start_timeout: PATIENCE,
    }
}

impl Mesh {
    /// A mesh in a new home.
    pub(crate) async fn new() -> (Home, Self) {
        let home = new_home().await;
        let mesh = Self::open(&home).await;
        (home, mesh)
    }

    /// A mesh on what a run before it left in `home`. Nothing moves until it is started.
    pub(crate) async fn open(home: &Home) -> Self {
        let (publisher, consumer) = (store("member", home).await, store("consumer", home).await);
        let handler = Counting::default();
        handler.looks_into(&consumer);
        let (bus, server): (Arc<dyn Bus>, _) = match home {
            Home::Files(_) => {
                let service = |store: &Store, types| Service {
                    store: store.clone(),
                    types,
                };
                let publisher = service(&publisher, Idle::TYPES);
                let consumer = service(&consumer, Counting::TYPES);
                (Arc::new(Outboxes::new(vec![publisher, consumer])), None)
            }
            Home::Servers { nats, .. } => {
                let bus = nats_bus(nats).await;
                let events = nats.events();
                (Arc::new(bus.clone()), Some(Server { bus, events }))
            }
        };
        Self {
            bus,
            server,
            publisher,
            consumer,
            handler,
            relaying: Running::new(),
            consuming: Mutex::new(Running::new()),
        }
    }

    pub(crate) fn start_relay(&self) {
        couponmesh_messaging::start(&self.publisher, &self.bus, Idle, &config(), &self.relaying);
    }

    pub(crate) fn start_consumer(&self) {
        let running = Running::new();
        couponmesh_messaging::start(
            &self.consumer,
            &self.bus,
            self.handler.clone(),
            &config(),
            &running,
        );
        *self.consuming.lock().unwrap() = running;
    }

    /// A second replica of the consumer on the same database, with the same handler.
    pub(crate) fn start_another_consumer(&self) -> Running {
        self.start_consumer_on(&self.consumer)
    }

    /// The publisher's store as another replica has it, with a clock of its own.
    pub(crate) fn publisher_as(&self, replica: Uuid, clock: &Clock) -> Store {
        let (database, random) = (self.publisher.database(), self.publisher.random());
        Store::new(
            "member",
            replica,
            database.clone(),
            clock.clone(),
            random.clone(),
            Faults::none(),
        )
    }

    /// A replica of the consumer under an id of its own, and with faults of its own.
    pub(crate) fn start_replica(&self, faults: Faults) -> Running {
        let (clock, random) = (Clock::system(), Random::from_os());
        let (replica, database) = (self.consumer.new_id(), self.consumer.database().clone());
        let store = Store::new("consumer", replica, database, clock, random, faults);
        self.start_consumer_on(&store)
    }

    fn start_consumer_on(&self, store: &Store) -> Running {
        let running = Running::new();
        couponmesh_messaging::start(store, &self.bus, self.handler.clone(), &config(), &running);
        running
    }

    pub(crate) async fn stop_consumer(&self) {
        let running = self.consuming.lock().unwrap().clone();
        running.stop().await;
    }

    pub(crate) fn start(&self) {
        self.start_relay();
        self.start_consumer();
    }

    /// Stops both.
    pub(crate) async fn stop(&self) {
        self.relaying.stop().await;
        self.stop_consumer().await;
    }

    /// Stops both and closes what they had open.
    pub(crate) async fn close(&self) {
        self.stop().await;
        if let Some(server) = &self.server {
            server.bus.close().await;
        }
        self.publisher.database().close().await.unwrap();
        self.consumer.database().close().await.unwrap();
    }

    /// Registers `count` members in one transaction: a row and an event each.
    pub(crate) async fn register(&self, count: usize) -> Result<Vec<MemberId>, DbErr> {
        let tx = self.publisher.begin("register").await?;
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            let member_id = MemberId(tx.new_id());
            crate::check::insert_fact(&tx, member_id).await?;
            tx.append(&context(), member_id, &registered(member_id));
            members.push(member_id);
        }
        tx.commit().await?;
        Ok(members)
    }

    /// Registers a member whose event gives the handler trouble until it is parked.
    pub(crate) async fn register_one_troubled(&self, trouble: Trouble) -> MemberId {
        let tx = self.publisher.begin("register").await.unwrap();
        let member_id = MemberId(tx.new_id());
        self.handler.troubled_by(member_id, trouble);
        crate::check::insert_fact(&tx, member_id).await.unwrap();
        tx.append(&context(), member_id, &registered(member_id));
        tx.commit().await.unwrap();
        member_id
    }

    /// Starts everything, and parks one event.
    pub(crate) async fn register_troubled_and_parked(&self) -> EventId {
        self.start();
        let member_id = self.register_one_troubled(Trouble::Fails).await;
        self.settle().await;
        let letters = self.dead_letters().await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(letters[0].member_id, member_id);
        letters[0].event_id
    }

    /// An event about a new member that no publisher stored: for the bus itself.
    pub(crate) fn loose_event(&self) -> Event {
        let member_id = MemberId(self.publisher.new_id());
        Event {
            id: EventId(self.publisher.new_id()),
            event_type: MemberRegistered::full_name(),
            source: "member".to_owned(),
            member_id,
            time: self.publisher.now(),
            context: context(),
            payload: registered(member_id).encode_to_vec(),
        }
    }

    /// Publishes events that no transaction of the publisher's made.
    pub(crate) async fn publish(&self, events: Vec<Event>) {
        match self.bus.publisher() {
            Some(publisher) => drop(publisher.publish(events, 0).await.unwrap()),
            None => {
                let tx = self.publisher.begin("test").await.unwrap();
                tx.append_all(events);
                tx.commit().await.unwrap();
            }
        }
    }

    /// Every registration that the bus keeps, in its order, repeats included.
    pub(crate) async fn log(&self) -> Vec<Event> {
        if self.server.is_none() {
            let rows = outbox::Entity::find().order_by_asc(outbox::Column::Seq);
            let rows = rows.all(self.publisher.read()).await.unwrap();
            let events = rows.into_iter().map(|row| row.into_event("member"));
            return events
                .filter(|event| event.event_type == REGISTERED)
                .collect();
        }
        let end = Event {
            event_type: END.to_owned(),
            ..self.loose_event()
        };
        self.publish(vec![end.clone()]).await;
        let reader: &'static str = format!("reader-{}", end.id).leak();
        let mut reading = read(&self.bus, reader, REGISTERED_OR_END, 0).await;
        let mut log = Vec::new();
        loop {
            let delivery = reading.next().await.unwrap().unwrap();
            // A server delivers only so many that wait for this.
            self.bus
                .passed(delivery.receipt.into_iter().collect())
                .await;
            match delivery.event {
                Some(event) if event.id == end.id => return log,
                Some(event) if event.event_type != END => log.push(event),
                _ => {}
            }
        }
    }

    /// Lets every consumer get `events`, which were published before, once more.
    pub(crate) async fn deliver_again(&self, events: Vec<Event>) {
        match &self.server {
            None => self.publish(events).await,
            // Published as it was, the server would drop it as known: it comes under another message id.
            Some(server) => {
                let ids: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
                server.events.repeat(&ids).await;
            }
        }
    }

    /// Waits until everything that was registered or published before is dealt with.
    pub(crate) async fn settle(&self) {
        let last = loop {
            // A fault that a test armed may hit this one.
            if let Ok(last) = self.register(1).await {
                break last[0];
            }
        };
        // Outbox and bus keep the order, so a last member comes last …
        eventually("the last event is handled", async || {
            self.handler.count_of(&self.consumer, last).await > 0
        })
        .await;
        // … but for what NATS delivers again.
        if let Some(server) = &self.server {
            eventually("nothing is delivered any more", async || {
                server.events.is_done("consumer-0").await
            })
            .await;
        }
    }

    pub(crate) async fn dead_letters(&self) -> Vec<dead_letter::Model> {
        let letters = dead_letter::Entity::find();
        letters.all(self.consumer.read()).await.unwrap()
    }

    /// What the outbox holds: events, and how many of them are above the relay's checkpoint, where there is a relay.
    pub(crate) async fn outbox(&self) -> (u64, u64) {
        let db = self.publisher.read();
        let all = outbox::count_after(db, 0).await.unwrap();
        if self.server.is_none() {
            return (all, 0);
        }
        let published = checkpoint::load(db).await.unwrap().position;
        (all, outbox::count_after(db, published).await.unwrap())
    }
}

/// A type for tests of the bus alone.
pub(crate) const TICKED: &str = "couponmesh.member.v1.Ticked";
pub(crate) const TICKS: &[&str] = &[TICKED];
/// A type that no consumer here handles.
const END: &str = "couponmesh.member.v1.End";
const REGISTERED: &str = "couponmesh.member.v1.MemberRegistered";
const REGISTERED_OR_END: &[&str] = &[REGISTERED, END];

pub(crate) fn config() -> MessagingConfig {
    MessagingConfig {
        batch: 128,
        // So that what is published last comes last.
        partitions: 1,
        retention: RETENTION,
        dead_letter_retention: RETENTION * 10,
    }
}

pub(crate) async fn new_home() -> Home {
    Home::new(&["member", "consumer"]).await
}

async fn store(service: &'static str, home: &Home) -> Store {
    let database = home.database(service).await;
    bring_up::<Migrator>(&database).await.unwrap();
    let replica = uuid::Uuid::nil();
    let (clock, random) = (Clock::system(), Random::from_os());
    Store::new(service, replica, database, clock, random, Faults::none())
}

fn context() -> Context {
    Context::new(CorrelationId::parse("a-test").unwrap())
}

fn registered(member_id: MemberId) -> MemberRegistered {
    MemberRegistered {
        member: Some(MemberSnapshot {
            member_id: member_id.to_string(),
            display_name: "Ann".to_owned(),
            version: 1,
            ..Default::default()
        }),
    }
}
