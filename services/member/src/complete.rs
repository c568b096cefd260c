//! Completing withdrawals whose coupons are cancelled.
//!
//! A member is never WITHDRAWN while its coupon is not cancelled: completing comes after the answer of
//! CancelCoupon or the event CouponCancelled, and is conditional on the withdrawal being PENDING, so the
//! first of foreground, worker and event wins.

use std::collections::HashMap;

use async_trait::async_trait;
use couponmesh_messaging::{Store, Transaction};
use couponmesh_runtime::{
    Context,
    group_commit::Work,
    id::{MemberId, WithdrawalId},
    wake::Wake,
};
use sea_orm::DbErr;

use crate::{
    coupon_client::Cancelled,
    error::Error,
    gate,
    members::{self, State},
    withdrawals::{self, Model},
};

/// A withdrawal whose coupon is cancelled.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) withdrawal_id: WithdrawalId,
    pub(crate) member_id: MemberId,
    pub(crate) context: Context,
    pub(crate) cancelled: Cancelled,
}

impl Completion {
    /// By an answer to `withdrawal`'s own call.
    pub(crate) fn of(withdrawal: &Model, cancelled: Cancelled) -> Self {
        Self {
            withdrawal_id: withdrawal.withdrawal_id,
            member_id: withdrawal.member_id,
            context: withdrawal.context(),
            cancelled,
        }
    }
}

/// Completes withdrawals by the answers of CancelCoupon.
#[derive(Debug)]
pub(crate) struct Completing {
    pub(crate) store: Store,
    /// Wakes the worker.
    pub(crate) pending: Wake,
}

#[async_trait]
impl Work for Completing {
    type Request = Completion;
    type Answer = Model;
    type Error = Error;

    async fn commit(&self, completions: &[Completion]) -> Result<Vec<Result<Model, Error>>, DbErr> {
        let tx = self.store.begin("member.complete").await?;
        // The members first: every transaction that touches both takes its locks in this order.
        let ids = completions.iter().map(|one| one.member_id).collect();
        let before = members::find_all_for_update(&tx, ids).await?;
        let mut members = before.clone();
        let withdrawals = complete(&tx, &mut members, completions).await?;
        members::save_changed(&tx, &before, members).await?;
        gate::open(&tx, &self.pending).await?;
        tx.commit().await?;
        let ids = completions.iter().map(|one| one.withdrawal_id);
        Ok(withdrawals::each(&withdrawals, ids).collect())
    }
}

/// Completes withdrawals of `members`, which are locked, and which the caller saves; those that were completed
/// before stay as they are. Returns all of them.
pub(crate) async fn complete(
    tx: &Transaction,
    members: &mut HashMap<MemberId, members::Model>,
    completions: &[Completion],
) -> Result<HashMap<WithdrawalId, Model>, DbErr> {
    if completions.is_empty() {
        return Ok(HashMap::new());
    }
    let ids = completions.iter().map(|one| one.withdrawal_id).collect();
    let mut withdrawals = withdrawals::find_all_for_update(tx, ids).await?;
    let mut completed = Vec::with_capacity(completions.len());
    for one in completions {
        let id = one.withdrawal_id;
        let withdrawal = withdrawals.get_mut(&id);
        let member = members.get_mut(&one.member_id);
        let (Some(withdrawal), Some(member)) = (withdrawal, member) else {
            continue;
        };
        if withdrawal.state == withdrawals::State::Completed {
            continue;
        }
        if withdrawal.pending_reason.is_some() {
            let attempt = withdrawal.attempt_count;
            tx.after_commit(move || {
                tracing::info!(withdrawal.id = %id, attempt, "paused withdrawal completed");
            });
        }
        withdrawal.complete(tx.now());
        completed.push(withdrawal.clone());
        let cancelled = &one.cancelled;
        members::apply(tx, &one.context, member, Some(id), |member| {
            member.state = State::Withdrawn;
            member.coupon_id = Some(cancelled.coupon_id);
            member.coupon_issue_time = member.coupon_issue_time.or(cancelled.issue_time);
            member.coupon_cancel_time = Some(cancelled.cancel_time);
            member.withdraw_time = Some(tx.now());
        });
    }
    withdrawals::save_all(tx, completed).await?;
    Ok(withdrawals)
}
