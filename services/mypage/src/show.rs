//! Showing news of a member or coupon on the page. Older news, however late, changes nothing.

use couponmesh_messaging::{
    HandlerError, Transaction,
    event::{id, time},
};
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued, CouponState},
    member::v1::MemberSnapshot,
};
use couponmesh_runtime::id::{CouponId, MemberId};
use sea_orm::ActiveValue::Set;

use crate::pages::{self, ActiveModel};

/// News of a member: its snapshot in any of the member events.
pub(crate) async fn member(
    tx: &Transaction,
    member_id: MemberId,
    snapshot: Option<MemberSnapshot>,
) -> Result<bool, HandlerError> {
    let member =
        snapshot.ok_or_else(|| HandlerError::Undecodable("member is missing".to_owned()))?;
    let coupon_id = match member.coupon_id.as_str() {
        "" => None,
        text => Some(id(CouponId::parse, "coupon_id", text)?),
    };
    let row = ActiveModel {
        display_name: Set(member.display_name),
        member_state: Set(member.state),
        admin_notified: Set(member.admin_notified),
        coupon_cancelled: Set(member.coupon_cancelled),
        register_time: Set(Some(time("register_time", member.register_time)?)),
        withdraw_time: Set(member.withdraw_time.map(Into::into)),
        member_version: Set(member.version),
        coupon_id: Set(coupon_id),
        coupon_issue_time: Set(member.coupon_issue_time.map(Into::into)),
        coupon_cancel_time: Set(member.coupon_cancel_time.map(Into::into)),
        ..pages::blank(member_id, tx.now())
    };
    Ok(pages::show_member(tx, row).await?)
}

/// News of a coupon: issued.
pub(crate) async fn coupon_issued(
    tx: &Transaction,
    member_id: MemberId,
    issued: CouponIssued,
) -> Result<bool, HandlerError> {
    let row = ActiveModel {
        coupon_id: Set(Some(id(CouponId::parse, "coupon_id", &issued.coupon_id)?)),
        coupon_code: Set(issued.code),
        coupon_state: Set(CouponState::Issued.into()),
        coupon_issue_time: Set(Some(time("issue_time", issued.issue_time)?)),
        coupon_version: Set(issued.version),
        ..pages::blank(member_id, tx.now())
    };
    Ok(pages::show_coupon(tx, row).await?)
}

/// News of a coupon: cancelled.
pub(crate) async fn coupon_cancelled(
    tx: &Transaction,
    member_id: MemberId,
    cancelled: CouponCancelled,
) -> Result<bool, HandlerError> {
    let row = ActiveModel {
        coupon_id: Set(Some(id(
            CouponId::parse,
            "coupon_id",
            &cancelled.coupon_id,
        )?)),
        coupon_code: Set(cancelled.code),
        coupon_state: Set(CouponState::Cancelled.into()),
        coupon_issue_time: Set(cancelled.issue_time.map(Into::into)),
        coupon_cancel_time: Set(Some(time("cancel_time", cancelled.cancel_time)?)),
        coupon_version: Set(cancelled.version),
        ..pages::blank(member_id, tx.now())
    };
    Ok(pages::show_coupon(tx, row).await?)
}
