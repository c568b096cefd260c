//! The server as it is put together: services in, health and reflection beside them.

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc};

use http::{Request, Response};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService, service::RoutesBuilder};
use tonic_health::ServingStatus;
use tower_service::Service;

use super::{
    GrpcConfig, bound::Bound, correlation::Mint, door::Rules, health::Health,
    in_process::InProcessListener, listener::Listener, methods::Methods, peers::Peers,
};
use crate::{clock::Clock, descriptors, random::Random};

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
/// Connections at once for health checks, beside those for calls.
const HEALTH_CONNECTIONS: usize = 64;

/// A server that is being put together.
pub struct GrpcServer {
    config: GrpcConfig,
    descriptors: &'static [u8],
    mint: Mint,
    routes: RoutesBuilder,
    in_process: Option<InProcessListener>,
    health_listener: Option<TcpListener>,
    present: Vec<&'static str>,
    ready: Vec<watch::Receiver<bool>>,
    absent: Vec<String>,
}

impl GrpcServer {
    /// A server of services that `descriptors`, an encoded `FileDescriptorSet`, describe.
    #[must_use]
    pub fn new(
        config: &GrpcConfig,
        descriptors: &'static [u8],
        clock: Clock,
        random: Random,
    ) -> Self {
        Self {
            config: config.clone(),
            descriptors,
            mint: Mint { clock, random },
            routes: RoutesBuilder::default(),
            in_process: None,
            health_listener: None,
            present: Vec::new(),
            ready: Vec::new(),
            absent: Vec::new(),
        }
    }

    /// Adds a generated service, which health checks call ready while `ready` is true.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // a builder's word, not arithmetic
    pub fn add<S>(mut self, service: S, ready: watch::Receiver<bool>) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.present.push(S::NAME);
        self.ready.push(ready);
        self
    }

    /// Answers every call of a service that is switched off, like
    /// `couponmesh.coupon.v1.CouponService`, with UNAVAILABLE, as a mesh without it would.
    #[must_use]
    pub fn absent(mut self, service: impl Into<String>) -> Self {
        self.absent.push(service.into());
        self
    }

    /// Takes calls of this process's own services, too, which need no port.
    #[must_use]
    pub fn in_process(mut self, listener: InProcessListener) -> Self {
        self.in_process = Some(listener);
        self
    }

    /// Answers health checks on this socket, too, whatever is connected to the other.
    #[must_use]
    pub fn health_on(mut self, listener: TcpListener) -> Self {
        self.health_listener = Some(listener);
        self
    }

    /// Starts to listen; connections wait until [`Bound::serve`].
    ///
    /// # Errors
    ///
    /// When the address cannot be had, or a service or `max_in_flight_of` names what the
    /// descriptors do not know.
    pub async fn bind(self, addr: SocketAddr) -> io::Result<Bound> {
        let listener = TcpListener::bind(addr).await?;
        self.listen_on(listener).await
    }

    /// Takes a socket that listens already: for services that have to know their own address.
    ///
    /// # Errors
    ///
    /// When a service or `max_in_flight_of` names what the descriptors do not know.
    pub async fn listen_on(mut self, listener: TcpListener) -> io::Result<Bound> {
        let methods = Methods::new(self.descriptors, &self.config, &self.present, &self.absent);
        let methods = Arc::new(methods.map_err(io::Error::other)?);
        let (health, service) = tonic_health::server::health_reporter();
        for name in &self.absent {
            health
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
        let v1 = self.reflection().build_v1().map_err(io::Error::other)?;
        let v1alpha = self.reflection();
        let v1alpha = v1alpha.build_v1alpha().map_err(io::Error::other)?;
        let mut health_only = RoutesBuilder::default();
        health_only.add_service(service.clone());
        self.routes.add_service(service);
        self.routes.add_service(v1).add_service(v1alpha);
        let rules = Rules {
            methods,
            mint: Arc::new(self.mint),
            request_timeout: self.config.request_timeout,
            // As long as it may take to answer a ping.
            unread_timeout: self.config.keepalive_interval + self.config.keepalive_timeout,
            draining: CancellationToken::new(),
            routes: self.routes.routes().prepare(),
        };
        let health_listener = self.health_listener.map(|socket| {
            let listener = Listener {
                socket,
                peers: Peers::new(HEALTH_CONNECTIONS, HEALTH_CONNECTIONS),
            };
            let routes = health_only.routes().prepare();
            let methods = Arc::new(Methods::health_checks());
            (
                listener,
                Arc::new(Rules {
                    methods,
                    routes,
                    ..rules.clone()
                }),
            )
        });
        let connections = descriptors::at_most(self.config.max_connections);
        let of_one_peer = self.config.max_connections_per_peer.min(connections);
        Ok(Bound {
            local_addr: listener.local_addr()?,
            listener: Listener {
                socket: listener,
                peers: Peers::new(connections, of_one_peer),
            },
            in_process: self.in_process,
            health_listener,
            config: self.config,
            rules: Arc::new(rules),
            health: Health {
                reporter: health,
                services: self.present.into_iter().zip(self.ready).collect(),
            },
        })
    }

    /// What reflection tells, of itself as well: clients look their own tool up, too.
    fn reflection(&self) -> tonic_reflection::server::Builder<'static> {
        let names = self.present.iter().copied().chain([HEALTH]);
        let names = names.chain(REFLECTION);
        let descriptors = [
            self.descriptors,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            // So that grpcurl can read ErrorInfo and its like out of an error.
            tonic_types::pb::FILE_DESCRIPTOR_SET,
        ];
        let builder = tonic_reflection::server::Builder::configure()
            // Each version adds its own by itself otherwise, and then there would be two.
            .include_reflection_service(false);
        let builder = descriptors.into_iter().fold(
            builder,
            tonic_reflection::server::Builder::register_encoded_file_descriptor_set,
        );
        names.fold(
            builder,
            tonic_reflection::server::Builder::with_service_name,
        )
    }
}

impl fmt::Debug for GrpcServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcServer")
            .field("present", &self.present)
            .field("absent", &self.absent)
            .finish_non_exhaustive()
    }
}
