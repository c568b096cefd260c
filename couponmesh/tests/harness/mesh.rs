//! The services, each on a node of its own, and what is between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use couponmesh::{
    config::Config,
    node::{Node, ServiceName},
    stack::{Sources, Stack},
};
use couponmesh_runtime::{Clock, Random, fault::Faults};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use super::{bus::BadBus, coupon_way::CouponWay, files::File};

/// A running mesh. End it with [`finish`](Self::finish) or [`shut`](Self::shut).
pub(crate) struct Mesh {
    home: Home,
    stack: Stack,
    nodes: BTreeMap<ServiceName, Running>,
    more: Vec<Running>,
}

/// A mesh that does not run: its files, to be looked at, changed and opened again.
pub(crate) struct Shut(Home);

/// What outlives a restart.
struct Home {
    dir: TempDir,
    config: Config,
    faults: Faults,
    bus: BadBus,
    coupon_way: CouponWay,
}

struct Running {
    node: Node,
    channel: Channel,
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

    /// No service yet: for those that must not miss the first event.
    pub(crate) async fn idle(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = quick();
        change(&mut config);
        let coupon_way = CouponWay::open().await;
        config.member.coupon_address = coupon_way.url();
        let home = Home {
            dir: tempfile::tempdir().unwrap(),
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
        let node = Node::start(&self.stack, config, anywhere, &services, &absent)
            .await
            .unwrap();
        let url = format!("http://{}", node.address());
        let channel = Endpoint::from_shared(url).unwrap().connect_lazy();
        Running { node, channel }
    }

    /// Stops a service in good order. Calls to coupon find nobody there.
    pub(crate) async fn stop(&mut self, service: ServiceName) {
        let running = self.nodes.remove(&service).unwrap();
        if service == ServiceName::Coupon {
            self.home.coupon_way.leads_nowhere();
        }
        running.node.stop().await;
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

    /// The databases and the bus, e.g. to publish something by hand.
    pub(crate) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// An id that nothing has.
    pub(crate) fn new_id(&self) -> Uuid {
        let Sources { clock, random, .. } = self.stack.sources();
        random.uuid_v7(clock.now())
    }

    /// Looks into the database of a service, or of the `bus`.
    pub(crate) async fn file(&self, name: &str) -> File {
        self.home.file(name).await
    }

    /// Settles, is audited and ends.
    pub(crate) async fn finish(self) {
        self.settled().await;
        self.shut().await.remove().await;
    }

    /// Stops every service and closes the files.
    pub(crate) async fn shut(self) -> Shut {
        // Together: each waits for its callers to hang up.
        let nodes = self.nodes.into_values().chain(self.more);
        futures::future::join_all(nodes.map(|running| running.node.stop())).await;
        self.stack.close().await;
        Shut(self.home)
    }
}

impl Shut {
    /// Opens the files and starts all services again.
    pub(crate) async fn open(self) -> Mesh {
        let mut mesh = self.0.open().await;
        mesh.start_all().await;
        mesh
    }

    /// Looks into a database, or changes it.
    pub(crate) async fn file(&self, name: &str) -> File {
        self.0.file(name).await
    }

    /// Removes everything.
    pub(crate) async fn remove(self) {
        self.0.dir.close().unwrap();
    }
}

impl Home {
    async fn open(self) -> Mesh {
        let sources = Sources {
            clock: Clock::system(),
            random: Random::from_os(),
            faults: self.faults.clone(),
        };
        let stack = Stack::embedded(self.dir.path(), &self.config.messaging, sources)
            .await
            .unwrap()
            .with_bus(|bus| self.bus.around(bus));
        Mesh {
            home: self,
            stack,
            nodes: BTreeMap::new(),
            more: Vec::new(),
        }
    }

    async fn file(&self, name: &str) -> File {
        let path: PathBuf = self.dir.path().join(format!("{name}.db"));
        File::open(&path).await
    }
}
