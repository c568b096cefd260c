//! What ties together everything that one request causes, in gRPC, events and rows.

use uuid::Uuid;

/// Longest correlation id that is taken from a caller, in bytes.
pub const MAX_CORRELATION_ID: usize = 128;

/// The gRPC metadata key, in and out, of the correlation id.
pub const CORRELATION_HEADER: &str = "x-correlation-id";

/// The id that a request and all it causes share.
///
/// 1 to [`MAX_CORRELATION_ID`] visible ASCII characters, so that it can stand in any header and any log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CorrelationId(String);

impl CorrelationId {
    /// Takes a caller's id when it is well formed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = !text.is_empty()
            && text.len() <= MAX_CORRELATION_ID
            && text.bytes().all(|b| b.is_ascii_graphic());
        well_formed.then(|| Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Uuid> for CorrelationId {
    fn from(id: Uuid) -> Self {
        Self(id.to_string())
    }
}

/// What caused the work at hand. The door puts it into the request's extensions; the consumer makes
/// it from the event; whatever is stored, sent or published on its behalf carries it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Shared by everything that the first request caused.
    pub correlation_id: CorrelationId,
    /// The event that directly caused this work; none when a request did.
    pub causation_id: Option<Uuid>,
    /// W3C trace context of the work that caused this; none when the caller sent none.
    pub traceparent: Option<String>,
}

impl Context {
    /// The context that a row holds in its columns, each as it was written from a context. Should the
    /// correlation id not parse, which it does, `stand_in`, the row's own id, takes its place.
    #[must_use]
    pub fn stored(
        correlation_id: &str,
        stand_in: Uuid,
        causation_id: Option<Uuid>,
        traceparent: Option<String>,
    ) -> Self {
        Self {
            correlation_id: CorrelationId::parse(correlation_id)
                .unwrap_or_else(|| CorrelationId::from(stand_in)),
            causation_id,
            traceparent,
        }
    }

    /// A context that nothing else caused: for a request without an id of its own.
    #[must_use]
    pub fn new(correlation_id: CorrelationId) -> Self {
        Self {
            correlation_id,
            causation_id: None,
            traceparent: None,
        }
    }
}
