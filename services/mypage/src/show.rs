//! Showing news of members and coupons on their pages. Older news, however late, changes nothing.

use std::collections::BTreeMap;

use couponmesh_messaging::{
    HandlerError, Transaction,
    event::{id, time},
};
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued, CouponState},
    member::v1::{MemberSnapshot, MemberState},
};
use couponmesh_runtime::id::{CouponId, MemberId};
use sea_orm::DbErr;

use crate::pages::{self, Model};

/// The newest news of each member and of its coupon, by version. In the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct News(BTreeMap<MemberId, Model>);

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
        let register_time = time("register_time", member.register_time)?;
        let page = self.page(tx, member_id);
        if page.member_version < member.version {
            page.display_name = member.display_name;
            page.member_state = member.state;
            page.admin_notified = member.admin_notified;
            page.coupon_cancelled = member.coupon_cancelled;
            page.register_time = Some(register_time);
            page.withdraw_time = member.withdraw_time.map(Into::into);
            page.member_version = member.version;
        }
        page.coupon_id = page.coupon_id.or(coupon_id);
        let issue_time = member.coupon_issue_time.map(Into::into);
        page.coupon_issue_time = page.coupon_issue_time.or(issue_time);
        let cancel_time = member.coupon_cancel_time.map(Into::into);
        page.coupon_cancel_time = page.coupon_cancel_time.or(cancel_time);
        Ok(())
    }

    /// A coupon was issued.
    pub(crate) fn coupon_issued(
        &mut self,
        tx: &Transaction,
        member_id: MemberId,
        issued: CouponIssued,
    ) -> Result<(), HandlerError> {
        let coupon_id = id(CouponId::parse, "coupon_id", &issued.coupon_id)?;
        let issue_time = time("issue_time", issued.issue_time)?;
        let page = self.page(tx, member_id);
        if page.coupon_version < issued.version {
            page.coupon_code = issued.code;
            page.coupon_state = CouponState::Issued.into();
            page.coupon_version = issued.version;
        }
        page.coupon_id = Some(coupon_id);
        page.coupon_issue_time = Some(issue_time);
        Ok(())
    }

    /// A coupon was cancelled.
    pub(crate) fn coupon_cancelled(
        &mut self,
        tx: &Transaction,
        member_id: MemberId,
        cancelled: CouponCancelled,
    ) -> Result<(), HandlerError> {
        let coupon_id = id(CouponId::parse, "coupon_id", &cancelled.coupon_id)?;
        let cancel_time = time("cancel_time", cancelled.cancel_time)?;
        let page = self.page(tx, member_id);
        if page.coupon_version < cancelled.version {
            page.coupon_code = cancelled.code;
            page.coupon_state = CouponState::Cancelled.into();
            page.coupon_version = cancelled.version;
        }
        page.coupon_id = Some(coupon_id);
        let issue_time = cancelled.issue_time.map(Into::into);
        page.coupon_issue_time = page.coupon_issue_time.or(issue_time);
        page.coupon_cancel_time = Some(cancel_time);
        Ok(())
    }

    /// Shows the news on the pages.
    pub(crate) async fn show(self, tx: &Transaction) -> Result<(), DbErr> {
        let withdrawn = i32::from(MemberState::Withdrawn);
        if self.0.values().any(|page| page.member_state == withdrawn) {
            tx.erases();
        }
        pages::show(tx, self.0.into_values().collect()).await
    }

    fn page(&mut self, tx: &Transaction, member_id: MemberId) -> &mut Model {
        let page = self.0.entry(member_id);
        page.or_insert_with(|| pages::blank(member_id, tx.now()))
    }
}
