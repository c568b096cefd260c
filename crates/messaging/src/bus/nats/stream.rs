//! The stream: made when it is missing, checked when it is there, purged of what nobody needs.

use std::time::Duration;

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamError, GetStreamError, GetStreamErrorKind},
    stream::{
        Config, DiscardPolicy, Info, PersistenceMode, RawMessageError, RawMessageErrorKind,
        RetentionPolicy, StorageType, Stream,
    },
};
use couponmesh_runtime::Timestamp;
use serde::Deserialize;

use super::NatsConfig;
use crate::bus::{BusError, Place};

/// The contract's name.
pub(super) const NAME: &str = "COUPONMESH";
const SUBJECTS: &str = "couponmesh.>";
/// How long the server remembers message ids. Only an optimisation: the inbox is the guarantee.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How far the clock that tells messages' ages and the one that tells which are old may differ.
const CLOCKS: Duration = Duration::from_secs(3_600);

/// What was found.
pub(super) struct Found {
    pub(super) stream: Stream,
    /// It was not there before.
    pub(super) made: bool,
}

fn wanted(config: &NatsConfig) -> Config {
    Config {
        name: NAME.to_owned(),
        description: Some("Events of couponmesh, as CloudEvents.".to_owned()),
        subjects: vec![SUBJECTS.to_owned()],
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

/// Finds the stream, or makes it.
pub(super) async fn find_or_make(js: &Context, config: &NatsConfig) -> Result<Found, BusError> {
    match js.get_stream(NAME).await {
        Ok(stream) => {
            return Ok(Found {
                stream,
                made: false,
            });
        }
        Err(error) if !is_missing(&error) => return Err(error.into()),
        Err(_) => {}
    }
    let made = js.create_stream(wanted(config)).await;
    // E.g. more copies than there are servers: these keys are what an operator can change.
    let (replicas, max_bytes) = (config.replicas, config.max_bytes);
    let stream = made.map_err(|error| {
        let tried = format!("bus.replicas = {replicas} and bus.max_bytes = {max_bytes}");
        BusError(format!("the stream cannot be made with {tried}: {error}").into())
    })?;
    Ok(Found { stream, made: true })
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Where the stream's settings differ from what is configured, a line each. They are reported and left as
/// they are: an operator may have had a reason.
pub(super) fn drift(info: &Info, config: &NatsConfig) -> Vec<String> {
    let compared = settings(&info.config)
        .into_iter()
        .zip(settings(&wanted(config)));
    compared
        .filter(|((_, is), (_, wanted))| is != wanted)
        .map(|((setting, is), (_, wanted))| {
            let edit = match setting {
                "max_bytes" => {
                    format!("; `nats stream edit {NAME} --max-bytes {wanted}` changes it")
                }
                "replicas" => format!("; `nats stream edit {NAME} --replicas {wanted}` changes it"),
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
    let mut risks = Vec::new();
    if let (Some(cluster), 1) = (cluster, info.config.num_replicas) {
        risks.push(format!(
            "cluster {cluster} keeps one copy of the events, and loses them with one server: set bus.replicas to 3, \
             and run `nats stream edit {NAME} --replicas 3`"
        ));
    }
    if info.config.persist_mode == Some(PersistenceMode::Async) {
        risks.push(format!(
            "stream {NAME} has persist_mode async and acknowledges events before they are on disk: make it without"
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
async fn agrees(js: &Context, now: Timestamp) -> Result<bool, BusError> {
    let told: Told = js.request(format!("STREAM.INFO.{NAME}"), &()).await?;
    let time: Timestamp = told.ts.parse().map_err(|error| BusError(Box::new(error)))?;
    Ok(time.since(now).max(now.since(time)) <= CLOCKS)
}

/// Deletes messages from before `before` that each of `consumers` is past; nothing while one of them has
/// never come, or while the server's clock is not the one by which the caller goes.
pub(super) async fn purge(
    js: &Context,
    consumers: &[&str],
    before: Timestamp,
    now: Timestamp,
) -> Result<(), BusError> {
    if !agrees(js, now).await? {
        tracing::error!(
            %now,
            "the clocks of NATS and of this service's database differ by more than an hour: no event is deleted \
             from the stream by its age until they are set"
        );
        return Ok(());
    }
    let stream = js.get_stream(NAME).await?;
    let state = stream.cached_info().state.clone();
    let mut floor = state.last_sequence;
    for consumer in consumers {
        let Ok(info) = stream.consumer_info(consumer).await else {
            return Ok(());
        };
        // One with nothing to do is past everything that was there before it was asked.
        if info.num_pending > 0 || info.num_ack_pending > 0 {
            floor = floor.min(info.ack_floor.stream_sequence);
        }
    }
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

/// Whether the stream has the event at its place, or has deleted what was there.
pub(super) async fn holds(stream: &Stream, place: Place) -> Result<bool, BusError> {
    let sequence = u64::try_from(place.sequence).unwrap_or(0);
    match stream.get_raw_message(sequence).await {
        Ok(message) => {
            let id = message.headers.get("ce-id").map(|id| id.as_str());
            Ok(id == Some(place.event_id.to_string().as_str()))
        }
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
    async_nats::jetstream::consumer::pull::BatchRequestError,
    async_nats::jetstream::context::PublishError,
    async_nats::client::PublishError,
    async_nats::client::RequestError,
    async_nats::SubscribeError,
    async_nats::jetstream::context::RequestError,
);
