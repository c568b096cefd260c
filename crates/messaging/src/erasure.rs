//! Letting go of what was erased, soon after the commit and off its way.
//!
//! SQLite's write-ahead log holds what a row was before, until other pages take its place there. PostgreSQL's
//! dead rows are vacuum's.

use std::time::Duration;

use couponmesh_runtime::running::Running;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// How long after an erasure others are waited for: those who leave together are forgotten together.
const GATHER: Duration = Duration::from_secs(2);
/// Pauses while somebody reads what is to go.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often it is done without being asked for.
const FALLBACK: Duration = Duration::from_secs(3_600);

pub(crate) fn start(store: &Store, running: &Running) {
    if store.database().postgres().is_some() {
        return;
    }
    let (store, stop) = (store.clone(), running.stopping());
    running.keep("erasures", move || run(store.clone(), stop.clone()));
}

async fn run(store: Store, stop: CancellationToken) {
    // At once at the start: the process before may have died between the commit and this.
    let mut wait = GATHER;
    loop {
        tokio::select! {
            // Closing the database empties the log.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = match store.database().forget_erased().await {
            Ok(true) => {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = store.erased().wait(FALLBACK) => {}
                }
                GATHER
            }
            Ok(false) => longer(wait),
            Err(error) => {
                tracing::warn!(
                    service = store.service(),
                    error = &error as &dyn std::error::Error,
                    "what was erased is still in the write-ahead log; it is tried again"
                );
                longer(wait)
            }
        };
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}
