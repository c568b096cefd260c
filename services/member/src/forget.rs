//! Forgetting request ids, a little at a time, when their time is over.

use std::time::Duration;

use couponmesh_messaging::{Store, clock_spans};
use couponmesh_runtime::running::Running;
use sea_orm::DbErr;

use crate::requests;

/// How often it is looked for old ones.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// Rows in one transaction: short enough that callers hardly notice.
const CHUNK: u64 = 500;

pub(crate) fn start(store: &Store, running: &Running) {
    let (store, stop) = (store.clone(), running.stopping());
    running.keep("request ids", move || {
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            while !stop.is_cancelled() {
                if let Err(error) = forget(&store, || stop.is_cancelled()).await {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "old request ids are not forgotten yet; it is tried again"
                    );
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(INTERVAL) => {}
                }
            }
        }
    });
}

/// Forgets what is old; `stop` ends it early.
///
/// # Errors
/// The database's.
pub async fn forget(store: &Store, stop: impl Fn() -> bool) -> Result<(), DbErr> {
    let Some(before) = clock_spans::older_than(store, requests::KEPT).await? else {
        return Ok(());
    };
    while !stop() {
        let tx = store.begin("member.forget").await?;
        let forgotten = requests::forget_oldest(&*tx, before, CHUNK).await?;
        tx.commit().await?;
        if forgotten == 0 {
            break;
        }
    }
    Ok(())
}
