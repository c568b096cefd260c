//! What a request is called: its correlation id, trace context, span and log line.

use std::error::Error;

use http::{HeaderMap, HeaderValue, Response};
use tonic::{Code, Request, Status};
use tracing::Span;

use super::refusals;
use crate::{
    clock::Clock,
    context::{CORRELATION_HEADER, Context, CorrelationId},
    random::Random,
    status::{self, Reason},
    telemetry::{self, TRACEPARENT_HEADER},
};

/// The context of a request that came through a [`GrpcServer`](super::GrpcServer). What it causes is a
/// child of the request's own span when spans are exported.
///
/// # Errors
///
/// INTERNAL when the request came another way: a bug.
pub fn context_of<T>(request: &Request<T>) -> Result<Context, Status> {
    let no_context = || status::status(Reason::Internal, "request has no context");
    let mut cx: Context = request.extensions().get().cloned().ok_or_else(no_context)?;
    if telemetry::exporting() {
        cx.traceparent = telemetry::traceparent_of(&cx);
    }
    Ok(cx)
}

/// Mints correlation ids for requests without one.
#[derive(Debug)]
pub(super) struct Mint {
    pub(super) clock: Clock,
    pub(super) random: Random,
}

impl Mint {
    /// The caller's context as far as it is well formed, else a new one.
    pub(super) fn context(&self, headers: &HeaderMap) -> Context {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let id = text(CORRELATION_HEADER).and_then(CorrelationId::parse);
        let mut cx = Context::new(id.unwrap_or_else(|| {
            let id = self.random.uuid_v7(self.clock.now());
            CorrelationId::from(id)
        }));
        cx.traceparent = text(TRACEPARENT_HEADER)
            .filter(|t| telemetry::is_traceparent(t))
            .map(ToOwned::to_owned);
        cx
    }
}

/// The span around a request. Its level lets it through every filter, so that a server that logs
/// nothing but errors still says which request they belong to.
pub(super) fn span(path: &str, cx: &Context) -> Span {
    let method = path.trim_start_matches('/');
    let correlation_id = cx.correlation_id.as_str();
    if !telemetry::exporting() {
        return tracing::error_span!("grpc", rpc.method = method, correlation_id);
    }
    let span = tracing::error_span!(
        "grpc",
        otel.name = method,
        otel.kind = "server",
        rpc.method = method,
        correlation_id
    );
    if let Some(traceparent) = &cx.traceparent {
        telemetry::set_parent(&span, traceparent);
    }
    span
}

/// Gives the caller the id, whatever the answer is.
pub(super) fn mark<B>(response: &mut Response<B>, id: &CorrelationId) {
    // Correlation ids are visible ASCII, which every header may hold.
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(CORRELATION_HEADER, value);
    }
}

/// Logs what an answer's head, or a stream's trailers, say about it. Only what our own code calls a bug is
/// an error: tonic answers a caller's garbage with INTERNAL too.
pub(super) fn report(status: &Status) {
    let code = status.code();
    if code == Code::Ok {
        return;
    }
    let reason = status::reason_of(status);
    if reason.as_deref() == Some(Reason::Internal.as_str()) {
        tracing::error!(grpc.code = ?code, error = chain(status), "call failed");
    } else {
        refusals::log(status, reason.as_deref(), || chain(status));
    }
}

/// The message and its causes, which the caller does not get to see.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
