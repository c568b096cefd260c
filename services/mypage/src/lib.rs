//! My Page: the read model that a member looks at, fed by events alone.
//!
//! In by events ([`consumer`]): everything that members and coupons go through. In by gRPC ([`grpc`]):
//! get and watch. Nothing out. It works while every other service is down.
//!
//! | step | file |
//! | --- | --- |
//! | show news of a member or coupon on its page | [`show`] |
//! | wait for a page to change | [`watchers`] |
//! | rows | [`pages`] |

pub mod consumer;
pub mod error;
pub mod grpc;
pub mod migrations;
pub mod pages;
pub mod show;
pub mod watchers;

use std::{sync::Arc, time::Duration};

use couponmesh_messaging::{
    Bus, MessagingConfig, Store,
    migrations::{MigrateError, bring_up},
};
use couponmesh_proto::mypage::v1::my_page_service_server::MyPageServiceServer;
use couponmesh_runtime::{
    config::{Problems, Validate},
    running::Running,
};
use serde::{Deserialize, Serialize};

/// The name of this service, in events and logs.
pub const NAME: &str = "mypage";

/// The read model's own settings. The keys are explained in `config.default.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MyPageConfig {
    /// How long a caller waits for a page or a version that is not there yet.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
}

impl Validate for MyPageConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.duration("wait", self.wait, Duration::ZERO..=Duration::from_secs(60));
    }
}

/// The running read model.
#[derive(Debug)]
pub struct MyPage {
    door: grpc::Door,
    running: Running,
}

impl MyPage {
    /// Migrates the database and starts everything that goes on in the background.
    ///
    /// # Errors
    /// When the database cannot be migrated.
    pub async fn start(
        store: Store,
        bus: &Arc<dyn Bus>,
        config: &MyPageConfig,
        messaging: &MessagingConfig,
    ) -> Result<Self, MigrateError> {
        bring_up::<migrations::Migrator>(store.database()).await?;
        let running = Running::new();
        let watchers = watchers::Watchers::default();
        let (ear, heard_for, stop) = (store.clone(), watchers.clone(), running.stopping());
        running.keep("watchers", move || {
            watchers::listen(heard_for.clone(), ear.clone(), stop.clone())
        });
        let handler = consumer::MyPageHandler::new(watchers.clone(), store.signals().clone());
        couponmesh_messaging::start(&store, bus, handler, messaging, &running);
        Ok(Self {
            door: grpc::Door::new(store, watchers, config, running.stopping()),
            running,
        })
    }

    /// The gRPC door, to be served.
    #[must_use]
    pub fn server(&self) -> MyPageServiceServer<grpc::Door> {
        MyPageServiceServer::new(self.door.clone())
    }

    /// Ends every watch and every wait, so that the server can drain.
    pub fn drain(&self) {
        self.running.stopping().cancel();
    }

    /// Stops the background work.
    pub async fn stop(&self) {
        self.running.stop().await;
    }
}
