//! Noting what became of members' coupons and of the administrator's notifications.
//!
//! Events come in any order, also after the member left: they fill in what they tell and never move
//! the state back.

use couponmesh_messaging::{HandlerError, Transaction};
use couponmesh_runtime::{
    Context, Timestamp,
    id::{CouponId, MemberId},
};
use sea_orm::DbErr;

use crate::{
    attempt,
    coupon_client::Cancelled,
    members::{self, Model, State},
    withdrawals,
};

/// News for a member.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) member_id: MemberId,
    pub(crate) context: Context,
    pub(crate) news: News,
}

/// What another service did.
#[derive(Debug)]
pub(crate) enum News {
    /// The welcome coupon was issued: a REGISTERED member becomes ACTIVE.
    CouponIssued {
        coupon_id: CouponId,
        issue_time: Timestamp,
    },
    /// The coupon was cancelled. At a WITHDRAWING member this completes the withdrawal, which heals a lost
    /// answer of CancelCoupon; otherwise it only sets the flag.
    CouponCancelled(Cancelled),
    /// The administrator was notified.
    AdminNotified { send_time: Timestamp },
}

/// Takes note of everything in `notes`.
pub(crate) async fn note(tx: &Transaction, notes: Vec<Note>) -> Result<(), HandlerError> {
    let ids = notes.iter().map(|note| note.member_id).collect();
    let known = members::find_all_for_update(tx, ids).await?;
    let mut changed = known.clone();
    for note in notes {
        let Some(member) = changed.get_mut(&note.member_id) else {
            unknown_member(&note)?;
            continue;
        };
        if let News::CouponCancelled(cancelled) = &note.news
            && let Some(withdrawal) = pending_withdrawal(tx, member).await?
        {
            attempt::apply_completion(tx, &note.context, member, &withdrawal, cancelled).await?;
        } else {
            let fill_in = |member: &mut Model| fill_in(member, &note.news);
            members::apply(tx, &note.context, member, None, fill_in);
        }
    }
    let changed = changed.into_values().filter_map(|member| {
        let before = known.get(&member.member_id)?.version;
        Some((before, member))
    });
    Ok(members::save_all(tx, changed.collect()).await?)
}

/// Coupons are issued and notifications sent because of committed registrations, so that their member is
/// unknown is no matter of order. CancelCoupon takes any member id: that was somebody's mistake, and no
/// news for anyone.
fn unknown_member(note: &Note) -> Result<(), HandlerError> {
    let member_id = note.member_id;
    match note.news {
        News::CouponCancelled(_) => {
            tracing::warn!(member.id = %member_id, "a coupon of no member was cancelled");
            Ok(())
        }
        News::CouponIssued { .. } | News::AdminNotified { .. } => Err(HandlerError::Undecodable(
            format!("there is no member {member_id}"),
        )),
    }
}

async fn pending_withdrawal(
    tx: &Transaction,
    member: &Model,
) -> Result<Option<withdrawals::Model>, DbErr> {
    match member.state {
        State::Withdrawing => withdrawals::find_by_member(&**tx, member.member_id).await,
        State::Registered | State::Active | State::Withdrawn => Ok(None),
    }
}

fn fill_in(member: &mut Model, news: &News) {
    match news {
        News::CouponIssued {
            coupon_id,
            issue_time,
        } => {
            member.coupon_id = Some(*coupon_id);
            member.coupon_issue_time = Some(*issue_time);
            if member.state == State::Registered {
                member.state = State::Active;
            }
        }
        News::CouponCancelled(cancelled) => {
            member.coupon_id = Some(cancelled.coupon_id);
            member.coupon_issue_time = member.coupon_issue_time.or(cancelled.issue_time);
            member.coupon_cancel_time = member.coupon_cancel_time.or(Some(cancelled.cancel_time));
        }
        News::AdminNotified { send_time } => {
            member.admin_notify_time = member.admin_notify_time.or(Some(*send_time));
        }
    }
}
