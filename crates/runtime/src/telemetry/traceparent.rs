//! The W3C trace context as it comes in and goes on.

use std::collections::HashMap;

use opentelemetry::{propagation::TextMapPropagator as _, trace::TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use uuid::Uuid;

use crate::context::Context;

/// The gRPC metadata key of the W3C trace context.
pub const TRACEPARENT_HEADER: &str = "traceparent";

/// The trace context to send on behalf of `cx`: the current span's when spans are exported, else
/// the one that came in, unchanged.
#[must_use]
pub fn traceparent_of(cx: &Context) -> Option<String> {
    let current = Span::current().context();
    if !current.span().span_context().is_valid() {
        return cx.traceparent.clone();
    }
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&current, &mut headers);
    headers.remove(TRACEPARENT_HEADER)
}

/// The trace context of a new span `name`, a child of what caused `cx`: for an event or a call that
/// leaves on its behalf, also from a task that works for many. The one that came in, unchanged, when
/// spans are not exported.
#[must_use]
pub fn child_of(cx: &Context, name: &str) -> Option<String> {
    if !super::exporting() {
        return cx.traceparent.clone();
    }
    let correlation_id = cx.correlation_id.as_str();
    let span = tracing::error_span!("leave", otel.name = name, correlation_id);
    if let Some(traceparent) = &cx.traceparent {
        set_parent(&span, traceparent);
    }
    span.in_scope(|| traceparent_of(cx))
}

/// The `x-request-id` of a call that carries `traceparent`, made of an `id` of what it is about; none when the
/// trace is not recorded.
///
/// A sidecar that meets a request without its own mark in this id throws the dice for it, whatever the trace
/// context says, and marks the context as not recorded when it loses. The mark is in place of the UUID's version:
/// [Envoy's UUID request ids](https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/request_id/uuid/v3/uuid.proto).
#[must_use]
pub fn request_id_of(traceparent: &str, id: Uuid) -> Option<String> {
    /// Envoy's mark of a request that is sampled.
    const SAMPLED: u8 = 0x90;
    let flags = traceparent.rsplit('-').next()?;
    let recorded = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    let mut bytes = id.into_bytes();
    bytes[6] = SAMPLED | (bytes[6] & 0x0f);
    recorded.then(|| Uuid::from_bytes(bytes).to_string())
}

/// Makes `span` a child of the span that `traceparent` names. Call it before the span is entered.
/// Nothing happens when spans are not exported.
pub fn set_parent(span: &Span, traceparent: &str) {
    let headers = HashMap::from([(TRACEPARENT_HEADER.to_owned(), traceparent.to_owned())]);
    let parent = TraceContextPropagator::new().extract(&headers);
    // It fails when spans are not exported, and then there is nothing to do.
    let _ = span.set_parent(parent);
}

/// Whether a caller's `traceparent` is one: `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zeros.
#[must_use]
pub fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &str, length| hex(part, length) && part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let mut next = || parts.next().unwrap_or_default();
    let well_formed = next() == "00" && id(next(), 32) && id(next(), 16) && hex(next(), 2);
    well_formed && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn caused_by(traceparent: Option<&str>) -> Context {
        let mut cx = Context::new(Uuid::nil().into());
        cx.traceparent = traceparent.map(ToOwned::to_owned);
        cx
    }

    #[test]
    fn only_well_formed_trace_contexts_are_taken() {
        assert!(is_traceparent(TRACEPARENT));
        for malformed in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033-0101",
        ] {
            assert!(!is_traceparent(malformed), "{malformed}");
        }
    }

    #[test]
    fn the_request_id_of_a_recorded_trace_has_envoys_mark() {
        let id = Uuid::parse_str("01a20843-c32b-7dd6-aefb-17a3e6e22d00").unwrap();
        let marked = "01a20843-c32b-9dd6-aefb-17a3e6e22d00";
        assert_eq!(request_id_of(TRACEPARENT, id).as_deref(), Some(marked));
        let not_recorded = TRACEPARENT.replace("-01", "-00");
        assert_eq!(request_id_of(&not_recorded, id), None);
    }

    #[test]
    fn without_an_exporter_the_trace_context_travels_unchanged() {
        set_parent(&Span::current(), TRACEPARENT);
        assert_eq!(
            traceparent_of(&caused_by(Some(TRACEPARENT))).unwrap(),
            TRACEPARENT
        );
        assert_eq!(traceparent_of(&caused_by(None)), None);
    }

    #[test]
    fn with_an_exporter_the_current_span_stands_between() {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("grpc");
            set_parent(&span, TRACEPARENT);
            let sent = span
                .in_scope(|| traceparent_of(&caused_by(Some(TRACEPARENT))))
                .unwrap();
            assert!(is_traceparent(&sent), "{sent}");
            assert_eq!(sent[..36], TRACEPARENT[..36], "the trace is the caller's");
            assert_ne!(sent[36..52], TRACEPARENT[36..52], "the span is ours");
        });
    }
}
