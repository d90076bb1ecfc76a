//! What a receiver's status means, as a table: 2xx is the only yes, 410 the only farewell.
//!
//! Standard Webhooks calls everything else a failure that is tried again by the schedule: a
//! receiver that refuses today may be mended by the next try.

use crate::model::{Millis, Outcome};
use crate::providers::attempt::{Verdict, words};
use crate::providers::retry_after::retry_after;
use crate::providers::transport::Answer;

/// What a status means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Delivered,
    /// Nobody is there any more, and says so.
    Gone,
    /// By the schedule; a wait in the answer counts.
    Retry,
    /// By the schedule. Never followed: the new place was not judged, and the signature was not
    /// meant for it.
    Redirect,
}

use Meaning::{Delivered, Gone, Redirect, Retry};

/// First row that holds the status.
#[rustfmt::skip]
pub(super) const STATUSES: [(u16, u16, Meaning, &str); 15] = [
    (200, 299, Delivered, "delivered"),
    (300, 399, Redirect,  "redirect"),
    (408, 408, Retry,     "http_408"),
    (410, 410, Gone,      "http_410"),
    (413, 413, Retry,     "http_413"),
    (425, 425, Retry,     "http_425"),
    (429, 429, Retry,     "http_429"),
    (400, 499, Retry,     "http_4xx"),
    (500, 500, Retry,     "http_5xx"),
    (501, 501, Retry,     "http_501"),
    (502, 502, Retry,     "http_502"),
    (503, 503, Retry,     "http_503"),
    (504, 504, Retry,     "http_504"),
    (505, 599, Retry,     "http_5xx"),
    (0, u16::MAX, Retry,  "http_unexpected"),
];

/// What `answer`, received at `now`, means.
pub(super) fn classify(answer: &Answer, now: Millis) -> Verdict {
    let status = answer.status.as_u16();
    let row = STATUSES.iter().find(|(from, to, ..)| (*from..=*to).contains(&status));
    let (meaning, cause) =
        row.map_or((Retry, "http_unexpected"), |(.., meaning, cause)| (*meaning, *cause));
    let outcome = match meaning {
        Delivered => return Verdict::of(Outcome::Delivered, None),
        Gone => Outcome::Gone { cause },
        Redirect => Outcome::Retry { after: None, cause },
        Retry => Outcome::Retry { after: retry_after(&answer.headers, now), cause },
    };
    Verdict::of(outcome, words(&answer.body))
}
