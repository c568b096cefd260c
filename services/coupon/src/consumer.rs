//! Door 2: registrations.

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

    async fn handle(&self, tx: &Transaction, event: &Event) -> Result<(), HandlerError> {
        if event.decode::<MemberRegistered>()?.is_some() {
            Ok(issue::issue(tx, &event.causes(), event.member_id).await?)
        } else {
            Err(HandlerError::UnknownType(event.event_type.clone()))
        }
    }
}
