//! The chart on a real Kubernetes with Istio, as an operator and as callers meet it: the gateway, the policies, the
//! circuit breaker, rollouts and autoscaling.
//!
//! `make mesh-test` installs the chart into a namespace of its own and runs these, one after another; a plain
//! `cargo test` leaves them out. `make mesh-soak` makes them long and adds the negative controls.
//!
//! | what | file |
//! | --- | --- |
//! | kubectl, helm and istioctl, in the namespace under test | [`cluster`] |
//! | what a sidecar counts and how it is configured | [`sidecar`] |
//! | a coupon service that is slow, or answers UNAVAILABLE, or hangs | [`fault`] |
//! | a pod that neither answers nor ends | [`freezer`] |
//! | callers at the gateway | [`callers`] |
//! | what must hold in the databases in the end | [`books`] |
//! | a workload that has no business here | [`stranger`] |
//! | the tests | [`gateway`], [`policies`], [`settings`], [`overload`], [`failure`], [`frozen`], [`traces`], [`rollout`], [`scaling`] |
//! | whether the tests can fail | [`controls`] |

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../faults/audit.rs"]
#[allow(dead_code)] // these tests use a part of it
mod audit;
#[path = "../binary/mod.rs"]
mod binary;
mod books;
mod callers;
mod cluster;
mod controls;
mod failure;
mod fault;
mod freezer;
mod frozen;
mod gateway;
mod overload;
mod policies;
mod rollout;
mod scaling;
mod settings;
mod sidecar;
#[path = "../faults/soak.rs"]
mod soak;
mod stranger;
mod traces;
