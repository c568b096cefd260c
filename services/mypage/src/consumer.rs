//! Door 2: events about members and coupons.

use async_trait::async_trait;
use couponmesh_messaging::{
    Event, Handler, HandlerError, Transaction,
    signal::{Signals, Topic},
};
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued},
    member::v1::{MemberChanged, MemberRegistered, MemberWithdrawn},
};

use couponmesh_runtime::id::MemberId;

use crate::{show::News, watchers::Watchers};

/// Shows on the pages what other services did.
#[derive(Debug)]
pub struct MyPageHandler {
    watchers: Watchers,
    signals: Signals,
}

impl MyPageHandler {
    /// A handler that tells `watchers` and, by `signals`, those of other replicas which pages changed.
    #[must_use]
    pub fn new(watchers: Watchers, signals: Signals) -> Self {
        Self { watchers, signals }
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

    async fn handle(&self, tx: &Transaction, events: &[&Event]) -> Result<(), HandlerError> {
        let mut news = News::default();
        for event in events {
            let member_id = event.member_id;
            if let Some(event) = event.decode::<MemberRegistered>()? {
                news.member(tx, member_id, event.member)?;
            } else if let Some(event) = event.decode::<MemberChanged>()? {
                news.member(tx, member_id, event.member)?;
            } else if let Some(event) = event.decode::<MemberWithdrawn>()? {
                news.member(tx, member_id, event.member)?;
            } else if let Some(event) = event.decode::<CouponIssued>()? {
                news.coupon_issued(tx, member_id, event)?;
            } else if let Some(event) = event.decode::<CouponCancelled>()? {
                news.coupon_cancelled(tx, member_id, event)?;
            } else {
                return Err(HandlerError::UnknownType(event.event_type.clone()));
            }
        }
        news.show(tx).await?;
        let (watchers, signals) = (self.watchers.clone(), self.signals.clone());
        let members: Vec<MemberId> = events.iter().map(|event| event.member_id).collect();
        tx.after_commit(move || {
            signals.send(Topic::Page, members.iter().map(|member_id| member_id.0));
            watchers.changed(members);
        });
        Ok(())
    }
}
