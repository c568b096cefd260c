//! The server as it runs, and its end: graceful for a while, then not.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    pin,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

use super::{
    GrpcConfig,
    health::Health,
    layer::{DoorLayer, Rules},
    listener,
};

/// How long killed connections may take to notice.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that listens.
pub struct Bound {
    pub(super) local_addr: SocketAddr,
    pub(super) listener: TcpListener,
    pub(super) config: GrpcConfig,
    pub(super) rules: Rules,
    pub(super) health: Health,
    pub(super) routes: Routes,
}

impl Bound {
    /// Where it listens; the real port when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `stop` is cancelled, and then until the calls that are running have ended, or
    /// `drain_timeout` is over and the rest is cut off. Dropping it cuts off everything at once.
    ///
    /// # Errors
    ///
    /// When tonic cannot serve at all.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
        let kill = CancellationToken::new();
        let _cut_off = kill.clone().drop_guard();
        let draining = self.rules.draining.clone();
        let drain = async {
            self.health.report(stop.clone()).await;
            // After the health, so that its watchers hear of it before their streams end.
            draining.cancel();
        };
        let serving = Server::builder()
            .max_concurrent_streams(self.config.max_streams_per_connection)
            .http2_keepalive_interval(Some(self.config.keepalive_interval))
            .http2_keepalive_timeout(Some(self.config.keepalive_timeout))
            .layer(DoorLayer(Arc::new(self.rules)))
            .serve_with_incoming_shutdown(
                self.routes,
                listener::connections(self.listener, &self.config, kill.clone()),
                drain,
            );
        pin!(serving);
        let too_long = async {
            stop.cancelled().await;
            sleep(self.config.drain_timeout).await;
        };
        tokio::select! {
            served = &mut serving => return served,
            () = too_long => {}
        }
        tracing::warn!("calls were still running at the drain timeout and were cut off");
        kill.cancel();
        timeout(KILL_TIMEOUT, serving).await.unwrap_or(Ok(()))
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}
