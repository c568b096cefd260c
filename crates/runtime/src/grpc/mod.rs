//! The gRPC server that every process puts its services into.
//!
//! [`GrpcServer`] takes the services and adds health and reflection; [`Bound`] serves them until
//! told to stop. A connection passes `listener`, which knows all `peers`, and `connection`. Around
//! every request on it stands the `door`, whose steps are a file each:
//!
//! - `foreign`: what is no gRPC is told so
//! - `correlation`: the correlation id, the trace context and the span
//! - `methods`: the bound on calls in flight, per RPC, and `admission`, a call's place in it
//! - `deadline`: how long a call may take
//! - `request`: the request of a stream arrives in time
//! - `answer`: all of the above until the answer is sent, and `streams`: no longer than its time
//! - `refusals`: refused calls in the log, not more of them than anybody can read

mod admission;
mod answer;
mod bound;
mod config;
mod connection;
mod correlation;
mod deadline;
mod door;
mod foreign;
mod health;
mod in_process;
mod listener;
mod methods;
mod peers;
mod refusals;
mod request;
mod server;
mod streams;

pub use self::{
    admission::{Admission, admission_of},
    bound::Bound,
    config::GrpcConfig,
    correlation::context_of,
    deadline::{Deadline, answer_by, deadline_of},
    health::LIVENESS,
    in_process::{InProcess, InProcessListener, in_process},
    server::GrpcServer,
};
