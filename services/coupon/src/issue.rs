//! Issuing the welcome coupons of members that registered.

use std::collections::{HashMap, HashSet};

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

/// Issues a coupon to every member that has no record yet: one that was issued before, or cancelled
/// before it came to that.
pub(crate) async fn issue(
    tx: &Transaction,
    registered: &HashMap<MemberId, Context>,
) -> Result<(), DbErr> {
    let mut waiting: HashSet<MemberId> = registered.keys().copied().collect();
    while !waiting.is_empty() {
        let drawn: HashMap<CouponId, Model> = waiting
            .iter()
            .map(|member_id| new_coupon(tx, *member_id))
            .collect();
        for id in coupons::insert_new(tx, drawn.values().cloned().collect()).await? {
            let Some(coupon) = drawn.get(&id) else {
                continue;
            };
            waiting.remove(&coupon.member_id);
            if let Some(context) = registered.get(&coupon.member_id) {
                tx.append(context, coupon.member_id, &event(coupon));
            }
        }
        // Of the rest, whoever has a record is done. Whoever has none drew a code that is taken, and
        // draws again.
        for member_id in coupons::members_with_coupon(tx, &waiting).await? {
            waiting.remove(&member_id);
        }
    }
    Ok(())
}

fn new_coupon(tx: &Transaction, member_id: MemberId) -> (CouponId, Model) {
    let coupon_id = CouponId(tx.new_id());
    let coupon = Model {
        coupon_id,
        member_id,
        code: Some(code::draw(tx.random())),
        state: State::Issued,
        issue_time: Some(tx.now()),
        cancel_time: None,
        withdrawal_id: None,
        version: 1,
    };
    (coupon_id, coupon)
}

fn event(coupon: &Model) -> CouponIssued {
    CouponIssued {
        coupon_id: coupon.coupon_id.to_string(),
        member_id: coupon.member_id.to_string(),
        code: coupon.code.clone().unwrap_or_default(),
        issue_time: coupon.issue_time.map(Into::into),
        version: coupon.version,
    }
}
