//! The production stack of a test's own: databases, a bus, and replicas of every service as child processes.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    time::Duration,
};

use couponmesh::{config::Config, node::ServiceName};
use couponmesh_testbed::{Databases, Nats, PgBouncer, PostgresServer};
use futures::future::join_all;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    audit::Auditor,
    binary::{
        caller::Whereabouts,
        process::{Call, Process, eventually_within, patient_channel},
        rest::SERVICES,
    },
    coupon_way::CouponWay,
    soak::pick,
    way::Way,
};

/// The end of each log that is printed when a test fails.
const TAIL: usize = 40;
/// Ends a process that a killed test leaves behind.
const WITH_US: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];
/// How long anything may take to come true after a fault: deliveries that died with a process come again
/// after 30 seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How a stack is set up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    replicas: usize,
    own_postgres: bool,
    standby: bool,
    pooler: Option<&'static str>,
    ways: bool,
    counts_cancels: bool,
    settings: Vec<(&'static str, &'static str)>,
}

impl Plan {
    /// So many replicas of each service.
    pub(crate) fn replicas(replicas: usize) -> Self {
        Self {
            replicas,
            ..Self::default()
        }
    }

    /// With a PostgreSQL server that can be killed.
    pub(crate) fn own_postgres(mut self) -> Self {
        self.own_postgres = true;
        self
    }

    /// With a PgBouncer before every database, that pools by `mode`.
    pub(crate) fn pooler(mut self, mode: &'static str) -> Self {
        self.pooler = Some(mode);
        self
    }

    /// With a PostgreSQL server that answers no commit before a standby has it, and with ways.
    pub(crate) fn standby(mut self) -> Self {
        self.standby = true;
        self.ways()
    }

    /// With a [`Way`] before the bus and before each database.
    pub(crate) fn ways(mut self) -> Self {
        self.ways = true;
        self
    }

    /// With a look at every CancelCoupon call.
    pub(crate) fn counts_cancels(mut self) -> Self {
        self.counts_cancels = true;
        self
    }

    /// Sets a key of every replica's configuration, e.g. `GRPC__REQUEST_TIMEOUT`.
    pub(crate) fn set(mut self, key: &'static str, value: &'static str) -> Self {
        self.settings.push((key, value));
        self
    }
}

struct Replica {
    process: Process,
    address: SocketAddr,
}

/// A running stack. It ends with this value.
pub(crate) struct Production {
    plan: Plan,
    replicas: BTreeMap<(ServiceName, usize), Replica>,
    members: watch::Sender<Vec<SocketAddr>>,
    /// From member to any replica of coupon that is there.
    pub(crate) coupon_way: Way,
    cancels: Option<CouponWay>,
    bus_way: Option<Way>,
    database_ways: BTreeMap<ServiceName, Way>,
    pub(crate) nats: Nats,
    databases: Databases,
    pooler: Option<PgBouncer>,
    pub(crate) postgres: Option<PostgresServer>,
    pub(crate) standby: Option<PostgresServer>,
    logs: TempDir,
}

impl Production {
    /// Starts everything and waits until every replica listens.
    pub(crate) async fn start(plan: Plan) -> Self {
        let mut production = Self::idle(plan).await;
        let all: Vec<(ServiceName, usize)> = ServiceName::all()
            .into_iter()
            .flat_map(|service| (0..production.plan.replicas).map(move |number| (service, number)))
            .collect();
        production.start_all(&all).await;
        production
    }

    /// Servers and ways, and no replica yet.
    pub(crate) async fn idle(plan: Plan) -> Self {
        let (postgres, standby) = if plan.standby {
            let (primary, standby) = PostgresServer::start_with_standby();
            (Some(primary), Some(standby))
        } else {
            (plan.own_postgres.then(PostgresServer::start), None)
        };
        let databases = match &postgres {
            Some(server) => Databases::create_on(&server.url(), &SERVICES).await,
            None => Databases::create(&SERVICES).await,
        };
        let logins = ServiceName::logins(&Config::load(None).unwrap());
        let nats = Nats::start_with_logins(&logins);
        let coupon_way = Way::open(Vec::new()).await;
        let cancels = if plan.counts_cancels {
            let way = CouponWay::open().await;
            way.leads_to(patient_channel(
                coupon_way.address(),
                Duration::from_secs(5),
            ));
            Some(way)
        } else {
            None
        };
        let (mut bus_way, mut database_ways) = (None, BTreeMap::new());
        if plan.ways {
            bus_way = Some(Way::open(vec![host(&nats.url())]).await);
            for service in ServiceName::all() {
                let way = Way::open(vec![host(&databases.url(service.name()))]).await;
                database_ways.insert(service, way);
            }
        }
        Self {
            replicas: BTreeMap::new(),
            members: watch::Sender::default(),
            coupon_way,
            cancels,
            bus_way,
            database_ways,
            nats,
            pooler: plan
                .pooler
                .map(|mode| PgBouncer::start(&databases.url("member"), mode)),
            plan,
            databases,
            postgres,
            standby,
            logs: tempfile::tempdir().unwrap(),
        }
    }

    /// Starts replicas that do not run, all at once, and waits until each listens.
    pub(crate) async fn start_all(&mut self, all: &[(ServiceName, usize)]) {
        self.start_each(all, |call| call).await;
    }

    /// The same with another build than the one that is tested.
    pub(crate) async fn start_all_of(&mut self, binary: &Path, all: &[(ServiceName, usize)]) {
        // Releases up to 0.3 need more than the logins of this one allow.
        let bus = match &self.bus_way {
            Some(way) => through(&self.nats.url(), way),
            None => self.nats.url(),
        };
        self.start_each(all, |call| call.built_as(binary).set("BUS__URL", &bus))
            .await;
    }

    /// The same on machines whose clocks are ahead.
    pub(crate) async fn start_all_ahead(&mut self, by: &str, all: &[(ServiceName, usize)]) {
        self.start_each(all, |call| call.ahead(by)).await;
    }

    async fn start_each(&mut self, all: &[(ServiceName, usize)], shaped: impl Fn(Call) -> Call) {
        let starts = all.iter().map(|&(service, number)| {
            let call = shaped(self.call(service, number));
            async move {
                let (process, address) = call.start().await;
                ((service, number), Replica { process, address })
            }
        });
        let started = join_all(starts).await;
        self.replicas.extend(started);
        self.tell();
    }

    /// SIGKILL to one replica.
    pub(crate) fn kill(&mut self, service: ServiceName, number: usize) {
        let replica = self.replicas.remove(&(service, number)).unwrap();
        // Nobody calls a port that may be another's by now; the calls under way are torn apart.
        self.tell();
        replica.process.kill();
    }

    /// A signal to one replica, e.g. `STOP`.
    pub(crate) fn signal(&self, service: ServiceName, number: usize, name: &str) {
        self.replicas[&(service, number)].process.signal(name);
    }

    /// SIGTERM to one replica, and waits until it ended, as it should.
    pub(crate) async fn terminate(&mut self, service: ServiceName, number: usize) {
        let replica = self.replicas.remove(&(service, number)).unwrap();
        self.tell();
        let (status, _) = replica.process.terminate().await;
        assert!(status.success(), "{service:?} {number}: {status}");
    }

    /// Every replica that runs.
    pub(crate) fn running(&self) -> Vec<(ServiceName, usize)> {
        self.replicas.keys().copied().collect()
    }

    /// Where the replicas of `service` are.
    pub(crate) fn addresses(&self, service: ServiceName) -> Vec<SocketAddr> {
        let replicas = self.replicas.iter();
        let of_service = replicas.filter(|((name, _), _)| *name == service);
        of_service.map(|(_, replica)| replica.address).collect()
    }

    /// Where callers of member find it.
    pub(crate) fn members(&self) -> Whereabouts {
        self.members.subscribe()
    }

    /// The way from every replica to the bus.
    pub(crate) fn bus_way(&self) -> &Way {
        self.bus_way.as_ref().unwrap()
    }

    /// The way from the replicas of `service` to their database.
    pub(crate) fn database_way(&self, service: ServiceName) -> &Way {
        &self.database_ways[&service]
    }

    /// Lets the standby take writes, and the other server be the standby, which it is not by itself. New connections
    /// lead to either as before.
    pub(crate) fn promote(&mut self) {
        std::mem::swap(&mut self.postgres, &mut self.standby);
        let primary = self.postgres.as_ref().unwrap();
        primary.promote();
        self.databases.are_on(&primary.url());
    }

    /// Lets new connections to every database lead to the primary.
    pub(crate) fn address_follows(&self) {
        let primary = host(&self.postgres.as_ref().unwrap().url());
        for way in self.database_ways.values() {
            way.lead_to(vec![primary]);
        }
    }

    /// Lines that all replicas logged.
    pub(crate) fn lines(&self) -> usize {
        let logs = self.log_files().into_values();
        logs.map(|path| std::fs::read_to_string(path).unwrap().lines().count())
            .sum()
    }

    /// What was seen of the CancelCoupon calls.
    pub(crate) fn cancels(&self) -> &CouponWay {
        self.cancels.as_ref().unwrap()
    }

    /// One who looks into the databases.
    pub(crate) async fn auditor(&self) -> Auditor {
        Auditor::open(|service| self.databases.url(service)).await
    }

    /// How often the replicas of `service` logged `what`.
    pub(crate) fn logged(&self, service: ServiceName, what: &str) -> usize {
        let logs = self.log_files().into_iter().filter(|(name, _)| {
            name.split_once('-')
                .is_some_and(|(of, _)| of == service.name())
        });
        logs.map(|(_, path)| std::fs::read_to_string(path).unwrap().matches(what).count())
            .sum()
    }

    /// Waits until the replicas of `service` logged `what` so many times more than `before`.
    pub(crate) async fn logs(&self, service: ServiceName, what: &str, before: usize, more: usize) {
        let told = format!("{} logs {what:?} {more} times", service.name());
        eventually_within(PATIENCE, &told, async || {
            (self.logged(service, what) >= before + more).then_some(())
        })
        .await;
    }

    /// How replica `number` of `service` is called.
    pub(crate) fn call(&self, service: ServiceName, number: usize) -> Call {
        let name = service.name();
        let mut database = self.databases.url(name);
        if let Some(pooler) = &self.pooler {
            database = pooler.url(&database);
        }
        let mut bus = self.nats.url_of(name);
        if let Some(way) = &self.bus_way {
            bus = through(&bus, way);
            database = through(&database, &self.database_ways[&service]);
        }
        let coupon = match &self.cancels {
            Some(way) => way.url(),
            None => format!("http://{}", self.coupon_way.address()),
        };
        let log = self.logs.path().join(format!("{name}-{number}"));
        let call = Call::serve(name)
            .under(&WITH_US)
            .log_to(&log)
            .set("DATABASE__URL", &database)
            // Many tests share a server.
            .set("DATABASE__MAX_CONNECTIONS", "5")
            .set("BUS__URL", &bus)
            .set("MEMBER__COUPON_ADDRESS", &coupon);
        let settings = self.plan.settings.iter();
        settings.fold(call, |call, (key, value)| call.set(key, value))
    }

    fn tell(&self) {
        self.members
            .send_replace(self.addresses(ServiceName::Member));
        self.coupon_way.lead_to(self.addresses(ServiceName::Coupon));
    }

    fn log_files(&self) -> BTreeMap<String, PathBuf> {
        let entries = std::fs::read_dir(self.logs.path()).unwrap();
        let entries = entries.map(|entry| entry.unwrap());
        entries
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
            .collect()
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (name, path) in self.log_files() {
            let log = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            eprintln!("--- the end of what {name} logged\n{}", tail.join("\n"));
        }
    }
}

/// How long a fault lasts, in seconds: in short, and in the long run.
pub(crate) fn for_seconds(short: u64, long: u64) -> Duration {
    Duration::from_secs(pick(short, long))
}

/// Host and port in `url`, as they stand there.
fn authority(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap();
    let authority = rest.split('/').next().unwrap();
    authority.rsplit('@').next().unwrap()
}

fn host(url: &str) -> SocketAddr {
    let mut addresses = authority(url).to_socket_addrs().unwrap();
    addresses.next().unwrap()
}

/// The same URL by another way.
fn through(url: &str, way: &Way) -> String {
    url.replacen(authority(url), &way.address().to_string(), 1)
}
