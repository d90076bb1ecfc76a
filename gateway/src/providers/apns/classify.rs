//! APNs answers as a table: reason → status → what it means for the delivery.

use crate::model::{Millis, Outcome};
use crate::providers::attempt::Verdict;
use crate::providers::retry_after::retry_after;
use crate::providers::transport::Answer;
use serde::Deserialize;
use std::time::Duration;

/// What a reason means, before the answer's own `Retry-After` is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The token is dead for this app.
    Gone,
    /// This delivery can never succeed.
    Rejected,
    /// Our key, certificate or clock is wrong.
    Hold,
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
/// A key may be renewed once in 20 minutes; sooner makes it worse.
const KEY_PAUSE: Meaning = Meaning::Retry(Some(Duration::from_secs(20 * 60)));

use Meaning::{Gone, Hold, Rejected};

/// "Handling notification responses from APNs", Apple developer documentation. Apple's table and
/// its server disagree on the name of the environment mismatch, so both spellings are here.
#[rustfmt::skip]
pub(super) const REASONS: [Row; 33] = [
    row("BadCollapseId",               400, Rejected,  "bad_collapse_id"),
    row("BadDeviceToken",              400, Gone,      "bad_device_token"),
    row("BadExpirationDate",           400, Rejected,  "bad_expiration_date"),
    row("BadMessageId",                400, Rejected,  "bad_message_id"),
    row("BadPriority",                 400, Rejected,  "bad_priority"),
    row("BadTopic",                    400, Rejected,  "bad_topic"),
    row("DeviceTokenNotForTopic",      400, Gone,      "device_token_not_for_topic"),
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
    row("InvalidProviderToken",        403, Hold,      "invalid_provider_token"),
    row("MissingProviderToken",        403, Hold,      "missing_provider_token"),
    row("UnrelatedKeyIdInToken",       403, Hold,      "unrelated_key_id"),
    row("BadPath",                     404, Rejected,  "bad_path"),
    row("MethodNotAllowed",            405, Rejected,  "method_not_allowed"),
    row("ExpiredToken",                410, Gone,      "expired_token"),
    row("Unregistered",                410, Gone,      "unregistered"),
    row("PayloadTooLarge",             413, Rejected,  "payload_too_large"),
    row("TooManyProviderTokenUpdates", 429, KEY_PAUSE, "too_many_provider_token_updates"),
    row("TooManyRequests",             429, BY_POLICY, "too_many_requests"),
    row("InternalServerError",         500, BY_POLICY, "internal_server_error"),
    row("ServiceUnavailable",          503, BY_POLICY, "service_unavailable"),
    row("Shutdown",                    503, SOON,      "shutdown"),
];

/// The cause of an expired provider token; the provider itself decides what follows from it.
pub(super) const EXPIRED_PROVIDER_TOKEN: &str = "expired_provider_token";

/// APNs' error body. `timestamp` (410 only) is not read: the registration time it must be
/// compared with is not part of a target.
#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow)]
    reason: std::borrow::Cow<'a, str>,
}

/// What `answer`, received at `now`, means.
pub(super) fn classify(answer: &Answer, now: Millis) -> Verdict {
    let status = answer.status.as_u16();
    if status == 200 {
        let mut verdict = Verdict::of(Outcome::Delivered, None);
        verdict.provider_id = answer.header("apns-id").map(str::to_owned);
        return verdict;
    }
    let reason = serde_json::from_slice::<ErrorBody<'_>>(&answer.body).ok().map(|b| b.reason);
    // A known word under another status is not trusted: the status then decides.
    let known = reason
        .as_deref()
        .and_then(|word| REASONS.iter().find(|row| row.reason == word && row.status == status));
    let (meaning, cause) = known.map_or_else(|| by_status(status), |row| (row.meaning, row.cause));
    let outcome = match meaning {
        Gone => Outcome::Gone { cause },
        Rejected => Outcome::Rejected { cause },
        Hold => Outcome::Hold { cause },
        Meaning::Retry(wait) => {
            Outcome::Retry { after: retry_after(&answer.headers, now).or(wait), cause }
        }
    };
    Verdict::of(outcome, reason.map(std::borrow::Cow::into_owned))
}

fn by_status(status: u16) -> (Meaning, &'static str) {
    match status {
        403 => (Hold, "http_403"),
        410 => (Gone, "http_410"),
        413 => (Rejected, "payload_too_large"),
        429 => (BY_POLICY, "http_429"),
        400..=499 => (Rejected, "http_4xx"),
        500..=599 => (BY_POLICY, "http_5xx"),
        _ => (BY_POLICY, "http_unexpected"),
    }
}
