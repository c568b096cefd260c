//! Calls between services of one process: gRPC over memory, which takes no descriptor and no port.

use std::{
    io,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

/// Bytes under way in each direction.
const BUFFER: usize = 64 * 1024;
/// Connections that wait for the server to take them. A channel makes one and keeps it.
const BACKLOG: usize = 16;

/// Connects to the server of this process.
#[derive(Clone, Debug)]
pub struct InProcess(mpsc::Sender<DuplexStream>);

/// Where the server takes such connections, see
/// [`GrpcServer::in_process`](super::GrpcServer::in_process).
#[derive(Debug)]
pub struct InProcessListener(pub(super) mpsc::Receiver<DuplexStream>);

/// Both ends of calls within a process.
#[must_use]
pub fn in_process() -> (InProcess, InProcessListener) {
    let (connect, accept) = mpsc::channel(BACKLOG);
    (InProcess(connect), InProcessListener(accept))
}

impl InProcess {
    /// A channel that connects when it is first used, and again when the connection is lost.
    #[must_use]
    pub fn channel(&self) -> Channel {
        // The name is what requests carry as their authority; nothing looks it up.
        Endpoint::from_static("http://in-process").connect_with_connector_lazy(self.clone())
    }
}

impl Service<Uri> for InProcess {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let server = self.0.clone();
        Box::pin(async move {
            let (here, there) = duplex(BUFFER);
            match server.send(there).await {
                Ok(()) => Ok(TokioIo::new(here)),
                Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}
