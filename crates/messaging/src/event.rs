//! An event: a CloudEvents 1.0 envelope around an encoded protobuf message.

use couponmesh_runtime::{
    Context, Timestamp, database,
    id::{EventId, MemberId},
    telemetry,
};
use prost::{Message, Name};
use sea_orm::DbErr;

/// An event on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `ce-id`: the same wherever and however often the event is seen.
    pub id: EventId,
    /// `ce-type`: the full name of the message in `payload`.
    pub event_type: String,
    /// `ce-source`: the service that published it.
    pub source: String,
    /// `ce-subject`: the member it is about.
    pub member_id: MemberId,
    /// `ce-time`: when it was stored.
    pub time: Timestamp,
    /// What caused it.
    pub context: Context,
    /// The encoded message.
    pub payload: Vec<u8>,
}

impl Event {
    /// An event that tells of `message`.
    pub(crate) fn new<M: Message + Name>(
        id: EventId,
        source: &str,
        member_id: MemberId,
        time: Timestamp,
        context: &Context,
        message: &M,
    ) -> Self {
        Self {
            id,
            event_type: M::full_name(),
            source: source.to_owned(),
            member_id,
            time,
            context: Context {
                traceparent: telemetry::child_of(context, M::NAME),
                ..context.clone()
            },
            payload: message.encode_to_vec(),
        }
    }

    /// The message, when it is of type `M`; `None` when it is of another.
    ///
    /// # Errors
    /// [`HandlerError::Undecodable`] when the payload is not an `M`.
    pub fn decode<M: Message + Name + Default>(&self) -> Result<Option<M>, HandlerError> {
        if !is_type::<M>(&self.event_type) {
            return Ok(None);
        }
        M::decode(self.payload.as_slice())
            .map(Some)
            .map_err(|error| HandlerError::Undecodable(error.to_string()))
    }

    /// The context of what handling this event causes.
    #[must_use]
    pub fn causes(&self) -> Context {
        Context {
            causation_id: Some(self.id.0),
            ..self.context.clone()
        }
    }
}

/// Whether events of that type are published by `service`: they are in its package.
#[must_use]
pub fn is_published_by(service: &str, event_type: &str) -> bool {
    event_type.split('.').nth(1) == Some(service)
}

/// Whether `event_type` is the full name of `M`, without building that name.
fn is_type<M: Name>(event_type: &str) -> bool {
    event_type
        .strip_suffix(M::NAME)
        .and_then(|rest| rest.strip_suffix('.'))
        == Some(M::PACKAGE)
}

/// Reads the id in `field` of a message.
///
/// # Errors
/// [`HandlerError::Undecodable`] when it is none.
pub fn id<T>(
    parse: impl Fn(&str) -> Option<T>,
    field: &str,
    text: &str,
) -> Result<T, HandlerError> {
    parse(text).ok_or_else(|| HandlerError::Undecodable(format!("{field} is no id")))
}

/// Reads the time in `field` of a message.
///
/// # Errors
/// [`HandlerError::Undecodable`] when it is missing.
pub fn time(field: &str, time: Option<prost_types::Timestamp>) -> Result<Timestamp, HandlerError> {
    time.map(Timestamp::from)
        .ok_or_else(|| HandlerError::Undecodable(format!("{field} is missing")))
}

/// Why an event was not handled.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The payload is not what its type says, or breaks the contract: parked at once.
    #[error("the event cannot be understood: {0}")]
    Undecodable(String),
    /// A type that the handler does not know: parked at once.
    #[error("no handler for events of type {0}")]
    UnknownType(String),
    /// The database refused: an outage is waited out, anything else counts as the handler's own failure.
    #[error("the database refused: {0}")]
    Storage(#[from] DbErr),
    /// The handler panicked: its own failure.
    #[error("the handler panicked")]
    Panicked,
}

/// What to do about an event that was not handled.
pub(crate) enum Verdict {
    /// An outage: wait and try again, without end.
    Wait,
    /// The handler's own failure: a few attempts, then park.
    Retry,
    /// Hopeless: park.
    Park,
}

impl HandlerError {
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Undecodable(_) | Self::UnknownType(_) => Verdict::Park,
            Self::Storage(error) if database::is_transient(error) => Verdict::Wait,
            Self::Storage(_) | Self::Panicked => Verdict::Retry,
        }
    }
}
