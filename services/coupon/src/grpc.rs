//! Door 1: gRPC.

use couponmesh_messaging::Store;
use couponmesh_proto::coupon::v1::{self as proto, coupon_service_server::CouponService};
use couponmesh_runtime::{
    database::answered_by,
    field::{self, Violation},
    grpc::{answer_by, context_of},
    id::{CouponId, MemberId, WithdrawalId},
    page::Paging,
};
use tonic::{Request, Response, Status};

use crate::{
    cancel::{Canceller, Cancelling},
    coupons,
    error::Error,
};

/// Longest reason, in characters.
const MAX_REASON: usize = 200;

/// The coupon service's gRPC door.
#[derive(Clone, Debug)]
pub struct Door {
    store: Store,
    canceller: Canceller,
}

impl Door {
    pub(crate) fn new(store: Store, canceller: Canceller) -> Self {
        Self { store, canceller }
    }
}

/// A reason is for people and stored nowhere, so its length is all that is checked.
fn check_reason(text: &str) -> Result<(), Violation> {
    if text.chars().count() > MAX_REASON {
        return Err(Violation::new("reason", "must be at most 200 characters"));
    }
    Ok(())
}

#[tonic::async_trait]
impl CouponService for Door {
    async fn get_coupon(
        &self,
        request: Request<proto::GetCouponRequest>,
    ) -> Result<Response<proto::GetCouponResponse>, Status> {
        let id = CouponId::from_field("coupon_id", &request.get_ref().coupon_id)?;
        let coupon = coupons::find(self.store.read(), id)
            .await
            .map_err(Error::from)?
            .ok_or(Error::CouponNotFound)?;
        Ok(Response::new(proto::GetCouponResponse {
            coupon: Some(coupon.into()),
        }))
    }

    async fn list_coupons(
        &self,
        request: Request<proto::ListCouponsRequest>,
    ) -> Result<Response<proto::ListCouponsResponse>, Status> {
        let request = request.into_inner();
        let (paging, member_id) = field::all((
            Paging::parse(request.page_size, &request.page_token),
            MemberId::from_optional_field("member_id", &request.member_id),
        ))?;
        let filter = format!(
            "coupons|{}",
            member_id.map(|id| id.to_string()).unwrap_or_default()
        );
        let page = paging.of(&filter)?;
        let mut rows = coupons::list(self.store.read(), &page, member_id)
            .await
            .map_err(Error::from)?;
        let next_page_token = page.finish(&mut rows, |row| row.coupon_id.0);
        let coupons = rows.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ListCouponsResponse {
            coupons,
            next_page_token,
        }))
    }

    async fn cancel_coupon(
        &self,
        request: Request<proto::CancelCouponRequest>,
    ) -> Result<Response<proto::CancelCouponResponse>, Status> {
        let context = context_of(&request)?;
        let answer_by = answer_by(&request);
        let request = request.into_inner();
        let (member_id, withdrawal_id, ()) = field::all((
            MemberId::from_field("member_id", &request.member_id),
            WithdrawalId::from_field("withdrawal_id", &request.withdrawal_id),
            check_reason(&request.reason),
        ))?;
        let cancelling = Cancelling {
            member_id,
            withdrawal_id,
            context,
        };
        let coupon = answered_by(answer_by, self.canceller.cancel(cancelling)).await?;
        Ok(Response::new(proto::CancelCouponResponse {
            coupon: Some(coupon.into()),
        }))
    }
}
