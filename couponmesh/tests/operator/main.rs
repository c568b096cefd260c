//! What operators do with the real binary, while services run: look at dead letters, have them
//! handled again, give them up, fill a bus again that lost its events, and have notifications sent
//! again that failed.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod away;
#[path = "../binary/mod.rs"]
mod binary;
mod desk;
mod dlq;
mod notifications;
mod refused;
mod republish;
mod servers;
