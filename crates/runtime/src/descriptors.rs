//! File descriptors: connections take one each, and so do databases, the bus and deliveries.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors that connections leave to everything else: databases, the bus, deliveries, files.
const RESERVE: u64 = 256;

/// Raises this process's limit on open descriptors as far as it may: the usual soft limit of 1,024
/// is for programs that use select(2).
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    // Where it fails the limit stays, and `at_most` says what that means.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// How many of `wanted` connections the limit on open descriptors allows, with the reserve kept:
/// at least half of the limit where it is very low. Says so when they are fewer.
#[must_use]
pub fn at_most(wanted: usize) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return wanted;
    };
    let allowed = limit.saturating_sub(RESERVE).max(limit / 2);
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
    if allowed < wanted {
        tracing::warn!(
            limit,
            connections = allowed,
            "the limit on open files allows fewer connections than grpc.max_connections"
        );
    }
    wanted.min(allowed)
}
