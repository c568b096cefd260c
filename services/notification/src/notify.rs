//! Storing the administrator's notifications of registrations.

use couponmesh_messaging::Transaction;
use couponmesh_runtime::{
    Context,
    id::{MemberId, NotificationId},
};
use sea_orm::DbErr;

use crate::{
    channel::Channel,
    notifications::{self, Model, State},
};

/// Stores a notification of every registration, due at once, unless the member has one already.
pub(crate) async fn notify(
    tx: &Transaction,
    channel: &Channel,
    registered: Vec<(MemberId, Context)>,
) -> Result<(), DbErr> {
    let notifications = registered
        .into_iter()
        .map(|(member_id, context)| new_notification(tx, channel, member_id, context))
        .collect();
    notifications::insert_new(tx, notifications).await
}

fn new_notification(
    tx: &Transaction,
    channel: &Channel,
    member_id: MemberId,
    context: Context,
) -> Model {
    Model {
        notification_id: NotificationId(tx.new_id()),
        member_id,
        recipient: channel.recipient().to_owned(),
        channel: channel.name().to_owned(),
        // The member's id is all that leaves: the name and the address are the member's own.
        subject: "A new member registered".to_owned(),
        body: format!("Member {member_id} registered. A welcome coupon is on its way."),
        state: State::Pending,
        attempt_count: 0,
        create_time: tx.now(),
        next_attempt_time: Some(tx.now()),
        send_time: None,
        last_error: String::new(),
        failing_since: None,
        correlation_id: context.correlation_id.as_str().to_owned(),
        causation_id: context.causation_id,
        traceparent: context.traceparent,
    }
}
