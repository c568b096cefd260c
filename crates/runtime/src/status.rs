//! The errors of the contract: one `google.rpc.ErrorInfo` on every status that our code decides.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::field::Violation;

/// The `domain` of every ErrorInfo of ours.
pub const DOMAIN: &str = "couponmesh";

/// How many milliseconds a client's own retry shall wait.
const PUSHBACK_HEADER: &str = "grpc-retry-pushback-ms";

/// Why a request was refused; the contract's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field does not hold what it must; see [`crate::field`].
    FieldInvalid,
    /// The request id was used before, with other content.
    RequestIdReused,
    /// The request id was used before, by somebody who has withdrawn since.
    MemberWithdrawn,
    /// The page token is not one of ours, or belongs to another filter.
    PageTokenInvalid,
    /// No such member.
    MemberNotFound,
    /// No such coupon.
    CouponNotFound,
    /// No such withdrawal.
    WithdrawalNotFound,
    /// No such notification.
    NotificationNotFound,
    /// No event of this member was seen yet.
    PageNotFound,
    /// Another member has this e-mail.
    EmailTaken,
    /// A bound is reached; see [`overloaded`].
    Overloaded,
    /// The database does not answer.
    StorageUnavailable,
    /// The server ends what would last, in good order: call again at once, here or elsewhere.
    Draining,
    /// A bug.
    Internal,
}

impl Reason {
    /// The reason as ErrorInfo carries it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FieldInvalid => "FIELD_INVALID",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::MemberWithdrawn => "MEMBER_WITHDRAWN",
            Self::PageTokenInvalid => "PAGE_TOKEN_INVALID",
            Self::MemberNotFound => "MEMBER_NOT_FOUND",
            Self::CouponNotFound => "COUPON_NOT_FOUND",
            Self::WithdrawalNotFound => "WITHDRAWAL_NOT_FOUND",
            Self::NotificationNotFound => "NOTIFICATION_NOT_FOUND",
            Self::PageNotFound => "PAGE_NOT_FOUND",
            Self::EmailTaken => "EMAIL_TAKEN",
            Self::Overloaded => "OVERLOADED",
            Self::StorageUnavailable => "STORAGE_UNAVAILABLE",
            Self::Draining => "DRAINING",
            Self::Internal => "INTERNAL",
        }
    }

    /// The one code that goes with the reason.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::FieldInvalid | Self::RequestIdReused | Self::PageTokenInvalid => {
                Code::InvalidArgument
            }
            Self::MemberWithdrawn => Code::FailedPrecondition,
            Self::MemberNotFound
            | Self::CouponNotFound
            | Self::WithdrawalNotFound
            | Self::NotificationNotFound
            | Self::PageNotFound => Code::NotFound,
            Self::EmailTaken => Code::AlreadyExists,
            // Not RESOURCE_EXHAUSTED: Envoy's outlier detection does not count it.
            Self::Overloaded | Self::StorageUnavailable | Self::Draining => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }
}

/// A status for `reason`. The message is lower case and carries no stack, SQL, secret or personal data.
#[must_use]
pub fn status(reason: Reason, message: impl Into<String>) -> Status {
    with_details(reason, message, ErrorDetails::new())
}

/// A status with a BadRequest that lists what is wrong with the request's fields.
pub(crate) fn fields_invalid(
    reason: Reason,
    message: impl Into<String>,
    violations: &[Violation],
) -> Status {
    let violations = violations.iter();
    let listed = violations.map(|one| FieldViolation::new(one.field, one.why));
    let details = ErrorDetails::with_bad_request(listed.collect::<Vec<_>>());
    with_details(reason, message, details)
}

/// OVERLOADED with the time after which the caller may try again.
#[must_use]
pub fn overloaded(message: impl Into<String>, retry_after: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(retry_after));
    let mut status = with_details(Reason::Overloaded, message, details);
    // The same for clients whose libraries retry by themselves (gRFC A6).
    let pushback = MetadataValue::from(u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX));
    status.metadata_mut().insert(PUSHBACK_HEADER, pushback);
    status
}

fn with_details(reason: Reason, message: impl Into<String>, mut details: ErrorDetails) -> Status {
    details.set_error_info(reason.as_str(), DOMAIN, HashMap::new());
    Status::with_error_details(reason.code(), message, details)
}

/// The reason that another service of ours gave; none when a proxy or the transport refused.
#[must_use]
pub fn reason_of(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// How long the callee asks to be left alone.
#[must_use]
pub fn retry_delay_of(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_its_reason_and_code() {
        let status = status(Reason::EmailTaken, "email: is taken");
        assert_eq!(status.code(), Code::AlreadyExists);
        assert_eq!(status.message(), "email: is taken");
        assert_eq!(reason_of(&status).as_deref(), Some("EMAIL_TAKEN"));
        assert_eq!(retry_delay_of(&status), None);
    }

    #[test]
    fn overload_is_unavailable_and_says_when_to_come_back() {
        let status = overloaded("too many", Duration::from_millis(1500));
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(reason_of(&status).as_deref(), Some("OVERLOADED"));
        assert_eq!(retry_delay_of(&status), Some(Duration::from_millis(1500)));
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        assert_eq!(pushback.unwrap(), "1500");
    }

    #[test]
    fn a_foreign_status_has_no_reason_of_ours() {
        assert_eq!(reason_of(&Status::unavailable("no healthy upstream")), None);
        let details = ErrorDetails::with_error_info("X", "elsewhere", HashMap::new());
        let foreign = Status::with_error_details(Code::Aborted, "no", details);
        assert_eq!(reason_of(&foreign), None);
        assert_eq!(retry_delay_of(&foreign), None);
    }
}
