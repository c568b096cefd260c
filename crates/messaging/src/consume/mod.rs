//! Consuming: a service's handler runs for every event of its types, once in effect.
//!
//! | what | file |
//! | --- | --- |
//! | the loop | [`consumer`] |
//! | reads what this replica has to read | `reader` |
//! | deals with what was read | `process` |
//! | how far the service is | [`positions`] |
//! | which replica reads what | `share` |
//! | what could not be handled | [`dead_letter`], `redrive` |

pub mod consumer;
pub mod dead_letter;
#[cfg(test)]
mod model;
pub mod positions;
mod process;
mod reader;
pub(crate) mod redrive;
mod share;

use std::panic::AssertUnwindSafe;

use async_trait::async_trait;
use futures::FutureExt as _;

use crate::{
    event::{Event, HandlerError},
    store::Transaction,
};

/// Attempts at an event whose handler fails before it is parked.
pub(crate) const MAX_ATTEMPTS: i32 = 5;

/// What a service does about events.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Full names of the messages that it handles.
    const TYPES: &'static [&'static str];

    /// Handles events, each of them once in the slice and at least one, inside the open transaction. Those about one
    /// member come in the order of their publisher, but for what is published or read once more: the rows must end the
    /// same whatever the order and the repeats.
    ///
    /// # Errors
    /// See [`HandlerError`]: it decides whether the event is tried again or parked.
    async fn handle(&self, tx: &Transaction, events: &[&Event]) -> Result<(), HandlerError>;
}

/// Calls the handler; a panic is its own failure and nobody else's.
async fn call<H: Handler>(
    handler: &H,
    tx: &Transaction,
    events: &[&Event],
) -> Result<(), HandlerError> {
    let handled = AssertUnwindSafe(handler.handle(tx, events)).catch_unwind();
    handled.await.unwrap_or(Err(HandlerError::Panicked))
}
