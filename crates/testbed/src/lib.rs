//! Real servers for tests, and a client that misbehaves ([`http2`]).
//!
//! The whole suite runs on both stacks: on SQLite files and the embedded bus by default, and on PostgreSQL
//! and NATS when `COUPONMESH_TEST_STACK=servers`, as `make test-full` sets it. Then
//! `COUPONMESH_TEST_POSTGRES` is the URL of a server on which tests may make databases of their own
//! ([`Databases`]), and `nats-server` is on the PATH ([`Nats`]). A test that wants to see PostgreSQL die has a
//! server of its own ([`PostgresServer`]), and [`PgBouncer`] is a pooler before either. For TLS there is an
//! [`Authority`] that no system knows.

// All of it is test code.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod http2;

mod authority;
mod home;
mod nats;
mod pgbouncer;
mod postgres;
mod postgres_server;

pub use authority::Authority;
pub use home::Home;
pub use nats::{Events, Message, Nats, NatsCluster};
pub use pgbouncer::PgBouncer;
pub use postgres::{Databases, config};
pub use postgres_server::PostgresServer;

/// Whether tests run on PostgreSQL and NATS rather than on files.
#[must_use]
pub fn on_servers() -> bool {
    match std::env::var("COUPONMESH_TEST_STACK").as_deref() {
        Ok("servers") => true,
        Ok("embedded") | Err(_) => false,
        Ok(other) => panic!("COUPONMESH_TEST_STACK is {other}, not servers or embedded"),
    }
}
