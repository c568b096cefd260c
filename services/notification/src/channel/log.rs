//! The log channel: for a first look and for systems whose log is watched.

use super::Message;

/// Writes one line to the service's log.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Log {
    pub(super) fn send(self, message: &Message<'_>) {
        tracing::info!(
            notification.id = %message.notification_id,
            member.id = %message.member_id,
            correlation.id = message.correlation_id,
            notification.subject = message.subject,
            "notification for the administrator"
        );
    }
}
