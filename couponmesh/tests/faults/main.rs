//! The production stack as an operator meets it: the real binary, several replicas of each service, PostgreSQL
//! and NATS, while what it stands on dies, hangs, loses its store or was set up wrongly.
//!
//! These tests run only when `COUPONMESH_TEST_STACK=servers`, and are short. `make soak` makes them long, one
//! after another, and lets them print what they saw.
//!
//! | what | file |
//! | --- | --- |
//! | databases, bus and replicas of a test's own | [`production`] |
//! | a network that passes, refuses or hangs | [`way`] |
//! | callers, and what they were promised | [`load`] |
//! | what must hold in the end | [`audit`] |
//! | short or long | [`soak`] |

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod audit;
#[path = "../binary/mod.rs"]
mod binary;
mod bus;
mod clock;
mod columns;
mod coupon;
#[path = "../harness/coupon_way.rs"]
#[allow(dead_code)] // this test uses a part of it
mod coupon_way;
mod database;
mod load;
mod locks;
mod moved;
mod networks;
mod outage;
mod pooler;
mod production;
mod queries;
mod readiness;
mod releases;
mod replicas;
mod roles;
mod settings;
mod shares;
mod soak;
mod way;
