//! The stream: made when it is missing, checked when it is there, purged of what nobody needs.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{ConsumerInfoErrorKind, CreateStreamError, GetStreamError, GetStreamErrorKind},
    message::StreamMessage,
    stream::{
        Config, DiscardPolicy, Info, PeerInfo, PersistenceMode, RawMessageError,
        RawMessageErrorKind, RetentionPolicy, State, StorageType, Stream,
    },
};
use couponmesh_runtime::{Timestamp, id::MemberId};
use serde::Deserialize;
use uuid::Uuid;

use super::{NatsConfig, NotYet, Role, names::Names};
use crate::bus::{BusError, Place};

/// Where the stream's metadata say how what is in it is laid out, and into how many parts it is divided. A stream of a
/// release up to 0.3 says neither.
const LAYOUT: &str = "couponmesh-layout";
const PARTITIONS: &str = "couponmesh-partitions";
/// The layout that this release writes and reads.
const OUR_LAYOUT: u32 = 2;
/// How long the server remembers message ids. Only an optimisation: handlers tolerate repeats.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How far the clock that tells messages' ages and the one that tells which are old may differ.
const CLOCKS: Duration = Duration::from_secs(3_600);

/// Into how many parts a stream is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partitions(pub(super) u16);

impl Partitions {
    /// The partition of what is about that member.
    pub(super) fn of(self, member_id: MemberId) -> u16 {
        // The last eight bytes of a UUID v7 are random but for two bits.
        let number = member_id.0.as_u64_pair().1 % u64::from(self.0.max(1));
        u16::try_from(number).unwrap_or_default()
    }
}

/// So many operations behind its leader a server is catching up; fewer are usual under load.
const FAR_BEHIND: u64 = 10_000;

/// What was found.
pub(super) struct Found {
    pub(super) stream: Stream,
    pub(super) partitions: Partitions,
    /// It was not there before.
    pub(super) made: bool,
}

fn metadata(partitions: Partitions) -> HashMap<String, String> {
    HashMap::from([
        (LAYOUT.to_owned(), OUR_LAYOUT.to_string()),
        (PARTITIONS.to_owned(), partitions.0.to_string()),
    ])
}

/// Into how many parts the stream says that it is divided; none when a release up to 0.3 made it.
pub(super) fn divided(config: &Config) -> Result<Option<Partitions>, BusError> {
    let Some(layout) = config.metadata.get(LAYOUT) else {
        return Ok(None);
    };
    let told = config.metadata.get(PARTITIONS);
    let partitions = told
        .and_then(|told| told.parse().ok())
        .filter(|told| *told > 0);
    match partitions {
        Some(partitions) if *layout == OUR_LAYOUT.to_string() => Ok(Some(Partitions(partitions))),
        _ => Err(BusError(
            format!(
                "stream {} has layout {layout} with {} partitions, and this release knows layout {OUR_LAYOUT}: run the \
                 release that made it, or a newer one",
                config.name,
                told.map_or("no", String::as_str)
            )
            .into(),
        )),
    }
}

fn wanted(config: &NatsConfig, names: &Names) -> Config {
    Config {
        name: names.stream().to_owned(),
        description: Some("Events of couponmesh, as CloudEvents.".to_owned()),
        subjects: vec![names.subjects()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        // A full stream refuses, and the outboxes wait: nothing that someone may need is thrown away.
        discard: DiscardPolicy::New,
        max_bytes: config.max_bytes,
        max_age: Duration::ZERO,
        num_replicas: config.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        // One sync to disk for many events.
        allow_atomic_publish: true,
        ..Config::default()
    }
}

/// Finds the stream; who keeps it makes it with `partitions` where it is missing.
pub(super) async fn find_or_make(
    js: &Context,
    config: &NatsConfig,
    names: &Names,
    role: &Role,
    partitions: Partitions,
) -> Result<Found, BusError> {
    match js.get_stream(names.stream()).await {
        Ok(stream) => {
            let found = stream.cached_info().config.clone();
            let partitions = match divided(&found)? {
                Some(partitions) => partitions,
                None if role.keeps => divide(js, found, partitions).await?,
                None => {
                    return Err(left_to_the_keeper(
                        names,
                        "is not divided into partitions yet",
                    ));
                }
            };
            return Ok(Found {
                stream,
                partitions,
                made: false,
            });
        }
        Err(error) if !is_missing(&error) => return Err(error.into()),
        Err(_) if !role.keeps => return Err(left_to_the_keeper(names, "is not there yet")),
        Err(_) => {}
    }
    let metadata = metadata(partitions);
    let made = js
        .create_stream(Config {
            metadata,
            ..wanted(config, names)
        })
        .await;
    // E.g. more copies than there are servers: these keys are what an operator can change.
    let (replicas, max_bytes) = (config.replicas, config.max_bytes);
    let stream = made.map_err(|error| {
        let tried = format!("bus.replicas = {replicas} and bus.max_bytes = {max_bytes}");
        BusError(format!("the stream cannot be made with {tried}: {error}").into())
    })?;
    Ok(Found {
        stream,
        partitions,
        made: true,
    })
}

fn left_to_the_keeper(names: &Names, state: &str) -> BusError {
    NotYet::error(format!("stream {} {state}", names.stream()))
}

/// Takes over a stream that a release up to 0.3 made.
async fn divide(
    js: &Context,
    found: Config,
    partitions: Partitions,
) -> Result<Partitions, BusError> {
    let mut metadata = metadata(partitions);
    metadata.extend(found.metadata.clone());
    let name = found.name.clone();
    let updated = js.update_stream(Config { metadata, ..found }).await;
    updated.map_err(|error| {
        let told = "the stream of an earlier release cannot be divided into partitions";
        BusError(format!("{told}: {error}").into())
    })?;
    let stream = js.get_stream(name).await?;
    let divided = divided(&stream.cached_info().config)?;
    divided.ok_or_else(|| BusError("the stream was divided and is not".into()))
}

pub(super) fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Where the stream's settings differ from what is configured, a line each. They are reported and left as
/// they are: an operator may have had a reason.
pub(super) fn drift(info: &Info, config: &NatsConfig, names: &Names) -> Vec<String> {
    let name = names.stream();
    let compared = settings(&info.config)
        .into_iter()
        .zip(settings(&wanted(config, names)));
    compared
        .filter(|((_, is), (_, wanted))| is != wanted)
        .map(|((setting, is), (_, wanted))| {
            let edit = match setting {
                "max_bytes" => {
                    format!("; `nats stream edit {name} --max-bytes {wanted}` changes it")
                }
                "replicas" => format!("; `nats stream edit {name} --replicas {wanted}` changes it"),
                _ => String::new(),
            };
            format!("{setting} is {is}, not {wanted}{edit}")
        })
        .collect()
}

/// What may lose acknowledged events, a line each. `cluster` is the name of the cluster that the
/// server belongs to. A server does not tell its clients whether it syncs each event to disk
/// (`sync_interval: always`); only its administrators can see that.
pub(super) fn risks(info: &Info, cluster: Option<&str>) -> Vec<String> {
    let (mut risks, name) = (Vec::new(), &info.config.name);
    if let (Some(cluster), 1) = (cluster, info.config.num_replicas) {
        risks.push(format!(
            "cluster {cluster} keeps one copy of the events, and loses them with one server: set bus.replicas to 3, \
             and run `nats stream edit {name} --replicas 3`"
        ));
    }
    if info.config.persist_mode == Some(PersistenceMode::Async) {
        risks.push(format!(
            "stream {name} has persist_mode async and acknowledges events before they are on disk: make it without"
        ));
    }
    risks
}

/// What has to be as configured, each by its name.
fn settings(config: &Config) -> [(&'static str, String); 7] {
    [
        ("subjects", format!("{:?}", config.subjects)),
        ("retention", format!("{:?}", config.retention)),
        ("storage", format!("{:?}", config.storage)),
        ("discard", format!("{:?}", config.discard)),
        ("max_age", format!("{:?}", config.max_age)),
        ("max_bytes", config.max_bytes.to_string()),
        ("replicas", config.num_replicas.to_string()),
    ]
}

/// What the server says of the stream, as far as the client leaves it out.
#[derive(Deserialize)]
struct Told {
    /// The server's time.
    ts: String,
}

/// Whether the server's clock, which tells messages' ages, tells about the same as ours.
pub(super) async fn agrees(js: &Context, stream: &str, now: Timestamp) -> Result<bool, BusError> {
    let told: Told = js.request(format!("STREAM.INFO.{stream}"), &()).await?;
    let time: Timestamp = told.ts.parse().map_err(|error| BusError(Box::new(error)))?;
    Ok(time.since(now).max(now.since(time)) <= CLOCKS)
}

/// Deletes messages from before `before` up to `floor`, where `state` was the stream's.
pub(super) async fn purge(
    stream: &Stream,
    state: &State,
    floor: u64,
    before: Timestamp,
) -> Result<(), BusError> {
    // The first message to stay: younger than `before`, or not dealt with.
    let (mut first, mut end) = (state.first_sequence, floor + 1);
    while first < end {
        let middle = first + (end - first) / 2;
        let is_old = match stream.get_raw_message(middle).await {
            Ok(message) => micros(message.time.unix_timestamp_nanos()) < before.0,
            // Deleted by hand. Any other error says nothing of its age.
            Err(error) if is_no_message(&error) => true,
            Err(error) => return Err(error.into()),
        };
        if is_old {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    if first > state.first_sequence {
        let purged = stream.purge().sequence(first).await?;
        tracing::info!(
            messages = purged.purged,
            "old events deleted from the stream"
        );
    }
    Ok(())
}

/// The sequence up to which each of `readers` has dealt with everything, where `info` was the stream's before; none
/// while one of them is not there, or a server of the cluster is catching up and may take what it lacks for read.
pub(super) async fn floor(
    stream: &Stream,
    info: &Info,
    readers: &[String],
) -> Result<Option<u64>, BusError> {
    let peers = info.cluster.iter().flat_map(|cluster| &cluster.replicas);
    let is_far_behind = |peer: &PeerInfo| !peer.offline && peer.lag.unwrap_or(0) > FAR_BEHIND;
    if peers.into_iter().any(is_far_behind) {
        return Ok(None);
    }
    let mut floor = info.state.last_sequence;
    for reader in readers {
        let info = match stream.consumer_info(reader).await {
            Ok(info) => info,
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // One with nothing to do is past everything that was there before it was asked.
        if info.num_pending > 0 || info.num_ack_pending > 0 {
            floor = floor.min(info.ack_floor.stream_sequence);
        }
    }
    Ok(Some(floor))
}

/// Whether the stream has at the place what has its stamp, or has deleted what was there.
pub(super) async fn holds(
    stream: &Stream,
    place: Place,
    stamp: impl Fn(&StreamMessage) -> Uuid,
) -> Result<bool, BusError> {
    let sequence = u64::try_from(place.sequence).unwrap_or(0);
    match stream.get_raw_message(sequence).await {
        Ok(raw) => Ok(stamp(&raw) == place.stamp),
        Err(error) if is_no_message(&error) => {
            // Asked for anew: the stream may be another by now.
            let info = stream.get_info().await?;
            Ok(sequence <= info.state.last_sequence)
        }
        Err(error) => Err(error.into()),
    }
}

fn is_no_message(error: &RawMessageError) -> bool {
    matches!(error.kind(), RawMessageErrorKind::NoMessageFound)
}

fn micros(nanos: i128) -> i64 {
    i64::try_from(nanos / 1_000).unwrap_or(i64::MAX)
}

macro_rules! bus_errors {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for BusError {
            fn from(error: $error) -> Self {
                Self(Box::new(error))
            }
        }
    )+};
}

bus_errors!(
    GetStreamError,
    RawMessageError,
    CreateStreamError,
    async_nats::jetstream::stream::PurgeError,
    async_nats::jetstream::stream::ConsumerError,
    async_nats::jetstream::context::ConsumerInfoError,
    async_nats::jetstream::consumer::StreamError,
    async_nats::jetstream::consumer::pull::MessagesError,
    async_nats::jetstream::context::PublishError,
    async_nats::client::PublishError,
    async_nats::client::RequestError,
    async_nats::jetstream::context::RequestError,
    async_nats::jetstream::context::KeyValueError,
    async_nats::jetstream::kv::CreateError,
    async_nats::jetstream::kv::EntryError,
);
