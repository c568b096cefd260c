//! What is wrong with a request's fields: all of it, in one answer.

use std::fmt;

use tonic::Status;

use crate::status::{self, Reason};

/// What is wrong with one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's name in the `.proto` file.
    pub field: &'static str,
    /// What is wrong with it, as a caller is told: it completes "the field …".
    pub why: &'static str,
    /// FIELD_INVALID, unless the contract has a reason for this field.
    pub reason: Reason,
}

impl Violation {
    /// FIELD_INVALID.
    #[must_use]
    pub fn new(field: &'static str, why: &'static str) -> Self {
        let reason = Reason::FieldInvalid;
        Self { field, why, reason }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

/// What is wrong with a request: one violation or more, in the order of its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// The reason that all share; FIELD_INVALID when they differ.
    fn reason(&self) -> Reason {
        let mut reasons = self.0.iter().map(|violation| violation.reason);
        let first = reasons.next().unwrap_or(Reason::FieldInvalid);
        if reasons.all(|reason| reason == first) {
            first
        } else {
            Reason::FieldInvalid
        }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, violation) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{violation}")?;
        }
        Ok(())
    }
}

impl From<Violation> for Violations {
    fn from(violation: Violation) -> Self {
        Self(vec![violation])
    }
}

impl From<Violations> for Status {
    fn from(violations: Violations) -> Self {
        status::fields_invalid(violations.reason(), violations.to_string(), &violations.0)
    }
}

impl From<Violation> for Status {
    fn from(violation: Violation) -> Self {
        Violations::from(violation).into()
    }
}

/// The values of `fields`, or everything that is wrong with them: `?` after each field would stop
/// at the first.
///
/// ```
/// # use couponmesh_runtime::{field::{self, Violation}, id::MemberId};
/// # fn f() -> Result<(), field::Violations> {
/// let (member_id, size) = field::all((
///     MemberId::from_field("member_id", "0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11"),
///     u64::try_from(7).map_err(|_| Violation::new("size", "must not be negative")),
/// ))?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
///
/// # Errors
/// The violations of all fields.
pub fn all<F: Fields>(fields: F) -> Result<F::Values, Violations> {
    fields.check()
}

/// Some fields, each parsed or refused.
pub trait Fields {
    /// Their values.
    type Values;

    /// See [`all`].
    ///
    /// # Errors
    /// The violations of all fields.
    fn check(self) -> Result<Self::Values, Violations>;
}

/// The value of a field, whose violations go to `wrong`.
fn note<T, E: Into<Violations>>(field: Result<T, E>, wrong: &mut Vec<Violation>) -> Option<T> {
    field
        .map_err(|violations| wrong.extend(violations.into().0))
        .ok()
}

macro_rules! tuples {
    ($(($($field:ident: $value:ident, $error:ident);+))+) => {$(
        impl<$($value, $error: Into<Violations>),+> Fields for ($(Result<$value, $error>,)+) {
            type Values = ($($value,)+);

            fn check(self) -> Result<Self::Values, Violations> {
                let ($($field,)+) = self;
                let mut wrong = Vec::new();
                match ($(note($field, &mut wrong),)+) {
                    ($(Some($field),)+) => Ok(($($field,)+)),
                    _ => Err(Violations(wrong)),
                }
            }
        }
    )+};
}

tuples! {
    (a: A, E1; b: B, E2)
    (a: A, E1; b: B, E2; c: C, E3)
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    type Field = Result<u8, Violation>;

    const TOO_BIG: Violation = Violation {
        field: "size",
        why: "is too big",
        reason: Reason::FieldInvalid,
    };
    const NO_TOKEN: Violation = Violation {
        field: "token",
        why: "is no token",
        reason: Reason::PageTokenInvalid,
    };

    #[test]
    fn all_fields_are_right_or_everything_wrong_is_said_in_their_order() {
        assert_eq!(all((Field::Ok(1), Field::Ok(2))), Ok((1, 2)));
        let both = all((Field::Err(TOO_BIG), Field::Ok(2), Field::Err(NO_TOKEN))).unwrap_err();
        // Groups of fields are fields, too.
        let nested = all((Field::Ok(1), Err::<(), _>(both.clone()))).unwrap_err();
        assert_eq!(nested, both);
        let status = Status::from(both);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "size: is too big; token: is no token");
        assert_eq!(status::reason_of(&status).as_deref(), Some("FIELD_INVALID"));
        let listed = status.get_details_bad_request().unwrap().field_violations;
        let listed: Vec<_> = listed
            .iter()
            .map(|each| (each.field.as_str(), each.description.as_str()))
            .collect();
        assert_eq!(listed, [("size", "is too big"), ("token", "is no token")]);
    }

    #[test]
    fn a_reason_of_its_own_is_given_when_nothing_else_is_wrong() {
        let reason = |violations: Violations| status::reason_of(&violations.into());
        assert_eq!(
            reason(NO_TOKEN.into()).as_deref(),
            Some("PAGE_TOKEN_INVALID")
        );
        assert_eq!(reason(TOO_BIG.into()).as_deref(), Some("FIELD_INVALID"));
    }
}
