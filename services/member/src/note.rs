//! Noting what became of a member's coupon and of the administrator's notification.
//!
//! Events come in any order, also after the member left: they fill in what they tell and never move
//! the state back.

use couponmesh_messaging::{HandlerError, Transaction};
use couponmesh_runtime::{
    Context, Timestamp,
    id::{CouponId, MemberId},
};

use crate::{
    attempt,
    coupon_client::Cancelled,
    members::{self, Model, State},
    withdrawals,
};

/// The welcome coupon was issued: the member becomes ACTIVE.
pub(crate) async fn coupon_issued(
    tx: &Transaction,
    context: &Context,
    member_id: MemberId,
    coupon_id: CouponId,
    issue_time: Timestamp,
) -> Result<(), HandlerError> {
    let member = find(tx, member_id).await?;
    members::change(tx, context, member, None, |member| {
        member.coupon_id = Some(coupon_id);
        member.coupon_issue_time = Some(issue_time);
        if member.state == State::Registered {
            member.state = State::Active;
        }
    })
    .await?;
    Ok(())
}

/// The coupon was cancelled. At a WITHDRAWING member this completes the withdrawal, which heals a lost
/// answer of CancelCoupon; otherwise it only sets the flag.
pub(crate) async fn coupon_cancelled(
    tx: &Transaction,
    context: &Context,
    member_id: MemberId,
    cancelled: Cancelled,
) -> Result<(), HandlerError> {
    let member = find(tx, member_id).await?;
    if member.state == State::Withdrawing
        && let Some(withdrawal) = withdrawals::find_by_member(&**tx, member_id).await?
    {
        attempt::complete(tx, context, &withdrawal, &cancelled).await?;
        return Ok(());
    }
    members::change(tx, context, member, None, |member| {
        member.coupon_id = Some(cancelled.coupon_id);
        member.coupon_issue_time = member.coupon_issue_time.or(cancelled.issue_time);
        member.coupon_cancel_time = member.coupon_cancel_time.or(Some(cancelled.cancel_time));
    })
    .await?;
    Ok(())
}

/// The administrator was notified.
pub(crate) async fn admin_notified(
    tx: &Transaction,
    context: &Context,
    member_id: MemberId,
    send_time: Timestamp,
) -> Result<(), HandlerError> {
    let member = find(tx, member_id).await?;
    members::change(tx, context, member, None, |member| {
        member.admin_notify_time = member.admin_notify_time.or(Some(send_time));
    })
    .await?;
    Ok(())
}

async fn find(tx: &Transaction, member_id: MemberId) -> Result<Model, HandlerError> {
    members::find_for_update(tx, member_id)
        .await?
        // A coupon or notification is caused by a committed registration, so this is no matter of order.
        .ok_or_else(|| HandlerError::Undecodable(format!("there is no member {member_id}")))
}
