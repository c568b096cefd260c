//! What tells one message of the stream from any that may stand at its place after the stream has lost its tail.
//!
//! The event alone does not: after a loss it is published again, and may come to the same number with others before it.
//! A reader compares the message id and the time at which the server took the message. A publisher does not learn that
//! time. It compares the message id, which counts how often the event was published again. The model of losses shows
//! that this is enough, and that less is not.

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// That of a message with that id, for who published it.
pub(super) fn published(message_id: &str) -> Uuid {
    digest(&[message_id.as_bytes()])
}

/// The same for a message that is there.
pub(super) fn of_published(headers: &HeaderMap) -> Uuid {
    published(message_id(headers))
}

/// That of a message which the server took at that time, in nanoseconds since 1970, for who reads it.
pub(super) fn read(headers: Option<&HeaderMap>, nanos: i128) -> Uuid {
    let message_id = headers.map(message_id).unwrap_or_default();
    digest(&[message_id.as_bytes(), &nanos.to_be_bytes()])
}

fn message_id(headers: &HeaderMap) -> &str {
    let id = headers.get(NATS_MESSAGE_ID);
    id.map(|id| id.as_str()).unwrap_or_default()
}

/// The same id for the same bytes.
pub(super) fn digest(parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
