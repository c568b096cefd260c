//! The relay: moves events from the outbox to the bus, in order, many at once when many wait.
//!
//! It marks rows only after the bus has them on disk. When it dies between the two, they are
//! published again, and every consumer's inbox knows them.

use std::{sync::Arc, time::Duration};

use couponmesh_runtime::{backoff::Backoff, running::Running};
use sea_orm::DbErr;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, BusError},
    lease::Lease,
    outbox,
    pace::Pace,
    signal::Topic,
    store::Store,
};

/// How often the outbox is looked at without a wake-up.
const POLL: Duration = Duration::from_secs(1);

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
        run(store.clone(), bus.clone(), batch, stop.clone())
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

async fn run(store: Store, bus: Arc<dyn Bus>, batch: usize, stop: CancellationToken) {
    let mut lease = Lease::new(&store, "relay");
    let mut backoff = Backoff::new(store.random());
    let mut pace = Pace::of(&store);
    while !stop.is_cancelled() {
        pace.keep().await;
        let begun = Instant::now();
        let pause = match relay(&store, bus.as_ref(), batch, &mut lease).await {
            Ok(true) => {
                backoff.reset();
                continue;
            }
            Ok(false) => {
                backoff.reset();
                pace.rest(begun);
                POLL
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
    lease.release().await;
}

/// Moves one batch; true when more may wait.
async fn relay(
    store: &Store,
    bus: &dyn Bus,
    batch: usize,
    lease: &mut Lease,
) -> Result<bool, RelayError> {
    let holds = lease.hold().await?;
    store.set_relays(holds);
    if !holds {
        return Ok(false);
    }
    let rows = outbox::unpublished(store.read(), batch).await?;
    if rows.is_empty() {
        return Ok(false);
    }
    let full = rows.len() == batch;
    let seqs = rows.iter().map(|row| row.seq).collect();
    bus.publish(
        rows.into_iter()
            .map(|row| row.into_event(store.service()))
            .collect(),
    )
    .await?;
    let tx = store.begin("relay.mark").await?;
    outbox::mark_published(&*tx, seqs, tx.now()).await?;
    tx.commit().await?;
    Ok(full)
}
