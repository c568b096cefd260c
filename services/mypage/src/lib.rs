//! My Page: the read model that a member looks at, fed by events alone.
//!
//! In by events ([`consumer`]): everything that members and coupons go through. In by gRPC ([`grpc`]):
//! get and watch. Nothing out. It works while every other service is down.
//!
//! | step | file |
//! | --- | --- |
//! | show news of a member or coupon on its page | [`show`] |
//! | wait for a page, or for a version of it | `wait` |
//! | watch a page | `watch` |
//! | read the pages that are waited for, once for all | [`watchers`] |
//! | how many may wait or watch | `places` |
//! | rows | [`pages`] |

pub mod consumer;
pub mod error;
pub mod grpc;
pub mod migrations;
pub mod pages;
mod places;
pub mod show;
mod wait;
mod watch;
pub mod watchers;

use std::{sync::Arc, time::Duration};

use couponmesh_messaging::{Bus, MessagingConfig, Store};
use couponmesh_proto::mypage::v1::my_page_service_server::MyPageServiceServer;
use couponmesh_runtime::{
    config::{Problems, Validate},
    running::Running,
};
use serde::{Deserialize, Serialize};

use crate::watchers::Watchers;

/// The name of this service, in events and logs.
pub const NAME: &str = "mypage";

/// The read model's own settings. The keys are explained in `config.default.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MyPageConfig {
    /// How long a caller waits for a page or a version that is not there yet.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// Calls that wait at once.
    pub max_waiting: usize,
    /// The same of one member's page.
    pub max_waiting_per_member: usize,
    /// Watches at once of one member's page.
    pub max_watches_per_member: usize,
    /// How long a watch lasts, a third more or less.
    #[serde(with = "humantime_serde")]
    pub watch_max_age: Duration,
}

impl Validate for MyPageConfig {
    fn validate(&self, problems: &mut Problems) {
        const MANY: usize = 1 << 20;
        const SECOND: Duration = Duration::from_secs(1);
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        problems.duration("wait", self.wait, Duration::ZERO..=60 * SECOND);
        for (key, bound) in [
            ("max_waiting", self.max_waiting),
            ("max_waiting_per_member", self.max_waiting_per_member),
            ("max_watches_per_member", self.max_watches_per_member),
        ] {
            problems.range(key, bound, 1..=MANY);
        }
        problems.duration("watch_max_age", self.watch_max_age, SECOND..=DAY);
    }
}

/// The running read model.
#[derive(Debug)]
pub struct MyPage {
    door: grpc::Door,
    watchers: Watchers,
    running: Running,
}

impl MyPage {
    /// Starts everything that goes on in the background, on a database that is up to date.
    #[must_use]
    pub fn start(
        store: Store,
        bus: &Arc<dyn Bus>,
        config: &MyPageConfig,
        messaging: &MessagingConfig,
    ) -> Self {
        let running = Running::new();
        let watchers = Watchers::default();
        let (told, heard, stop) = (watchers.clone(), store.clone(), running.stopping());
        running.keep("watchers", move || {
            watchers::listen(told.clone(), heard.clone(), stop.clone())
        });
        let (shown, read, stop) = (watchers.clone(), store.clone(), running.stopping());
        running.keep("reader of watched pages", move || {
            watchers::read(shown.clone(), read.clone(), stop.clone())
        });
        let handler = consumer::MyPageHandler::new(watchers.clone(), store.signals().clone());
        couponmesh_messaging::start(&store, bus, handler, messaging, &running);
        Self {
            door: grpc::Door::new(store, watchers.clone(), config),
            watchers,
            running,
        }
    }

    /// The gRPC door, to be served.
    #[must_use]
    pub fn server(&self) -> MyPageServiceServer<grpc::Door> {
        MyPageServiceServer::new(self.door.clone())
    }

    /// Ends every watch and every wait, so that the server can drain.
    pub fn drain(&self) {
        self.watchers.end();
    }

    /// Stops the background work.
    pub async fn stop(&self) {
        self.watchers.end();
        self.running.stop().await;
    }
}
