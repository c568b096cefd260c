//! The consumer: runs a service's handler for every event of its types, once in effect.
//!
//! Inbox mark, the handler's changes and the events that it causes commit in one transaction; then the
//! bus is told. What waits is handled in one transaction; when that fails for a reason of the handler's
//! own, each event is handled alone and the one to blame is parked as a dead letter.

mod counting;
mod parking;

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use async_trait::async_trait;
use couponmesh_runtime::{backoff::Backoff, database, id::EventId, running::Running};
use futures::FutureExt as _;
use sea_orm::DbErr;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, BusError, Delivery, Subscription},
    event::Event,
    inbox::{self, Outcome},
    pace::Pace,
    store::{Store, Transaction},
};

/// Attempts at an event whose handler fails before it is parked.
pub const MAX_ATTEMPTS: i32 = 5;

/// What a service does about events.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Full names of the messages that it handles.
    const TYPES: &'static [&'static str];

    /// Handles events, each once and at least one, inside the open transaction. They come in any order,
    /// and the rows must end the same whatever the order; repeats are kept away by the inbox, but a
    /// handler tolerates them too.
    ///
    /// # Errors
    /// See [`HandlerError`]: it decides whether the event is tried again or parked.
    async fn handle(&self, tx: &Transaction, events: &[&Event]) -> Result<(), HandlerError>;
}

/// Why an event was not handled.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The payload is not what its type says, or breaks the contract: parked at once.
    #[error("the event cannot be understood: {0}")]
    Undecodable(String),
    /// A type that the handler does not know: parked at once.
    #[error("no handler for events of type {0}")]
    UnknownType(String),
    /// The database refused: an outage is waited out, anything else counts as the handler's own failure.
    #[error("the database refused: {0}")]
    Storage(#[from] DbErr),
    /// The handler panicked: its own failure.
    #[error("the handler panicked")]
    Panicked,
}

/// What to do about an event that was not handled.
pub(crate) enum Verdict {
    /// An outage: wait and try again, without end.
    Wait,
    /// The handler's own failure: a few attempts, then park.
    Retry,
    /// Hopeless: park.
    Park,
}

impl HandlerError {
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Undecodable(_) | Self::UnknownType(_) => Verdict::Park,
            Self::Storage(error) if database::is_transient(error) => Verdict::Wait,
            Self::Storage(_) | Self::Panicked => Verdict::Retry,
        }
    }
}

/// The service is stopping; the event at hand stays with the bus.
struct Stopped;

pub(crate) fn start<H: Handler>(
    store: &Store,
    bus: &Arc<dyn Bus>,
    handler: &Arc<H>,
    batch: usize,
    running: &Running,
) {
    let consumer = Arc::new(Consumer {
        store: store.clone(),
        handler: handler.clone(),
        batch,
        stop: running.stopping(),
    });
    let bus = bus.clone();
    running.keep("consumer", move || {
        let (consumer, bus) = (consumer.clone(), bus.clone());
        async move { consumer.run(bus).await }
    });
}

struct Consumer<H> {
    store: Store,
    handler: Arc<H>,
    batch: usize,
    stop: CancellationToken,
}

impl<H: Handler> Consumer<H> {
    async fn run(&self, bus: Arc<dyn Bus>) {
        let mut backoff = Backoff::new(self.store.random());
        while !self.stop.is_cancelled() {
            let Err(error) = self.consume(bus.as_ref(), &mut backoff).await else {
                return;
            };
            tracing::warn!(
                service = self.store.service(),
                error = &error as &dyn std::error::Error,
                "consumer waits for the bus"
            );
            if self.pause(&mut backoff).await.is_err() {
                return;
            }
        }
    }

    /// Ends well when the service stops.
    async fn consume(&self, bus: &dyn Bus, backoff: &mut Backoff) -> Result<(), BusError> {
        let mut subscription: Box<dyn Subscription> =
            bus.subscribe(self.store.service(), H::TYPES).await?;
        // An event may have killed the process that handled it last. Until the first events are handled,
        // attempts are counted before the handler runs, so that such an event is found and parked.
        let mut careful = true;
        let mut pace = Pace::of(&self.store);
        loop {
            pace.keep().await;
            let deliveries = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                deliveries = subscription.next(self.batch) => deliveries?,
            };
            backoff.reset();
            let begun = Instant::now();
            let events: Vec<&Event> = distinct(&deliveries);
            if self.process(&events, &mut careful).await.is_err() {
                return Ok(());
            }
            subscription.ack().await?;
            if deliveries.len() < self.batch {
                pace.rest(begun);
            }
        }
    }

    /// Deals with every event: handled, known or parked.
    async fn process(&self, events: &[&Event], careful: &mut bool) -> Result<(), Stopped> {
        let mut counted = Some(HashMap::new());
        if *careful {
            counted = self.count(events, true).await?;
        }
        if let Some(counted) = &counted
            && self.together(events, counted.is_empty()).await?
        {
            *careful &= counted.is_empty();
            return Ok(());
        }
        let counted = counted.unwrap_or_default();
        for event in events {
            self.alone(event, counted.get(&event.id).copied()).await?;
        }
        Ok(())
    }

    /// Handles all in one transaction; false when one of them has to be looked for.
    async fn together(&self, events: &[&Event], expect_uncounted: bool) -> Result<bool, Stopped> {
        let mut backoff = Backoff::new(self.store.random());
        loop {
            let error = match self.handle(events, expect_uncounted).await {
                Ok(handled) => return Ok(handled),
                Err(error) => error,
            };
            match error.verdict() {
                Verdict::Wait => self.wait(&error, &mut backoff).await?,
                Verdict::Retry | Verdict::Park => return Ok(false),
            }
        }
    }

    /// Handles one event until it is handled or parked. `counted` is its count when this attempt is counted already.
    async fn alone(&self, event: &Event, mut counted: Option<i32>) -> Result<(), Stopped> {
        let mut backoff = Backoff::new(self.store.random());
        loop {
            let attempts = match counted.take() {
                Some(attempts) => attempts,
                None => match self.count(&[event], false).await? {
                    Some(counted) if !counted.is_empty() => counted[&event.id],
                    _ => return Ok(()), // dealt with before
                },
            };
            if attempts > MAX_ATTEMPTS {
                // It never came to a verdict: each attempt ended with the process.
                return self
                    .park(
                        event,
                        "the process died while handling the event",
                        attempts - 1,
                    )
                    .await;
            }
            loop {
                let error = match self.handle(&[event], false).await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                };
                match error.verdict() {
                    Verdict::Wait => {
                        if self.wait(&error, &mut backoff).await.is_err() {
                            self.uncount(event).await;
                            return Err(Stopped);
                        }
                    }
                    Verdict::Retry if attempts < MAX_ATTEMPTS => {
                        tracing::warn!(service = self.store.service(), event.id = %event.id, event.type = event.event_type, attempts, error = &error as &dyn std::error::Error, "event not handled; tried again");
                        self.pause(&mut backoff).await?;
                        break;
                    }
                    Verdict::Retry | Verdict::Park => {
                        return self.park(event, &error.to_string(), attempts).await;
                    }
                }
            }
        }
    }

    /// One transaction over `events`. False, and nothing done, when `uncounted` and one of them failed before.
    async fn handle(&self, events: &[&Event], uncounted: bool) -> Result<bool, HandlerError> {
        let tx = self.store.begin("consumer").await?;
        let consumer = self.store.service();
        let fresh: HashSet<EventId> = if self.store.faults().sabotaged("inbox") {
            events.iter().map(|event| event.id).collect()
        } else {
            let fresh = inbox::mark(&*tx, consumer, events, Outcome::Handled, tx.now()).await?;
            if uncounted && fresh.iter().any(|fresh| fresh.attempts > 0) {
                return Ok(false);
            }
            fresh.into_iter().map(|fresh| fresh.event_id).collect()
        };
        let fresh: Vec<&Event> = events
            .iter()
            .copied()
            .filter(|event| fresh.contains(&event.id))
            .collect();
        if !fresh.is_empty() {
            call(self.handler.as_ref(), &tx, &fresh).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    async fn wait(&self, error: &HandlerError, backoff: &mut Backoff) -> Result<(), Stopped> {
        tracing::warn!(
            service = self.store.service(),
            error = error as &dyn std::error::Error,
            "consumer waits for the database"
        );
        self.pause(backoff).await
    }

    async fn pause(&self, backoff: &mut Backoff) -> Result<(), Stopped> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Stopped),
            () = tokio::time::sleep(backoff.next_pause()) => Ok(()),
        }
    }
}

/// Calls the handler; a panic is its own failure and nobody else's.
pub(crate) async fn call<H: Handler>(
    handler: &H,
    tx: &Transaction,
    events: &[&Event],
) -> Result<(), HandlerError> {
    let handled = AssertUnwindSafe(handler.handle(tx, events)).catch_unwind();
    handled.await.unwrap_or(Err(HandlerError::Panicked))
}

/// The events of a batch, each once: one statement must not mark a row twice.
fn distinct(deliveries: &[Delivery]) -> Vec<&Event> {
    let mut seen = HashSet::with_capacity(deliveries.len());
    deliveries
        .iter()
        .map(AsRef::as_ref)
        .filter(|event: &&Event| seen.insert(event.id))
        .collect()
}
