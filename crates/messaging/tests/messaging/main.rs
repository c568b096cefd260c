//! What outbox, relay, bus, inbox and consumer promise, on the real stack: SQLite files and the embedded bus,
//! or PostgreSQL and NATS.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod bus_contract;
mod check;
mod effects;
mod failures;
mod gaps;
mod lives;
mod log;
mod nats_bus;
mod nats_cluster;
mod nats_credentials;
mod nats_installations;
mod nats_space;
mod outboxes;
mod redrive;
mod relay;
mod retention;
mod sabotage;
mod support;
