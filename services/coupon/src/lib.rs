//! Welcome coupons: one record per member, ever.
//!
//! In by events ([`consumer`]): `MemberRegistered`. In by gRPC ([`grpc`]): get, list, and CancelCoupon,
//! which the member service calls before a member may leave. Out: `CouponIssued`, `CouponCancelled`.
//!
//! | step | file |
//! | --- | --- |
//! | issue a coupon on registration | [`issue`] |
//! | cancel it, also before it is issued | [`cancel`] |
//! | draw a readable code | [`code`] |
//! | rows | [`coupons`] |

pub mod cancel;
pub mod code;
pub mod consumer;
pub mod coupons;
pub mod error;
pub mod grpc;
pub mod issue;
pub mod migrations;

use std::sync::Arc;

use couponmesh_messaging::{Bus, MessagingConfig, Store};
use couponmesh_proto::coupon::v1::coupon_service_server::CouponServiceServer;
use couponmesh_runtime::running::Running;

/// The name of this service, in events and logs.
pub const NAME: &str = "coupon";

/// The running coupon service.
#[derive(Debug)]
pub struct Coupon {
    door: grpc::Door,
    running: Running,
}

impl Coupon {
    /// Starts everything that goes on in the background, on a database that is up to date.
    #[must_use]
    pub fn start(store: Store, bus: &Arc<dyn Bus>, messaging: &MessagingConfig) -> Self {
        let running = Running::new();
        couponmesh_messaging::start(&store, bus, consumer::CouponHandler, messaging, &running);
        let canceller = cancel::Canceller::new(&store, &running);
        Self {
            door: grpc::Door::new(store, canceller),
            running,
        }
    }

    /// The gRPC door, to be served.
    #[must_use]
    pub fn server(&self) -> CouponServiceServer<grpc::Door> {
        CouponServiceServer::new(self.door.clone())
    }

    /// Stops the background work.
    pub async fn stop(&self) {
        self.running.stop().await;
    }
}
