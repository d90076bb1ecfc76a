//! APNs answers as a table: reason → status → what it means for the delivery.

use crate::model::{Millis, Outcome};
use crate::providers::attempt::{OUTAGE_PAUSE, Verdict};
use crate::providers::retry_after::retry_after;
use crate::providers::transport::Answer;
use serde::Deserialize;
use std::time::Duration;

/// What a reason means, before the answer's own `Retry-After` is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The token is dead for this app, unless the app told it to us again since.
    Gone,
    /// The token is wrong here: a wrong token, or ours is the wrong environment or topic.
    Misplaced,
    /// This delivery can never succeed.
    Rejected,
    /// Our key, certificate or clock is wrong.
    Hold,
    /// The server leaves without having looked at the request: as GOAWAY, on another connection.
    Resend,
    /// Our provider token changes too often: the one before it is to be kept.
    KeepToken,
    /// Later, after the answer's own wait, else after this one, else by the retry policy.
    Retry(Option<Duration>),
}

/// One documented reason.
#[derive(Debug)]
pub(super) struct Row {
    /// Apple's word.
    pub(super) reason: &'static str,
    /// The status it comes with.
    pub(super) status: u16,
    pub(super) meaning: Meaning,
    /// Our stable word.
    pub(super) cause: &'static str,
}

const fn row(reason: &'static str, status: u16, meaning: Meaning, cause: &'static str) -> Row {
    Row { reason, status, meaning, cause }
}

const SOON: Meaning = Meaning::Retry(Some(Duration::from_secs(1)));
const BY_POLICY: Meaning = Meaning::Retry(None);
/// Apple: after a 5xx, try again no sooner than in 15 minutes.
const OUTAGE: Meaning = Meaning::Retry(Some(OUTAGE_PAUSE));
/// A key may be renewed once in 20 minutes; sooner makes it worse.
pub(super) const KEY_PAUSE: Duration = Duration::from_secs(20 * 60);

use Meaning::{Gone, Hold, KeepToken, Misplaced, Rejected, Resend};

/// "Handling notification responses from APNs", Apple developer documentation. Apple's table and
/// its server disagree on the name of the environment mismatch, so both spellings are here.
#[rustfmt::skip]
pub(super) const REASONS: [Row; 33] = [
    row("BadCollapseId",               400, Rejected,  "bad_collapse_id"),
    row("BadDeviceToken",              400, Misplaced, "bad_device_token"),
    row("BadExpirationDate",           400, Rejected,  "bad_expiration_date"),
    row("BadMessageId",                400, Rejected,  "bad_message_id"),
    row("BadPriority",                 400, Rejected,  "bad_priority"),
    row("BadTopic",                    400, Rejected,  "bad_topic"),
    row("DeviceTokenNotForTopic",      400, Misplaced, "device_token_not_for_topic"),
    row("DuplicateHeaders",            400, Rejected,  "duplicate_headers"),
    row("IdleTimeout",                 400, SOON,      "idle_timeout"),
    row("InvalidPushType",             400, Rejected,  "invalid_push_type"),
    row("MissingDeviceToken",          400, Rejected,  "missing_device_token"),
    row("MissingTopic",                400, Rejected,  "missing_topic"),
    row("PayloadEmpty",                400, Rejected,  "payload_empty"),
    row("TopicDisallowed",             400, Rejected,  "topic_disallowed"),
    row("BadCertificate",              403, Hold,      "bad_certificate"),
    row("BadCertificateEnvironment",   403, Hold,      "bad_certificate_environment"),
    row("BadEnvironmentKeyIdInToken",  403, Hold,      "bad_environment_key"),
    row("BadEnvironmentKeyInToken",    403, Hold,      "bad_environment_key"),
    row("ExpiredProviderToken",        403, SOON,      EXPIRED_PROVIDER_TOKEN),
    row("Forbidden",                   403, Hold,      "forbidden"),
    row("InvalidProviderToken",        403, Hold,      INVALID_PROVIDER_TOKEN),
    row("MissingProviderToken",        403, Hold,      "missing_provider_token"),
    row("UnrelatedKeyIdInToken",       403, Hold,      "unrelated_key_id"),
    row("BadPath",                     404, Rejected,  "bad_path"),
    row("MethodNotAllowed",            405, Rejected,  "method_not_allowed"),
    row("ExpiredToken",                410, Gone,      "expired_token"),
    row("Unregistered",                410, Gone,      "unregistered"),
    row("PayloadTooLarge",             413, Rejected,  "payload_too_large"),
    row("TooManyProviderTokenUpdates", 429, KeepToken, "too_many_provider_token_updates"),
    row("TooManyRequests",             429, BY_POLICY, "too_many_requests"),
    row("InternalServerError",         500, OUTAGE,    "internal_server_error"),
    row("ServiceUnavailable",          503, OUTAGE,    "service_unavailable"),
    row("Shutdown",                    503, Resend,    "shutdown"),
];

/// The cause of an expired provider token; the provider itself decides what follows from it.
pub(super) const EXPIRED_PROVIDER_TOKEN: &str = "expired_provider_token";
/// Cause of the answer to a token that is not right, one of a future date among them.
pub(super) const INVALID_PROVIDER_TOKEN: &str = "invalid_provider_token";

/// Statuses that come without a reason we know: first row that holds the status.
#[rustfmt::skip]
pub(super) const STATUSES: [(u16, u16, Meaning, &str); 7] = [
    (403, 403, Hold,      "http_403"),
    (410, 410, Gone,      "http_410"),
    (413, 413, Rejected,  "payload_too_large"),
    (429, 429, BY_POLICY, "http_429"),
    (400, 499, Rejected,  "http_4xx"),
    (500, 599, OUTAGE,    "http_5xx"),
    (0, u16::MAX, BY_POLICY, "http_unexpected"),
];

/// APNs' error body.
#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow)]
    reason: std::borrow::Cow<'a, str>,
    /// With 410: when APNs last saw the token to be invalid, in milliseconds.
    timestamp: Option<u64>,
}

/// What an answer says, and which row says so.
#[derive(Debug)]
pub(super) struct Classified {
    pub(super) verdict: Verdict,
    /// `None` for a success.
    pub(super) meaning: Option<Meaning>,
}

/// True if the server says in `answer` that it leaves and did not look at the request.
pub(super) fn is_unprocessed(answer: &Answer) -> bool {
    answer.status == 503
        && serde_json::from_slice::<ErrorBody<'_>>(&answer.body).is_ok_and(|body| {
            REASONS.iter().any(|row| row.reason == body.reason && row.meaning == Resend)
        })
}

/// What `answer`, received at `now`, means for a token that the app told us at `registered_at`.
pub(super) fn classify(answer: &Answer, registered_at: Millis, now: Millis) -> Classified {
    let status = answer.status.as_u16();
    if status == 200 {
        let mut verdict = Verdict::of(Outcome::Delivered, None);
        verdict.provider_id = answer.header("apns-id").map(str::to_owned);
        return Classified { verdict, meaning: None };
    }
    let body = serde_json::from_slice::<ErrorBody<'_>>(&answer.body).ok();
    let (reason, seen_at) =
        body.map_or((None, None), |body| (Some(body.reason.into_owned()), body.timestamp));
    // A known word under another status is not trusted: the status then decides.
    let known = reason
        .as_deref()
        .and_then(|word| REASONS.iter().find(|row| row.reason == word && row.status == status));
    let (meaning, cause) = known.map_or_else(|| by_status(status), |row| (row.meaning, row.cause));
    let outcome = match meaning {
        // What APNs last saw is older than what the app said since: it will learn of it.
        Gone if seen_at.is_some_and(|at| Millis(at) < registered_at) => {
            Outcome::Retry { after: None, cause: "registered_since" }
        }
        Gone => Outcome::Gone { cause },
        Misplaced | Rejected => Outcome::Rejected { cause },
        Hold => Outcome::Hold { cause },
        KeepToken => {
            Outcome::Retry { after: retry_after(&answer.headers, now).or(Some(KEY_PAUSE)), cause }
        }
        Resend => Outcome::Retry { after: retry_after(&answer.headers, now), cause },
        Meaning::Retry(wait) => {
            Outcome::Retry { after: retry_after(&answer.headers, now).or(wait), cause }
        }
    };
    Classified { verdict: Verdict::of(outcome, reason), meaning: Some(meaning) }
}

fn by_status(status: u16) -> (Meaning, &'static str) {
    let row = STATUSES.iter().find(|(from, to, ..)| (*from..=*to).contains(&status));
    row.map_or((BY_POLICY, "http_unexpected"), |(.., meaning, cause)| (*meaning, cause))
}
