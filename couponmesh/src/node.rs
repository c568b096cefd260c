//! Services on one address, with one handle to stop them.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc};

use clap::ValueEnum;
use couponmesh_coupon::Coupon;
use couponmesh_member::{Member, coupon_client::CouponClient};
use couponmesh_messaging::Bus;
use couponmesh_mypage::MyPage;
use couponmesh_notification::Notification;
use couponmesh_runtime::grpc::{Bound, GrpcServer};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
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
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
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
    /// A database's tables cannot be brought up to date.
    #[error("the {service} database cannot be brought up to date: {source}")]
    Migrate {
        /// Whose database.
        service: &'static str,
        /// What the database said.
        source: sea_orm::DbErr,
    },
    /// The notification service cannot start.
    #[error(transparent)]
    Notification(#[from] couponmesh_notification::StartError),
}

/// Running services on one address.
pub struct Node {
    address: SocketAddr,
    services: Services,
    server: JoinHandle<()>,
    stop: CancellationToken,
}

impl Node {
    /// Starts `services` of `stack` on `listen`; the others of the mesh answer UNAVAILABLE there.
    ///
    /// # Errors
    /// When the address, a database or the configuration cannot be used; nothing is served then.
    pub async fn start(
        stack: &Stack,
        config: &Config,
        listen: SocketAddr,
        services: &BTreeSet<ServiceName>,
    ) -> Result<Self, NodeError> {
        let no_listener = |source| NodeError::Listen {
            address: listen,
            source,
        };
        // Before the services: the member service may have to know its own address.
        let listener = TcpListener::bind(listen).await.map_err(no_listener)?;
        let address = listener.local_addr().map_err(no_listener)?;
        let running = Services::start(stack, config, address, services).await?;
        let bound = match running.bind(stack, config, services, listener).await {
            Ok(bound) => bound,
            Err(error) => {
                running.stop().await;
                return Err(error);
            }
        };
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let server = tokio::spawn(async move {
            if let Err(error) = bound.serve(stopping).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the gRPC server ended"
                );
            }
        });
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
        if let Some(mypage) = &self.services.mypage {
            mypage.drain();
        }
        // Ends badly only when it panicked, which is logged.
        let _ = self.server.await;
        self.services.stop().await;
    }
}

#[derive(Default)]
struct Services {
    member: Option<Member>,
    coupon: Option<Coupon>,
    notification: Option<Notification>,
    mypage: Option<MyPage>,
}

impl Services {
    async fn start(
        stack: &Stack,
        config: &Config,
        address: SocketAddr,
        wanted: &BTreeSet<ServiceName>,
    ) -> Result<Self, NodeError> {
        let mut started = Self::default();
        let bus = stack.bus();
        for name in wanted {
            if let Err(error) = started.start_one(*name, stack, &bus, config, address).await {
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
        address: SocketAddr,
    ) -> Result<(), NodeError> {
        let messaging = &config.messaging;
        let migrate = |service| move |source| NodeError::Migrate { service, source };
        match name {
            ServiceName::Member => {
                let coupon_address = match config.member.coupon_address.as_str() {
                    "" => format!("http://{}", reachable(address)),
                    elsewhere => elsewhere.to_owned(),
                };
                let coupon = CouponClient::new(&coupon_address, config.member.withdrawal.deadline)
                    .map_err(NodeError::CouponAddress)?;
                let service = couponmesh_member::NAME;
                let store = stack.store(service).await?;
                let member = Member::start(store, bus, coupon, &config.member, messaging).await;
                self.member = Some(member.map_err(migrate(service))?);
            }
            ServiceName::Coupon => {
                let service = couponmesh_coupon::NAME;
                let store = stack.store(service).await?;
                self.coupon = Some(
                    Coupon::start(store, bus, messaging)
                        .await
                        .map_err(migrate(service))?,
                );
            }
            ServiceName::Notification => {
                let store = stack.store(couponmesh_notification::NAME).await?;
                self.notification =
                    Some(Notification::start(store, bus, &config.notification, messaging).await?);
            }
            ServiceName::Mypage => {
                let service = couponmesh_mypage::NAME;
                let store = stack.store(service).await?;
                let mypage = MyPage::start(store, bus, &config.mypage, messaging).await;
                self.mypage = Some(mypage.map_err(migrate(service))?);
            }
        }
        Ok(())
    }

    async fn bind(
        &self,
        stack: &Stack,
        config: &Config,
        wanted: &BTreeSet<ServiceName>,
        listener: TcpListener,
    ) -> Result<Bound, NodeError> {
        let sources = stack.sources();
        let (clock, random) = (sources.clock.clone(), sources.random.clone());
        let bytes = config.grpc.max_message_bytes;
        let mut server =
            GrpcServer::new(&config.grpc, couponmesh_proto::DESCRIPTORS, clock, random);
        if let Some(member) = &self.member {
            server = server.add(member.server().max_decoding_message_size(bytes));
        }
        if let Some(coupon) = &self.coupon {
            server = server.add(coupon.server().max_decoding_message_size(bytes));
        }
        if let Some(notification) = &self.notification {
            server = server.add(notification.server().max_decoding_message_size(bytes));
        }
        if let Some(mypage) = &self.mypage {
            server = server.add(mypage.server().max_decoding_message_size(bytes));
        }
        for absent in ServiceName::all().difference(wanted) {
            server = server.absent(absent.grpc_name());
        }
        server.listen_on(listener).await.map_err(NodeError::Server)
    }

    async fn stop(&self) {
        if let Some(member) = &self.member {
            member.stop().await;
        }
        if let Some(coupon) = &self.coupon {
            coupon.stop().await;
        }
        if let Some(notification) = &self.notification {
            notification.stop().await;
        }
        if let Some(mypage) = &self.mypage {
            mypage.stop().await;
        }
    }
}

/// An address to call: a server that listens everywhere is called on the loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
