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

/// The RPCs of the contract by request path. Health and reflection are not among them: they must
/// answer whatever is full.
#[derive(Debug)]
pub(super) struct Methods(HashMap<String, Method>);

/// One RPC.
#[derive(Debug)]
pub(super) struct Method {
    /// Whether it streams in either direction.
    pub(super) streaming: bool,
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
        let services = services(descriptors)?;
        let mut all = present
            .iter()
            .copied()
            .chain(absent.iter().map(String::as_str));
        if let Some(unknown) = all.find(|name| !services.contains_key(*name)) {
            return Err(MethodsError::UnknownService(unknown.to_owned()));
        }
        let mut methods = HashMap::new();
        for (service, rpcs) in services {
            let is_absent = absent.contains(&service);
            for (rpc, streaming) in rpcs {
                let path = format!("{service}/{rpc}");
                let bound = config.max_in_flight_of.get(&path);
                let method = Method {
                    streaming,
                    in_flight: Arc::new(Semaphore::new(*bound.unwrap_or(&config.max_in_flight))),
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

    /// The RPC at a request path; none for health, reflection and what does not exist.
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
