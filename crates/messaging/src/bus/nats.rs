//! NATS JetStream: one stream for all events, divided by members into partitions.
//!
//! A server with `sync_interval: always` has an event on disk before it says so. Nothing here waits for
//! the server at the start: the doors of a service are open before the bus is, and what they do waits in
//! the outbox.

mod claim;
mod config;
mod connection;
mod envelope;
mod logins;
mod names;
mod reading;
mod space;
mod stamp;
mod stream;

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    RequestError, RequestErrorKind,
    connection::State,
    jetstream::{
        self, Context, ErrorCode,
        message::StreamMessage,
        stream::{Info, Stream},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use couponmesh_runtime::{Timestamp, running::Running};
use futures::future::try_join_all;
use serde::Deserialize;
use tokio::{
    sync::{SetOnce, watch},
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

pub use self::{
    claim::Stranger,
    config::NatsConfig,
    logins::{Permissions, logins, permissions},
};
use self::{
    names::Names,
    stream::{Found, Partitions},
};
use super::{Bus, BusError, Partition, Place, Publisher, Reading, Receipt};
use crate::{MessagingConfig, event::Event};

/// How often a server that is not there is tried, and said so.
const TRY_AGAIN: Duration = Duration::from_secs(3);
/// How long the server may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The same about whose the stream is, once that is known.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(1);
/// Questions in a row that JetStream may leave unanswered on a connection that lives. After that another server is tried:
/// this one may be cut off from the others.
const SILENCES: u32 = 3;
/// A question that was given up sooner was not left unanswered.
const SILENCE: Duration = Duration::from_secs(2);
/// From this number on, events are published as one batch: the server syncs once for all of them, where it
/// syncs for each alone. Fewer are not worth the batch's own cost. Measured: docs/performance.md.
const BATCH_FROM: usize = 32;

/// The bus of one replica. Cheap to clone.
#[derive(Clone)]
pub struct NatsBus(Arc<Inner>);

/// What a service is on the bus.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Its name: it publishes the events of its package, and has the server's consumers of its name.
    pub service: &'static str,
    /// Whether it keeps the stream: makes it, divides it into partitions, and deletes what nobody needs any more. One
    /// service of an installation does, so that the others need not be allowed to.
    pub keeps: bool,
    /// Everyone who has to be past an event before it may be deleted.
    pub consumers: &'static [&'static str],
}

struct Inner {
    config: NatsConfig,
    names: Names,
    role: Role,
    batch: usize,
    /// Into how many parts a stream is divided that is made here.
    partitions: u16,
    /// How long an event is wanted in the stream.
    retention: Duration,
    /// This replica, in the server's list of connections.
    replica: String,
    /// The id of the service's database. Before it is known, nothing is published or read.
    database: SetOnce<Uuid>,
    /// Set once it was seen that the stream is this installation's.
    claimed: OnceLock<()>,
    /// The connection, once it was made, with what keeps count of publications under way.
    context: OnceLock<Context>,
    /// The stream as it was found; none while it has to be looked for.
    stream: Mutex<Option<Met>>,
    /// Whether this replica has found the stream, or made it.
    start: watch::Sender<Start>,
    /// How often a connection was made.
    connections: watch::Sender<u64>,
    /// How many questions in a row JetStream left unanswered.
    silences: AtomicU32,
    /// How often the server refused something to this login.
    refusals: Arc<AtomicU64>,
    running: Running,
}

/// How far a replica is that starts.
#[derive(Clone, Debug)]
enum Start {
    Looking,
    /// The server is there, and who keeps the stream has not made it yet.
    Waiting,
    Met,
    Refused(Stranger),
}

/// The stream, and how it is divided.
#[derive(Clone)]
struct Met {
    stream: Stream,
    partitions: Partitions,
}

/// A question to JetStream, until it is answered or given up.
struct Question<'a> {
    bus: &'a NatsBus,
    asked: Instant,
    answered: bool,
    /// The server said that it cannot answer.
    cut_off: bool,
    /// How often it had refused something before.
    refusals: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let silences = &self.bus.0.silences;
        // What is not allowed is not answered by any server.
        let is_refused = self.bus.refusals() != self.refusals;
        if self.answered {
            silences.store(0, Ordering::Relaxed);
        } else if !is_refused
            && self.bus.is_connected()
            && (self.cut_off || self.asked.elapsed() >= SILENCE)
            && silences.fetch_add(1, Ordering::Relaxed) + 1 >= SILENCES
        {
            silences.store(0, Ordering::Relaxed);
            self.bus.try_another_server();
        }
    }
}

/// Why the bus cannot be used at the start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The server, or the stream on it, was never reached.
    #[error(
        "bus.url: no NATS server with JetStream was reached within {0:?}; see the warnings above"
    )]
    NeverReached(Duration),
    /// The stream is another installation's.
    #[error(transparent)]
    Stranger(Stranger),
}

/// Something is left to do for the service that keeps the stream.
#[derive(Debug, thiserror::Error)]
#[error("{0}: the service that keeps the stream, member, sees to that")]
struct NotYet(String);

impl NotYet {
    fn error(what: String) -> BusError {
        BusError(Box::new(Self(what)))
    }
}

impl NatsBus {
    /// A bus that connects in the background, for a replica of `role`. It is used once it is told whose database it
    /// [serves](Self::serve).
    #[must_use]
    pub fn start(
        config: &NatsConfig,
        messaging: &MessagingConfig,
        role: Role,
        replica: &str,
    ) -> Self {
        let bus = Self(Arc::new(Inner {
            config: config.clone(),
            names: Names::new(&config.prefix),
            role,
            batch: messaging.batch,
            partitions: messaging.partitions,
            retention: messaging.retention,
            replica: replica.to_owned(),
            database: SetOnce::new(),
            claimed: OnceLock::new(),
            context: OnceLock::new(),
            stream: Mutex::default(),
            start: watch::Sender::new(Start::Looking),
            connections: watch::Sender::new(0),
            silences: AtomicU32::new(0),
            refusals: Arc::default(),
            running: Running::new(),
        }));
        bus.keep("bus", |bus| async move { bus.connect().await });
        bus.keep("bus claim", claim::keep);
        if role.keeps {
            bus.keep("bus space", space::keep);
        }
        bus
    }

    /// Does `work` until it is done or the bus is closed. It may wait for ever for what never comes.
    fn keep<F>(&self, name: &'static str, work: impl Fn(Self) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let bus = self.clone();
        self.0.running.keep(name, move || {
            let (stop, work) = (bus.0.running.stopping(), work(bus.clone()));
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = work => {}
                }
            }
        });
    }

    /// Says that the service's database is the one with that id, and will be as long as this replica lives.
    pub fn serve(&self, database: Uuid) {
        // The id of a database does not change.
        let _ = self.0.database.set(database);
    }

    /// Waits until the stream was found once.
    ///
    /// # Errors
    /// When no server was reached within the configured time; at once when the stream is another installation's.
    pub async fn reached(&self) -> Result<(), StartError> {
        let patience = self.0.config.start_timeout;
        let mut start = self.0.start.subscribe();
        let is_there = start.wait_for(|start| !matches!(start, Start::Looking));
        if timeout(patience, is_there).await.is_err() {
            return Err(StartError::NeverReached(patience));
        }
        let is_over = |start: &Start| matches!(start, Start::Met | Start::Refused(_));
        match start.wait_for(is_over).await.as_deref() {
            Ok(Start::Refused(stranger)) => Err(StartError::Stranger(stranger.clone())),
            // The sender lives as long as this.
            _ => Ok(()),
        }
    }

    /// Waits until the stream turns out to be another installation's, e.g. after it was made anew.
    pub async fn refused(&self) -> StartError {
        let mut start = self.0.start.subscribe();
        let refused = start.wait_for(|start| matches!(start, Start::Refused(_)));
        if let Ok(Start::Refused(stranger)) = refused.await.as_deref() {
            return StartError::Stranger(stranger.clone());
        }
        std::future::pending().await
    }

    /// Waits until the stream was found once, however long that takes.
    async fn meet(&self) {
        let mut start = self.0.start.subscribe();
        let _ = start.wait_for(|start| matches!(start, Start::Met)).await;
    }

    /// Ends the connection.
    pub async fn close(&self) {
        self.0.running.stop().await;
        if let Ok(js) = self.context() {
            let client = js.client();
            let end = async {
                // What was acknowledged last goes out before the process does.
                if client.connection_state() == State::Connected {
                    client.flush().await?;
                }
                client.drain().await?;
                Ok::<(), async_nats::Error>(())
            };
            let _ = timeout(TIMEOUT, end).await;
        }
    }

    /// Connects once, and looks until the stream is found; from then on the client itself comes back after every loss.
    async fn connect(&self) {
        loop {
            let reached = async {
                if self.0.context.get().is_none() {
                    let context = connection::connect(self).await?;
                    self.0.context.get_or_init(|| context);
                }
                self.stream().await
            };
            let Err(error) = reached.await else { return };
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the bus is not there yet (bus.url); events wait in the outbox"
            );
            if error.0.is::<NotYet>() {
                self.0.start.send_replace(Start::Waiting);
            }
            sleep(TRY_AGAIN).await;
        }
    }

    fn context(&self) -> Result<&Context, BusError> {
        let context = self.0.context.get();
        context.ok_or_else(|| BusError("not connected".into()))
    }

    fn is_connected(&self) -> bool {
        let state = |context: &Context| context.client().connection_state();
        self.context()
            .is_ok_and(|context| state(context) == State::Connected)
    }

    fn refusals(&self) -> u64 {
        self.0.refusals.load(Ordering::Relaxed)
    }

    fn known_stream(&self) -> std::sync::MutexGuard<'_, Option<Met>> {
        self.0.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks JetStream something, for `longest` and no longer.
    async fn ask<T>(
        &self,
        longest: Duration,
        question: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        let mut asked = Question {
            bus: self,
            asked: Instant::now(),
            answered: false,
            cut_off: false,
            refusals: self.refusals(),
        };
        let answer = timeout(longest, question)
            .await
            .unwrap_or_else(|elapsed| Err(BusError(Box::new(elapsed))));
        match &answer {
            Ok(_) => asked.answered = true,
            Err(error) => {
                asked.cut_off = is_cut_off(error);
                self.look_again();
            }
        }
        answer
    }

    /// Leaves the server that does not answer.
    fn try_another_server(&self) {
        let (Ok(context), Ok(_)) = (self.context(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let client = context.client();
        tracing::warn!(
            "JetStream does not answer; connecting anew, to another server if there is one"
        );
        drop(self.0.running.spawn(async move {
            // An error says that the connection is being made anew already.
            let _ = client.force_reconnect().await;
        }));
    }

    /// The stream may be gone: look for it before it is used again.
    fn look_again(&self) {
        self.known_stream().take();
    }

    async fn stream(&self) -> Result<Met, BusError> {
        if let Some(met) = &*self.known_stream() {
            return Ok(met.clone());
        }
        let Inner {
            config,
            names,
            role,
            ..
        } = &*self.0;
        let js = self.context()?;
        let drift = self.claim().await?;
        let wanted = Partitions(self.0.partitions);
        let found = stream::find_or_make(js, config, names, role, wanted).await?;
        let Found {
            stream,
            made,
            partitions,
        } = found;
        if !matches!(self.0.start.send_replace(Start::Met), Start::Met) {
            self.report(&stream, made, partitions)?;
            if let Some(drift) = drift {
                tracing::warn!(stream = names.stream(), %drift, "acknowledged events may have to wait");
            }
        }
        let met = Met { stream, partitions };
        *self.known_stream() = Some(met.clone());
        Ok(met)
    }

    /// Claims the stream, or sees that it is ours; what is wrong with where that stands, if anything.
    ///
    /// # Errors
    /// When it is another installation's. When that cannot be seen, too, but not once it was: the claim may stand on
    /// another server than the stream.
    async fn claim(&self) -> Result<Option<String>, BusError> {
        let Inner {
            config,
            names,
            role,
            database,
            claimed,
            ..
        } = &*self.0;
        let claim = claim::claim(self.context()?, config, names, role, database.wait().await);
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

    /// Whether the stream has at the place what has its stamp, or has deleted what was there.
    async fn holds_stamped(
        &self,
        place: Place,
        stamp: impl Fn(&StreamMessage) -> Uuid,
    ) -> Result<bool, BusError> {
        let holds = async { stream::holds(&self.stream().await?.stream, place, stamp).await };
        let holds = self.ask(TIMEOUT, holds).await?;
        if !holds {
            self.look_again();
        }
        Ok(holds)
    }

    /// Logs what an operator should know of a stream that is met for the first time.
    fn report(&self, stream: &Stream, made: bool, partitions: Partitions) -> Result<(), BusError> {
        let (info, names, config) = (stream.cached_info(), &self.0.names, &self.0.config);
        let name = names.stream();
        if made {
            tracing::info!(stream = name, "stream made");
        } else {
            for drift in stream::drift(info, config, names) {
                tracing::warn!(stream = name, %drift, "the stream is not set up as configured; it is left as it is");
            }
        }
        let (Partitions(is), wanted) = (partitions, self.0.partitions);
        if is != wanted {
            tracing::warn!(
                stream = name,
                "messaging.partitions is {wanted}, but the stream was made with {is} and keeps them: set \
                 messaging.partitions = {is}"
            );
        }
        let server = self.context()?.client().server_info();
        for risk in stream::risks(info, server.cluster.as_deref()) {
            tracing::warn!(stream = name, %risk, "acknowledged events may be lost");
        }
        let max_bytes = info.config.max_bytes;
        let short = space::short_of_space(max_bytes, self.0.retention, config);
        if let Some(short) = short.filter(|_| self.0.role.keeps) {
            tracing::warn!(stream = name, "{short}");
        }
        Ok(())
    }

    /// The sequence up to which everyone who reads the stream has dealt with everything, where `info` was the stream's
    /// before; none while that cannot be said.
    async fn floor(&self, stream: &Stream, info: &Info) -> Result<Option<u64>, BusError> {
        let Some(partitions) = stream::divided(&self.0.names, &info.config)? else {
            return Ok(None);
        };
        let mut readers = Vec::new();
        for consumer in self.0.role.consumers {
            for one in reading::partitions(stream, partitions, consumer).await? {
                readers.push(names::consumer(consumer, &one.name));
            }
        }
        stream::floor(stream, info, &readers).await
    }

    /// As one batch, which the server takes as a whole or not at all.
    async fn publish_batch(
        &self,
        events: &[Event],
        partitions: Partitions,
        rewinds: i64,
    ) -> Result<Option<Place>, BusError> {
        let client = self.context()?.client();
        let mut last = None;
        let batch = events
            .first()
            .map(|event| event.id.to_string())
            .unwrap_or_default();
        for (index, event) in events.iter().enumerate() {
            let mut headers = envelope::headers(event, rewinds);
            headers.insert("Nats-Batch-Id", batch.as_str());
            headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
            let subject = envelope::subject(event, &self.0.names, partitions);
            let payload = Bytes::from(event.payload.clone());
            if index + 1 < events.len() {
                client
                    .publish_with_headers(subject, headers, payload)
                    .await?;
                continue;
            }
            headers.insert("Nats-Batch-Commit", "1");
            let answer = client
                .request_with_headers(subject, headers, payload)
                .await?;
            let answer: Answer = serde_json::from_slice(&answer.payload)
                .map_err(|error| BusError(Box::new(error)))?;
            if let Some(error) = answer.error {
                return Err(BusError(error.description.into()));
            }
            last = place(answer.seq, event, rewinds);
        }
        Ok(last)
    }

    async fn publish_each(
        &self,
        events: &[Event],
        partitions: Partitions,
        rewinds: i64,
    ) -> Result<Option<Place>, BusError> {
        let js = self.context()?;
        let mut acks = Vec::with_capacity(events.len());
        for event in events {
            let subject = envelope::subject(event, &self.0.names, partitions);
            let payload = Bytes::from(event.payload.clone());
            let published =
                js.publish_with_headers(subject, envelope::headers(event, rewinds), payload);
            acks.push(async { published.await?.await });
        }
        let acks = try_join_all(acks).await?;
        // The server names those that it had before by their old numbers.
        let places = events.iter().zip(acks);
        let last = places.max_by_key(|(_, ack)| ack.sequence);
        Ok(last.and_then(|(event, ack)| place(ack.sequence, event, rewinds)))
    }
}

/// Where the server says that it has an event; none when it names no number.
fn place(sequence: u64, event: &Event, rewinds: i64) -> Option<Place> {
    let place = Place {
        sequence: i64::try_from(sequence).unwrap_or(i64::MAX),
        stamp: stamp::published(&envelope::message_id(event, rewinds)),
    };
    (place.sequence > 0).then_some(place)
}

/// Whether the server says that it has no JetStream at hand, as one that is cut off from its cluster does.
fn is_cut_off(error: &BusError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let refused = error.downcast_ref::<jetstream::Error>();
        if refused.is_some_and(|error| error.error_code() == ErrorCode::CLUSTER_NOT_AVAILABLE) {
            return true;
        }
        let asked = error.downcast_ref::<RequestError>();
        if asked.is_some_and(|error| error.kind() == RequestErrorKind::NoResponders) {
            return true;
        }
        next = error.source();
    }
    false
}

/// What the server says to a batch.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    /// The last event's.
    #[serde(default)]
    seq: u64,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    description: String,
}

#[async_trait]
impl Publisher for NatsBus {
    async fn publish(&self, events: Vec<Event>, rewinds: i64) -> Result<Option<Place>, BusError> {
        let publish = async {
            let Met { stream, partitions } = self.stream().await?;
            if events.len() >= BATCH_FROM && stream.cached_info().config.allow_atomic_publish {
                match self.publish_batch(&events, partitions, rewinds).await {
                    Ok(place) => return Ok(place),
                    // E.g. one of them is known already, after a relay that died before it stored its checkpoint.
                    Err(error) => tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "not published as a batch; published one by one"
                    ),
                }
            }
            self.publish_each(&events, partitions, rewinds).await
        };
        self.ask(TIMEOUT * 3, publish).await
    }

    fn connection(&self) -> u64 {
        // Counted before anything goes over the connection, where the client's events come some time after.
        let connects = |context: &Context| {
            let statistics = context.client().statistics();
            statistics.connects.load(Ordering::Relaxed)
        };
        self.context().map_or(0, connects)
    }

    async fn holds(&self, place: Place) -> Result<bool, BusError> {
        let stamp = |raw: &StreamMessage| stamp::of_published(&raw.headers);
        self.holds_stamped(place, stamp).await
    }

    async fn delete_before(&self, before: Timestamp, now: Timestamp) -> Result<(), BusError> {
        if !self.0.role.keeps {
            return Ok(());
        }
        let purge = async {
            self.meet().await;
            let (js, stream) = (self.context()?, self.stream().await?.stream);
            if !stream::agrees(js, self.0.names.stream(), now).await? {
                tracing::error!(
                    %now,
                    "the clocks of NATS and of this service's database differ by more than an hour: no event is \
                     deleted from the stream by its age until they are set"
                );
                return Ok(());
            }
            let info = stream.get_info().await?;
            match self.floor(&stream, &info).await? {
                Some(floor) => stream::purge(&stream, &info.state, floor, before).await,
                None => Ok(()),
            }
        };
        timeout(TIMEOUT * 3, purge)
            .await
            .unwrap_or_else(|elapsed| Err(BusError(Box::new(elapsed))))
    }
}

#[async_trait]
impl Bus for NatsBus {
    fn publisher(&self) -> Option<Arc<dyn Publisher>> {
        Some(Arc::new(self.clone()))
    }

    async fn holds(&self, _: &str, place: Place) -> Result<bool, BusError> {
        let stamp =
            |raw: &StreamMessage| stamp::read(Some(&raw.headers), raw.time.unix_timestamp_nanos());
        self.holds_stamped(place, stamp).await
    }

    async fn partitions(
        &self,
        consumer: &'static str,
        types: &'static [&'static str],
    ) -> Result<Vec<Partition>, BusError> {
        if types.is_empty() {
            // To the server, none would be all.
            return Ok(Vec::new());
        }
        let partitions = async {
            let Met { stream, partitions } = self.stream().await?;
            reading::partitions(&stream, partitions, consumer).await
        };
        self.ask(TIMEOUT, partitions).await
    }

    async fn read(
        &self,
        consumer: &'static str,
        partition: &str,
        types: &'static [&'static str],
        after: i64,
    ) -> Result<Reading, BusError> {
        let open = reading::open(self, consumer, partition, types, after);
        self.ask(TIMEOUT * 3, open).await
    }

    async fn passed(&self, receipts: Vec<Receipt>) {
        let Ok(context) = self.context() else { return };
        let client = context.client();
        for Receipt(subject) in receipts {
            // Where there is no connection the readings have ended, and those who read again begin where they are.
            if client.connection_state() == State::Connected {
                // An empty one says that all up to there was dealt with.
                let _ = client.publish(subject, Bytes::new()).await;
            }
        }
    }
}
