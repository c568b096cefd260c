//! Issuing the welcome coupon of a member that registered.

use couponmesh_messaging::Transaction;
use couponmesh_proto::coupon::v1::CouponIssued;
use couponmesh_runtime::{
    Context,
    id::{CouponId, MemberId},
};
use sea_orm::DbErr;

use crate::{
    code,
    coupons::{self, Model, State},
};

/// Issues a coupon, unless the member has a record already: issued before, or cancelled before it came to that.
pub(crate) async fn issue(
    tx: &Transaction,
    context: &Context,
    member_id: MemberId,
) -> Result<(), DbErr> {
    let coupon = loop {
        let coupon = new_coupon(tx, member_id, code::draw(tx.random()));
        if coupons::insert(tx, &coupon).await? {
            break coupon;
        }
        if coupons::find_by_member_for_update(tx, member_id)
            .await?
            .is_some()
        {
            return Ok(());
        }
        // The code is taken: draw another.
    };
    let issued = CouponIssued {
        coupon_id: coupon.coupon_id.to_string(),
        member_id: member_id.to_string(),
        code: coupon.code.unwrap_or_default(),
        issue_time: coupon.issue_time.map(Into::into),
        version: coupon.version,
    };
    tx.append(context, member_id, &issued);
    Ok(())
}

fn new_coupon(tx: &Transaction, member_id: MemberId, code: String) -> Model {
    Model {
        coupon_id: CouponId(tx.new_id()),
        member_id,
        code: Some(code),
        state: State::Issued,
        issue_time: Some(tx.now()),
        cancel_time: None,
        withdrawal_id: None,
        version: 1,
    }
}
