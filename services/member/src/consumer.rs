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

use crate::{
    coupon_client::Cancelled,
    note::{self, News, Note},
};

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

    async fn handle(&self, tx: &Transaction, events: &[&Event]) -> Result<(), HandlerError> {
        let notes: Result<Vec<Note>, HandlerError> =
            events.iter().map(|event| read(event)).collect();
        note::note(tx, notes?).await
    }
}

fn read(event: &Event) -> Result<Note, HandlerError> {
    let news = if let Some(issued) = event.decode::<CouponIssued>()? {
        News::CouponIssued {
            coupon_id: id(CouponId::parse, "coupon_id", &issued.coupon_id)?,
            issue_time: time("issue_time", issued.issue_time)?,
        }
    } else if let Some(cancelled) = event.decode::<CouponCancelled>()? {
        News::CouponCancelled(Cancelled {
            coupon_id: id(CouponId::parse, "coupon_id", &cancelled.coupon_id)?,
            issue_time: cancelled.issue_time.map(Into::into),
            cancel_time: time("cancel_time", cancelled.cancel_time)?,
        })
    } else if let Some(sent) = event.decode::<NotificationSent>()? {
        News::AdminNotified {
            send_time: time("send_time", sent.send_time)?,
        }
    } else {
        return Err(HandlerError::UnknownType(event.event_type.clone()));
    };
    Ok(Note {
        member_id: event.member_id,
        context: event.causes(),
        news,
    })
}
