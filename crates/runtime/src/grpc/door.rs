//! What stands around every request of a connection.

use std::{convert::Infallible, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures::FutureExt as _;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::Routes};
use tower_service::Service as _;
use tracing::{Instrument as _, Span};

use super::{
    admission::Admission,
    answer::{Answer, Held, Streamed},
    correlation::{self, Mint},
    deadline::{self, Deadline},
    foreign,
    methods::{Kind, Methods},
    peers::{Busy, Peer},
    request::Prompt,
    streams,
};
use crate::{
    context::CorrelationId,
    status::{self, Reason},
};

/// What the door goes by.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) methods: Arc<Methods>,
    pub(super) mint: Arc<Mint>,
    pub(super) request_timeout: Duration,
    /// How long a peer may leave a message of a stream unread.
    pub(super) unread_timeout: Duration,
    /// Cancelled when the server begins to drain.
    pub(super) draining: CancellationToken,
    pub(super) routes: Routes,
}

/// The service of one connection.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) rules: Arc<Rules>,
    /// None within the process, which has no bound on connections.
    pub(super) peer: Option<Arc<Peer>>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for Door {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let busy = self.peer.as_ref().map(Peer::busy);
        let rules = &self.rules;
        if let Some(refusal) = foreign::refuse(&request) {
            let longest = rules.request_timeout;
            let is_http_2 = request.version() == Version::HTTP_2;
            return Box::pin(async move {
                if is_http_2 {
                    streams::reset_at(Instant::now() + longest);
                }
                Ok(with_body(refusal, busy))
            });
        }
        let path = request.uri().path();
        // Health and reflection: no span, and their streams end with the server.
        let is_ours = !path.starts_with("/grpc.");
        let cx = rules.mint.context(request.headers());
        let id = cx.correlation_id.clone();
        let method = rules.methods.get(path);
        let span = if is_ours {
            // A caller's own text, of any length, names no span.
            correlation::span(method.map_or("unknown", |_| path), &cx)
        } else {
            Span::none()
        };
        let admitted = match method {
            Some(method) => method.admit().map(|permit| (method.kind, permit)),
            None => Err(foreign::unknown(path)),
        };
        let (kind, permit) = match admitted {
            Ok(admitted) => admitted,
            Err(status) => return refused(status, id, busy, &span),
        };
        let longest = match kind {
            Kind::Unary => Some(rules.request_timeout),
            Kind::Streaming { longest } => longest,
        };
        let deadline = deadline::deadline(request.headers(), longest);
        let admission = Admission::new(permit);
        let mut request = match kind {
            Kind::Unary => request.map(Body::new),
            Kind::Streaming { .. } => {
                request.map(|body| Body::new(Prompt::new(body, rules.request_timeout)))
            }
        };
        let extensions = request.extensions_mut();
        extensions.insert(cx);
        extensions.insert(admission.clone());
        if let Some(deadline) = deadline {
            extensions.insert(deadline);
        }
        let call = rules.routes.clone().call(request);
        let unread = rules.unread_timeout;
        let draining = (!is_ours).then(|| rules.draining.clone());
        // Dropped with the call when its caller hangs up before there is an answer.
        let held = Held {
            admission: Some(admission),
            _busy: busy,
        };
        let answering = async move {
            let response = answer(call, deadline).await;
            if let Some(Deadline(deadline)) = deadline {
                streams::reset_at(deadline + deadline::RESET_AFTER);
            }
            let streamed = match kind {
                Kind::Unary => None,
                Kind::Streaming { .. } => Some(Streamed {
                    deadline: deadline.map(|Deadline(at)| Box::pin(sleep_until(at))),
                    unread,
                    draining: draining.map(|token| Box::pin(token.cancelled_owned())),
                    span: Span::current(),
                }),
            };
            if let Some(status) = response.extensions().get::<Status>() {
                correlation::report(status);
            }
            let mut response = response.map(|body| Answer::new(body, held, streamed));
            correlation::mark(&mut response, &id);
            Ok(response)
        };
        Box::pin(answering.instrument(span))
    }
}

fn refused(status: Status, id: CorrelationId, busy: Option<Busy>, span: &Span) -> Answering {
    span.in_scope(|| correlation::report(&status));
    Box::pin(async move {
        let mut response = with_body(status.into_http(), busy);
        correlation::mark(&mut response, &id);
        Ok(response)
    })
}

/// An answer that no handler made.
fn with_body(response: Response<Body>, busy: Option<Busy>) -> Response<Answer> {
    let held = Held {
        admission: None,
        _busy: busy,
    };
    response.map(|body| Answer::new(body, held, None))
}

/// The handler's answer, or ours when it panics or takes too long.
async fn answer<F>(call: F, deadline: Option<Deadline>) -> Response<Body>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    let call = AssertUnwindSafe(call).catch_unwind();
    let outcome = match deadline {
        Some(Deadline(at)) => timeout_at(at, call).await,
        None => Ok(call.await),
    };
    match outcome {
        Ok(Ok(Ok(response))) => response,
        Ok(Err(_)) => panicked().into_http(),
        Err(_) => deadline::exceeded().into_http(),
    }
}

/// What a panic is answered with; the panic hook has logged it.
pub(super) fn panicked() -> Status {
    status::status(Reason::Internal, "internal error")
}
