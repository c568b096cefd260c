//! The administrator's end: a receiver of webhooks that says yes or no as the test wants it.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use couponmesh::config::Config;
use couponmesh_notification::channel::{ChannelKind, WebhookConfig};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize as _;
use tokio::net::{TcpListener, TcpStream};

/// A delivery as it came.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: String,
}

impl Delivered {
    /// The identity that the sender gave it.
    pub(crate) fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().unwrap()
    }
}

/// A receiver on a port of its own.
#[derive(Clone)]
pub(crate) struct Webhook {
    port: u16,
    desk: Arc<Mutex<Desk>>,
}

#[derive(Default)]
struct Desk {
    delivered: Vec<Delivered>,
    refuse: usize,
    answer: Answer,
}

/// What the receiver answers, once it has refused as many deliveries as it was to refuse.
#[derive(Clone, Copy, Default)]
struct Answer {
    status: StatusCode,
    retry_after: Option<&'static str>,
}

impl Webhook {
    /// A receiver that refuses the first `refuse` deliveries.
    pub(crate) async fn refusing(refuse: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let webhook = Self {
            port: listener.local_addr().unwrap().port(),
            desk: Arc::default(),
        };
        webhook.desk.lock().unwrap().refuse = refuse;
        let desk = webhook.desk.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, desk.clone()));
            }
        });
        webhook
    }

    /// Answers with `status` from now on.
    pub(crate) fn answers(&self, status: u16) {
        self.desk.lock().unwrap().answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
        };
    }

    /// Asks to be left alone for a while from now on.
    pub(crate) fn asks_for(&self, retry_after: &'static str) {
        self.desk.lock().unwrap().answer = Answer {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(retry_after),
        };
    }

    /// Lets notifications go here.
    pub(crate) fn receives(&self, config: &mut Config) {
        let channel = &mut config.notification.channel;
        channel.kind = ChannelKind::Webhook;
        let settings = serde_json::json!({
            "url": format!("http://127.0.0.1:{}/hook", self.port),
            "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        });
        channel.webhook = WebhookConfig::deserialize(settings).unwrap();
    }

    /// Every delivery so far, refused ones too.
    pub(crate) fn delivered(&self) -> Vec<Delivered> {
        self.desk.lock().unwrap().delivered.clone()
    }
}

async fn receive(stream: TcpStream, desk: Arc<Mutex<Desk>>) {
    let service = service_fn(|request: Request<Incoming>| {
        let desk = desk.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let mut desk = desk.lock().unwrap();
            desk.delivered.push(Delivered {
                headers: head.headers,
                body: String::from_utf8(body.into()).unwrap(),
            });
            let mut answer = desk.answer;
            if desk.refuse > 0 {
                desk.refuse -= 1;
                answer.status = StatusCode::SERVICE_UNAVAILABLE;
            }
            let mut response = Response::builder().status(answer.status);
            if let Some(retry_after) = answer.retry_after {
                response = response.header("retry-after", retry_after);
            }
            let response = response.body(Empty::<Bytes>::new()).unwrap();
            Ok::<_, hyper::Error>(response)
        }
    });
    // Ends in an error when the sender hangs up, which is its right.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
