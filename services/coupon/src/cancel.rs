//! Cancelling a member's coupon, once, whether or not it was issued yet.

use couponmesh_messaging::{Store, Transaction};
use couponmesh_proto::coupon::v1::CouponCancelled;
use couponmesh_runtime::{
    Context,
    id::{CouponId, MemberId, WithdrawalId},
};
use sea_orm::DbErr;

use crate::{
    coupons::{self, Model, State},
    error::Error,
};

/// A request to cancel, checked.
#[derive(Clone, Debug)]
pub struct Cancelling {
    /// Whose coupon.
    pub member_id: MemberId,
    /// The cause.
    pub withdrawal_id: WithdrawalId,
    /// What caused it.
    pub context: Context,
}

/// Cancels the coupon and returns it; one that is cancelled already is returned as it is.
///
/// # Errors
/// [`Error::Storage`].
pub async fn cancel(store: Store, cancelling: Cancelling) -> Result<Model, Error> {
    let tx = store.begin("coupon.cancel").await?;
    let mut before = coupons::find_by_member_for_update(&tx, cancelling.member_id).await?;
    if before.is_none() {
        if let Some(cancelled) = cancel_before_issue(&tx, &cancelling).await? {
            return commit(tx, &cancelling, cancelled).await;
        }
        // On PostgreSQL one may have come in between. The insert waited for its commit.
        before = coupons::find_by_member_for_update(&tx, cancelling.member_id).await?;
    }
    let coupon = before.ok_or(DbErr::RecordNotUpdated)?;
    match coupon.state {
        State::Cancelled => Ok(coupon),
        State::Issued => {
            let cancelled = coupons::cancel(&tx, coupon, cancelling.withdrawal_id).await?;
            commit(tx, &cancelling, cancelled).await
        }
    }
}

async fn commit(
    tx: Transaction,
    cancelling: &Cancelling,
    cancelled: Model,
) -> Result<Model, Error> {
    tx.append(&cancelling.context, cancelled.member_id, &event(&cancelled));
    tx.commit().await?;
    Ok(cancelled)
}

/// Stores a cancelled record without a code, so that the late registration issues nothing; none when there
/// is a record.
async fn cancel_before_issue(
    tx: &Transaction,
    cancelling: &Cancelling,
) -> Result<Option<Model>, DbErr> {
    let coupon = Model {
        coupon_id: CouponId(tx.new_id()),
        member_id: cancelling.member_id,
        code: None,
        state: State::Cancelled,
        issue_time: None,
        cancel_time: Some(tx.now()),
        withdrawal_id: Some(cancelling.withdrawal_id),
        version: 1,
    };
    let inserted = coupons::insert_new(tx, vec![coupon.clone()]).await?;
    Ok((!inserted.is_empty()).then_some(coupon))
}

fn event(coupon: &Model) -> CouponCancelled {
    CouponCancelled {
        coupon_id: coupon.coupon_id.to_string(),
        member_id: coupon.member_id.to_string(),
        code: coupon.code.clone().unwrap_or_default(),
        withdrawal_id: coupon
            .withdrawal_id
            .map(|id| id.to_string())
            .unwrap_or_default(),
        cancel_time: coupon.cancel_time.map(Into::into),
        version: coupon.version,
        issue_time: coupon.issue_time.map(Into::into),
    }
}
