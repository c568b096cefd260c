//! The relay: moves events from the outbox to the bus, in order, many at once when many wait.
//!
//! It marks rows only after the bus has them on disk. When it dies between the two, they are
//! published again, and every consumer's inbox knows them.

use std::{sync::Arc, time::Duration};

use couponmesh_runtime::{backoff::Backoff, running::Running};
use sea_orm::{ConnectionTrait as _, DbErr};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, BusError},
    frontier::Frontier,
    lease::Lease,
    outbox,
    pace::Pace,
    signal::Topic,
    store::Store,
};

/// How often the outbox is looked at without a wake-up.
const POLL: Duration = Duration::from_secs(1);
/// How far before the last row the outbox is looked at: transactions may commit in another order than that in which
/// they took their rows' positions.
const MARGIN: i64 = 4_000;

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
    let mut frontier = Frontier::new(MARGIN, POLL);
    while !stop.is_cancelled() {
        pace.keep().await;
        let begun = Instant::now();
        let pause = match relay(&store, bus.as_ref(), batch, &mut lease, &mut frontier).await {
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
    lease.release().await;
}

/// Moves one batch; how long to wait for a wake-up then, none when more may wait.
async fn relay(
    store: &Store,
    bus: &dyn Bus,
    batch: usize,
    lease: &mut Lease,
    frontier: &mut Frontier,
) -> Result<Option<Duration>, RelayError> {
    let holds = lease.hold().await?;
    store.set_relays(holds);
    if !holds {
        return Ok(Some(POLL));
    }
    let look = frontier.look();
    let rows = outbox::unpublished(store.read(), look.after, batch).await;
    frontier.looked(&look);
    let rows = rows?;
    let Some(last) = rows.last().map(|row| row.seq) else {
        return Ok(Some(frontier.pause()));
    };
    let full = rows.len() == batch;
    let seqs = rows.iter().map(|row| row.seq).collect();
    bus.publish(
        rows.into_iter()
            .map(|row| row.into_event(store.service()))
            .collect(),
    )
    .await?;
    let backend = store.read().get_database_backend();
    let mark = outbox::mark_published(backend, seqs, store.now());
    store.execute("relay.mark", &mark).await?;
    frontier.dealt_with(last);
    Ok((!full).then(|| frontier.pause()))
}
