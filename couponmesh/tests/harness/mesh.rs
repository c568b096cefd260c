//! The services, each on a node of its own, and what is between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use couponmesh::{
    config::Config,
    node::{Node, ServiceName},
    stack::{Sources, Stack},
};
use couponmesh_messaging::{BusError, Event, event::is_published_by};
use couponmesh_runtime::{Clock, Random, Timestamp, fault::Faults};
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use super::{backend::Backend, bus::BadBus, coupon_way::CouponWay, files::File, log::Log};

/// A running mesh. End it with [`finish`](Self::finish) or [`shut`](Self::shut).
pub(crate) struct Mesh {
    home: Home,
    sources: Sources,
    /// The stack that all services share; none where each replica has its own.
    shared: Option<Stack>,
    nodes: BTreeMap<ServiceName, Running>,
    more: Vec<Running>,
}

/// A mesh that does not run: its databases and its bus, to be looked at, changed and opened again.
pub(crate) struct Shut(Home);

/// What outlives a restart.
struct Home {
    backend: Backend,
    clock: Clock,
    config: Config,
    faults: Faults,
    bus: BadBus,
    coupon_way: CouponWay,
}

struct Running {
    node: Node,
    own_stack: Option<Stack>,
    channel: Channel,
}

impl Running {
    async fn stop(self) {
        self.node.stop().await;
        if let Some(stack) = self.own_stack {
            stack.close().await;
        }
    }
}

/// The settings of most tests: the defaults, with a worker that does not keep a test waiting.
fn quick() -> Config {
    let mut config = Config::load(None).unwrap();
    let withdrawal = &mut config.member.withdrawal;
    withdrawal.first_pause = Duration::from_millis(50);
    withdrawal.longest_pause = Duration::from_millis(500);
    withdrawal.rejected_pause = Duration::from_millis(500);
    config.notification.first_pause = Duration::from_millis(20);
    config.notification.longest_pause = Duration::from_millis(200);
    config
}

impl Mesh {
    /// All four services.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// All four services, set up otherwise.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut mesh = Self::idle(change).await;
        mesh.start_all().await;
        mesh
    }

    /// All four services, set up otherwise, at a time that stands still until `clock` is advanced.
    pub(crate) async fn by(clock: &Clock, change: impl FnOnce(&mut Config)) -> Self {
        let mut mesh = Self::idle_by(clock.clone(), change).await;
        mesh.start_all().await;
        mesh
    }

    /// No service yet: for those that must not miss the first event.
    pub(crate) async fn idle(change: impl FnOnce(&mut Config)) -> Self {
        Self::idle_by(Clock::system(), change).await
    }

    async fn idle_by(clock: Clock, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = quick();
        change(&mut config);
        let coupon_way = CouponWay::open().await;
        config.member.coupon_address = coupon_way.url();
        let home = Home {
            backend: Backend::new().await,
            clock,
            config,
            faults: Faults::none(),
            bus: BadBus::default(),
            coupon_way,
        };
        home.open().await
    }

    /// Starts all services that do not run.
    pub(crate) async fn start_all(&mut self) {
        for service in ServiceName::all() {
            if !self.nodes.contains_key(&service) {
                self.start_one(service).await;
            }
        }
    }

    /// Starts a service, on another port than before.
    pub(crate) async fn start_one(&mut self, service: ServiceName) {
        let running = self.run(service).await;
        if service == ServiceName::Coupon {
            self.home.coupon_way.leads_to(running.channel.clone());
        }
        assert!(self.nodes.insert(service, running).is_none());
    }

    /// Starts a second replica of a service, on the same database.
    pub(crate) async fn start_another(&mut self, service: ServiceName) -> Channel {
        let running = self.run(service).await;
        let channel = running.channel.clone();
        self.more.push(running);
        channel
    }

    async fn run(&self, service: ServiceName) -> Running {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let services = BTreeSet::from([service]);
        let absent = ServiceName::all().difference(&services).copied().collect();
        let config = &self.home.config;
        let own_stack = self.own_stack(service);
        let stack = self.stack(own_stack.as_ref());
        let node = Node::start(stack, config, anywhere, &services, &absent);
        let node = node.await.unwrap();
        let url = format!("http://{}", node.address());
        let channel = Endpoint::from_shared(url).unwrap().connect_lazy();
        Running {
            node,
            own_stack,
            channel,
        }
    }

    fn own_stack(&self, service: ServiceName) -> Option<Stack> {
        let Home {
            backend,
            config,
            bus,
            ..
        } = &self.home;
        let own = backend.own_stack(config, service, &self.sources)?;
        Some(own.with_bus(|inner| bus.around(inner)))
    }

    fn stack<'a>(&'a self, own: Option<&'a Stack>) -> &'a Stack {
        own.or(self.shared.as_ref()).unwrap()
    }

    /// Stops a service in good order. Calls to coupon find nobody there.
    pub(crate) async fn stop(&mut self, service: ServiceName) {
        let running = self.nodes.remove(&service).unwrap();
        if service == ServiceName::Coupon {
            self.home.coupon_way.leads_nowhere();
        }
        running.stop().await;
    }

    /// The connection to a service that runs.
    ///
    /// # Panics
    /// When it does not run.
    pub(crate) fn channel(&self, service: ServiceName) -> Channel {
        let running = self.nodes.get(&service);
        running
            .unwrap_or_else(|| panic!("{service:?} does not run"))
            .channel
            .clone()
    }

    /// Where a service listens.
    pub(crate) fn address(&self, service: ServiceName) -> SocketAddr {
        self.nodes[&service].node.address()
    }

    /// The way that calls of coupon take.
    pub(crate) fn coupon_way(&self) -> &CouponWay {
        &self.home.coupon_way
    }

    /// Faults in every service.
    pub(crate) fn faults(&self) -> &Faults {
        &self.home.faults
    }

    /// The bus between the services.
    pub(crate) fn bus(&self) -> &BadBus {
        &self.home.bus
    }

    /// Publishes events that no service made.
    pub(crate) async fn publish(&self, events: Vec<Event>) {
        for service in ServiceName::all() {
            let is_its = |event: &&Event| is_published_by(service.name(), &event.event_type);
            let its: Vec<Event> = events.iter().filter(is_its).cloned().collect();
            // Each under the login of the service whose it is.
            let own = self.own_stack(service);
            let stack = self.stack(own.as_ref());
            let store = stack.store(service).await.unwrap();
            stack.bus_reached().await.unwrap();
            match stack.bus().publisher() {
                _ if its.is_empty() => {}
                Some(publisher) => drop(publisher.publish(its, 0).await.unwrap()),
                None => {
                    let tx = store.begin("test").await.unwrap();
                    tx.append_all(its);
                    tx.commit().await.unwrap();
                }
            }
            if let Some(own) = own {
                own.close().await;
            }
        }
    }

    /// Publishes an event under the login of `service`, also one of another service. None in one process, where nobody
    /// logs in.
    pub(crate) async fn publish_as(
        &self,
        service: ServiceName,
        event: Event,
    ) -> Option<Result<(), BusError>> {
        let own = self.own_stack(service)?;
        own.store(service).await.unwrap();
        own.bus_reached().await.unwrap();
        let published = own.bus().publisher()?.publish(vec![event], 0).await;
        own.close().await;
        Some(published.map(drop))
    }

    /// The time, as the services see it.
    pub(crate) fn now(&self) -> Timestamp {
        self.sources.clock.now()
    }

    /// An id that nothing has.
    pub(crate) fn new_id(&self) -> Uuid {
        self.sources.random.uuid_v7(self.now())
    }

    /// Looks into the database of a service.
    pub(crate) async fn file(&self, service: &str) -> File {
        self.home.backend.file(service).await
    }

    /// The files of the data directory in which `needle` stands, in rows or beside them; none on servers.
    pub(crate) fn files_that_hold(&self, needle: &str) -> Vec<String> {
        self.home.backend.files_that_hold(needle)
    }

    /// Looks into what the bus keeps.
    pub(crate) async fn log(&self) -> Log {
        self.home.backend.log().await
    }

    /// Settles, is audited and ends.
    pub(crate) async fn finish(self) {
        self.settled().await;
        self.shut().await.remove().await;
    }

    /// Stops every service and closes what they had open.
    pub(crate) async fn shut(self) -> Shut {
        // Together: each waits for its callers to hang up.
        let nodes = self.nodes.into_values().chain(self.more);
        futures::future::join_all(nodes.map(Running::stop)).await;
        if let Some(shared) = self.shared {
            shared.close().await;
        }
        Shut(self.home)
    }
}

impl Shut {
    /// Starts all services again on what was left.
    pub(crate) async fn open(self) -> Mesh {
        let mut mesh = self.0.open().await;
        mesh.start_all().await;
        mesh
    }

    /// Lets time pass before the mesh is opened again, as if it had run all the while; there it stands still.
    pub(crate) async fn later(&mut self, by: Duration) {
        self.0.clock = Clock::manual(self.0.clock.now().plus(by));
        let now = self.0.clock.now().0;
        for service in ServiceName::all() {
            let file = self.file(service.name()).await;
            file.execute(&format!("UPDATE clock_spans SET end_time = {now}"))
                .await;
        }
    }

    /// Sets the clock of the machine on which the mesh is opened again.
    pub(crate) fn set_clock(&mut self, clock: Clock) {
        self.0.clock = clock;
    }

    /// Looks into a database, or changes it.
    pub(crate) async fn file(&self, service: &str) -> File {
        self.0.backend.file(service).await
    }

    /// Looks into what the bus keeps, or changes it.
    pub(crate) async fn log(&self) -> Log {
        self.0.backend.log().await
    }

    /// Removes everything.
    pub(crate) async fn remove(self) {
        self.0.backend.remove();
    }
}

impl Home {
    async fn open(self) -> Mesh {
        let sources = Sources {
            clock: self.clock.clone(),
            random: Random::from_os(),
            faults: self.faults.clone(),
        };
        let shared = self.backend.shared_stack(&sources).await;
        let shared = shared.map(|stack| stack.with_bus(|inner| self.bus.around(inner)));
        Mesh {
            home: self,
            sources,
            shared,
            nodes: BTreeMap::new(),
            more: Vec::new(),
        }
    }
}
