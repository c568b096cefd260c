//! Members: who they are, and the sagas of their coming and going.
//!
//! In by gRPC ([`grpc`]): register, get, list, withdraw. In by events ([`consumer`]): `CouponIssued`,
//! `CouponCancelled`, `NotificationSent`. Out: `MemberRegistered`, `MemberChanged`, `MemberWithdrawn`,
//! and the one synchronous call of the mesh, CancelCoupon ([`coupon_client`]).
//!
//! | step | file |
//! | --- | --- |
//! | register, many in one commit | [`register`] |
//! | note what became of coupon and notification | [`note`] |
//! | ask to withdraw | [`withdraw`] |
//! | cancel the coupon | [`attempt`], and then [`complete`] or [`pause`] |
//! | finish what is paused | [`worker`], paced by [`gate`] |
//! | forget request ids | [`forget`] |
//! | rows | [`members`], [`withdrawals`], [`requests`], [`gate`] |

pub mod attempt;
pub mod complete;
mod config;
pub mod consumer;
pub mod coupon_client;
pub mod error;
pub mod forget;
pub mod gate;
pub mod grpc;
pub mod members;
pub mod migrations;
pub mod note;
pub mod pause;
pub mod profile;
pub mod register;
pub mod requests;
pub mod withdraw;
pub mod withdrawals;
pub mod worker;

pub use config::{MemberConfig, WithdrawalConfig};

use std::sync::Arc;

use couponmesh_messaging::{Bus, MessagingConfig, Store};
use couponmesh_proto::member::v1::member_service_server::MemberServiceServer;
use couponmesh_runtime::running::Running;

/// The name of this service, in events and logs.
pub const NAME: &str = "member";

/// The running member service.
#[derive(Debug)]
pub struct Member {
    door: grpc::Door,
    running: Running,
}

impl Member {
    /// Starts everything that goes on in the background, on a database that is up to date.
    #[must_use]
    pub fn start(
        store: Store,
        bus: &Arc<dyn Bus>,
        coupon: coupon_client::CouponClient,
        config: &MemberConfig,
        messaging: &MessagingConfig,
    ) -> Self {
        let running = Running::new();
        let finisher = worker::start(&store, coupon, &config.withdrawal, &running);
        couponmesh_messaging::start(&store, bus, consumer::MemberHandler, messaging, &running);
        forget::start(&store, &running);
        let registrar = register::Registrar::new(&store, &running);
        let withdrawer = withdraw::Withdrawer::new(finisher, &running);
        Self {
            door: grpc::Door::new(store, registrar, withdrawer, running.clone()),
            running,
        }
    }

    /// The gRPC door, to be served.
    #[must_use]
    pub fn server(&self) -> MemberServiceServer<grpc::Door> {
        MemberServiceServer::new(self.door.clone())
    }

    /// Stops the background work; attempts under way come to their end.
    pub async fn stop(&self) {
        self.running.stop().await;
    }
}
