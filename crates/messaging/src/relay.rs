//! The relay: moves events from the outbox to the bus, in order, many at once when many wait.
//!
//! It keeps in memory which rows are on the bus, and stores the [checkpoint](crate::checkpoint) below
//! which all of them are. When it dies, what lies above that is published again, and every consumer's
//! inbox knows it.

mod progress;

use std::{sync::Arc, time::Duration};

use couponmesh_runtime::{backoff::Backoff, running::Running};
use sea_orm::DbErr;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::progress::Progress;
use crate::{
    bus::{Bus, BusError},
    lease::Lease,
    pace::Pace,
    signal::Topic,
    store::Store,
};

/// How often the outbox is looked at without a wake-up.
const POLL: Duration = Duration::from_secs(1);
/// The same while a row is missing between others: its transaction is about to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("the outbox cannot be read or written")]
    Storage(#[from] DbErr),
    #[error("the bus does not take events")]
    Bus(#[from] BusError),
}

pub(crate) fn start(store: &Store, bus: &Arc<dyn Bus>, batch: usize, running: &Running) {
    let (store, bus, stop) = (store.clone(), bus.clone(), running.stopping());
    let (listening, stop_listening) = (store.clone(), stop.clone());
    running.keep("relay", move || {
        let relay = Relay {
            lease: Lease::new(&store, "relay"),
            store: store.clone(),
            bus: bus.clone(),
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
    bus: Arc<dyn Bus>,
    batch: usize,
    lease: Lease,
    /// None until the lease is held, and when another has moved the checkpoint.
    progress: Option<Progress>,
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
        if found > 0 {
            self.bus.publish(events, progress.rewinds()).await?;
        }
        progress.published(look);
        let stored = progress.store_when_due(&self.store).await?;
        // What an operator wants to be published again is noticed at the next quiet moment, too.
        if !stored || found == 0 && !progress.is_as_stored(self.store.read()).await? {
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
