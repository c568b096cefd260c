#![doc = include_str!("../README.md")]

pub mod backoff;
pub mod clock;
pub mod config;
pub mod context;
pub mod database;
pub mod descriptors;
pub mod fault;
pub mod field;
pub mod group_commit;
pub mod grpc;
pub mod id;
pub mod lines;
pub mod net;
pub mod page;
pub mod random;
pub mod running;
pub mod status;
pub mod telemetry;
pub mod wake;

pub use clock::{Clock, Timestamp};
pub use context::{Context, CorrelationId};
pub use random::Random;
