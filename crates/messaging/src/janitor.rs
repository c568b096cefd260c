//! The janitor: deletes what nobody needs any more, a little at a time.
//!
//! Published outbox rows live for the retention, so that a lost bus can be filled again; inbox marks
//! live twice as long, so that what is filled again is known, and while their dead letter is open. Dead
//! letters that a redrive closed live for the retention, open ones for a retention of their own, and not
//! without a word. Unpublished rows and unhandled events are never deleted. How old anything is taken to
//! be depends on no one clock's word: [`clock_spans`].

use std::{sync::Arc, time::Duration};

use couponmesh_runtime::{Timestamp, id::EventId, running::Running};
use sea_orm::{DbErr, QueryTrait as _, entity::prelude::*};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Bus, BusError, MessagingConfig, checkpoint,
    clock_spans::{self, older_than},
    dead_letter::retention,
    inbox, outbox,
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
    /// Published events; inbox marks are kept twice as long.
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
    clean(store, retention, || stop.is_cancelled()).await?;
    store.erased().wake();
    let Some(before) = older_than(store, retention.events).await? else {
        return Ok(());
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        deleted = bus.delete_before(before, store.now()) => deleted,
    }
}

/// Deletes everything whose time is over; `stop` ends it early.
///
/// # Errors
/// The database's.
pub async fn clean(
    store: &Store,
    retention: Retention,
    stop: impl Fn() -> bool,
) -> Result<(), DbErr> {
    clock_spans::note(store).await?;
    let mut turns = Turns::default();
    if let Some(before) = older_than(store, retention.events).await? {
        let mut after = 0;
        while turns.next(&stop).await && delete_published(store, before, &mut after).await? {}
        while turns.next(&stop).await && delete_closed(store, before).await? {}
    }
    if let Some(before) = older_than(store, retention.dead_letters).await? {
        while turns.next(&stop).await && give_up(store, before).await? {}
    }
    if let Some(before) = older_than(store, retention.events * 2).await? {
        let mut after = None;
        while turns.next(&stop).await && delete_handled(store, before, &mut after).await? {}
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
/// end, which is the relay's checkpoint at the latest.
async fn delete_published(
    store: &Store,
    before: Timestamp,
    after: &mut i64,
) -> Result<bool, DbErr> {
    let published = checkpoint::load(store.read()).await?.position;
    let next = outbox::oldest_after(store.read(), *after, CHUNK).await?;
    let next: Vec<_> = next
        .into_iter()
        .filter(|(seq, _)| *seq <= published)
        .collect();
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

/// The same with the marks of events, whose ids tell when they were published: nobody handled one before that.
async fn delete_handled(
    store: &Store,
    before: Timestamp,
    after: &mut Option<EventId>,
) -> Result<bool, DbErr> {
    let next = inbox::oldest_after(store.read(), store.service(), *after, CHUNK).await?;
    let Some(&(last, _)) = next.last() else {
        return Ok(false);
    };
    *after = Some(last);
    let more = published(last).is_none_or(|time| time < before);
    let ids = older(next, before);
    if ids.is_empty() {
        return Ok(more);
    }
    let tx = store.begin("janitor.inbox").await?;
    inbox::Entity::delete_many()
        .filter(inbox::Column::Consumer.eq(store.service()))
        .filter(inbox::Column::EventId.is_in(ids))
        .exec(&*tx)
        .await?;
    tx.commit().await?;
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
        inbox::park_for_good(&*tx, store.service(), &letter.to_event(), tx.now()).await?;
    }
    tx.commit().await?;
    Ok(!letters.is_empty())
}

/// When an event was published, as its id tells; none when somebody else made the id in another way.
fn published(event_id: EventId) -> Option<Timestamp> {
    let (seconds, nanos) = event_id.0.get_timestamp()?.to_unix();
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    Some(Timestamp(micros + i64::from(nanos / 1_000)))
}

/// The keys of the rows that were done with before `before`.
fn older<K>(rows: impl IntoIterator<Item = (K, Option<Timestamp>)>, before: Timestamp) -> Vec<K> {
    rows.into_iter()
        .filter(|(_, done)| done.is_some_and(|done| done < before))
        .map(|(key, _)| key)
        .collect()
}
