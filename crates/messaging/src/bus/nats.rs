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
mod publishing;
mod question;
mod reading;
mod space;
mod stamp;
mod stream;

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    connection::State,
    jetstream::{
        Context,
        message::StreamMessage,
        stream::{Info, Stream},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use couponmesh_runtime::{Timestamp, running::Running};
use tokio::{
    sync::{SetOnce, watch},
    time::{sleep, timeout},
};
use uuid::Uuid;

pub use self::{
    claim::Stranger,
    config::NatsConfig,
    logins::{Permissions, logins, permissions},
};
use self::{
    names::Names,
    question::Silences,
    stream::{Found, Partitions},
};
use super::{Bus, BusError, Partition, Place, Publisher, Reading, Receipt};
use crate::{MessagingConfig, event::Event};

/// How often a server that is not there is tried, and said so.
const TRY_AGAIN: Duration = Duration::from_secs(3);
/// How long the server may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
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
    silences: Silences,
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
            silences: Silences::default(),
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

    fn known_stream(&self) -> std::sync::MutexGuard<'_, Option<Met>> {
        self.0.stream.lock().unwrap_or_else(PoisonError::into_inner)
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
        let Some(partitions) = stream::divided(&info.config)? else {
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
}

#[async_trait]
impl Publisher for NatsBus {
    async fn publish(&self, events: Vec<Event>, rewinds: i64) -> Result<Option<Place>, BusError> {
        let publish = publishing::publish(self, &events, rewinds);
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
