//! Accepts connections, as many as are allowed at once, whatever goes wrong meanwhile.

use std::{convert::Infallible, io::ErrorKind, sync::Arc, time::Duration};

use futures::{Stream, stream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{GrpcConfig, connection::Connection};

/// How long to leave the listener alone when it cannot accept, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Every connection, until dropped. Those that are one too many wait in the listener's backlog.
pub(super) fn connections(
    listener: TcpListener,
    config: &GrpcConfig,
    kill: CancellationToken,
) -> impl Stream<Item = Result<Connection, Infallible>> + use<> {
    let places = Arc::new(Semaphore::new(config.max_connections));
    let preface_timeout = config.preface_timeout;
    stream::unfold(listener, move |listener| {
        let (places, kill) = (places.clone(), kill.clone());
        async move {
            let place = places.acquire_owned().await.ok()?;
            let stream = accept(&listener).await;
            let connection = Connection::new(stream, place, preface_timeout, kill);
            Some((Ok(connection), listener))
        }
    })
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // It fails only on a connection that is gone, which the first read finds out.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            // The peer left before it was its turn.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
