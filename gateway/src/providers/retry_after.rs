//! The wait a remote server asks for in `Retry-After` (RFC 9110, 10.2.3).

use crate::model::Millis;
use http::HeaderMap;
use http::header::RETRY_AFTER;
use jiff::fmt::rfc2822::DateTimeParser;
use std::time::Duration;

/// Longer waits are cut to this: a broken or hostile server must not park a delivery for days.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The wait named by `headers` as seen at `now`, at most [`RETRY_AFTER_MAX`].
///
/// `None` if there is none, if it cannot be read, if there are two that differ, or if it names no
/// wait (zero or a past date): then the caller's own back-off applies, so that no server can make us hammer it.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Millis) -> Option<Duration> {
    let mut values = headers.get_all(RETRY_AFTER).iter();
    let first = values.next()?;
    if values.any(|other| other != first) {
        return None;
    }
    let text = first.to_str().ok()?.trim();
    let wait = seconds(text).or_else(|| until_date(text, now))?;
    if wait > RETRY_AFTER_MAX {
        tracing::info!(asked_s = wait.as_secs(), "Retry-After is cut to an hour");
    }
    (!wait.is_zero()).then(|| wait.min(RETRY_AFTER_MAX))
}

fn seconds(text: &str) -> Option<Duration> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More digits than fit is still a number: the cap applies.
    Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

fn until_date(text: &str, now: Millis) -> Option<Duration> {
    // Only the form senders must use; a date of 29 characters cannot smuggle work in.
    if text.len() != 29 || !text.ends_with(" GMT") {
        return None;
    }
    let at = DateTimeParser::new().parse_timestamp(text).ok()?;
    let at = u64::try_from(at.as_millisecond()).ok()?;
    Some(Duration::from_millis(Millis(at).since(now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn parse(value: &[u8]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(value).unwrap());
        // Sun, 06 Nov 1994 08:49:37 GMT
        retry_after(&headers, Millis(784_111_777_000)).map(|d| d.as_secs())
    }

    #[test]
    fn seconds_dates_and_nonsense_are_read_as_the_table_says() {
        let cases: [(&[u8], Option<u64>); 22] = [
            (b"1", Some(1)),
            (b" 120 ", Some(120)),
            (b"3600", Some(3600)),
            (b"3601", Some(3600)),
            (b"99999999999999999999999999", Some(3600)),
            (b"0", None),
            (b"-5", None),
            (b"+5", None),
            (b"1.5", None),
            (b"1e3", None),
            (b"1e9", None),
            (b"abc", None),
            (b"", None),
            (b"soon", None),
            (b"\xff\xfe", None),
            (b"Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            (b"Sun, 06 Nov 1994 10:49:37 GMT", Some(3600)),
            (b"Thu, 31 Dec 2099 23:59:59 GMT", Some(3600)),
            (b"Sun, 06 Nov 1994 08:49:37 GMT", None),
            (b"Sun, 06 Nov 1994 08:49:36 GMT", None),
            (b"Sun, 06 Nov 1994 25:49:37 GMT", None),
            (b"Sunday, 06-Nov-94 08:50:07 GMT", None),
        ];
        for (value, want) in cases {
            assert_eq!(parse(value), want, "{:?}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn two_headers_count_only_if_they_agree() {
        for (second, want) in [("30", Some(Duration::from_secs(30))), ("31", None), ("x", None)] {
            let mut headers = HeaderMap::new();
            headers.append(RETRY_AFTER, HeaderValue::from_static("30"));
            headers.append(RETRY_AFTER, HeaderValue::from_static(second));
            assert_eq!(retry_after(&headers, Millis(0)), want, "{second}");
        }
    }

    #[test]
    fn no_header_is_no_wait() {
        assert_eq!(retry_after(&HeaderMap::new(), Millis(0)), None);
    }
}
