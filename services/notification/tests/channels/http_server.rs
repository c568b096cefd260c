//! An HTTP server that keeps the requests it gets.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What the server answers.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Status(u16),
    /// With a header of this name and value.
    With(u16, &'static str, &'static str),
    Never,
}

pub(crate) struct HttpServer {
    pub(crate) port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

impl HttpServer {
    pub(crate) async fn start(answer: Answer) -> Self {
        Self::with_tls(answer, None).await
    }

    pub(crate) async fn with_tls(answer: Answer, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::default();
        let server = Self {
            port,
            received: Arc::clone(&received),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, received) = (acceptor.clone(), Arc::clone(&received));
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, answer, received).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, answer, received).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: Answer,
    received: Arc<Mutex<Vec<Received>>>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let received = Arc::clone(&received);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            received.lock().unwrap().push(Received {
                method: head.method,
                target: head.uri.to_string(),
                headers: head.headers,
                body,
            });
            let response = match answer {
                Answer::Status(status) => Response::builder().status(status),
                Answer::With(status, name, value) => {
                    Response::builder().status(status).header(name, value)
                }
                Answer::Never => std::future::pending().await,
            };
            let body = Full::new(Bytes::from_static(b"some text that nobody reads"));
            Ok::<_, hyper::Error>(response.body(body).unwrap())
        }
    });
    // Ends in an error when the client hangs up, which is its right.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
