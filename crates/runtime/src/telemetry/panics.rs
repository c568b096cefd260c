//! Panics in the log, in the log's own format.

use std::{backtrace::Backtrace, panic};

/// Sends panics to the log instead of raw to stderr.
///
/// Of the message only literals are logged: a formatted one may hold personal data.
pub(super) fn log() {
    panic::set_hook(Box::new(|info| {
        let message = info.payload().downcast_ref::<&'static str>();
        let location = info.location().map(ToString::to_string);
        tracing::error!(
            message = *message.unwrap_or(&"(withheld)"),
            panic.location = location,
            panic.backtrace = %Backtrace::capture(),
            "panic"
        );
    }));
}
