//! The real binary, as an operator meets it: killed at any moment, started wrongly, stopped, without disk space.
//!
//! It is `couponmesh run`, which has its files and its bus in one process, whatever stack the other tests run on.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

#[path = "../binary/mod.rs"]
mod binary;
mod books;
mod clock;
mod crowd;
mod disk;
mod hostile;
mod kill;
mod listen;
mod load;
mod log;
mod memory;
mod refusals;
mod start;
mod stop;
mod supervisor;
mod traces;
