//! Who waits for which page to change.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use couponmesh_runtime::id::MemberId;
use tokio::sync::watch;

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
}

/// One who watches a page.
#[derive(Debug)]
pub struct Watch {
    watchers: Watchers,
    member_id: MemberId,
    changes: watch::Receiver<()>,
}

impl Watch {
    /// Waits until the page changed since the last call. Several changes are one: only the newest page counts.
    pub async fn changed(&mut self) {
        // Its sender lives as long as it does: the map lets go only of those whom nobody watches.
        let _ = self.changes.changed().await;
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
