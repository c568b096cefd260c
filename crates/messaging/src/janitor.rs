//! The janitor: deletes what nobody needs any more, a little at a time.
//!
//! Published outbox rows live for the retention, so that a lost bus can be filled again; inbox marks
//! live twice as long, so that what is filled again is known. Unpublished rows, unhandled events and
//! open dead letters are never deleted.

use std::time::Duration;

use couponmesh_runtime::{Timestamp, id::EventId, running::Running};
use sea_orm::{DbErr, QueryOrder, QuerySelect, entity::prelude::*};

use crate::{inbox, outbox, store::Store};

/// How often it comes by.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// Rows in one transaction: short enough that writers hardly notice.
const CHUNK: u64 = 500;

pub(crate) fn start(store: &Store, retention: Duration, running: &Running) {
    let (store, stop) = (store.clone(), running.stopping());
    running.keep("janitor", move || {
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            while !stop.is_cancelled() {
                if let Err(error) = clean(&store, retention, || stop.is_cancelled()).await {
                    tracing::warn!(
                        service = store.service(),
                        error = &error as &dyn std::error::Error,
                        "clean-up failed; it is tried again"
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

/// Deletes everything whose time is over; `stop` ends it early.
///
/// # Errors
/// The database's.
pub async fn clean(
    store: &Store,
    retention: Duration,
    stop: impl Fn() -> bool,
) -> Result<(), DbErr> {
    let published_before = store.now().minus(retention);
    while !stop() && delete_published(store, published_before).await? {}
    let handled_before = store.now().minus(retention * 2);
    while !stop() && delete_handled(store, handled_before).await? {}
    Ok(())
}

/// Looks at the oldest rows only: in their order the first one that is too young ends the search, where a
/// search by time would read the whole table to find that there is nothing to do.
async fn delete_published(store: &Store, before: Timestamp) -> Result<bool, DbErr> {
    let oldest: Vec<(i64, Option<Timestamp>)> = outbox::Entity::find()
        .select_only()
        .columns([outbox::Column::Seq, outbox::Column::PublishTime])
        .order_by_asc(outbox::Column::Seq)
        .limit(CHUNK)
        .into_tuple()
        .all(store.read())
        .await?;
    let seqs = older(oldest, before);
    if seqs.is_empty() {
        return Ok(false);
    }
    let tx = store.begin("janitor.outbox").await?;
    outbox::Entity::delete_many()
        .filter(outbox::Column::Seq.is_in(seqs))
        .exec(&*tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

async fn delete_handled(store: &Store, before: Timestamp) -> Result<bool, DbErr> {
    // Event ids are UUID v7, so their order is that of time.
    let oldest: Vec<(EventId, Option<Timestamp>)> = inbox::Entity::find()
        .select_only()
        .columns([inbox::Column::EventId, inbox::Column::HandleTime])
        .filter(inbox::Column::Consumer.eq(store.service()))
        .order_by_asc(inbox::Column::EventId)
        .limit(CHUNK)
        .into_tuple()
        .all(store.read())
        .await?;
    let ids = older(oldest, before);
    if ids.is_empty() {
        return Ok(false);
    }
    let tx = store.begin("janitor.inbox").await?;
    inbox::Entity::delete_many()
        .filter(inbox::Column::Consumer.eq(store.service()))
        .filter(inbox::Column::EventId.is_in(ids))
        .exec(&*tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

/// The keys of the rows that were done with before `before`.
fn older<K>(rows: Vec<(K, Option<Timestamp>)>, before: Timestamp) -> Vec<K> {
    rows.into_iter()
        .filter(|(_, done)| done.is_some_and(|done| done < before))
        .map(|(key, _)| key)
        .collect()
}
