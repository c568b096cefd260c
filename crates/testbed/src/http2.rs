//! A gRPC client that does with HTTP/2 what no library does.

use std::{future::Future, net::SocketAddr, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
pub use h2::RecvStream;
use h2::{
    SendStream,
    client::{self, ResponseFuture, SendRequest},
};
pub use http::Response;
use http::{Request, header};
use prost::Message;
use tokio::{net::TcpStream, time::timeout};

/// Longer than anything takes, shorter than anybody waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection by hand.
#[derive(Clone, Debug)]
pub struct Raw {
    requests: SendRequest<Bytes>,
    origin: String,
}

/// Connects; the peer may send `window` bytes of each answer before it is told of more.
pub async fn connect(server: SocketAddr, window: u32) -> Raw {
    let stream = TcpStream::connect(server).await.unwrap();
    let (requests, connection) = client::Builder::new()
        .initial_window_size(window)
        .max_header_list_size(1 << 20)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    Raw {
        requests,
        origin: format!("http://{server}"),
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap()
}

impl Raw {
    /// The head of a gRPC request for `path`.
    #[must_use]
    pub fn head(&self, path: &str) -> Request<()> {
        let request = Request::post(format!("{}{path}", self.origin));
        let request = request.header(header::CONTENT_TYPE, "application/grpc");
        request.header(header::TE, "trailers").body(()).unwrap()
    }

    /// Sends a head, and a message unless there is none yet.
    pub async fn send(
        &mut self,
        head: Request<()>,
        message: Option<Bytes>,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut requests = soon(self.requests.clone().ready()).await.unwrap();
        let (response, mut stream) = requests.send_request(head, false).unwrap();
        if let Some(message) = message {
            stream.send_data(message, true).unwrap();
        }
        (response, stream)
    }

    /// Sends a whole request and waits for the head of its answer.
    pub async fn call(&mut self, head: Request<()>, message: Bytes) -> Response<RecvStream> {
        let (response, _) = self.send(head, Some(message)).await;
        soon(response).await.unwrap()
    }
}

/// A message as gRPC frames it.
#[must_use]
pub fn framed(message: &impl Message) -> Bytes {
    framed_bytes(&message.encode_to_vec(), false)
}

/// The same, of a message that is encoded, and perhaps compressed, already.
#[must_use]
pub fn framed_bytes(message: &[u8], compressed: bool) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(u8::from(compressed));
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

/// All that comes of a body.
pub async fn text(body: &mut RecvStream) -> String {
    let mut text = Vec::new();
    while let Some(data) = soon(body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        text.extend_from_slice(&data);
    }
    String::from_utf8(text).unwrap()
}
