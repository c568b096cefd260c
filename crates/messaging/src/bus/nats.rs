//! NATS JetStream: one stream for all events, divided by members into partitions.
//!
//! A server with `sync_interval: always` has an event on disk before it says so. Nothing here waits for
//! the server at the start: the doors of a service are open before the bus is, and what they do waits in
//! the outbox.

mod config;
mod envelope;
mod reading;
mod stream;

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_nats::{
    ConnectOptions, Event as ConnectionEvent, RequestError, RequestErrorKind,
    connection::State,
    jetstream::{self, Context, ErrorCode, stream::Stream},
};
use async_trait::async_trait;
use bytes::Bytes;
use couponmesh_runtime::{Timestamp, running::Running};
use futures::future::try_join_all;
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

pub use self::config::NatsConfig;
use self::stream::{Found, Partitions};
use super::{Bus, BusError, Partition, Place, Publisher, Reading, Receipt};
use crate::{MessagingConfig, event::Event};

/// How often a server that is not there is tried, and said so.
const TRY_AGAIN: Duration = Duration::from_secs(3);
/// How long the server may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection is tried. One that misses two answers is made anew, to another server if there is one.
const PING_INTERVAL: Duration = Duration::from_secs(3);
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

struct Inner {
    config: NatsConfig,
    batch: usize,
    /// Into how many parts a stream is divided that is made here.
    partitions: u16,
    name: String,
    /// Everyone who has to be past an event before it may be deleted.
    consumers: &'static [&'static str],
    /// The connection, once it was made, with what keeps count of publications under way.
    context: OnceLock<Context>,
    /// The stream as it was found; none while it has to be looked for.
    stream: Mutex<Option<Met>>,
    /// Whether this replica has found the stream, or made it.
    met: watch::Sender<bool>,
    /// How often a connection was made.
    connections: watch::Sender<u64>,
    /// How many questions in a row JetStream left unanswered.
    silences: AtomicU32,
    running: Running,
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
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let silences = &self.bus.0.silences;
        if self.answered {
            silences.store(0, Ordering::Relaxed);
        } else if (self.cut_off || self.asked.elapsed() >= SILENCE)
            && silences.fetch_add(1, Ordering::Relaxed) + 1 >= SILENCES
        {
            silences.store(0, Ordering::Relaxed);
            self.bus.try_another_server();
        }
    }
}

/// The server was never reached.
#[derive(Debug, thiserror::Error)]
#[error("bus.url: no NATS server with JetStream was reached within {0:?}; see the warnings above")]
pub struct NeverReached(Duration);

impl NatsBus {
    /// A bus that connects in the background. `name` is shown in the server's list of connections; each of
    /// `consumers` has to be past an event before it may be deleted.
    #[must_use]
    pub fn start(
        config: &NatsConfig,
        messaging: &MessagingConfig,
        name: &str,
        consumers: &'static [&'static str],
    ) -> Self {
        let bus = Self(Arc::new(Inner {
            config: config.clone(),
            batch: messaging.batch,
            partitions: messaging.partitions,
            name: name.to_owned(),
            consumers,
            context: OnceLock::new(),
            stream: Mutex::default(),
            met: watch::Sender::new(false),
            connections: watch::Sender::new(0),
            silences: AtomicU32::new(0),
            running: Running::new(),
        }));
        let connecting = bus.clone();
        bus.0.running.keep("bus", move || {
            let bus = connecting.clone();
            async move { bus.connect().await }
        });
        bus
    }

    /// Waits until the stream was found once.
    ///
    /// # Errors
    /// When it was not within the configured time.
    pub async fn reached(&self) -> Result<(), NeverReached> {
        let patience = self.0.config.start_timeout;
        let met = timeout(patience, self.meet()).await;
        met.map_err(|_| NeverReached(patience))
    }

    /// Waits until the stream was found once, however long that takes.
    async fn meet(&self) {
        // The sender lives as long as this.
        let _ = self.0.met.subscribe().wait_for(|met| *met).await;
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

    /// Connects once; from then on the client itself comes back after every loss.
    async fn connect(&self) {
        let stop = self.0.running.stopping();
        while !stop.is_cancelled() {
            let reached = async {
                if self.0.context.get().is_none() {
                    let context = self.try_connect().await?;
                    self.0.context.get_or_init(|| context);
                }
                self.stream().await
            };
            match reached.await {
                Ok(_) => return,
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the bus is not there yet (bus.url); events wait in the outbox"
                ),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(TRY_AGAIN) => {}
            }
        }
    }

    async fn try_connect(&self) -> Result<Context, BusError> {
        let config = &self.0.config;
        let addresses = config
            .addresses()
            .ok_or_else(|| BusError("bus.url is no address".into()))?;
        let connections = self.0.connections.clone();
        let mut options = ConnectOptions::new()
            .name(&self.0.name)
            .connection_timeout(TIMEOUT)
            .request_timeout(Some(TIMEOUT))
            .ping_interval(PING_INTERVAL)
            .event_callback(move |event| {
                if matches!(event, ConnectionEvent::Connected) {
                    connections.send_modify(|made| *made += 1);
                }
                async move {
                match event {
                    ConnectionEvent::Connected => tracing::info!("connected to the bus"),
                    ConnectionEvent::Disconnected | ConnectionEvent::LameDuckMode => {
                        tracing::warn!(%event, "the bus is not there; events wait in the outbox");
                    }
                    // At every attempt to come back, and of what is told elsewhere.
                    other => tracing::debug!(event = %other, "bus connection"),
                }
                }
            });
        if let Some((user, password)) = config.login() {
            options = options.user_and_password(user, password);
        }
        if !config.credentials_file.as_os_str().is_empty() {
            let read = options.credentials_file(&config.credentials_file).await;
            options = read.map_err(|error| BusError(Box::new(error)))?;
        }
        if !config.tls_ca_file.as_os_str().is_empty() {
            options = options.add_root_certificates(config.tls_ca_file.clone());
        }
        let connected = options.connect(addresses).await;
        let client = connected.map_err(|error| BusError(Box::new(error)))?;
        let context = jetstream::ContextBuilder::new()
            .timeout(TIMEOUT)
            .ack_timeout(TIMEOUT);
        Ok(context.build(client))
    }

    fn context(&self) -> Result<&Context, BusError> {
        let context = self.0.context.get();
        context.ok_or_else(|| BusError("not connected".into()))
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
        let wanted = Partitions(self.0.partitions);
        let found = stream::find_or_make(self.context()?, &self.0.config, wanted).await?;
        let Found {
            stream,
            made,
            partitions,
        } = found;
        if !self.0.met.send_replace(true) {
            self.report(&stream, made, partitions)?;
        }
        let met = Met { stream, partitions };
        *self.known_stream() = Some(met.clone());
        Ok(met)
    }

    /// Logs what an operator should know of a stream that is met for the first time.
    fn report(&self, stream: &Stream, made: bool, partitions: Partitions) -> Result<(), BusError> {
        let info = stream.cached_info();
        if made {
            tracing::info!(stream = stream::NAME, "stream made");
        } else {
            for drift in stream::drift(info, &self.0.config) {
                tracing::warn!(stream = stream::NAME, %drift, "the stream is not set up as configured; it is left as it is");
            }
        }
        let (Partitions(is), wanted) = (partitions, self.0.partitions);
        if is != wanted {
            tracing::warn!(
                stream = stream::NAME,
                "messaging.partitions is {wanted}, but the stream was made with {is} and keeps them: set \
                 messaging.partitions = {is}"
            );
        }
        let server = self.context()?.client().server_info();
        for risk in stream::risks(info, server.cluster.as_deref()) {
            tracing::warn!(stream = stream::NAME, %risk, "acknowledged events may be lost");
        }
        Ok(())
    }

    /// As one batch, which the server takes as a whole or not at all.
    async fn publish_batch(
        &self,
        events: &[Event],
        partitions: Partitions,
        rewinds: i64,
    ) -> Result<Option<u64>, BusError> {
        let client = self.context()?.client();
        let mut sequence = None;
        let batch = events
            .first()
            .map(|event| event.id.to_string())
            .unwrap_or_default();
        for (index, event) in events.iter().enumerate() {
            let mut headers = envelope::headers(event, rewinds);
            headers.insert("Nats-Batch-Id", batch.as_str());
            headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
            let subject = envelope::subject(event, partitions);
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
            sequence = Some(answer.seq);
        }
        Ok(sequence)
    }

    async fn publish_each(
        &self,
        events: &[Event],
        partitions: Partitions,
        rewinds: i64,
    ) -> Result<Option<u64>, BusError> {
        let js = self.context()?;
        let mut acks = Vec::with_capacity(events.len());
        for event in events {
            let subject = envelope::subject(event, partitions);
            let payload = Bytes::from(event.payload.clone());
            let published =
                js.publish_with_headers(subject, envelope::headers(event, rewinds), payload);
            acks.push(async { published.await?.await });
        }
        let acks = try_join_all(acks).await?;
        Ok(acks.last().map(|ack| ack.sequence))
    }
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
                    Ok(sequence) => return Ok(sequence),
                    // E.g. one of them is known already, after a relay that died before it stored its checkpoint.
                    Err(error) => tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "not published as a batch; published one by one"
                    ),
                }
            }
            self.publish_each(&events, partitions, rewinds).await
        };
        let published = self.ask(TIMEOUT * 3, publish).await?;
        let place = published.zip(events.last()).map(|(sequence, event)| Place {
            sequence: i64::try_from(sequence).unwrap_or(i64::MAX),
            event_id: event.id,
        });
        // A server that names no number says nothing.
        Ok(place.filter(|place| place.sequence > 0))
    }

    async fn holds(&self, place: Place) -> Result<bool, BusError> {
        let holds = async { stream::holds(&self.stream().await?.stream, place).await };
        let holds = self.ask(TIMEOUT, holds).await?;
        if !holds {
            self.look_again();
        }
        Ok(holds)
    }

    async fn delete_before(&self, before: Timestamp, now: Timestamp) -> Result<(), BusError> {
        let purge = async {
            self.meet().await;
            let Met { stream, partitions } = self.stream().await?;
            let mut readers = Vec::new();
            for consumer in self.0.consumers {
                for one in reading::partitions(&stream, partitions, consumer).await? {
                    readers.push(reading::name(consumer, &one.name));
                }
            }
            stream::purge(self.context()?, &readers, before, now).await
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
        Publisher::holds(self, place).await
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
