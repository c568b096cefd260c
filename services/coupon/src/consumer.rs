//! Door 2: registrations.

use std::collections::HashMap;

use async_trait::async_trait;
use couponmesh_messaging::{Event, Handler, HandlerError, Transaction};
use couponmesh_proto::member::v1::MemberRegistered;

use crate::issue;

/// Issues a coupon for every registration.
#[derive(Debug)]
pub struct CouponHandler;

#[async_trait]
impl Handler for CouponHandler {
    const TYPES: &'static [&'static str] = &["couponmesh.member.v1.MemberRegistered"];

    async fn handle(&self, tx: &Transaction, events: &[&Event]) -> Result<(), HandlerError> {
        let mut registered = HashMap::with_capacity(events.len());
        for event in events {
            if event.decode::<MemberRegistered>()?.is_none() {
                return Err(HandlerError::UnknownType(event.event_type.clone()));
            }
            registered.insert(event.member_id, event.causes());
        }
        Ok(issue::issue(tx, &registered).await?)
    }
}
