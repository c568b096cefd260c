//! How a server is told to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::run::BoxError;

/// SIGTERM, SIGHUP and Ctrl-C. Listen before anything is served: one that comes early must not go unheard.
pub(crate) struct Stopping {
    terminate: Signal,
    interrupt: Signal,
    /// None under nohup.
    hangup: Option<Signal>,
}

impl Stopping {
    pub(crate) fn listen() -> Result<Self, BoxError> {
        let hangup = (!hangups_are_ignored()).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: hangup.transpose()?,
        })
    }

    pub(crate) async fn told(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }

    /// Told by somebody who has no more patience. A hangup does not count: a terminal that is closed sends it
    /// from the kernel and from the shell, and some supervisors send it after SIGTERM.
    pub(crate) async fn told_again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Whether this process is to outlive its terminal, as nohup does. Listening for the
/// signal would undo that.
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status, SignalKind::hangup())
}

/// Whether `signal` is in the mask that Linux shows as `SigIgn`, one bit a signal.
fn ignored(status: &str, signal: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tcouponmesh\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(ignored(status, SignalKind::hangup()));
        assert!(ignored(status, SignalKind::pipe()));
        assert!(!ignored(status, SignalKind::terminate()));
        assert!(!ignored(
            "SigBlk:\tffffffffffffffff\n",
            SignalKind::hangup()
        ));
    }
}
