//! Which failed attempts are tried again: the one table.
//!
//! | what came of the attempt | outage | refusal |
//! | --- | --- | --- |
//! | an HTTP status | 302, 307, 408, 421, 425, 429, 5xx, 1xx, 600 and more | every other |
//! | an SMTP reply, to whatever step | 4xx | 5xx |
//! | no answer in time, or one that is not HTTP or SMTP | always | |
//! | no name, no connection, no descriptor for one, one that broke | always | |
//! | a certificate that does not verify | always | |
//! | a server without STARTTLS, login or addresses as configured | always | |
//! | a message that cannot be written down | | always |
//!
//! What passes when somebody mends the receiver, the network or the configuration is an outage,
//! unless the receiver has read the request and said no: a repeat changes nothing then, and
//! repeated logins lock accounts. Redirects are never followed: a temporary one is an outage, a
//! permanent one asks for another configuration.

use lettre::transport::smtp::response::{Code, Severity};
use reqwest::StatusCode;

/// What a failed attempt says about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may succeed later: tried again.
    Outage,
    /// The receiver said no: it would say so again.
    Refusal,
}

/// What came of an attempt that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// An HTTP response other than success.
    Status(StatusCode),
    /// A negative SMTP reply.
    Reply(Code),
    /// Nothing that could be understood: no answer, no connection, or one that broke.
    NoAnswer,
    /// The server lacks what the configuration asks for.
    Unable,
    /// The message cannot be written down.
    Unwritable,
}

impl Cause {
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::Status(status) => of_status(status.as_u16()),
            Self::Reply(code) => of_reply(code.severity),
            Self::NoAnswer | Self::Unable => Failure::Outage,
            Self::Unwritable => Failure::Refusal,
        }
    }
}

fn of_status(status: u16) -> Failure {
    match status {
        302 | 307 | 408 | 421 | 425 | 429 => Failure::Outage,
        200..500 => Failure::Refusal,
        // RFC 9110, section 15: a number that does not exist counts as a server's error. Nothing
        // asks for 1xx.
        0..200 | 500.. => Failure::Outage,
    }
}

fn of_reply(severity: Severity) -> Failure {
    match severity {
        Severity::PermanentNegativeCompletion => Failure::Refusal,
        // A yes where none was due: client and server are out of step.
        Severity::TransientNegativeCompletion
        | Severity::PositiveIntermediate
        | Severity::PositiveCompletion => Failure::Outage,
    }
}

#[cfg(test)]
mod tests {
    use lettre::transport::smtp::response::{Category, Detail};

    use super::*;

    #[test]
    fn every_status_is_an_outage_or_a_refusal() {
        let refused = [
            300, 301, 303, 304, 305, 306, 308, 400, 401, 402, 403, 404, 405, 406, 407, 409, 410,
            411, 412, 413, 414, 415, 416, 417, 418, 422, 423, 424, 426, 428, 431, 451, 499,
        ];
        let outages = [
            101, 302, 307, 408, 421, 425, 429, 500, 501, 502, 503, 504, 505, 511, 520, 599, 600,
            999,
        ];
        for (statuses, failure) in [
            (&refused[..], Failure::Refusal),
            (&outages[..], Failure::Outage),
        ] {
            for &status in statuses {
                let cause = Cause::Status(StatusCode::from_u16(status).unwrap());
                assert_eq!(cause.failure(), failure, "{status}");
            }
        }
        let count = |failure| {
            let all = (300..600).filter(|&status| of_status(status) == failure);
            all.count()
        };
        assert_eq!(count(Failure::Outage), 6 + 100);
        assert_eq!(count(Failure::Refusal), 200 - 6);
    }

    #[test]
    fn every_reply_is_an_outage_or_a_refusal() {
        for (severity, failure) in [
            (Severity::PositiveCompletion, Failure::Outage),
            (Severity::PositiveIntermediate, Failure::Outage),
            (Severity::TransientNegativeCompletion, Failure::Outage),
            (Severity::PermanentNegativeCompletion, Failure::Refusal),
        ] {
            let code = Code::new(severity, Category::MailSystem, Detail::Zero);
            assert_eq!(Cause::Reply(code).failure(), failure, "{code}");
        }
    }

    #[test]
    fn what_no_receiver_has_answered_is_an_outage() {
        assert_eq!(Cause::NoAnswer.failure(), Failure::Outage);
        assert_eq!(Cause::Unable.failure(), Failure::Outage);
        assert_eq!(Cause::Unwritable.failure(), Failure::Refusal);
    }
}
