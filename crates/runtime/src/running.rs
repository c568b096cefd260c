//! The background tasks of a service, with one handle to stop them all.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a task that panicked rests before it is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// A group of background tasks.
#[derive(Clone, Debug, Default)]
pub struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// A group without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the group shall stop. Tasks finish what they have begun and end.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs a loop until the group stops. One that panics is started again: a bug in one event or row
    /// must not end a service's work for good.
    pub fn keep<F>(&self, name: &'static str, mut start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            loop {
                if AssertUnwindSafe(start()).catch_unwind().await.is_ok() || stop.is_cancelled() {
                    return;
                }
                tracing::error!(
                    task = name,
                    "a background task panicked and is started again"
                );
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RESTART_DELAY) => {}
                }
            }
        });
    }

    /// Runs work that belongs to the group but ends by itself; `stop` waits for it. It goes on when
    /// the returned handle is dropped.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tasks.spawn(work)
    }

    /// Asks every task to stop and waits until all have ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
