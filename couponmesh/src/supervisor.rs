//! What a supervisor is told that asks for it, as systemd does with `Type=notify`.

use sd_notify::NotifyState;
use tokio::task::{JoinHandle, spawn_blocking};

/// Tells the supervisor one thing after the other. Nobody waits for it: its socket blocks when it does not read.
#[derive(Default)]
pub(crate) struct Supervisor {
    last: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Calls are answered from now on.
    pub(crate) fn ready(&mut self) {
        self.tell(NotifyState::Ready);
    }

    /// Running calls come to their end.
    pub(crate) fn stopping(&mut self) {
        self.tell(NotifyState::Stopping);
    }

    /// Does nothing without NOTIFY_SOCKET.
    fn tell(&mut self, state: NotifyState<'static>) {
        let last = self.last.take();
        self.last = Some(tokio::spawn(async move {
            if let Some(last) = last {
                let _ = last.await;
            }
            let told = spawn_blocking(move || sd_notify::notify(&[state])).await;
            if let Ok(Err(error)) = told {
                tracing::warn!(%error, "the supervisor at NOTIFY_SOCKET cannot be told");
            }
        }));
    }
}
