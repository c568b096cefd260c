//! The worker: finishes what is pending, across restarts and replicas.

use std::time::Duration;

use couponmesh_messaging::Store;
use couponmesh_runtime::running::Running;
use futures::future::join_all;
use sea_orm::DbErr;
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::Finisher,
    config::WithdrawalConfig,
    coupon_client::CouponClient,
    gate,
    withdrawals::{self, Model},
};

/// How often the table is looked at without a wake-up: for pauses that end and claims of the dead.
const POLL: Duration = Duration::from_millis(500);

pub(crate) fn start(
    store: &Store,
    coupon: CouponClient,
    config: &WithdrawalConfig,
    running: &Running,
) -> Finisher {
    let finisher = Finisher::new(store, coupon, config, running);
    let (worker, stop) = (finisher.clone(), running.stopping());
    running.keep("withdrawals", move || run(worker.clone(), stop.clone()));
    finisher
}

async fn run(finisher: Finisher, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match round(&finisher).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "pending withdrawals wait for the database"
                );
                POLL
            }
        };
        if pause.is_zero() {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = finisher.pending.wait(pause) => {}
        }
    }
}

/// One round of attempts; returns how long to rest before the next.
async fn round(finisher: &Finisher) -> Result<Duration, DbErr> {
    let Some(gate) = gate::closed(finisher.store.read()).await? else {
        let claimed = claim(finisher, finisher.config.background, false).await?;
        let full = claimed.len() == finisher.config.background;
        attempt_all(finisher, claimed, false).await;
        return Ok(if full { Duration::ZERO } else { POLL });
    };
    let until_probe = gate.until_probe(finisher.store.now(), &finisher.config);
    if !until_probe.is_zero() {
        return Ok(until_probe.min(POLL));
    }
    let probe = claim(finisher, 1, true).await?;
    let none = probe.is_empty();
    attempt_all(finisher, probe, true).await;
    Ok(if none { POLL } else { Duration::ZERO })
}

async fn claim(finisher: &Finisher, limit: usize, probe: bool) -> Result<Vec<Model>, DbErr> {
    let tx = finisher.store.begin("member.claim").await?;
    if probe && !gate::take_probe(&tx, &finisher.config).await? {
        return Ok(Vec::new());
    }
    let claimed = withdrawals::claim(&tx, &finisher.config, limit, probe).await?;
    if !claimed.is_empty() {
        tx.commit().await?;
    }
    Ok(claimed)
}

async fn attempt_all(finisher: &Finisher, claimed: Vec<Model>, probe: bool) {
    let attempts = claimed.into_iter().map(|withdrawal| async move {
        let id = withdrawal.withdrawal_id;
        // A claim whose outcome could not be stored ends by itself, and the withdrawal is tried again.
        if let Err(error) = finisher.attempt(withdrawal, probe).await {
            tracing::warn!(withdrawal.id = %id, error = &error as &dyn std::error::Error, "the outcome of an attempt could not be stored");
        }
    });
    join_all(attempts).await;
}
