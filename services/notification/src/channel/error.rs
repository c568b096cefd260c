//! What can go wrong: at the start with the configuration, later with one delivery.

use std::{error::Error, fmt, time::Duration};

use super::failure::{Cause, Failure};

/// Longest text of a delivery error, in characters: it is stored with the notification and shown.
const MAX_TEXT: usize = 500;

/// A value of the configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("notification.channel.{key} {problem}")]
pub struct ChannelError {
    pub(super) key: &'static str,
    pub(super) problem: String,
}

impl ChannelError {
    /// `key` is relative to `notification.channel`, `problem` goes on the sentence and holds no secret.
    pub(super) fn new(key: &'static str, problem: impl Into<String>) -> Self {
        Self {
            key,
            problem: problem.into(),
        }
    }
}

/// Why one attempt did not succeed: one short line that holds no secret, and what it means for the
/// next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct DeliveryError {
    text: String,
    failure: Failure,
    retry_after: Option<Duration>,
}

impl DeliveryError {
    /// Bounds `text`, which may come from the other side, and makes it one line.
    pub(super) fn new(cause: Cause, text: impl fmt::Display) -> Self {
        let text = text.to_string();
        let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        line.retain(|c| !c.is_control());
        if let Some((end, _)) = line.char_indices().nth(MAX_TEXT - 1) {
            line.truncate(end);
            line.push('…');
        }
        Self {
            text: line,
            failure: cause.failure(),
            retry_after: None,
        }
    }

    /// The attempt took longer than the channel's timeout.
    pub(super) fn timeout(timeout: Duration) -> Self {
        Self::new(
            Cause::NoAnswer,
            format_args!("no answer within {timeout:?}"),
        )
    }

    /// The receiver asked to be left alone for `wait`.
    pub(super) fn asking_for(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// What it means for the next attempt.
    #[must_use]
    pub fn failure(&self) -> Failure {
        self.failure
    }

    /// How long the receiver asked to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// `error` with its causes: HTTP clients keep what went wrong in the last of them.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}
