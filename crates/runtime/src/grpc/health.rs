//! What health checks are told: each service is ready while its own database can be reached, the whole
//! while all are, and nothing is once the server drains. What else a service would like to call is no
//! reason to be unready: its door works without.

use futures::future::select_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

/// The name under which a probe asks whether the process lives, whatever its database does: a restart
/// would not bring that back.
pub const LIVENESS: &str = "liveness";

pub(super) struct Health {
    pub(super) reporter: HealthReporter,
    pub(super) services: Vec<(&'static str, watch::Receiver<bool>)>,
}

impl Health {
    /// Reports until `stop`, and then that nothing is served any more.
    pub(super) async fn report(mut self, stop: CancellationToken) {
        self.reporter
            .set_service_status(LIVENESS, ServingStatus::Serving)
            .await;
        loop {
            self.tell(true).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.changed() => {}
            }
        }
        self.tell(false).await;
        self.set(LIVENESS, false).await;
    }

    async fn changed(&mut self) {
        let changes = self.services.iter_mut().map(|(_, ready)| {
            Box::pin(async move {
                if ready.changed().await.is_err() {
                    // Nobody watches the database any more: it stays as it is.
                    std::future::pending::<()>().await;
                }
            })
        });
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        select_all(changes).await;
    }

    async fn tell(&self, serving: bool) {
        let mut all = serving;
        for (name, ready) in &self.services {
            let ready = serving && *ready.borrow();
            all &= ready;
            self.set(name, ready).await;
        }
        self.set("", all).await;
    }

    async fn set(&self, name: &str, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.reporter.set_service_status(name, status).await;
    }
}
