//! Who waits for which page to change.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use couponmesh_messaging::{
    Store,
    signal::{Heard, Topic},
};
use couponmesh_runtime::id::MemberId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a page is read that no news came of.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Everyone in this process who waits for a page. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Watchers(Arc<Mutex<HashMap<MemberId, watch::Sender<()>>>>);

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, HashMap<MemberId, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to watch a page. Changes from now on are noticed, so watch first and read then.
    #[must_use]
    pub fn watch(&self, member_id: MemberId) -> Watch {
        let changes = self.lock().entry(member_id).or_default().subscribe();
        Watch {
            watchers: self.clone(),
            member_id,
            changes,
        }
    }

    /// Tells everyone who watches `member_id`'s page that it changed.
    pub fn changed(&self, member_id: MemberId) {
        if let Some(watchers) = self.lock().get(&member_id) {
            watchers.send_replace(());
        }
    }

    /// Any page may have changed.
    fn all_changed(&self) {
        for watchers in self.lock().values() {
            watchers.send_replace(());
        }
    }
}

/// Tells the watchers here what other replicas changed.
pub(crate) async fn listen(watchers: Watchers, store: Store, stop: CancellationToken) {
    let mut others = store.signals().listen(Topic::Page);
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = others.next() => heard,
        };
        match heard {
            Heard::Items(members) => {
                for member_id in members {
                    watchers.changed(MemberId(member_id));
                }
            }
            Heard::Missed => watchers.all_changed(),
        }
    }
}

/// One who watches a page.
#[derive(Debug)]
pub struct Watch {
    watchers: Watchers,
    member_id: MemberId,
    changes: watch::Receiver<()>,
}

impl Watch {
    /// Waits until the page may have changed since the last call. Several changes are one: only the newest
    /// page counts. News of other replicas may be lost, so now and then it is worth a look without any.
    pub async fn changed(&mut self) {
        // Its sender lives as long as it does: the map lets go only of those whom nobody watches.
        let _ = tokio::time::timeout(LOOK_AGAIN, self.changes.changed()).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.watchers.lock();
        // This one still counts itself.
        if watchers
            .get(&self.member_id)
            .is_some_and(|sender| sender.receiver_count() <= 1)
        {
            watchers.remove(&self.member_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_reaches_every_watcher_and_nobody_is_remembered() {
        let watchers = Watchers::default();
        let id = MemberId::parse("0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11").unwrap();
        let (mut a, mut b) = (watchers.watch(id), watchers.watch(id));
        watchers.changed(id);
        a.changed().await;
        drop(a);
        b.changed().await;
        drop(b);
        assert!(watchers.lock().is_empty());
    }
}
