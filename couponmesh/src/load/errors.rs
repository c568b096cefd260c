//! Which errors came, counted by RPC, gRPC code and ErrorInfo reason.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Counts errors; clones count into the same table.
#[derive(Clone, Debug, Default)]
pub(super) struct Errors(Arc<Mutex<BTreeMap<Kind, Seen>>>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    rpc: &'static str,
    code: String,
    reason: String,
}

#[derive(Debug)]
struct Seen {
    count: u64,
    first_message: String,
}

/// One line of the table.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct ErrorCount {
    pub(super) rpc: &'static str,
    pub(super) code: String,
    /// Of the ErrorInfo; empty without one.
    pub(super) reason: String,
    pub(super) count: u64,
    /// Of the first such error, as an example.
    pub(super) first_message: String,
}

impl Errors {
    /// Counts one error.
    pub(super) fn count(&self, rpc: &'static str, status: &Status) {
        let kind = Kind {
            rpc,
            code: code_name(status.code()),
            reason: reason(status),
        };
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kinds
            .entry(kind)
            .or_insert_with(|| Seen {
                count: 0,
                first_message: status.message().to_owned(),
            })
            .count += 1;
    }

    /// The table so far, in the order of RPC, code and reason.
    pub(super) fn table(&self) -> Vec<ErrorCount> {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kinds
            .iter()
            .map(|(kind, seen)| ErrorCount {
                rpc: kind.rpc,
                code: kind.code.clone(),
                reason: kind.reason.clone(),
                count: seen.count,
                first_message: seen.first_message.clone(),
            })
            .collect()
    }
}

/// The reason in the status' ErrorInfo, or nothing.
fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

/// The code as the contract spells it: `NotFound` is NOT_FOUND.
pub(super) fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn codes_are_spelled_as_in_the_contract() {
        assert_eq!(code_name(Code::NotFound), "NOT_FOUND");
        assert_eq!(code_name(Code::Unavailable), "UNAVAILABLE");
        assert_eq!(code_name(Code::Ok), "OK");
    }

    #[test]
    fn errors_are_counted_by_code_and_reason_and_keep_the_first_message() {
        let errors = Errors::default();
        let overloaded = |text: &str| {
            let details = ErrorDetails::with_error_info("OVERLOADED", "couponmesh", HashMap::new());
            Status::with_error_details(Code::Unavailable, text, details)
        };
        errors.count("RegisterMember", &overloaded("first"));
        errors.count("RegisterMember", &overloaded("second"));
        errors.count("RegisterMember", &Status::unavailable("bare"));

        let table = errors.table();
        let short: Vec<_> = table
            .iter()
            .map(|e| (e.reason.as_str(), e.count, e.first_message.as_str()))
            .collect();
        assert_eq!(short, [("", 1, "bare"), ("OVERLOADED", 2, "first")]);
    }
}
