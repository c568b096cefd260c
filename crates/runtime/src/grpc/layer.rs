//! What stands around every request: one tower layer, so that a request costs one allocation.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt as _;
use http::{Request, Response};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Instrument as _, Span};

use super::{
    correlation::{self, Mint},
    deadline::{self, Deadline},
    methods::Methods,
    streaming::Streaming,
};
use crate::status::{self, Reason};

/// Puts a [`Door`] before the services.
#[derive(Clone)]
pub(super) struct DoorLayer(pub(super) Arc<Rules>);

/// What the door goes by.
pub(super) struct Rules {
    pub(super) methods: Methods,
    pub(super) mint: Mint,
    pub(super) request_timeout: Duration,
    /// Cancelled when the server begins to drain.
    pub(super) draining: CancellationToken,
}

/// The service that every request passes.
#[derive(Clone)]
pub(super) struct Door<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S> Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Door<S> {
        let rules = self.0.clone();
        Door { inner, rules }
    }
}

impl<S> Service<Request<Body>> for Door<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let rules = &self.rules;
        let path = request.uri().path();
        let method = rules.methods.get(path);
        let is_unary = method.is_some_and(|m| !m.streaming);
        // Health and reflection: no bound on them, no span, and their streams end with the server.
        let is_ours = !path.starts_with("/grpc.");
        let cx = rules.mint.context(request.headers());
        let id = cx.correlation_id.clone();
        let span = if is_ours {
            correlation::span(path, &cx)
        } else {
            Span::none()
        };
        let longest = is_unary.then_some(rules.request_timeout);
        let deadline = deadline::deadline(request.headers(), longest);
        let draining = (!is_ours).then(|| rules.draining.clone());
        let admitted = method.map(|m| m.admit()).transpose();
        request.extensions_mut().insert(cx);
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        let admitted = admitted.map(|permit| (permit, self.inner.call(request)));
        let answered = async move {
            let mut response = match admitted {
                Err(refused) => refused.into_http(),
                Ok((permit, call)) => {
                    let response = answer(call, deadline).await;
                    if is_unary {
                        // The answer is complete: a caller that is slow to read it holds no permit.
                        response
                    } else {
                        response.map(|body| stream(body, permit, deadline, draining))
                    }
                }
            };
            if let Some(status) = response.extensions().get::<Status>() {
                correlation::report(status);
            }
            correlation::mark(&mut response, &id);
            Ok(response)
        };
        Box::pin(answered.instrument(span))
    }
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

fn stream(
    body: Body,
    permit: Option<OwnedSemaphorePermit>,
    deadline: Option<Deadline>,
    draining: Option<CancellationToken>,
) -> Body {
    Body::new(Streaming {
        body: Some(body),
        permit,
        deadline: deadline.map(|Deadline(at)| Box::pin(sleep_until(at))),
        draining: draining.map(|token| Box::pin(token.cancelled_owned())),
        span: Span::current(),
    })
}
