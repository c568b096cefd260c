//! The gRPC server from outside, over real connections.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod connections;
mod discovery;
mod foreign;
mod peers;
mod requests;
mod stopping;
mod streams;
mod support;
mod unread;
