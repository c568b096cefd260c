//! Pausing withdrawals whose coupons could not be cancelled now: the worker's, when they are due again.

use async_trait::async_trait;
use couponmesh_messaging::{Store, Transaction};
use couponmesh_runtime::{Timestamp, group_commit::Work, wake::Wake};
use sea_orm::DbErr;

use crate::{
    config::WithdrawalConfig,
    coupon_client::Refusal,
    error::Error,
    gate,
    withdrawals::{self, Model, Reason, State},
};

/// A withdrawal whose attempt failed.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) withdrawal: Model,
    pub(crate) refusal: Refusal,
    /// Whether the gate was closed, and this attempt the probe.
    pub(crate) probe: bool,
}

impl Refused {
    /// Whether it was an outage, which passes by itself.
    fn outage(&self) -> bool {
        match self.refusal.reason {
            Reason::Rejected => false,
            Reason::Overloaded
            | Reason::NoHealthyUpstream
            | Reason::Timeout
            | Reason::Unreachable => true,
        }
    }

    /// Whether this was the last attempt. Otherwise the claim ended before this came here, and another attempt has
    /// one of its own; or the event CouponCancelled completed the withdrawal.
    fn is_about(&self, now: &Model) -> bool {
        let claimed = self.withdrawal.attempt_count;
        now.state == State::Pending && now.attempt_count == claimed
    }

    fn log(&self) {
        let (id, reason) = (self.withdrawal.withdrawal_id, self.refusal.reason);
        let (code, message) = (self.refusal.code, &self.refusal.message);
        if self.outage() {
            tracing::info!(withdrawal.id = %id, ?reason, ?code, message, "withdrawal paused");
        } else {
            // An operator has to look.
            tracing::error!(withdrawal.id = %id, ?code, message, "CancelCoupon was refused; the withdrawal is tried again slowly");
        }
    }
}

/// Pauses withdrawals, and paces the worker by what was seen.
#[derive(Debug)]
pub(crate) struct Pausing {
    pub(crate) store: Store,
    pub(crate) config: WithdrawalConfig,
    /// Wakes the worker.
    pub(crate) pending: Wake,
}

#[async_trait]
impl Work for Pausing {
    type Request = Refused;
    type Answer = Model;
    type Error = Error;

    async fn commit(&self, refused: &[Refused]) -> Result<Vec<Result<Model, Error>>, DbErr> {
        let tx = self.store.begin("member.pause").await?;
        // Before the gate, as in completing: two transactions that want both must not wait for each other.
        let ids = refused.iter().map(|one| one.withdrawal.withdrawal_id);
        let mut withdrawals = withdrawals::find_all_for_update(&tx, ids.clone().collect()).await?;
        let probe_time = self.pace(&tx, refused).await?;
        let mut paused = Vec::with_capacity(refused.len());
        for one in refused {
            let withdrawal = withdrawals.get_mut(&one.withdrawal.withdrawal_id);
            let Some(withdrawal) = withdrawal.filter(|row| one.is_about(row)) else {
                continue;
            };
            let next_attempt_time = match probe_time {
                Some(probe_time) if one.outage() => probe_time,
                _ => tx
                    .now()
                    .plus(tx.random().jitter(self.config.rejected_pause)),
            };
            withdrawal.pause(one.refusal.reason, next_attempt_time);
            paused.push((one, withdrawal.clone()));
        }
        let (logs, rows): (Vec<_>, Vec<_>) = paused.into_iter().unzip();
        withdrawals::save_all(&tx, rows).await?;
        let pending = self.pending.clone();
        tx.after_commit(move || pending.wake());
        tx.commit().await?;
        for one in logs {
            one.log();
        }
        Ok(withdrawals::each(&withdrawals, ids).collect())
    }
}

impl Pausing {
    /// Closes or opens the gate by what was seen; when it is closed then, returns the time of the next probe.
    async fn pace(
        &self,
        tx: &Transaction,
        refused: &[Refused],
    ) -> Result<Option<Timestamp>, DbErr> {
        let (outages, rejected): (Vec<_>, Vec<_>) = refused.iter().partition(|one| one.outage());
        if !rejected.is_empty() {
            // The other side is there and answers, so the way is free for other withdrawals.
            gate::open(tx, &self.pending).await?;
        }
        if outages.is_empty() {
            return Ok(None);
        }
        let probe = outages.iter().any(|one| one.probe);
        let floor = outages
            .iter()
            .filter_map(|one| one.refusal.retry_after)
            .max();
        let probe_time = gate::close(tx, &self.config, probe, floor).await?;
        Ok(Some(probe_time))
    }
}
