//! A publishing and a consuming service on one bus, in a home of their own.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use couponmesh_messaging::{
    Bus, Event, MessagingConfig, Store,
    bus::{EmbeddedBus, NatsBus, NatsConfig},
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
use prost::{Message as _, Name as _};
use sea_orm::{DbErr, EntityTrait as _};
use sea_orm_migration::{MigratorTrait, prelude::*};

use crate::check::{Counting, CreateTables, Idle, Trouble};

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

/// One run of both services; their home outlives it.
pub(crate) struct Mesh {
    pub(crate) bus: Arc<dyn Bus>,
    backend: Backend,
    pub(crate) publisher: Store,
    pub(crate) consumer: Store,
    pub(crate) handler: Counting,
    relaying: Running,
    consuming: Mutex<Running>,
}

/// The bus as it is, to be closed and looked into.
enum Backend {
    Embedded(EmbeddedBus),
    Nats { bus: NatsBus, events: Events },
}

impl Backend {
    async fn open(home: &Home) -> Self {
        match home {
            Home::Files(dir) => {
                let file = dir.path().join("bus.db");
                Self::Embedded(EmbeddedBus::open(&file).await.unwrap())
            }
            Home::Servers { nats, .. } => Self::Nats {
                bus: nats_bus(nats).await,
                events: nats.events(),
            },
        }
    }
}

/// A replica's bus that has found the stream, or made it.
pub(crate) async fn nats_bus(nats: &Nats) -> NatsBus {
    let bus = NatsBus::start(&nats_config(nats), &config(), "a test", &["consumer"]);
    bus.reached().await.unwrap();
    bus
}

pub(crate) fn nats_config(nats: &Nats) -> NatsConfig {
    nats_config_at(nats.url())
}

pub(crate) fn nats_config_at(url: String) -> NatsConfig {
    NatsConfig {
        insecure: false,
        url,
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
        let backend = Backend::open(home).await;
        Self {
            bus: match &backend {
                Backend::Embedded(bus) => Arc::new(bus.clone()),
                Backend::Nats { bus, .. } => Arc::new(bus.clone()),
            },
            backend,
            publisher: store("publisher", home).await,
            consumer: store("consumer", home).await,
            handler: Counting::default(),
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
    pub(crate) fn publisher_as(&self, replica: uuid::Uuid, clock: &Clock) -> Store {
        let (database, random) = (self.publisher.database(), self.publisher.random());
        Store::new(
            "publisher",
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
        match &self.backend {
            Backend::Embedded(bus) => bus.close().await,
            Backend::Nats { bus, .. } => bus.close().await,
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
            source: "publisher".to_owned(),
            member_id,
            time: self.publisher.now(),
            context: context(),
            payload: registered(member_id).encode_to_vec(),
        }
    }

    /// Every registration that the bus keeps, in its order, repeats included.
    pub(crate) async fn log(&self) -> Vec<Event> {
        let end = Event {
            event_type: END.to_owned(),
            ..self.loose_event()
        };
        self.bus.publish(vec![end.clone()], 0).await.unwrap();
        // A consumer that was never there before begins with the first event.
        let reader: &'static str = format!("reader-{}", end.id).leak();
        let mut reader = self.bus.subscribe(reader, REGISTERED_OR_END).await.unwrap();
        let mut log = Vec::new();
        loop {
            for event in reader.next(1_000).await.unwrap() {
                if event.id == end.id {
                    return log;
                }
                if event.event_type != END {
                    log.push(event.as_ref().clone());
                }
            }
            // A server delivers only so many that wait for this.
            reader.ack().await.unwrap();
        }
    }

    /// Lets every consumer get `events`, which were published before, once more.
    pub(crate) async fn deliver_again(&self, events: Vec<Event>) {
        match &self.backend {
            Backend::Embedded(bus) => {
                bus.publish(events, 0).await.unwrap();
            }
            // Published as it was, the server would drop it as known: it comes under another message id.
            Backend::Nats { events: log, .. } => {
                let ids: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
                log.repeat(&ids).await;
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
        if let Backend::Nats { events, .. } = &self.backend {
            eventually("nothing is delivered any more", async || {
                events.is_done("consumer").await
            })
            .await;
        }
    }

    pub(crate) async fn dead_letters(&self) -> Vec<dead_letter::Model> {
        let letters = dead_letter::Entity::find();
        letters.all(self.consumer.read()).await.unwrap()
    }

    /// What the outbox holds: events, and how many of them are above the relay's checkpoint.
    pub(crate) async fn outbox(&self) -> (u64, u64) {
        let db = self.publisher.read();
        let published = checkpoint::load(db).await.unwrap().position;
        let all = outbox::count_after(db, 0).await.unwrap();
        (all, outbox::count_after(db, published).await.unwrap())
    }
}

/// A type for tests of the bus alone.
pub(crate) const TICKED: &str = "couponmesh.test.v1.Ticked";
pub(crate) const TICKS: &[&str] = &[TICKED];
/// A type that no consumer here handles.
const END: &str = "couponmesh.test.v1.End";
const REGISTERED_OR_END: &[&str] = &["couponmesh.member.v1.MemberRegistered", END];

pub(crate) fn config() -> MessagingConfig {
    MessagingConfig {
        batch: 128,
        retention: RETENTION,
        dead_letter_retention: RETENTION * 10,
    }
}

pub(crate) async fn new_home() -> Home {
    Home::new(&["publisher", "consumer"]).await
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
