//! Storing the administrator's notification of a registration.

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

/// Stores the notification, due at once; false when the member has one already.
pub(crate) async fn notify(
    tx: &Transaction,
    context: &Context,
    channel: &Channel,
    member_id: MemberId,
) -> Result<bool, DbErr> {
    let notification = Model {
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
        correlation_id: context.correlation_id.as_str().to_owned(),
        causation_id: context.causation_id,
        traceparent: context.traceparent.clone(),
    };
    notifications::insert(tx, notification).await
}
