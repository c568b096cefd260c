//! The relay: moves events from the outbox to the bus, in order, many at once when many wait.
//!
//! It keeps in memory which rows are on the bus, and stores the [checkpoint] below
//! which all of them are. When it dies, what lies above that is published again, which handlers tolerate.

#[cfg(test)]
mod loss_model;
#[cfg(test)]
mod model;
mod progress;

use std::{sync::Arc, time::Duration};

use couponmesh_runtime::{backoff::Backoff, database::Losses, running::Running};
use sea_orm::DbErr;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::progress::Progress;
use crate::{
    bus::{BusError, Place, Publisher},
    checkpoint,
    event::Event,
    lease::Lease,
    mark,
    pace::Pace,
    signal::Topic,
    store::Store,
};

/// How often the outbox is looked at without a wake-up.
const POLL: Duration = Duration::from_secs(1);
/// The same while a row is missing between others: its transaction is about to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long the bus may take no events from this replica before another one tries. It may be on the wrong side of a
/// network.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("the outbox cannot be read or written")]
    Storage(#[from] DbErr),
    #[error("the bus does not take events")]
    Bus(#[from] BusError),
    #[error("the bus took no events for {PATIENCE:?}; another replica may try")]
    GaveUp,
}

pub(crate) fn start(store: &Store, publisher: Arc<dyn Publisher>, batch: usize, running: &Running) {
    let (store, stop) = (store.clone(), running.stopping());
    let (listening, stop_listening) = (store.clone(), stop.clone());
    running.keep("relay", move || {
        let relay = Relay {
            lease: Lease::new(&store, "relay"),
            losses: store.database().losses(),
            store: store.clone(),
            way: Way {
                publisher: publisher.clone(),
                failing_since: None,
            },
            batch,
            progress: None,
        };
        relay.run(stop.clone())
    });
    running.keep("relay's ear", move || {
        listen(listening.clone(), stop_listening.clone())
    });
}

/// Another replica committed events.
async fn listen(store: Store, stop: CancellationToken) {
    let mut others = store.signals().listen(Topic::Outbox);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = others.next() => store.outbox_wake().wake(),
        }
    }
}

struct Relay {
    store: Store,
    way: Way,
    batch: usize,
    lease: Lease,
    /// None until the lease is held, when another has moved the checkpoint, and when the database may be another.
    progress: Option<Progress>,
    losses: Losses,
}

impl Relay {
    async fn run(mut self, stop: CancellationToken) {
        let store = self.store.clone();
        let mut backoff = Backoff::new(store.random());
        let mut pace = Pace::of(&store);
        while !stop.is_cancelled() {
            pace.keep().await;
            let begun = Instant::now();
            let pause = match self.round().await {
                Ok(pause) => {
                    backoff.reset();
                    let Some(pause) = pause else { continue };
                    pace.rest(begun);
                    pause
                }
                Err(error) => {
                    if matches!(error, RelayError::Storage(_)) {
                        self.progress = None;
                    }
                    tracing::warn!(
                        service = store.service(),
                        error = &error as &dyn std::error::Error,
                        "relay waits"
                    );
                    let pause = backoff.next_pause();
                    // Wake-ups would turn the pause into a busy loop while the bus is away.
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(pause) => continue,
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = store.outbox_wake().wait(pause) => {}
            }
        }
        store.set_relays(false);
        self.end().await;
    }

    /// Moves one batch; how long to wait for a wake-up then, none when more may wait.
    async fn round(&mut self) -> Result<Option<Duration>, RelayError> {
        // Another server may hand positions out again that were on their way to it when the one before was lost.
        if self.losses.happened() {
            self.progress = None;
        }
        let holds = self.lease.hold().await?;
        self.store.set_relays(holds);
        if !holds {
            self.progress = None;
            return Ok(Some(POLL));
        }
        let progress = match &mut self.progress {
            Some(progress) => progress,
            none => none.insert(Progress::load(&self.store).await?),
        };
        let mut look = progress.look(self.store.read(), self.batch).await?;
        let events = look.take_events(self.store.service());
        let found = events.len();
        let faults = self.store.faults();
        if faults.sabotaged("relay.order") {
            progress.published(std::mem::take(&mut look), None, 0);
            progress.store(&self.store).await?;
        }
        if faults.sabotaged("relay.loss") {
            progress.trust_bus();
        }
        match self.way.publish(progress, events).await {
            Ok(Published::At(place)) => {
                let connection = self.way.publisher.connection();
                progress.published(look, place, connection);
            }
            Ok(Published::AfterLoss) => {
                let stored = progress.to_store().0;
                let holds = |place| self.way.publisher.holds(place);
                let kept = mark::kept(stored.older(), holds).await?;
                tracing::error!(
                    service = self.store.service(),
                    after = kept.map(|mark| mark.position),
                    "the bus has lost events; what this outbox has after that position is published again, or all of it"
                );
                checkpoint::go_back(&self.store, &stored, kept).await?;
                self.progress = None;
                return Ok(None);
            }
            // There is nothing that the bus would be needed for.
            Err(_) if found == 0 => {}
            Err(RelayError::GaveUp) => {
                let stored = progress.store(&self.store).await;
                self.progress = None;
                self.store.set_relays(false);
                self.lease.leave().await;
                stored?;
                return Err(RelayError::GaveUp);
            }
            Err(error) => return Err(error),
        }
        if self.store.faults().sabotaged("relay.gaps") {
            progress.forget_gaps();
        }
        // An operator may have moved it.
        if !progress.store_when_due(&self.store).await?
            || !progress.is_as_stored(self.store.read()).await?
        {
            self.progress = None;
            return Ok(None);
        }
        Ok((found < self.batch).then(|| progress.pause()))
    }

    /// Leaves to the next one nothing that is published already.
    async fn end(mut self) {
        if let Some(progress) = &mut self.progress
            && let Err(error) = progress.store(&self.store).await
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "checkpoint not stored; some events are published again"
            );
        }
        self.lease.release().await;
    }
}

/// The way to the bus from here.
struct Way {
    publisher: Arc<dyn Publisher>,
    /// Since when the bus takes no events; none while it does.
    failing_since: Option<Instant>,
}

/// What came of publishing.
enum Published {
    /// All of it is on the bus, the last of it there.
    At(Option<Place>),
    /// Nothing was published: the bus has lost what it took before.
    AfterLoss,
}

impl Way {
    /// Publishes `events`, if any, unless the bus has lost events before.
    ///
    /// # Errors
    /// The bus's, until it has taken no events for too long: then that this replica gives up.
    async fn publish(
        &mut self,
        progress: &mut Progress,
        events: Vec<Event>,
    ) -> Result<Published, RelayError> {
        let begun = Instant::now();
        let publishing = publish(self.publisher.as_ref(), progress, events);
        let published = timeout(self.patience(), publishing).await;
        if let Ok(Ok(published)) = published {
            self.failing_since = None;
            return Ok(published);
        }
        progress.doubt_bus();
        self.failing_since.get_or_insert(begun);
        match published {
            Ok(Err(error)) if !self.patience().is_zero() => Err(error.into()),
            _ => {
                self.failing_since = None;
                Err(RelayError::GaveUp)
            }
        }
    }

    fn patience(&self) -> Duration {
        let failed_for = self.failing_since.map(|since| since.elapsed());
        PATIENCE.saturating_sub(failed_for.unwrap_or_default())
    }
}

async fn publish(
    bus: &dyn Publisher,
    progress: &mut Progress,
    events: Vec<Event>,
) -> Result<Published, BusError> {
    if progress.has_bus_lost(bus, !events.is_empty()).await? {
        return Ok(Published::AfterLoss);
    }
    if events.is_empty() {
        return Ok(Published::At(None));
    }
    let place = bus.publish(events, progress.rewinds()).await?;
    Ok(Published::At(place))
}
