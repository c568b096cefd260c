//! Showing news of members and coupons on their pages. Older news, however late, changes nothing.

use std::collections::BTreeMap;

use couponmesh_messaging::{
    HandlerError, Transaction,
    event::{id, time},
};
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued, CouponState},
    member::v1::MemberSnapshot,
};
use couponmesh_runtime::id::{CouponId, MemberId};
use sea_orm::{ActiveValue::Set, DbErr};

use crate::pages::{self, ActiveModel};

/// The newest news of each member and of each coupon, by version.
///
/// In the order of their keys, so that two replicas that touch the same pages do not deadlock.
#[derive(Debug, Default)]
pub(crate) struct News {
    members: BTreeMap<MemberId, (i64, ActiveModel)>,
    coupons: BTreeMap<MemberId, (i64, ActiveModel)>,
}

impl News {
    /// A member, as any of its events tells of it.
    pub(crate) fn member(
        &mut self,
        tx: &Transaction,
        member_id: MemberId,
        snapshot: Option<MemberSnapshot>,
    ) -> Result<(), HandlerError> {
        let missing = || HandlerError::Undecodable("member is missing".to_owned());
        let member = snapshot.ok_or_else(missing)?;
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
        keep_newest(&mut self.members, member_id, member.version, row);
        Ok(())
    }

    /// A coupon was issued.
    pub(crate) fn coupon_issued(
        &mut self,
        tx: &Transaction,
        member_id: MemberId,
        issued: CouponIssued,
    ) -> Result<(), HandlerError> {
        let row = ActiveModel {
            coupon_id: Set(Some(id(CouponId::parse, "coupon_id", &issued.coupon_id)?)),
            coupon_code: Set(issued.code),
            coupon_state: Set(CouponState::Issued.into()),
            coupon_issue_time: Set(Some(time("issue_time", issued.issue_time)?)),
            coupon_version: Set(issued.version),
            ..pages::blank(member_id, tx.now())
        };
        keep_newest(&mut self.coupons, member_id, issued.version, row);
        Ok(())
    }

    /// A coupon was cancelled.
    pub(crate) fn coupon_cancelled(
        &mut self,
        tx: &Transaction,
        member_id: MemberId,
        cancelled: CouponCancelled,
    ) -> Result<(), HandlerError> {
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
        keep_newest(&mut self.coupons, member_id, cancelled.version, row);
        Ok(())
    }

    /// Shows the news on the pages.
    pub(crate) async fn show(self, tx: &Transaction) -> Result<(), DbErr> {
        let rows = |news: BTreeMap<_, (i64, ActiveModel)>| {
            news.into_values().map(|(_, row)| row).collect()
        };
        pages::show_members(tx, rows(self.members)).await?;
        pages::show_coupons(tx, rows(self.coupons)).await
    }
}

fn keep_newest(
    news: &mut BTreeMap<MemberId, (i64, ActiveModel)>,
    member_id: MemberId,
    version: i64,
    row: ActiveModel,
) {
    if news
        .get(&member_id)
        .is_none_or(|(known, _)| *known < version)
    {
        news.insert(member_id, (version, row));
    }
}
