//! Noting what became of members' coupons and of the administrator's notifications.
//!
//! Events come in any order, also after the member left: they fill in what they tell and never move
//! the state back.

use std::collections::HashMap;

use couponmesh_messaging::{HandlerError, Transaction};
use couponmesh_runtime::{
    Context, Timestamp,
    id::{CouponId, MemberId, WithdrawalId},
};
use sea_orm::DbErr;

use crate::{
    complete::{Completion, complete},
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
    let before = members::find_all_for_update(tx, ids).await?;
    let mut members = before.clone();
    let pending = pending_withdrawals(tx, &before, &notes).await?;
    let mut completions = Vec::with_capacity(pending.len());
    for note in notes {
        let Some(member) = members.get_mut(&note.member_id) else {
            unknown_member(&note)?;
            continue;
        };
        match (&note.news, pending.get(&note.member_id)) {
            (News::CouponCancelled(cancelled), Some(withdrawal_id)) => {
                completions.push(Completion {
                    withdrawal_id: *withdrawal_id,
                    member_id: note.member_id,
                    context: note.context,
                    cancelled: *cancelled,
                });
            }
            (news, _) => {
                let fill_in = |member: &mut Model| fill_in(member, news);
                members::apply(tx, &note.context, member, None, fill_in);
            }
        }
    }
    complete(tx, &mut members, &completions).await?;
    Ok(members::save_changed(tx, &before, members).await?)
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

/// The withdrawals of those WITHDRAWING members whose coupon is cancelled.
async fn pending_withdrawals(
    tx: &Transaction,
    members: &HashMap<MemberId, Model>,
    notes: &[Note],
) -> Result<HashMap<MemberId, WithdrawalId>, DbErr> {
    let cancelled = notes
        .iter()
        .filter(|note| matches!(note.news, News::CouponCancelled(_)));
    let ids = cancelled.map(|note| note.member_id);
    let withdrawing = ids.filter(|id| match members.get(id).map(|member| member.state) {
        Some(State::Withdrawing) => true,
        Some(State::Registered | State::Active | State::Withdrawn) | None => false,
    });
    let found = withdrawals::find_by_members(&**tx, withdrawing.collect()).await?;
    let ids = found.into_iter().map(|(id, row)| (id, row.withdrawal_id));
    Ok(ids.collect())
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
