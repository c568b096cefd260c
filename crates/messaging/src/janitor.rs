//! The janitor: deletes what nobody needs any more, a little at a time.
//!
//! Published outbox rows live for the retention, so that a lost bus can be filled again. Dead letters that a
//! redrive closed live for the retention, open ones for a retention of their own, and not without a word.
//! Unpublished rows and unhandled events are never deleted. How old anything is taken to be depends on no one
//! clock's word: [`clock_spans`].

use std::{sync::Arc, time::Duration};

use couponmesh_runtime::{Timestamp, running::Running};
use sea_orm::{DbErr, QueryTrait as _, entity::prelude::*};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Bus, BusError, MessagingConfig,
    clock_spans::{self, older_than},
    consume::dead_letter::retention,
    outbox,
    store::Store,
};

/// A time that is further to come than this was a wrong clock's.
const AHEAD: Duration = Duration::from_secs(3_600);
/// How long the last note of the time may take when the service stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// Rows in one transaction: short enough that writers hardly notice.
const CHUNK: u64 = 500;

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Published events.
    pub events: Duration,
    /// Events that wait as open dead letters.
    pub dead_letters: Duration,
}

impl From<&MessagingConfig> for Retention {
    fn from(config: &MessagingConfig) -> Self {
        Self {
            events: config.retention,
            dead_letters: config.dead_letter_retention,
        }
    }
}

pub(crate) fn start(store: &Store, bus: &Arc<dyn Bus>, retention: Retention, running: &Running) {
    let (store, bus, stop) = (store.clone(), bus.clone(), running.stopping());
    running.keep("janitor", move || {
        run(store.clone(), bus.clone(), retention, stop.clone())
    });
}

async fn run(store: Store, bus: Arc<dyn Bus>, retention: Retention, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if note_time(&store).await
            && let Err(error) = clean_all(&store, bus.as_ref(), retention, &stop).await
        {
            tracing::warn!(
                service = store.service(),
                error = &error as &dyn std::error::Error,
                "clean-up failed; it is tried again"
            );
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(clock_spans::INTERVAL) => {}
        }
    }
    // So that a run of minutes counts. A database that is away holds no stop up.
    let _ = tokio::time::timeout(STOP_PATIENCE, note_time(&store)).await;
}

/// Whether the time could be noted.
async fn note_time(store: &Store) -> bool {
    let noted = clock_spans::note(store).await;
    if let Err(error) = &noted {
        tracing::warn!(
            service = store.service(),
            error = error as &dyn std::error::Error,
            "the time could not be noted"
        );
    }
    noted.is_ok()
}

async fn clean_all(
    store: &Store,
    bus: &dyn Bus,
    retention: Retention,
    stop: &CancellationToken,
) -> Result<(), BusError> {
    clean(store, bus, retention, || stop.is_cancelled()).await?;
    store.erased().wake();
    let Some(publisher) = bus.publisher() else {
        return Ok(());
    };
    let Some(before) = older_than(store, retention.events).await? else {
        return Ok(());
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        deleted = publisher.delete_before(before, store.now()) => deleted,
    }
}

/// Deletes everything whose time is over; `stop` ends it early.
///
/// # Errors
/// The database's.
pub async fn clean(
    store: &Store,
    bus: &dyn Bus,
    retention: Retention,
    stop: impl Fn() -> bool,
) -> Result<(), DbErr> {
    clock_spans::note(store).await?;
    let mut turns = Turns::default();
    if let Some(before) = older_than(store, retention.events).await? {
        let end = bus.done_with(store).await?;
        let mut after = 0;
        while turns.next(&stop).await && delete_published(store, before, end, &mut after).await? {}
        while turns.next(&stop).await && delete_closed(store, before).await? {}
    }
    if let Some(before) = older_than(store, retention.dead_letters).await? {
        while turns.next(&stop).await && give_up(store, before).await? {}
    }
    Ok(())
}

/// Gives writers at least half of the time.
#[derive(Default)]
struct Turns {
    begun: Option<Instant>,
}

impl Turns {
    /// Waits for as long as the last chunk took; false when there shall be no further one.
    async fn next(&mut self, stop: impl Fn() -> bool) -> bool {
        if let Some(begun) = self.begun {
            sleep(begun.elapsed()).await;
        }
        self.begun = Some(Instant::now());
        !stop()
    }
}

/// Looks at the next rows in their order, those after `after`, which is that of time: rows that are too young end
/// the search, where a search by time would read the whole table to find that there is nothing to do. False at the
/// end, which is `end` at the latest.
async fn delete_published(
    store: &Store,
    before: Timestamp,
    end: i64,
    after: &mut i64,
) -> Result<bool, DbErr> {
    let next = outbox::oldest_after(store.read(), *after, CHUNK).await?;
    let next: Vec<_> = next.into_iter().filter(|(seq, _)| *seq <= end).collect();
    let Some(&(last, time)) = next.last() else {
        return Ok(false);
    };
    let begin = std::mem::replace(after, last);
    // A time to come was a wrong clock's, and says nothing of the rows behind it.
    let more = time < before || time > store.now().plus(AHEAD);
    if next.iter().all(|(_, time)| *time >= before) {
        return Ok(more);
    }
    let old = outbox::Entity::delete_many()
        .filter(outbox::Column::Seq.gt(begin))
        .filter(outbox::Column::Seq.lte(last))
        .filter(outbox::Column::CreateTime.lt(before));
    store.execute("janitor.outbox", &old.into_query()).await?;
    Ok(more)
}

async fn delete_closed(store: &Store, before: Timestamp) -> Result<bool, DbErr> {
    if !retention::any_closed(store.read(), store.service(), before).await? {
        return Ok(false);
    }
    let tx = store.begin("janitor.closed").await?;
    let deleted = retention::delete_closed(&*tx, store.service(), before, CHUNK).await?;
    tx.commit().await?;
    Ok(deleted)
}

/// Gives events up that nobody wanted for so long. Said before it is done: better twice than never.
async fn give_up(store: &Store, before: Timestamp) -> Result<bool, DbErr> {
    if !retention::any_expired(store.read(), store.service(), before).await? {
        return Ok(false);
    }
    let tx = store.begin("janitor.dead_letters").await?;
    let letters = retention::take_expired(&*tx, store.service(), before, CHUNK).await?;
    for letter in &letters {
        tracing::error!(service = store.service(), event.id = %letter.event_id, event.r#type = letter.event_type, member.id = %letter.member_id, parked = %letter.park_time, "dead letter given up: it was open for longer than messaging.dead_letter_retention");
    }
    tx.commit().await?;
    Ok(!letters.is_empty())
}
