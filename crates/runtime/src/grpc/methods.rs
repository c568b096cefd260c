//! Which RPCs there are, and how many calls of each may be in flight.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::GrpcConfig;
use crate::status;

/// When a caller that found an RPC full should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a stream of reflection may last. A tool asks what it wants to know and hangs up.
const REFLECTION_LIFE: Duration = Duration::from_secs(60);
/// Streams of reflection at once.
const REFLECTION_IN_FLIGHT: usize = 64;

const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Health checks in flight where nothing else is served.
const HEALTH_CHECKS: usize = 1024;

/// The RPCs by request path: those of the contract, health and reflection. Each has a bound of its
/// own, so that health and reflection answer whatever else is full.
#[derive(Debug)]
pub(super) struct Methods(HashMap<String, Method>);

/// What an RPC's calls are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One message each way.
    Unary,
    /// A stream in either direction.
    Streaming {
        /// How long it may last; none when its caller decides.
        longest: Option<Duration>,
    },
}

/// One RPC.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) kind: Kind,
    in_flight: Arc<Semaphore>,
    /// The service's short name when it is switched off.
    absent: Option<String>,
}

/// Why the RPCs cannot be told from the descriptors and the configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum MethodsError {
    #[error("descriptors do not decode")]
    Descriptors(#[from] prost::DecodeError),
    #[error("service {0} is not in the descriptors")]
    UnknownService(String),
    #[error("max_in_flight_of names {0}, which is no method")]
    UnknownMethod(String),
}

impl Methods {
    /// Reads the RPCs from an encoded `FileDescriptorSet`.
    pub(super) fn new(
        descriptors: &[u8],
        config: &GrpcConfig,
        present: &[&str],
        absent: &[String],
    ) -> Result<Self, MethodsError> {
        let mut services = services(descriptors)?;
        let mut all = present
            .iter()
            .copied()
            .chain(absent.iter().map(String::as_str));
        if let Some(unknown) = all.find(|name| !services.contains_key(*name)) {
            return Err(MethodsError::UnknownService(unknown.to_owned()));
        }
        for ours in [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            services.extend(self::services(ours)?);
        }
        let mut methods = HashMap::new();
        for (service, rpcs) in services {
            let is_absent = absent.contains(&service);
            let is_reflection = service.starts_with("grpc.reflection.");
            let (usual, longest) = if is_reflection {
                (REFLECTION_IN_FLIGHT, Some(REFLECTION_LIFE))
            } else {
                (config.max_in_flight, None)
            };
            for (rpc, streams) in rpcs {
                let path = format!("{service}/{rpc}");
                let bound = *config.max_in_flight_of.get(&path).unwrap_or(&usual);
                let method = Method {
                    kind: if streams {
                        Kind::Streaming { longest }
                    } else {
                        Kind::Unary
                    },
                    in_flight: Arc::new(Semaphore::new(bound)),
                    absent: is_absent.then(|| short_name(&service).to_owned()),
                };
                methods.insert(format!("/{path}"), method);
            }
        }
        let mut bounded = config.max_in_flight_of.keys();
        match bounded.find(|path| !methods.contains_key(&format!("/{path}"))) {
            Some(unknown) => Err(MethodsError::UnknownMethod(unknown.clone())),
            None => Ok(Self(methods)),
        }
    }

    /// Health checks alone, with a bound of their own: nobody who calls elsewhere takes a place of
    /// theirs. Watching is not among them, since a watch would keep its connection for good.
    pub(super) fn health_checks() -> Self {
        let check = Method {
            kind: Kind::Unary,
            in_flight: Arc::new(Semaphore::new(HEALTH_CHECKS)),
            absent: None,
        };
        Self(HashMap::from([(HEALTH_CHECK.to_owned(), check)]))
    }

    /// The RPC at a request path; none when there is none.
    pub(super) fn get(&self, path: &str) -> Option<&Method> {
        self.0.get(path)
    }
}

impl Method {
    /// Lets a call in, for as long as the permit lives.
    pub(super) fn admit(&self) -> Result<OwnedSemaphorePermit, Status> {
        if let Some(name) = &self.absent {
            return Err(Status::unavailable(format!("{name} is not running here")));
        }
        let permit = self.in_flight.clone().try_acquire_owned();
        permit.map_err(|_| status::overloaded("too many calls in flight", RETRY_AFTER))
    }
}

/// Full service name → (method name, whether it streams).
type Services = BTreeMap<String, Vec<(String, bool)>>;

fn services(descriptors: &[u8]) -> Result<Services, prost::DecodeError> {
    let mut services = Services::new();
    for file in FileDescriptorSet::decode(descriptors)?.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            let methods = service.method.iter().map(|method| {
                let streaming = method.client_streaming() || method.server_streaming();
                (method.name().to_owned(), streaming)
            });
            services.insert(name, methods.collect());
        }
    }
    Ok(services)
}

/// `coupon` of `couponmesh.coupon.v1.CouponService`.
fn short_name(service: &str) -> &str {
    service.split('.').nth(1).unwrap_or(service)
}
