//! `Retry-After`: how long a receiver asks to be left alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use couponmesh_runtime::Timestamp;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// A longer wish is cut: a receiver that asks for a year must not stop its notifications for one.
pub(crate) const LONGEST: Duration = Duration::from_hours(1);

/// The wait that the headers of a response ask for, in seconds or until a date, at most
/// [`LONGEST`]; none when they ask for none or cannot be understood.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let wait = if is_number {
        // More digits than fit are a long time, too.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(text).ok()?;
        // By the receiver's own clock, which need not be ours.
        let now = date(headers).unwrap_or_else(|| system_time(now));
        until.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(LONGEST))
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let text = headers.get(DATE)?.to_str().ok()?;
    httpdate::parse_http_date(text.trim()).ok()
}

fn system_time(time: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(time.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    /// Sun, 01 Mar 2026 12:30:45 GMT
    const NOW: Timestamp = Timestamp(1_772_368_245_000_000);

    fn asked(retry_after: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(retry_after).unwrap());
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).unwrap());
        }
        super::retry_after(&headers, NOW).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_and_dates_are_understood_and_bounded() {
        assert_eq!(asked("120", None), Some(120));
        assert_eq!(asked(" 0 ", None), Some(0));
        assert_eq!(asked("Sun, 01 Mar 2026 12:35:45 GMT", None), Some(300));
        // The obsolete forms that RFC 9110 asks recipients to accept.
        assert_eq!(asked("Sunday, 01-Mar-26 12:35:45 GMT", None), Some(300));
        assert_eq!(asked("Sun Mar  1 12:35:45 2026", None), Some(300));
        // Over already.
        assert_eq!(asked("Sun, 01 Mar 2026 12:00:00 GMT", None), Some(0));
        let an_hour = Some(3_600);
        assert_eq!(asked("86400", None), an_hour);
        assert_eq!(asked("99999999999999999999999999", None), an_hour);
        assert_eq!(asked("Fri, 31 Dec 9999 23:59:59 GMT", None), an_hour);
    }

    #[test]
    fn a_date_goes_by_the_receivers_own_clock() {
        let tomorrow = Some("Mon, 02 Mar 2026 12:00:00 GMT");
        assert_eq!(asked("Mon, 02 Mar 2026 12:00:30 GMT", tomorrow), Some(30));
    }

    #[test]
    fn what_cannot_be_understood_asks_for_nothing() {
        for odd in ["", "soon", "-1", "1.5", "12:35", "Sun, 99 Mar 2026"] {
            assert_eq!(asked(odd, None), None, "{odd}");
        }
        assert_eq!(super::retry_after(&HeaderMap::new(), NOW), None);
    }
}
