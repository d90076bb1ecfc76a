//! What a receiver's status means: 2xx is the only yes.

use crate::model::{Millis, Outcome};
use crate::providers::attempt::{Verdict, words};
use crate::providers::retry_after::retry_after;
use crate::providers::transport::Answer;

/// What `answer`, received at `now`, means.
pub(super) fn classify(answer: &Answer, now: Millis) -> Verdict {
    let retry = |cause| Outcome::Retry { after: retry_after(&answer.headers, now), cause };
    let outcome = match answer.status.as_u16() {
        200..=299 => Outcome::Delivered,
        // Never followed: the new place was not judged, and the signature was not meant for it.
        300..=399 => Outcome::Retry { after: None, cause: "redirect" },
        408 => retry("http_408"),
        410 => Outcome::Gone { cause: "http_410" },
        425 => retry("http_425"),
        429 => retry("http_429"),
        400..=499 => Outcome::Rejected { cause: "http_4xx" },
        500..=599 => retry("http_5xx"),
        _ => retry("http_unexpected"),
    };
    let reason = if outcome == Outcome::Delivered { None } else { words(&answer.body) };
    Verdict::of(outcome, reason)
}
