//! How long a call may take.
//!
//! Tonic ends a call at the caller's deadline by itself, but with CANCELLED. The deadline here lies
//! a little before that, so that the caller reads DEADLINE_EXCEEDED.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Request, Status};

const HEADER: &str = "grpc-timeout";

/// By how much the caller's deadline is shortened: more than a tick of tokio's timer, so that ours
/// has fired whenever tonic's has.
const MARGIN: Duration = Duration::from_millis(5);

/// How long after its deadline a call whose answer is not read is reset. By then an answer that
/// says so is under way to everybody who reads.
pub(super) const RESET_AFTER: Duration = Duration::from_millis(100);

/// When the call at hand is answered with DEADLINE_EXCEEDED. It stands in the request's extensions
/// of every unary call, and of streams whose caller gave a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Instant);

/// When `request` is answered with DEADLINE_EXCEEDED, if it ever is.
#[must_use]
pub fn deadline_of<T>(request: &Request<T>) -> Option<Instant> {
    request.extensions().get::<Deadline>().map(|d| d.0)
}

/// How long before the deadline a handler answers with what it has, when there is that much time.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);

/// Until when a handler that waits should answer with what it has, so that the answer arrives before the
/// deadline; none when there is no deadline.
#[must_use]
pub fn answer_by<T>(request: &Request<T>) -> Option<Instant> {
    let deadline = deadline_of(request)?;
    let left = deadline.saturating_duration_since(Instant::now());
    Some(deadline - ANSWER_MARGIN.min(left / 4))
}

/// The deadline of a call that begins now and may take `longest`, if it is bounded at all.
pub(super) fn deadline(headers: &HeaderMap, longest: Option<Duration>) -> Option<Deadline> {
    Some(Deadline(Instant::now() + time_left(headers, longest)?))
}

fn time_left(headers: &HeaderMap, longest: Option<Duration>) -> Option<Duration> {
    let caller = headers.get(HEADER).and_then(|v| parse(v.to_str().ok()?));
    let caller = caller.map(|timeout| timeout - MARGIN.min(timeout / 2));
    caller.into_iter().chain(longest).min()
}

/// What a call that took too long is answered with.
pub(super) fn exceeded() -> Status {
    Status::deadline_exceeded("deadline exceeded")
}

/// At most 8 digits and a unit, as gRPC has it.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_read_as_grpc_writes_them() {
        for (text, duration) in [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(359_999_996_400))),
            ("250m", Some(Duration::from_millis(250))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("+1S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("1µ", None),
        ] {
            assert_eq!(parse(text), duration, "{text}");
        }
    }

    #[test]
    fn the_shorter_deadline_holds() {
        let long = Some(Duration::from_secs(10));
        let with = |timeout: &'static str| {
            let header = http::HeaderValue::from_static(timeout);
            HeaderMap::from_iter([(http::HeaderName::from_static(HEADER), header)])
        };
        assert_eq!(time_left(&HeaderMap::new(), None), None);
        assert_eq!(time_left(&HeaderMap::new(), long), long);
        let shortened = Some(Duration::from_millis(995));
        assert_eq!(time_left(&with("1S"), long), shortened);
        assert_eq!(time_left(&with("1S"), None), shortened);
        assert_eq!(time_left(&with("4m"), long), Some(Duration::from_millis(2)));
        assert_eq!(time_left(&with("1H"), long), long);
        assert_eq!(time_left(&with("soon"), long), long);
    }
}
