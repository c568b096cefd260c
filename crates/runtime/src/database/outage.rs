//! Telling an outage from a bug.

use std::borrow::Cow;

use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr, SqlxError};
use tonic::Status;

use crate::status::{self, Reason};

/// PostgreSQL's serialization failure, deadlock, and lock that was not to be had in time.
const CONTENTION: [&str; 3] = ["40001", "40P01", "55P03"];

/// Whether an error is the storage's and not the statement's: an outage, which passes, or a lost
/// race. Retrying is right; nothing is wrong with the event or request at hand.
#[must_use]
pub fn is_transient(error: &DbErr) -> bool {
    match error {
        // A row that another transaction changed first.
        DbErr::RecordNotUpdated
        | DbErr::ConnectionAcquire(ConnAcquireErr::Timeout | ConnAcquireErr::ConnectionClosed)
        | DbErr::Conn(_) => true,
        DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner)) => {
            match inner.as_ref() {
                SqlxError::Io(_)
                | SqlxError::Tls(_)
                | SqlxError::Protocol(_)
                | SqlxError::PoolTimedOut
                | SqlxError::PoolClosed
                | SqlxError::WorkerCrashed => true,
                _ => code_of(error).is_some_and(|code| is_outage(&code)),
            }
        }
        _ => false,
    }
}

/// Whether another transaction was first, or holds what this one wants. A transient error that others, who want
/// something else, need not meet.
#[must_use]
pub fn is_contention(error: &DbErr) -> bool {
    matches!(error, DbErr::RecordNotUpdated)
        || code_of(error).is_some_and(|code| CONTENTION.contains(&code.as_ref()))
}

/// The code under which the database itself refused a statement; none when something else went wrong.
#[must_use]
pub fn code_of(error: &DbErr) -> Option<Cow<'_, str>> {
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
            error.as_database_error()?.code()
        }
        _ => None,
    }
}

/// Whether a database's error code names an outage. PostgreSQL's codes have five characters; SQLite's
/// are numbers whose low byte is the primary code.
fn is_outage(code: &str) -> bool {
    if code.len() == 5 {
        let class = &code[..2];
        // Connection, login, no such database, resources, operator intervention, system, corruption; and
        // lost races, a standby, a missing grant. None of them is the fault of the statement at hand.
        return matches!(class, "08" | "28" | "3D" | "53" | "57" | "58" | "XX")
            || matches!(code, "25006" | "42501")
            || CONTENTION.contains(&code);
    }
    let primary = code.parse::<i32>().unwrap_or_default() & 0xff;
    // BUSY, LOCKED, NOMEM, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOTADB
    matches!(primary, 5 | 6 | 7 | 8 | 10 | 11 | 13 | 14 | 15 | 26)
}

/// Whether a row with the same unique key is there already.
#[must_use]
pub fn is_unique_violation(error: &DbErr) -> bool {
    matches!(
        error.sql_err(),
        Some(sea_orm::SqlErr::UniqueConstraintViolation(_))
    )
}

/// What a caller is told of a database error, which is logged here, once: an outage is UNAVAILABLE,
/// anything else a bug.
#[must_use]
pub fn status_of(error: &DbErr) -> Status {
    if is_transient(error) {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "storage unavailable"
        );
        status::status(
            Reason::StorageUnavailable,
            "the database is not available now",
        )
    } else {
        tracing::error!(error = error as &dyn std::error::Error, "database error");
        status::status(Reason::Internal, "internal error")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_told_from_bugs_by_code() {
        for outage in [
            "5", "13", "778", "08006", "28P01", "3D000", "40P01", "42501", "57P01", "53300",
            "25006",
        ] {
            assert!(is_outage(outage), "{outage}");
        }
        for bug in ["19", "2067", "1", "23505", "42P01", "22001"] {
            assert!(!is_outage(bug), "{bug}");
        }
    }
}
