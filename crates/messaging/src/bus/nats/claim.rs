//! Whose the stream is: each service of an installation says in a bucket which database is its own.
//!
//! Who finds another database there is of another installation, which uses the same account of the same server, and
//! keeps off: two that share a stream take events from each other. Who comes first claims, and with logins of their
//! own services do not claim for each other.

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    context::{KeyValueError, KeyValueErrorKind},
    kv::{self, CreateErrorKind},
    stream::{Config, DiscardPolicy, StorageType},
};
use bytes::Bytes;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{Inner, NatsBus, NatsConfig, NotYet, Role, Start, names::Names, stream::is_missing};
use crate::bus::BusError;

/// How often that is.
const CLAIM_AGAIN: Duration = Duration::from_secs(60);

/// The bus is another installation's.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "bus.prefix: stream {stream} belongs to another installation: its service {service} has database {theirs}, and this \
     one has {ours}. Set bus.prefix to a name that is this installation's alone, in all of its services. If this database \
     takes the place of the other, stop whoever uses that one, and `nats kv del {bucket} {service}` gives the stream to it"
)]
pub struct Stranger {
    service: &'static str,
    stream: String,
    bucket: String,
    theirs: String,
    ours: Uuid,
}

/// The same about whose the stream is, once that is known.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(1);

impl NatsBus {
    /// Claims the stream, or sees that it is ours; what is wrong with where that stands, if anything.
    ///
    /// # Errors
    /// When it is another installation's. When that cannot be seen, too, but not once it was: the claim may stand on
    /// another server than the stream.
    pub(super) async fn claim(&self) -> Result<Option<String>, BusError> {
        let Inner {
            config,
            names,
            role,
            database,
            claimed,
            ..
        } = &*self.0;
        let claim = claim(self.context()?, config, names, role, database.wait().await);
        let seen = if claimed.get().is_none() {
            claim.await
        } else {
            let claim = timeout(CLAIM_TIMEOUT, claim).await;
            match claim {
                Ok(Err(error)) if error.0.is::<Stranger>() => Err(error),
                _ => Ok(None),
            }
        };
        match &seen {
            Ok(_) => drop(claimed.set(())),
            Err(error) => {
                if let Some(stranger) = error.0.downcast_ref::<Stranger>() {
                    let refused = Start::Refused(stranger.clone());
                    self.0.start.send_replace(refused);
                }
            }
        }
        seen
    }
}

/// Claims the stream for the service whose database is `ours`, unless it has done so before. A line that says so when
/// fewer servers keep the claims than are configured.
async fn claim(
    js: &Context,
    config: &NatsConfig,
    names: &Names,
    role: &Role,
    ours: &Uuid,
) -> Result<Option<String>, BusError> {
    let bucket = find_or_make(js, config, names, role).await?;
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

/// Claims again every now and then: a bucket that was lost is made anew without a word.
pub(super) async fn keep(bus: NatsBus) {
    bus.meet().await;
    loop {
        sleep(CLAIM_AGAIN).await;
        // Whoever uses the stream next gets the same error and logs it.
        let _ = bus.claim().await;
    }
}

async fn find_or_make(
    js: &Context,
    config: &NatsConfig,
    names: &Names,
    role: &Role,
) -> Result<kv::Store, BusError> {
    let name = names.claims();
    let error = match js.get_key_value(name).await {
        Ok(bucket) => return Ok(bucket),
        Err(error) if is_no_bucket(&error) => error,
        Err(error) => return Err(error.into()),
    };
    if !role.keeps {
        tracing::debug!(error = &error as &dyn std::error::Error, "no claims yet");
        return Err(NotYet::error(format!("bucket {name} is not there yet")));
    }
    // Who finds it made meanwhile uses that one.
    make(js, config, names).await?;
    Ok(js.get_key_value(name).await?)
}

/// Makes the bucket, as a bucket is made but without roll-ups: with those, one service could delete all claims.
async fn make(js: &Context, config: &NatsConfig, names: &Names) -> Result<(), BusError> {
    let name = names.claims();
    let config = Config {
        name: format!("KV_{name}"),
        description: Some(
            "Which databases are those of this installation of couponmesh.".to_owned(),
        ),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_message_size: 1_024,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: config.replicas,
        allow_direct: true,
        deny_delete: true,
        ..Config::default()
    };
    let replicas = config.num_replicas;
    let made = js.create_stream(config).await;
    made.map(drop).map_err(|error| {
        let tried = format!("bus.replicas = {replicas}");
        BusError(format!("bucket {name} cannot be made with {tried}: {error}").into())
    })
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

fn is_no_bucket(error: &KeyValueError) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    error.kind() == KeyValueErrorKind::GetBucket && cause.is_some_and(is_missing)
}
