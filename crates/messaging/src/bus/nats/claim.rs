//! Whose the stream is: each service of an installation says in a bucket which database is its own.
//!
//! Who finds another database there is of another installation, which uses the same account of the same server, and
//! keeps off: two that share a stream take events from each other. A claim is made once, by whoever comes first. The
//! server takes no second one, and with logins of their own services cannot claim for each other.

use async_nats::jetstream::{
    Context,
    context::{CreateKeyValueError, KeyValueError, KeyValueErrorKind},
    kv::{self, CreateErrorKind},
    stream::StorageType,
};
use bytes::Bytes;
use uuid::Uuid;

use super::{NatsConfig, Role, names::Names, stream::is_missing};
use crate::bus::BusError;

/// The bus is another installation's.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "bus.prefix: stream {stream} belongs to another installation: its service {service} has database {theirs}, and this \
     one has {ours}. Set bus.prefix to a name that is this installation's alone, in all of its services. If this database \
     takes the place of the other, `nats kv del {bucket} {service}` gives the stream to it"
)]
pub struct Stranger {
    service: &'static str,
    stream: String,
    bucket: String,
    theirs: String,
    ours: Uuid,
}

/// Claims the stream for the service whose database is `ours`, unless it has done so before. A line that says so when
/// fewer servers keep the claims than are configured.
pub(super) async fn claim(
    js: &Context,
    config: &NatsConfig,
    names: &Names,
    role: &Role,
    ours: &Uuid,
) -> Result<Option<String>, BusError> {
    let bucket = match js.get_key_value(names.claims()).await {
        Ok(bucket) => bucket,
        Err(error) if role.keeps && is_no_bucket(&error) => make(js, config, names).await?,
        Err(error) => return Err(missing(names, &error)),
    };
    let theirs = match bucket.get(role.service).await? {
        Some(theirs) => theirs,
        None => {
            let claim = Bytes::from(ours.to_string());
            match bucket.create(role.service, claim).await {
                Ok(_) => return Ok(drift(&bucket, config)),
                // Another replica was faster, or another installation.
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                    let theirs = bucket.get(role.service).await?;
                    theirs.ok_or_else(|| BusError("the claim is not there yet".into()))?
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    if theirs == ours.to_string().as_bytes() {
        return Ok(drift(&bucket, config));
    }
    Err(BusError(Box::new(Stranger {
        service: role.service,
        stream: names.stream().to_owned(),
        bucket: names.claims().to_owned(),
        theirs: String::from_utf8_lossy(&theirs).escape_debug().to_string(),
        ours: *ours,
    })))
}

fn drift(bucket: &kv::Store, config: &NatsConfig) -> Option<String> {
    let (is, wanted) = (
        bucket.stream.cached_info().config.num_replicas,
        config.replicas,
    );
    let name = &bucket.stream_name;
    (is < wanted).then(|| {
        format!(
            "{name}, which says whose the stream is, is kept {is} times, not {wanted}, and no service starts without it; \
             `nats stream edit {name} --replicas {wanted}` changes it"
        )
    })
}

/// Makes the bucket. Who finds it made meanwhile uses that one.
async fn make(
    js: &Context,
    config: &NatsConfig,
    names: &Names,
) -> Result<kv::Store, CreateKeyValueError> {
    js.create_key_value(kv::Config {
        bucket: names.claims().to_owned(),
        description: "Which databases are those of this installation of couponmesh.".to_owned(),
        history: 1,
        storage: StorageType::File,
        num_replicas: config.replicas,
        ..kv::Config::default()
    })
    .await
}

fn is_no_bucket(error: &KeyValueError) -> bool {
    let mut cause = std::error::Error::source(error);
    let get_stream = cause.take().and_then(|cause| cause.downcast_ref());
    error.kind() == KeyValueErrorKind::GetBucket && get_stream.is_some_and(is_missing)
}

fn missing(names: &Names, error: &KeyValueError) -> BusError {
    if !is_no_bucket(error) {
        return BusError(error.to_string().into());
    }
    let bucket = names.claims();
    BusError(
        format!("bucket {bucket} is not there yet: the service that keeps the stream makes it")
            .into(),
    )
}
