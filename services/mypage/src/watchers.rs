//! Who waits for which page to change, and the one reader that reads pages for all of them.
//!
//! A page is read once per change, however many wait for it, and together with the others that
//! changed meanwhile. One statement at a time leaves the pool's other connections to other callers,
//! also while ten thousand watched pages change. A read that fails is tried again: whoever asked for
//! it is told, and whoever only watches is not, unless reads fail for long.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use couponmesh_messaging::{
    Store,
    signal::{Heard, Topic},
};
use couponmesh_runtime::{database, id::MemberId};
use sea_orm::DbErr;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    error::Error,
    pages::{self, Model, Versions},
};

/// Within what time every page that is waited for is read, whatever is heard: signals of other
/// replicas may be lost.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// Into how many parts such reads are spread over that time.
const PARTS: u32 = 20;

/// The pause after a read that failed: as often as parts of the pages are read again anyway.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long reads may fail before the watches of their pages end. A failover of the database takes
/// less; after more, who watches has to know that the page may be old.
const LONGEST_FAILURE: Duration = Duration::from_secs(30);

/// Everyone in this process who waits for a page. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Watchers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// Wakes the reader.
    unread: Notify,
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<MemberId, Arc<Watched>>,
    /// The pages to be read.
    unread: HashSet<MemberId>,
    /// Rounds of reads that have begun.
    rounds: u64,
    has_ended: bool,
}

/// A page that is watched. This replaces `tokio::sync::watch`, whose channels take 376 bytes each:
/// they spread who waits over eight lists, against a contention that one member's page does not
/// have.
#[derive(Debug, Default)]
struct Watched {
    seen: Mutex<Seen>,
    news: Notify,
}

/// What a page's newest read found.
#[derive(Debug)]
struct Seen {
    /// The round of that read; 0 before the first.
    round: u64,
    /// The round that whoever asked last waits for.
    wanted: u64,
    /// The newest read that failed since, and why.
    failure: Option<(u64, Status)>,
    /// Reads that everyone who watched was told of.
    news: u64,
    /// How many of them have not taken the newest yet.
    untaken: usize,
    /// How many watch; changed only while the state of all is locked.
    watches: usize,
    /// What the page showed; none before the first read, and when the newest news is a failure.
    versions: Option<Option<Versions>>,
    /// The page itself, until it is taken: idle watchers need it no more.
    page: Found,
    /// There will be no further news.
    has_ended: bool,
}

type Found = Result<Option<Arc<Model>>, Status>;

impl Default for Seen {
    fn default() -> Self {
        Self {
            round: 0,
            wanted: 0,
            failure: None,
            news: 0,
            untaken: 0,
            watches: 0,
            versions: None,
            page: Ok(None),
            has_ended: false,
        }
    }
}

impl Seen {
    /// Takes note of a read; whether those who watch have to know of it.
    fn note(&mut self, round: u64, page: Option<Arc<Model>>) -> bool {
        let is_waited_for = self.round < self.wanted;
        let versions = page.as_deref().map(Model::versions);
        let is_new = self.versions != Some(versions);
        self.round = round;
        self.failure = None;
        if !is_waited_for && !is_new {
            return false;
        }
        self.versions = Some(versions);
        self.tell(Ok(page));
        true
    }

    /// Takes note of a read that failed; whether those who watch have to know of it.
    fn note_failure(&mut self, round: u64, status: &Status, has_lasted: bool) -> bool {
        let is_waited_for = self.round < self.wanted;
        self.failure = Some((round, status.clone()));
        if has_lasted {
            self.versions = None;
            self.tell(Err(status.clone()));
        }
        is_waited_for || has_lasted
    }

    fn tell(&mut self, page: Found) {
        self.news += 1;
        self.untaken = self.watches;
        self.page = page;
    }

    /// Why there is no page of the round `wanted`, when its read failed.
    fn failed_at(&self, wanted: u64) -> Option<Status> {
        let failure = self.failure.as_ref();
        failure
            .filter(|(round, _)| *round >= wanted)
            .map(|(_, status)| status.clone())
    }

    /// The page, for one who was told and has not taken it yet.
    fn take(&mut self) -> Found {
        self.untaken = self.untaken.saturating_sub(1);
        if self.untaken == 0 {
            std::mem::replace(&mut self.page, Ok(None))
        } else {
            self.page.clone()
        }
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, round: u64, page: Option<Arc<Model>>) {
        if self.lock().note(round, page) {
            self.news.notify_waiters();
        }
    }

    fn fail(&self, round: u64, status: &Status, has_lasted: bool) {
        if self.lock().note_failure(round, status, has_lasted) {
            self.news.notify_waiters();
        }
    }

    fn end(&self) {
        self.lock().has_ended = true;
        self.news.notify_waiters();
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to watch a page. Changes from now on are noticed, so watch first and read then.
    #[must_use]
    pub(crate) fn watch(&self, member_id: MemberId) -> Watch {
        let mut state = self.lock();
        let watched = if state.has_ended {
            let watched = Arc::<Watched>::default();
            watched.end();
            watched
        } else {
            state.watched.entry(member_id).or_default().clone()
        };
        let taken = {
            let mut seen = watched.lock();
            seen.watches += 1;
            seen.news
        };
        Watch {
            watchers: self.clone(),
            member_id,
            watched,
            taken,
        }
    }

    /// Tells everyone who watches these members' pages that they changed.
    pub fn changed(&self, members: impl IntoIterator<Item = MemberId>) {
        self.read_if(|state| {
            let watched = &state.watched;
            let members = members.into_iter().filter(|id| watched.contains_key(id));
            state.unread.extend(members);
        });
    }

    /// Any page may have changed.
    fn all_changed(&self) {
        self.read_if(|state| state.unread.extend(state.watched.keys()));
    }

    /// Any of a part of the pages may have changed.
    fn read_again(&self, part: u32) {
        let is_due = |id: &&MemberId| id.0.as_u128() % u128::from(PARTS) == u128::from(part);
        self.read_if(|state| state.unread.extend(state.watched.keys().filter(is_due)));
    }

    /// Wakes the reader when `mark` leaves it something to read.
    fn read_if(&self, mark: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        mark(&mut state);
        if !state.unread.is_empty() {
            self.0.unread.notify_one();
        }
    }

    /// Asks for a read that begins after this; the round that it will be part of.
    fn ask(&self, member_id: MemberId) -> u64 {
        let mut round = 0;
        self.read_if(|state| {
            round = state.rounds + 1;
            if let Some(watched) = state.watched.get(&member_id) {
                state.unread.insert(member_id);
                watched.lock().wanted = round;
            }
        });
        round
    }

    /// The pages to be read now, and which round of reads this is. Whatever changes from now on
    /// belongs to the next.
    fn next_round(&self) -> (u64, Vec<MemberId>) {
        let mut state = self.lock();
        state.rounds += 1;
        let unread = std::mem::take(&mut state.unread);
        (state.rounds, unread.into_iter().collect())
    }

    /// Shows what a read of `members`' pages found to everyone who watches them.
    fn show(&self, round: u64, members: &[MemberId], pages: Vec<Model>) {
        let mut pages: HashMap<_, _> = pages
            .into_iter()
            .map(|page| (page.member_id, Arc::new(page)))
            .collect();
        let state = self.lock();
        for member_id in members {
            if let Some(watched) = state.watched.get(member_id) {
                watched.show(round, pages.remove(member_id));
            }
        }
    }

    /// Tells whoever asked for the pages of `members` that they cannot be read, and whoever watches
    /// them once this `has_lasted`. They are read again.
    fn fail(&self, round: u64, members: &[MemberId], error: &DbErr, has_lasted: bool) {
        // Once for all who watch: it writes the log line, too.
        let status = database::status_of(error);
        let mut state = self.lock();
        for member_id in members {
            if let Some(watched) = state.watched.get(member_id) {
                watched.fail(round, &status, has_lasted);
                state.unread.insert(*member_id);
            }
        }
    }

    /// Ends every watch, and those that begin later, with [`Error::Draining`].
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.has_ended = true;
        state.watched.values().for_each(|watched| watched.end());
        state.watched = HashMap::new();
        state.unread = HashSet::new();
    }
}

/// Reads the pages that are waited for whenever they may have changed.
pub(crate) async fn read(watchers: Watchers, store: Store, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = rounds_of_reads(&watchers, &store) => {}
    }
}

async fn rounds_of_reads(watchers: &Watchers, store: &Store) {
    let mut failing_since = None;
    loop {
        let (round, members) = watchers.next_round();
        if members.is_empty() {
            watchers.0.unread.notified().await;
            continue;
        }
        match read_round(watchers, store, round, &members).await {
            Ok(()) => failing_since = None,
            Err((unread, error)) => {
                let since = *failing_since.get_or_insert_with(Instant::now);
                let has_lasted = since.elapsed() > LONGEST_FAILURE;
                watchers.fail(round, unread, &error, has_lasted);
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Reads and shows pages. The first read that fails ends it: the others would keep each other
/// waiting for the same database. Returns which are left.
async fn read_round<'a>(
    watchers: &Watchers,
    store: &Store,
    round: u64,
    mut members: &'a [MemberId],
) -> Result<(), (&'a [MemberId], DbErr)> {
    while let Some((next, rest)) = members.split_at_checked(members.len().min(pages::MAX_FOUND))
        && !next.is_empty()
    {
        match pages::find_all(store, next).await {
            Ok(pages) => watchers.show(round, next, pages),
            Err(error) => return Err((members, error)),
        }
        members = rest;
    }
    Ok(())
}

/// Tells the watchers here what other replicas changed, and now and then that they may have missed
/// something.
pub(crate) async fn listen(watchers: Watchers, store: Store, stop: CancellationToken) {
    let mut others = store.signals().listen(Topic::Page);
    let mut parts = (0..PARTS).cycle();
    let mut tick = interval(READ_AGAIN / PARTS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = others.next() => heard,
            _ = tick.tick() => {
                watchers.read_again(parts.next().unwrap_or_default());
                continue;
            }
        };
        match heard {
            Heard::Items(members) => watchers.changed(members.into_iter().map(MemberId)),
            Heard::Missed => watchers.all_changed(),
        }
    }
}

/// One who watches a page.
#[derive(Debug)]
pub(crate) struct Watch {
    watchers: Watchers,
    member_id: MemberId,
    watched: Arc<Watched>,
    /// The news that this one knows of.
    taken: u64,
}

impl Watch {
    /// The page as it is now: of a read that begins after this call.
    ///
    /// # Errors
    /// The read's, or that the watchers were ended.
    pub(crate) async fn read(&mut self) -> Result<Option<Arc<Model>>, Error> {
        let wanted = self.watchers.ask(self.member_id);
        let is_due = |seen: &Seen| seen.round >= wanted;
        self.once(is_due, |seen| seen.failed_at(wanted)).await
    }

    /// The page, once it may be another than the last that was returned. Several changes are one:
    /// only the newest page counts.
    ///
    /// # Errors
    /// As [`read`](Self::read), but the read's only when reads have failed for long.
    pub(crate) async fn changed(&mut self) -> Result<Option<Arc<Model>>, Error> {
        let taken = self.taken;
        self.once(|seen| seen.news > taken, |_| None).await
    }

    /// The page, once `is_due` holds of what was seen of it, which it does of news alone; or what
    /// `failed` finds there before.
    async fn once(
        &mut self,
        is_due: impl Fn(&Seen) -> bool,
        failed: impl Fn(&Seen) -> Option<Status>,
    ) -> Result<Option<Arc<Model>>, Error> {
        loop {
            // Before the look: it hears of whatever comes after it.
            let news = self.watched.news.notified();
            {
                let mut seen = self.watched.lock();
                if is_due(&seen) {
                    self.taken = seen.news;
                    return seen.take().map_err(Error::Read);
                }
                if let Some(status) = failed(&seen) {
                    return Err(Error::Read(status));
                }
                if seen.has_ended {
                    return Err(Error::Draining);
                }
            }
            news.await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.watchers.lock();
        let mut seen = self.watched.lock();
        seen.watches -= 1;
        if seen.watches == 0 {
            state.watched.remove(&self.member_id);
            state.unread.remove(&self.member_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use couponmesh_runtime::Timestamp;
    use futures::FutureExt as _;

    use super::*;

    fn member(number: u32) -> MemberId {
        MemberId::parse(&format!("0198c1f0-5c3e-7d7a-a1b5-{number:012x}")).unwrap()
    }

    fn page(member_id: MemberId, version: i64) -> Model {
        let mut page = pages::blank(member_id, Timestamp::default());
        page.member_version = version;
        page
    }

    /// Reads as the reader does, where every page is at `version`.
    fn read_round(watchers: &Watchers, version: i64) -> Vec<MemberId> {
        let (round, members) = watchers.next_round();
        let pages = members.iter().map(|&id| page(id, version)).collect();
        watchers.show(round, &members, pages);
        members
    }

    async fn version(page: impl Future<Output = Result<Option<Arc<Model>>, Error>>) -> i64 {
        page.await.unwrap().unwrap().member_version
    }

    #[tokio::test]
    async fn one_read_reaches_every_watcher_and_nobody_is_remembered() {
        let (watchers, id) = (Watchers::default(), member(1));
        let (mut a, mut b) = (watchers.watch(id), watchers.watch(id));
        watchers.changed([id, member(2)]);
        watchers.changed([id]);
        assert_eq!(read_round(&watchers, 3), [id]);
        assert_eq!(version(a.changed()).await, 3);
        drop(a);
        assert_eq!(version(b.changed()).await, 3);
        watchers.changed([id]);
        drop(b);
        let state = watchers.lock();
        assert!(state.watched.is_empty() && state.unread.is_empty());
    }

    #[tokio::test]
    async fn a_page_is_kept_until_everyone_has_taken_it() {
        let (watchers, id) = (Watchers::default(), member(1));
        let (mut a, mut b) = (watchers.watch(id), watchers.watch(id));
        watchers.changed([id]);
        read_round(&watchers, 1);
        let late = watchers.watch(id);
        let kept = || late.watched.lock().page.as_ref().unwrap().is_some();
        assert_eq!(version(a.changed()).await, 1);
        assert!(kept());
        assert_eq!(version(b.changed()).await, 1);
        assert!(!kept());
        // That it is not kept does not make it news.
        watchers.changed([id]);
        read_round(&watchers, 1);
        assert!(a.changed().now_or_never().is_none());
        assert!(!kept());
    }

    #[tokio::test]
    async fn a_read_that_changes_nothing_wakes_only_who_asked_for_it() {
        let (watchers, id) = (Watchers::default(), member(1));
        let (mut idle, mut asks) = (watchers.watch(id), watchers.watch(id));
        watchers.changed([id]);
        read_round(&watchers, 1);
        assert_eq!(version(idle.changed()).await, 1);
        watchers.changed([id]);
        read_round(&watchers, 1);
        assert!(idle.changed().now_or_never().is_none());
        let mut read = std::pin::pin!(asks.read());
        assert!(read.as_mut().now_or_never().is_none());
        read_round(&watchers, 1);
        assert_eq!(version(read).await, 1);
    }

    #[tokio::test]
    async fn who_asks_during_a_read_waits_for_the_next() {
        let (watchers, id) = (Watchers::default(), member(1));
        let mut first = watchers.watch(id);
        watchers.changed([id]);
        let (round, members) = watchers.next_round();
        let mut second = watchers.watch(id);
        let mut read = std::pin::pin!(second.read());
        assert!(read.as_mut().now_or_never().is_none());
        // This read began before the second watcher came, and may have missed what that one knows
        // of.
        watchers.show(round, &members, vec![page(id, 1)]);
        assert_eq!(version(first.changed()).await, 1);
        assert!(read.as_mut().now_or_never().is_none());
        read_round(&watchers, 1);
        assert_eq!(version(read).await, 1);
    }

    /// A round of reads that fails.
    fn fail_round(watchers: &Watchers, has_lasted: bool) {
        let (round, members) = watchers.next_round();
        watchers.fail(round, &members, &DbErr::Custom("no".to_owned()), has_lasted);
    }

    #[tokio::test]
    async fn a_read_that_fails_is_told_to_who_asked_and_tried_again_for_all() {
        let (watchers, id) = (Watchers::default(), member(1));
        let (mut idle, mut asks) = (watchers.watch(id), watchers.watch(id));
        let mut read = Box::pin(asks.read());
        assert!(read.as_mut().now_or_never().is_none());
        fail_round(&watchers, false);
        assert!(matches!(read.await, Err(Error::Read(_))));
        assert!(idle.changed().now_or_never().is_none());
        assert_eq!(read_round(&watchers, 1), [id]);
        assert_eq!(version(idle.changed()).await, 1);
        assert_eq!(version(asks.changed()).await, 1);
    }

    #[tokio::test]
    async fn reads_that_fail_for_long_end_watches_and_the_next_page_is_news() {
        let (watchers, id) = (Watchers::default(), member(1));
        let mut watch = watchers.watch(id);
        watchers.changed([id]);
        fail_round(&watchers, true);
        assert!(matches!(watch.changed().await, Err(Error::Read(_))));
        read_round(&watchers, 1);
        assert_eq!(version(watch.changed()).await, 1);
    }

    #[test]
    fn pages_without_news_are_read_again_each_once_and_spread_evenly() {
        let watchers = Watchers::default();
        let _watches: Vec<_> = (0..10_000)
            .map(|number| watchers.watch(member(number % 5_000)))
            .collect();
        let rounds: Vec<usize> = (0..PARTS)
            .map(|part| {
                watchers.read_again(part);
                read_round(&watchers, 1).len()
            })
            .collect();
        assert_eq!(rounds, [250; PARTS as usize]);
    }

    #[tokio::test]
    async fn all_watches_end_also_those_that_come_later() {
        let (watchers, id) = (Watchers::default(), member(1));
        let mut watch = watchers.watch(id);
        watchers.end();
        assert!(matches!(watch.changed().await, Err(Error::Draining)));
        let mut late = watchers.watch(id);
        assert!(matches!(late.read().await, Err(Error::Draining)));
        drop((watch, late));
        assert!(watchers.lock().watched.is_empty());
    }
}
