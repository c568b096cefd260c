//! Door 2: events about members and coupons.

use async_trait::async_trait;
use couponmesh_messaging::{Event, Handler, HandlerError, Transaction};
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued},
    member::v1::{MemberChanged, MemberRegistered, MemberWithdrawn},
};

use crate::{show, watchers::Watchers};

/// Shows on the pages what other services did.
#[derive(Debug)]
pub struct MyPageHandler {
    watchers: Watchers,
}

impl MyPageHandler {
    pub(crate) fn new(watchers: Watchers) -> Self {
        Self { watchers }
    }
}

#[async_trait]
impl Handler for MyPageHandler {
    const TYPES: &'static [&'static str] = &[
        "couponmesh.member.v1.MemberRegistered",
        "couponmesh.member.v1.MemberChanged",
        "couponmesh.member.v1.MemberWithdrawn",
        "couponmesh.coupon.v1.CouponIssued",
        "couponmesh.coupon.v1.CouponCancelled",
    ];

    async fn handle(&self, tx: &Transaction, event: &Event) -> Result<(), HandlerError> {
        let member_id = event.member_id;
        let changed = if let Some(event) = event.decode::<MemberRegistered>()? {
            show::member(tx, member_id, event.member).await?
        } else if let Some(event) = event.decode::<MemberChanged>()? {
            show::member(tx, member_id, event.member).await?
        } else if let Some(event) = event.decode::<MemberWithdrawn>()? {
            show::member(tx, member_id, event.member).await?
        } else if let Some(event) = event.decode::<CouponIssued>()? {
            show::coupon_issued(tx, member_id, event).await?
        } else if let Some(event) = event.decode::<CouponCancelled>()? {
            show::coupon_cancelled(tx, member_id, event).await?
        } else {
            return Err(HandlerError::UnknownType(event.event_type.clone()));
        };
        if changed {
            let watchers = self.watchers.clone();
            tx.after_commit(move || watchers.changed(member_id));
        }
        Ok(())
    }
}
