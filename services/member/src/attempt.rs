//! An attempt at a withdrawal: cancel the coupon, then complete the withdrawal or pause it.

use couponmesh_messaging::Store;
use couponmesh_runtime::{group_commit::GroupCommit, id::CouponId, running::Running, wake::Wake};
use tokio::sync::Semaphore;

use crate::{
    complete::{Completing, Completion},
    config::WithdrawalConfig,
    coupon_client::{Cancelled, CouponClient},
    error::Error,
    pause::{Pausing, Refused},
    withdrawals::Model,
};

/// Carries attempts out, for waiting callers and for the worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Finisher {
    pub(crate) store: Store,
    pub(crate) coupon: CouponClient,
    pub(crate) config: WithdrawalConfig,
    /// Wakes the worker: something is pending, or the gate opened.
    pub(crate) pending: Wake,
    pub(crate) foreground: std::sync::Arc<Semaphore>,
    completing: GroupCommit<Completing>,
    pausing: GroupCommit<Pausing>,
}

impl Finisher {
    pub(crate) fn new(
        store: &Store,
        coupon: CouponClient,
        config: &WithdrawalConfig,
        running: &Running,
    ) -> Self {
        let pending = Wake::default();
        let completing = Completing {
            store: store.clone(),
            pending: pending.clone(),
        };
        let pausing = Pausing {
            store: store.clone(),
            config: config.clone(),
            pending: pending.clone(),
        };
        Self {
            store: store.clone(),
            coupon,
            config: config.clone(),
            pending,
            foreground: std::sync::Arc::new(Semaphore::new(config.foreground)),
            completing: GroupCommit::new(completing, running),
            pausing: GroupCommit::new(pausing, running),
        }
    }

    /// Attempts a withdrawal that is claimed, and returns it as it then is. `probe` when the gate is closed.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Overloaded`]: the outcome could not be stored. The claim ends by itself, and
    /// the withdrawal is attempted again.
    pub(crate) async fn attempt(&self, withdrawal: Model, probe: bool) -> Result<Model, Error> {
        if self.store.faults().sabotaged("withdraw.cancel_first") {
            self.complete_without_cancelling(&withdrawal).await?;
        }
        match self.coupon.cancel(&withdrawal).await {
            Ok(cancelled) => {
                let completion = Completion::of(&withdrawal, cancelled);
                self.completing.submit(completion).await
            }
            Err(refusal) => {
                let refused = Refused {
                    withdrawal,
                    refusal,
                    probe,
                };
                self.pausing.submit(refused).await
            }
        }
    }

    /// What a sabotaged build does, so that a test can see that the tests would notice.
    async fn complete_without_cancelling(&self, withdrawal: &Model) -> Result<(), Error> {
        let made_up = Cancelled {
            coupon_id: CouponId(self.store.new_id()),
            issue_time: None,
            cancel_time: self.store.now(),
        };
        let completion = Completion::of(withdrawal, made_up);
        self.completing.submit(completion).await.map(drop)
    }
}
