//! An attempt at a withdrawal: cancel the coupon, then complete the withdrawal or pause it.
//!
//! A member is never WITHDRAWN while its coupon is not cancelled: completing comes after the answer of
//! CancelCoupon or the event CouponCancelled, and is conditional on the withdrawal being PENDING, so the
//! first of foreground, worker and event wins.

use couponmesh_messaging::{Store, Transaction};
use couponmesh_runtime::{Context, wake::Wake};
use sea_orm::DbErr;

use crate::{
    config::WithdrawalConfig,
    coupon_client::{Cancelled, CouponClient, Refusal},
    gate,
    members::{self, State},
    withdrawals::{self, Model, Reason},
};

/// Carries attempts out, for waiting callers and for the worker.
#[derive(Clone, Debug)]
pub struct Finisher {
    pub(crate) store: Store,
    pub(crate) coupon: CouponClient,
    pub(crate) config: WithdrawalConfig,
    /// Wakes the worker: something is pending, or the gate opened.
    pub(crate) pending: Wake,
    pub(crate) foreground: std::sync::Arc<tokio::sync::Semaphore>,
}

impl Finisher {
    /// Attempts a withdrawal that is claimed, and returns it as it then is. `probe` when the gate is closed.
    pub(crate) async fn attempt(&self, withdrawal: &Model, probe: bool) -> Result<Model, DbErr> {
        if self.store.faults().sabotaged("withdraw.cancel_first") {
            self.complete_without_cancelling(withdrawal).await?;
        }
        match self.coupon.cancel(withdrawal).await {
            Ok(cancelled) => self.succeed(withdrawal, &cancelled).await?,
            Err(refusal) => self.pause(withdrawal, &refusal, probe).await?,
        }
        let now = withdrawals::find(self.store.read(), withdrawal.withdrawal_id).await?;
        Ok(now.unwrap_or_else(|| withdrawal.clone()))
    }

    async fn succeed(&self, withdrawal: &Model, cancelled: &Cancelled) -> Result<(), DbErr> {
        let tx = self.store.begin("member.complete").await?;
        complete(&tx, withdrawal, cancelled).await?;
        self.open_gate(&tx).await?;
        tx.commit().await?;
        if withdrawal.pending_reason.is_some() {
            tracing::info!(withdrawal.id = %withdrawal.withdrawal_id, attempt = withdrawal.attempt_count, "paused withdrawal completed");
        }
        Ok(())
    }

    async fn pause(&self, withdrawal: &Model, refusal: &Refusal, probe: bool) -> Result<(), DbErr> {
        let tx = self.store.begin("member.pause").await?;
        // Before the gate, as in completing: two transactions that want both must not wait for each other.
        withdrawals::lock(&tx, withdrawal.withdrawal_id).await?;
        let next_attempt_time = match refusal.reason {
            Reason::Rejected => {
                // The other side is there and answers, so the way is free for other withdrawals.
                self.open_gate(&tx).await?;
                tx.now()
                    .plus(tx.random().jitter(self.config.rejected_pause))
            }
            Reason::Overloaded
            | Reason::NoHealthyUpstream
            | Reason::Timeout
            | Reason::Unreachable => {
                gate::close(&tx, &self.config, probe, refusal.retry_after).await?
            }
        };
        let paused = withdrawals::pause(
            &tx,
            withdrawal.withdrawal_id,
            refusal.reason,
            next_attempt_time,
        )
        .await?;
        let pending = self.pending.clone();
        tx.after_commit(move || pending.wake());
        tx.commit().await?;
        if paused {
            log(withdrawal, refusal);
        }
        Ok(())
    }

    async fn open_gate(&self, tx: &Transaction) -> Result<(), DbErr> {
        if gate::open(tx).await? {
            withdrawals::make_due(tx).await?;
            let pending = self.pending.clone();
            tx.after_commit(move || pending.wake());
        }
        Ok(())
    }

    /// What a sabotaged build does, so that a test can see that the tests would notice.
    async fn complete_without_cancelling(&self, withdrawal: &Model) -> Result<(), DbErr> {
        let tx = self.store.begin("member.complete").await?;
        let made_up = Cancelled {
            coupon_id: couponmesh_runtime::id::CouponId(tx.new_id()),
            issue_time: None,
            cancel_time: tx.now(),
        };
        complete(&tx, withdrawal, &made_up).await?;
        tx.commit().await
    }
}

/// Completes a withdrawal whose coupon is cancelled; nothing when it was completed before.
async fn complete(
    tx: &Transaction,
    withdrawal: &Model,
    cancelled: &Cancelled,
) -> Result<(), DbErr> {
    // The member first: every transaction that touches both takes its locks in this order.
    let Some(mut member) = members::find_for_update(tx, withdrawal.member_id).await? else {
        return Ok(());
    };
    let before = member.version;
    apply_completion(
        tx,
        &withdrawal.context(),
        &mut member,
        withdrawal,
        cancelled,
    )
    .await?;
    members::save(tx, before, &member).await
}

/// Completes the withdrawal of `member`, which the caller saves; nothing when it was completed before.
pub(crate) async fn apply_completion(
    tx: &Transaction,
    context: &Context,
    member: &mut members::Model,
    withdrawal: &Model,
    cancelled: &Cancelled,
) -> Result<(), DbErr> {
    let id = withdrawal.withdrawal_id;
    if !withdrawals::complete(tx, id).await? {
        return Ok(());
    }
    members::apply(tx, context, member, Some(id), |member| {
        member.state = State::Withdrawn;
        member.coupon_id = Some(cancelled.coupon_id);
        member.coupon_issue_time = member.coupon_issue_time.or(cancelled.issue_time);
        member.coupon_cancel_time = Some(cancelled.cancel_time);
        member.withdraw_time = Some(tx.now());
    });
    Ok(())
}

fn log(withdrawal: &Model, refusal: &Refusal) {
    let (id, reason, code, message) = (
        withdrawal.withdrawal_id,
        refusal.reason,
        refusal.code,
        &refusal.message,
    );
    match reason {
        // An operator has to look: it does not pass by itself.
        Reason::Rejected => {
            tracing::error!(withdrawal.id = %id, ?code, message, "CancelCoupon was refused; the withdrawal is tried again slowly");
        }
        Reason::Overloaded | Reason::NoHealthyUpstream | Reason::Timeout | Reason::Unreachable => {
            tracing::info!(withdrawal.id = %id, ?reason, ?code, message, "withdrawal paused");
        }
    }
}
