//! Services on one address, with one handle to stop them.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc};

use clap::ValueEnum;
use couponmesh_coupon::Coupon;
use couponmesh_member::{Member, coupon_client::CouponClient};
use couponmesh_messaging::{
    Bus, Handler as _,
    bus::{Role, logins},
};
use couponmesh_mypage::MyPage;
use couponmesh_notification::Notification;
use couponmesh_runtime::{
    database::health,
    grpc::{Bound, GrpcServer, InProcess, InProcessListener, in_process},
    running::Running,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;

use crate::{
    config::Config,
    listen::bind,
    stack::{Stack, StackError},
};

/// The services, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum ServiceName {
    /// Registering and withdrawing.
    Member,
    /// Welcome coupons.
    Coupon,
    /// The administrator's notifications.
    Notification,
    /// The read model.
    Mypage,
}

impl ServiceName {
    /// All of them.
    #[must_use]
    pub fn all() -> BTreeSet<Self> {
        Self::value_variants().iter().copied().collect()
    }

    /// Its name in events, logs and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Member => couponmesh_member::NAME,
            Self::Coupon => couponmesh_coupon::NAME,
            Self::Notification => couponmesh_notification::NAME,
            Self::Mypage => couponmesh_mypage::NAME,
        }
    }

    /// The types of events that it reads.
    #[must_use]
    pub fn types(self) -> &'static [&'static str] {
        match self {
            Self::Member => couponmesh_member::consumer::MemberHandler::TYPES,
            Self::Coupon => couponmesh_coupon::consumer::CouponHandler::TYPES,
            Self::Notification => couponmesh_notification::consumer::NotificationHandler::TYPES,
            Self::Mypage => couponmesh_mypage::consumer::MyPageHandler::TYPES,
        }
    }

    /// What it is on a bus of servers. Nothing happens before members register, so member keeps the stream.
    #[must_use]
    pub fn role(self) -> Role {
        const CONSUMERS: &[&str] = &[
            couponmesh_member::NAME,
            couponmesh_coupon::NAME,
            couponmesh_notification::NAME,
            couponmesh_mypage::NAME,
        ];
        Role {
            service: self.name(),
            keeps: self == Self::Member,
            consumers: CONSUMERS,
        }
    }

    /// A login of each service on NATS with the least permissions, as its server's configuration takes them.
    #[must_use]
    pub fn logins(config: &Config) -> String {
        let roles: Vec<Role> = Self::all().into_iter().map(Self::role).collect();
        logins(&config.bus.prefix, config.messaging.partitions, &roles)
    }

    /// The full name of its gRPC service.
    #[must_use]
    pub fn grpc_name(self) -> &'static str {
        match self {
            Self::Member => "couponmesh.member.v1.MemberService",
            Self::Coupon => "couponmesh.coupon.v1.CouponService",
            Self::Notification => "couponmesh.notification.v1.NotificationService",
            Self::Mypage => "couponmesh.mypage.v1.MyPageService",
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The address is taken, or is none of this machine's.
    #[error("cannot listen on {address}: {source}; choose another address with {setting}")]
    Listen {
        /// The address.
        address: String,
        /// What sets it.
        setting: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The server cannot be put together, e.g. for a bound on an RPC that does not exist.
    #[error("grpc: {0}")]
    Server(io::Error),
    /// The coupon service's address is no URL.
    #[error("member.coupon_address: {0}")]
    CouponAddress(tonic::transport::Error),
    /// A database cannot be used.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The channel of the notifications cannot be built.
    #[error(transparent)]
    Channel(#[from] couponmesh_notification::channel::ChannelError),
}

/// Running services on one address.
pub struct Node {
    address: SocketAddr,
    services: Services,
    server: JoinHandle<()>,
    stop: CancellationToken,
}

impl Node {
    /// Starts `services` of `stack` on `listen`, where `absent` ones answer UNAVAILABLE.
    ///
    /// # Errors
    /// When the address, a database or the configuration cannot be used; nothing is served then.
    pub async fn start(
        stack: &Stack,
        config: &Config,
        listen: SocketAddr,
        services: &BTreeSet<ServiceName>,
        absent: &BTreeSet<ServiceName>,
    ) -> Result<Self, NodeError> {
        let no_listener = |source| NodeError::Listen {
            address: listen.to_string(),
            setting: "--listen",
            source,
        };
        // Before the services: an address that is taken is found out before a database is migrated.
        let listener = bind(listen).map_err(no_listener)?;
        let address = listener.local_addr().map_err(no_listener)?;
        let listeners = Listeners {
            calls: listener,
            health: health_listener(&config.grpc.health_listen).await?,
        };
        let (calls, in_process) = in_process();
        let running = Services::start(stack, config, &calls, services).await?;
        let bound = match running
            .bind(stack, config, absent, listeners, in_process)
            .await
        {
            Ok(bound) => bound,
            Err(error) => {
                running.stop().await;
                return Err(error);
            }
        };
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let server = tokio::spawn(bound.serve(stopping));
        Ok(Self {
            address,
            services: running,
            server,
            stop,
        })
    }

    /// Where it listens; the real port when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: no new calls, running ones come to their end within the drain timeout, then the background work ends.
    pub async fn stop(self) {
        self.stop.cancel();
        // Streams would last as long as their callers like.
        if let Some((mypage, _)) = &self.services.mypage {
            mypage.drain();
        }
        // Ends badly only when it panicked, which is logged.
        let _ = self.server.await;
        self.services.stop().await;
    }
}

/// Where a node listens.
struct Listeners {
    calls: TcpListener,
    health: Option<TcpListener>,
}

async fn health_listener(address: &str) -> Result<Option<TcpListener>, NodeError> {
    if address.is_empty() {
        return Ok(None);
    }
    let listener = TcpListener::bind(address).await;
    listener.map(Some).map_err(|source| NodeError::Listen {
        address: address.to_owned(),
        setting: "grpc.health_listen",
        source,
    })
}

#[derive(Default)]
struct Services {
    member: Option<(Member, Ready)>,
    coupon: Option<(Coupon, Ready)>,
    notification: Option<(Notification, Ready)>,
    mypage: Option<(MyPage, Ready)>,
    /// Watches their databases.
    watching: Running,
}

/// Whether a service's database can be reached.
type Ready = watch::Receiver<bool>;

impl Services {
    async fn start(
        stack: &Stack,
        config: &Config,
        in_process: &InProcess,
        wanted: &BTreeSet<ServiceName>,
    ) -> Result<Self, NodeError> {
        let mut started = Self::default();
        let bus = stack.bus();
        for name in wanted {
            let start = started.start_one(*name, stack, &bus, config, in_process);
            if let Err(error) = start.await {
                started.stop().await;
                return Err(error);
            }
        }
        Ok(started)
    }

    async fn start_one(
        &mut self,
        name: ServiceName,
        stack: &Stack,
        bus: &Arc<dyn Bus>,
        config: &Config,
        in_process: &InProcess,
    ) -> Result<(), NodeError> {
        let messaging = &config.messaging;
        let store = stack.store(name).await?;
        let ready = health::watch(store.database(), &self.watching);
        match name {
            ServiceName::Member => {
                let deadline = config.member.withdrawal.deadline;
                let coupon = match config.member.coupon_address.as_str() {
                    "" => CouponClient::over(in_process.channel(), deadline),
                    elsewhere => {
                        CouponClient::new(elsewhere, deadline).map_err(NodeError::CouponAddress)?
                    }
                };
                let member = Member::start(store, bus, coupon, &config.member, messaging);
                self.member = Some((member, ready));
            }
            ServiceName::Coupon => {
                let coupon = Coupon::start(store, bus, messaging);
                self.coupon = Some((coupon, ready));
            }
            ServiceName::Notification => {
                let notification =
                    Notification::start(store, bus, &config.notification, messaging)?;
                self.notification = Some((notification, ready));
            }
            ServiceName::Mypage => {
                let mypage = MyPage::start(store, bus, &config.mypage, messaging);
                self.mypage = Some((mypage, ready));
            }
        }
        Ok(())
    }

    async fn bind(
        &self,
        stack: &Stack,
        config: &Config,
        absent: &BTreeSet<ServiceName>,
        listeners: Listeners,
        in_process: InProcessListener,
    ) -> Result<Bound, NodeError> {
        let sources = stack.sources();
        let (clock, random) = (sources.clock.clone(), sources.random.clone());
        let bytes = config.grpc.max_message_bytes;
        let mut server =
            GrpcServer::new(&config.grpc, couponmesh_proto::DESCRIPTORS, clock, random)
                .in_process(in_process);
        if let Some(health) = listeners.health {
            server = server.health_on(health);
        }
        if let Some((member, ready)) = &self.member {
            let service = member
                .server()
                .max_decoding_message_size(bytes)
                .accept_compressed(CompressionEncoding::Gzip);
            server = server.add(service, ready.clone());
        }
        if let Some((coupon, ready)) = &self.coupon {
            let service = coupon
                .server()
                .max_decoding_message_size(bytes)
                .accept_compressed(CompressionEncoding::Gzip);
            server = server.add(service, ready.clone());
        }
        if let Some((notification, ready)) = &self.notification {
            let service = notification
                .server()
                .max_decoding_message_size(bytes)
                .accept_compressed(CompressionEncoding::Gzip);
            server = server.add(service, ready.clone());
        }
        if let Some((mypage, ready)) = &self.mypage {
            let service = mypage
                .server()
                .max_decoding_message_size(bytes)
                .accept_compressed(CompressionEncoding::Gzip);
            server = server.add(service, ready.clone());
        }
        for name in absent {
            server = server.absent(name.grpc_name());
        }
        server
            .listen_on(listeners.calls)
            .await
            .map_err(NodeError::Server)
    }

    async fn stop(&self) {
        self.watching.stop().await;
        if let Some((member, _)) = &self.member {
            member.stop().await;
        }
        if let Some((coupon, _)) = &self.coupon {
            coupon.stop().await;
        }
        if let Some((notification, _)) = &self.notification {
            notification.stop().await;
        }
        if let Some((mypage, _)) = &self.mypage {
            mypage.stop().await;
        }
    }
}
