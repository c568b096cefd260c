//! Door 2: events about coupons and notifications.

use async_trait::async_trait;
use couponmesh_messaging::{
    Event, Handler, HandlerError, Transaction,
    event::{id, time},
};
use couponmesh_proto::{
    coupon::v1::{CouponCancelled, CouponIssued},
    notification::v1::NotificationSent,
};
use couponmesh_runtime::id::CouponId;

use crate::{coupon_client::Cancelled, note};

/// Notes on members what other services did.
#[derive(Debug)]
pub struct MemberHandler;

#[async_trait]
impl Handler for MemberHandler {
    const TYPES: &'static [&'static str] = &[
        "couponmesh.coupon.v1.CouponIssued",
        "couponmesh.coupon.v1.CouponCancelled",
        "couponmesh.notification.v1.NotificationSent",
    ];

    async fn handle(&self, tx: &Transaction, event: &Event) -> Result<(), HandlerError> {
        let (context, member_id) = (event.causes(), event.member_id);
        if let Some(issued) = event.decode::<CouponIssued>()? {
            let coupon_id = id(CouponId::parse, "coupon_id", &issued.coupon_id)?;
            let issue_time = time("issue_time", issued.issue_time)?;
            note::coupon_issued(tx, &context, member_id, coupon_id, issue_time).await
        } else if let Some(event) = event.decode::<CouponCancelled>()? {
            let cancelled = Cancelled {
                coupon_id: id(CouponId::parse, "coupon_id", &event.coupon_id)?,
                issue_time: event.issue_time.map(Into::into),
                cancel_time: time("cancel_time", event.cancel_time)?,
            };
            note::coupon_cancelled(tx, &context, member_id, cancelled).await
        } else if let Some(sent) = event.decode::<NotificationSent>()? {
            note::admin_notified(tx, &context, member_id, time("send_time", sent.send_time)?).await
        } else {
            Err(HandlerError::UnknownType(event.event_type.clone()))
        }
    }
}
