//! The server as it runs, and its end: graceful for a while, then not.

use std::{fmt, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::rt::{Read, Write};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    GrpcConfig,
    connection::Connection,
    door::{Door, Rules},
    health::Health,
    in_process::InProcessListener,
    listener::Listener,
    peers::Peer,
    streams::Streams,
};

/// How long killed connections may take to notice.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an idle connection that makes room for another may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(50);
/// The same when the server drains, and between calls that were still running then.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes of headers that HTTP/2 takes, above which it refuses the request with 431.
const MAX_HEADER_LIST: u32 = 96 * 1024;
/// Streams that h2 resets for errors of a peer's before it gives the connection up: its default.
const LOCAL_RESETS: usize = 1024;
/// Streams that a peer may cancel before we have seen them: at least h2's default.
const PEER_RESETS: usize = 20;

/// A server that listens.
pub struct Bound {
    pub(super) local_addr: SocketAddr,
    pub(super) listener: Listener,
    pub(super) in_process: Option<InProcessListener>,
    /// A listener of its own for health checks, and what is served there.
    pub(super) health_listener: Option<(Listener, Arc<Rules>)>,
    pub(super) config: GrpcConfig,
    pub(super) rules: Arc<Rules>,
    pub(super) health: Health,
}

impl Bound {
    /// Where it listens; the real port when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `stop` is cancelled, and then until the calls that are running have ended, or
    /// `drain_timeout` is over and the rest is cut off. Dropping it cuts off everything at once.
    pub async fn serve(self, stop: CancellationToken) {
        let draining = self.rules.draining.clone();
        let kill = CancellationToken::new();
        let _cut_off = kill.clone().drop_guard();
        let server = Server {
            http: Arc::new(http(&self.config)),
            preface_timeout: self.config.preface_timeout,
            draining: draining.clone(),
            kill: kill.clone(),
            connections: TaskTracker::new(),
        };
        let calls = self.rules;
        let serving = async {
            tokio::join!(
                async {
                    self.health.report(stop.clone()).await;
                    // After the health, so that its watchers hear of it before their streams end.
                    draining.cancel();
                },
                server.accept(self.listener, calls.clone()),
                server.accept_in_process(self.in_process, calls),
                async {
                    if let Some((listener, health)) = self.health_listener {
                        server.accept(listener, health).await;
                    }
                },
            );
            server.connections.close();
            server.connections.wait().await;
        };
        let too_long = async {
            stop.cancelled().await;
            sleep(self.config.drain_timeout).await;
        };
        tokio::select! {
            () = serving => return,
            () = too_long => {}
        }
        tracing::warn!("calls were still running at the drain timeout and were cut off");
        kill.cancel();
        server.connections.close();
        // A connection that does not notice ends with the process.
        let _ = timeout(KILL_TIMEOUT, server.connections.wait()).await;
    }
}

fn http(config: &GrpcConfig) -> auto::Builder<Streams> {
    let streams = config.max_streams_per_connection;
    let resets = usize::try_from(streams).unwrap_or(usize::MAX);
    let mut http = auto::Builder::new(Streams);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .max_header_list_size(MAX_HEADER_LIST)
        // Behind a gateway all streams of a connection may be cancelled at once, by as many callers.
        .max_pending_accept_reset_streams(resets.max(PEER_RESETS))
        .max_local_error_reset_streams(resets.max(LOCAL_RESETS));
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.preface_timeout)
        .keep_alive(false);
    http
}

/// What serves connections.
struct Server {
    http: Arc<auto::Builder<Streams>>,
    preface_timeout: Duration,
    draining: CancellationToken,
    /// Cancelled when whatever is left is cut off.
    kill: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Serves those who connect, until the server drains.
    async fn accept(&self, listener: Listener, rules: Arc<Rules>) {
        let accept = async {
            loop {
                let (stream, place) = listener.next().await;
                let peer = Some(place.peer.clone());
                let connection = Connection::new(stream, self.preface_timeout);
                let served = self.connection(TokioIo::new(connection), rules.clone(), peer);
                self.connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = self.draining.cancelled() => {}
            () = accept => {}
        }
    }

    /// The same for this process's own services.
    async fn accept_in_process(&self, listener: Option<InProcessListener>, rules: Arc<Rules>) {
        let Some(InProcessListener(mut incoming)) = listener else {
            return;
        };
        loop {
            let stream = tokio::select! {
                () = self.draining.cancelled() => return,
                stream = incoming.recv() => stream,
            };
            let Some(stream) = stream else { return };
            let served = self.connection(TokioIo::new(stream), rules.clone(), None);
            self.connections.spawn(served);
        }
    }

    /// One connection, to its end.
    fn connection<I>(
        &self,
        io: I,
        rules: Arc<Rules>,
        peer: Option<Arc<Peer>>,
    ) -> impl Future<Output = ()> + Send + use<I>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let (http, draining) = (self.http.clone(), self.draining.clone());
        let kill = self.kill.clone();
        async move {
            let makes_room = async {
                match &peer {
                    Some(peer) => peer.close.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            let door = Door {
                rules,
                peer: peer.clone(),
            };
            let mut connection = pin!(http.serve_connection(io, door));
            let is_idle = || peer.as_ref().is_some_and(|peer| peer.is_idle());
            // Ends badly when its peer did something wrong, which is the peer's affair.
            let served = async {
                let mut patience = tokio::select! {
                    _ = connection.as_mut() => return,
                    () = draining.cancelled() => FAREWELL,
                    () = makes_room => GOODBYE,
                };
                connection.as_mut().graceful_shutdown();
                // Calls come to their end. Without one, a peer that does not answer is not waited for.
                while timeout(patience, connection.as_mut()).await.is_err() && !is_idle() {
                    patience = FAREWELL;
                }
            };
            tokio::select! {
                () = served => {}
                () = kill.cancelled() => {}
            }
        }
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}
