//! Handlers commute: events of any order, however often repeated and however cut into batches, end in the
//! same rows. Positions are left out, so that it is the handlers' own doing.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod coupon;
mod member;
mod mypage;
mod notification;
mod support;
