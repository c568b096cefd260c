//! Wake-ups between tasks: wake on commit, poll only as the fallback.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

/// Wakes the one task that waits on it.
///
/// A wake-up that comes while the task is busy is kept, so a task that asks its table first and waits
/// then misses nothing.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Wakes the task, now or when it next waits.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits for a wake-up, at most as long as `fallback`.
    pub async fn wait(&self, fallback: Duration) {
        // Whether it was a wake-up or the fallback makes no difference: the task asks its table.
        let _ = tokio::time::timeout(fallback, self.0.notified()).await;
    }
}
