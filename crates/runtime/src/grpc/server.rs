//! The server as it is put together: services in, health and reflection beside them.

use std::{convert::Infallible, fmt, io, net::SocketAddr};

use http::{Request, Response};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService, service::RoutesBuilder};
use tonic_health::ServingStatus;
use tower_service::Service;

use super::{
    GrpcConfig, bound::Bound, correlation::Mint, health::Health, layer::Rules, methods::Methods,
};
use crate::{clock::Clock, random::Random};

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// A server that is being put together.
pub struct GrpcServer {
    config: GrpcConfig,
    descriptors: &'static [u8],
    mint: Mint,
    routes: RoutesBuilder,
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
        let rules = Rules {
            methods: methods.map_err(io::Error::other)?,
            mint: self.mint,
            request_timeout: self.config.request_timeout,
            draining: CancellationToken::new(),
        };
        let (health, service) = tonic_health::server::health_reporter();
        for name in &self.absent {
            health
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
        self.routes.add_service(service);
        let reflection = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(self.descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // So that grpcurl can read ErrorInfo and its like out of an error.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET);
            let names = self.present.iter().copied().chain([HEALTH]);
            let names = names.chain(REFLECTION);
            names.fold(
                builder,
                tonic_reflection::server::Builder::with_service_name,
            )
        };
        let v1 = reflection().build_v1().map_err(io::Error::other)?;
        let v1alpha = reflection().build_v1alpha().map_err(io::Error::other)?;
        self.routes.add_service(v1).add_service(v1alpha);
        Ok(Bound {
            local_addr: listener.local_addr()?,
            listener,
            config: self.config,
            rules,
            health: Health {
                reporter: health,
                services: self.present.into_iter().zip(self.ready).collect(),
            },
            routes: self.routes.routes().prepare(),
        })
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
