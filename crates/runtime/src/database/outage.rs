//! Telling an outage from a bug.

use std::{borrow::Cow, time::Duration};

use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr, SqlxError, sqlx::postgres::PgDatabaseError};
use tonic::Status;

use super::seldom::Seldom;
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
                _ => code_of(error).is_some_and(|code| is_outage(&code)) || is_stale_plan(error),
            }
        }
        _ => false,
    }
}

/// Whether a statement was planned before a migration that changed what it answers with, and so did not run. It
/// passes with the connection on which it was prepared.
#[must_use]
pub fn is_stale_plan(error: &DbErr) -> bool {
    /// Where PostgreSQL says so. Its code, 0A000, stands for everything that is not supported, and its text is
    /// translated.
    const ROUTINE: &str = "RevalidateCachedQuery";
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) =
        error
    else {
        return false;
    };
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(|error| error.code() == "0A000" && error.routine() == Some(ROUTINE))
}

/// Whether the connection that a statement ran on is of no use any more, and those that were made with it neither:
/// it broke, its server stops, or takes no writes, or it holds plans from before a migration.
pub(super) fn tells_of_a_lost_connection(error: &DbErr) -> bool {
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner)) => {
            breaks_connections(inner) || is_stale_plan(error)
        }
        _ => false,
    }
}

/// The same of what the driver says, without plans.
pub(super) fn breaks_connections(error: &SqlxError) -> bool {
    match error {
        SqlxError::Io(_) | SqlxError::Protocol(_) => true,
        SqlxError::Database(refused) => refused
            .code()
            .is_some_and(|code| is_of_a_lost_connection(&code)),
        _ => false,
    }
}

fn is_of_a_lost_connection(code: &str) -> bool {
    // Not 57014: a statement that took too long. The codes of SQLite are numbers.
    code.len() == 5 && (code.starts_with("08") || code.starts_with("57P0") || code == "25006")
}

/// Whether another transaction was first, or holds what this one wants. A transient error that others, who want
/// something else, need not meet.
#[must_use]
pub fn is_contention(error: &DbErr) -> bool {
    matches!(error, DbErr::RecordNotUpdated)
        || code_of(error).is_some_and(|code| CONTENTION.contains(&code.as_ref()))
}

/// Whether a lock was not to be had in time.
#[must_use]
pub fn waited_in_vain(error: &DbErr) -> bool {
    code_of(error).as_deref() == Some("55P03")
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

/// An outage meets every caller, and one line says it for those of a while.
static UNAVAILABLE: Seldom = Seldom::every(Duration::from_secs(5));

/// What a caller is told of a database error, which is logged here, an outage now and then: it is UNAVAILABLE,
/// anything else a bug.
#[must_use]
pub fn status_of(error: &DbErr) -> Status {
    if is_transient(error) {
        if let Some(calls) = UNAVAILABLE.say() {
            tracing::warn!(
                calls,
                error = error as &dyn std::error::Error,
                "storage unavailable"
            );
        }
        status::status(
            Reason::StorageUnavailable,
            "the database is not available now; what was asked for may have happened",
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
        for bug in ["19", "2067", "1", "23505", "42P01", "22001", "0A000"] {
            assert!(!is_outage(bug), "{bug}");
        }
    }

    #[test]
    fn lost_connections_are_told_from_other_outages_by_code() {
        for lost in ["08006", "57P01", "57P03", "57P05", "25006"] {
            assert!(is_of_a_lost_connection(lost), "{lost}");
        }
        for other in ["8", "57014", "40001", "53300", "42501", "23505"] {
            assert!(!is_of_a_lost_connection(other), "{other}");
        }
    }
}
