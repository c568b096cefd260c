//! Accepts connections, whatever goes wrong meanwhile.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::peers::{Peers, Place};

/// How long to leave the listener alone when it cannot accept, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// A listener and those who are connected by it.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) peers: Arc<Peers>,
}

impl Listener {
    /// The next connection that there is room for.
    pub(super) async fn next(&self) -> (TcpStream, Place) {
        loop {
            match self.socket.accept().await {
                Ok((stream, address)) => {
                    if let Some(place) = self.peers.admit(address.ip()).await {
                        // It fails only on a connection that is gone, which the first read finds out.
                        let _ = stream.set_nodelay(true);
                        return (stream, place);
                    }
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
}
