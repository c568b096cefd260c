//! Door 2: registrations.

use std::sync::Arc;

use async_trait::async_trait;
use couponmesh_messaging::{Event, Handler, HandlerError, Transaction};
use couponmesh_proto::member::v1::MemberRegistered;
use couponmesh_runtime::wake::Wake;

use crate::{channel::Channel, notify};

/// Stores a notification for every registration and wakes the delivery.
#[derive(Debug)]
pub struct NotificationHandler {
    channel: Arc<Channel>,
    pending: Wake,
}

impl NotificationHandler {
    /// A handler of notifications that go out by `channel`; `pending` wakes their delivery.
    #[must_use]
    pub fn new(channel: Arc<Channel>, pending: Wake) -> Self {
        Self { channel, pending }
    }
}

#[async_trait]
impl Handler for NotificationHandler {
    const TYPES: &'static [&'static str] = &["couponmesh.member.v1.MemberRegistered"];

    async fn handle(&self, tx: &Transaction, events: &[&Event]) -> Result<(), HandlerError> {
        let mut registered = Vec::with_capacity(events.len());
        for event in events {
            if event.decode::<MemberRegistered>()?.is_none() {
                return Err(HandlerError::UnknownType(event.event_type.clone()));
            }
            registered.push((event.member_id, event.causes()));
        }
        notify::notify(tx, &self.channel, registered).await?;
        let pending = self.pending.clone();
        tx.after_commit(move || pending.wake());
        Ok(())
    }
}
