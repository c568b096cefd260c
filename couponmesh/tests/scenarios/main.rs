//! What members, callers and operators see: the real services, in the good case and in every bad one.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod bad_input;
mod callers;
mod clocks;
mod correlation;
mod coupon_away;
mod crowd;
mod delivery;
mod happy_path;
mod joining;
mod leaving;
mod many;
mod my_page;
mod notifications;
mod paging;
mod privacy;
mod upgrades;
mod waiting;
mod watching;
