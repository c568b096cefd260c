//! The administrator's notifications: one per member, delivered at least once.
//!
//! In by events ([`consumer`]): `MemberRegistered`. In by gRPC ([`grpc`]): get, list. Out:
//! `NotificationSent`, and the message itself through a [`channel`].
//!
//! | step | file |
//! | --- | --- |
//! | store the notification of a registration | [`notify`] |
//! | deliver it, again and again until it is sent or given up | [`deliver`], `outcome` |
//! | one attempt at a time while the receiver is away | [`gate`] |
//! | what an operator has sent again | [`resend`] |
//! | the ways out: log, smtp, webhook | [`channel`] |
//! | rows | [`notifications`], `waiting` |

pub mod channel;
mod config;
pub mod consumer;
pub mod deliver;
pub mod error;
pub mod gate;
pub mod grpc;
pub mod migrations;
pub mod notifications;
pub mod notify;
mod outcome;
pub mod resend;
mod waiting;

pub use config::NotificationConfig;

use std::sync::Arc;

use couponmesh_messaging::{Bus, MessagingConfig, Store};
use couponmesh_proto::notification::v1::notification_service_server::NotificationServiceServer;
use couponmesh_runtime::{running::Running, wake::Wake};

use crate::channel::{Channel, ChannelError};

/// The name of this service, in events and logs.
pub const NAME: &str = "notification";

/// The running notification service.
#[derive(Debug)]
pub struct Notification {
    door: grpc::Door,
    running: Running,
}

impl Notification {
    /// Starts everything that goes on in the background, on a database that is up to date.
    ///
    /// # Errors
    /// When the channel cannot be built from its configuration.
    pub fn start(
        store: Store,
        bus: &Arc<dyn Bus>,
        config: &NotificationConfig,
        messaging: &MessagingConfig,
    ) -> Result<Self, ChannelError> {
        let channel = Arc::new(Channel::open(&config.channel, store.clock().clone())?);
        let running = Running::new();
        let pending = Wake::default();
        deliver::start(&store, &channel, config, &pending, &running);
        let handler = consumer::NotificationHandler::new(channel, pending);
        couponmesh_messaging::start(&store, bus, handler, messaging, &running);
        Ok(Self {
            door: grpc::Door::new(store),
            running,
        })
    }

    /// The gRPC door, to be served.
    #[must_use]
    pub fn server(&self) -> NotificationServiceServer<grpc::Door> {
        NotificationServiceServer::new(self.door.clone())
    }

    /// Stops the background work; deliveries under way come to their end.
    pub async fn stop(&self) {
        self.running.stop().await;
    }
}
