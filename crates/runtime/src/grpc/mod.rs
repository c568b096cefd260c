//! The gRPC server that every process puts its services into.
//!
//! [`GrpcServer`] takes the services and adds health and reflection; [`Bound`] serves them until
//! told to stop. Around every request stands one layer (`layer`), whose steps are a file each:
//!
//! - `correlation`: the correlation id, the trace context and the span
//! - `methods`: the bound on requests in flight, per RPC
//! - `deadline`: how long a call may take
//! - `streaming`: all of the above for the time that a response stream lives
//!
//! `listener` and `connection` bound the connections themselves.

mod bound;
mod config;
mod connection;
mod correlation;
mod deadline;
mod health;
mod layer;
mod listener;
mod methods;
mod server;
mod streaming;

pub use self::{
    bound::Bound,
    config::GrpcConfig,
    correlation::context_of,
    deadline::{Deadline, answer_by, deadline_of},
    health::LIVENESS,
    server::GrpcServer,
};
