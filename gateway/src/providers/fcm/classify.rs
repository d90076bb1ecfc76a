//! FCM answers as a table: error code → what it means for the delivery.

use crate::model::{Millis, Outcome};
use crate::providers::attempt::Verdict;
use crate::providers::retry_after::retry_after;
use crate::providers::transport::Answer;
use serde::Deserialize;
use std::time::Duration;

/// Google's default wait where a throttled answer names none.
pub(super) const QUOTA_WAIT: Duration = Duration::from_secs(60);

/// What an error code means, before the answer's own `Retry-After` is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Gone,
    Rejected,
    Hold,
    /// Our access token is refused; the provider itself decides what follows from it.
    Unauthenticated,
    /// The whole project is throttled, for a minute where the answer names no wait.
    Throttled,
    Retry,
}

/// Whom an answer concerns beside its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Delivery,
    Project,
    AccessToken,
}

/// What an answer says.
#[derive(Debug)]
pub(super) struct Classified {
    pub(super) verdict: Verdict,
    pub(super) scope: Scope,
}

/// One documented code.
#[derive(Debug)]
pub(super) struct Row {
    /// Google's word.
    pub(super) code: &'static str,
    pub(super) meaning: Meaning,
    /// Our stable word.
    pub(super) cause: &'static str,
}

const fn row(code: &'static str, meaning: Meaning, cause: &'static str) -> Row {
    Row { code, meaning, cause }
}

use Meaning::{Gone, Hold, Rejected, Retry, Throttled, Unauthenticated};

/// The status of an answer that calls a device gone.
const GONE_STATUS: u16 = 404;

/// `FcmError.errorCode` (Firebase, REST resource `ErrorCode`).
#[rustfmt::skip]
pub(super) const FCM_CODES: [Row; 8] = [
    row("UNREGISTERED",           Gone,                    "unregistered"),
    row("INVALID_ARGUMENT",       Rejected,                "invalid_argument"),
    // The token belongs to another project: a fault of this device row, not of the credential.
    row("SENDER_ID_MISMATCH",     Rejected,                "sender_id_mismatch"),
    row("THIRD_PARTY_AUTH_ERROR", Hold,                    "third_party_auth_error"),
    row("QUOTA_EXCEEDED",         Throttled, "quota_exceeded"),
    row("UNAVAILABLE",            Retry,             "unavailable"),
    row("INTERNAL",               Retry,             "internal"),
    row("UNSPECIFIED_ERROR",      Retry,             "unspecified_error"),
];

/// `error.status` (google.rpc.Code) of answers without an FCM code.
#[rustfmt::skip]
pub(super) const RPC_CODES: [Row; 11] = [
    row("INVALID_ARGUMENT",    Rejected,                "invalid_argument"),
    row("FAILED_PRECONDITION", Rejected,                "failed_precondition"),
    row("OUT_OF_RANGE",        Rejected,                "out_of_range"),
    row("UNAUTHENTICATED",     Unauthenticated,         "unauthenticated"),
    row("PERMISSION_DENIED",   Hold,                    "permission_denied"),
    // Without an FCM code this is the project, not the device.
    row("NOT_FOUND",           Hold,                    "project_not_found"),
    row("RESOURCE_EXHAUSTED",  Throttled, "resource_exhausted"),
    row("ABORTED",             Retry,             "aborted"),
    row("DEADLINE_EXCEEDED",   Retry,             "deadline_exceeded"),
    row("INTERNAL",            Retry,             "internal"),
    row("UNAVAILABLE",         Retry,             "unavailable"),
];

#[derive(Deserialize)]
struct Sent {
    name: Option<String>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    status: String,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(rename = "@type", default)]
    kind: String,
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
}

/// Statuses of answers without a code we know: first row that holds the status.
#[rustfmt::skip]
pub(super) const STATUSES: [(u16, u16, Meaning, &str); 7] = [
    (401, 401, Unauthenticated, "unauthenticated"),
    (403, 403, Hold,            "http_403"),
    (404, 404, Hold,            "http_404"),
    (429, 429, Throttled,       "http_429"),
    (400, 499, Rejected,        "http_4xx"),
    (500, 599, Retry,           "http_5xx"),
    (0, u16::MAX, Retry,        "http_unexpected"),
];

/// What `answer`, received at `now`, means.
pub(super) fn classify(answer: &Answer, now: Millis) -> Classified {
    if answer.status == 200 {
        let name = serde_json::from_slice::<Sent>(&answer.body).ok().and_then(|sent| sent.name);
        let unnamed = name.is_none().then(|| String::from("no_id"));
        let mut verdict = Verdict::of(Outcome::Delivered, unnamed);
        verdict.provider_id = name;
        return Classified { verdict, scope: Scope::Delivery };
    }
    let (code, found) = match serde_json::from_slice::<ErrorAnswer>(&answer.body) {
        Ok(ErrorAnswer { error }) => look_up(error),
        Err(_) => (None, None),
    };
    let status = answer.status.as_u16();
    // A device is given up on for a word only where its status agrees.
    let found = found.filter(|row| row.meaning != Gone || status == GONE_STATUS);
    let (meaning, cause) = found.map_or_else(|| by_status(status), |row| (row.meaning, row.cause));
    let asked = retry_after(&answer.headers, now);
    let (outcome, scope) = match meaning {
        Gone => (Outcome::Gone { cause }, Scope::Delivery),
        Rejected => (Outcome::Rejected { cause }, Scope::Delivery),
        Hold => (Outcome::Hold { cause }, Scope::Delivery),
        Retry => (Outcome::Retry { after: asked, cause }, Scope::Delivery),
        Throttled => (Outcome::Retry { after: asked.or(Some(QUOTA_WAIT)), cause }, Scope::Project),
        Unauthenticated => (Outcome::Retry { after: None, cause }, Scope::AccessToken),
    };
    Classified { verdict: Verdict::of(outcome, code), scope }
}

/// The answer's own word, and its row if it has one. The FCM code is more exact than the status.
fn look_up(error: ErrorBody) -> (Option<String>, Option<&'static Row>) {
    let fcm = error
        .details
        .into_iter()
        .filter(|detail| detail.kind.ends_with("google.firebase.fcm.v1.FcmError"))
        .find_map(|detail| detail.error_code);
    if let Some(code) = fcm {
        if let Some(row) = FCM_CODES.iter().find(|row| row.code == code) {
            return (Some(code), Some(row));
        }
        // A code newer than this table: the status still says which class it is.
        let row = RPC_CODES.iter().find(|row| row.code == error.status);
        return (Some(code), row);
    }
    let row = RPC_CODES.iter().find(|row| row.code == error.status);
    ((!error.status.is_empty()).then_some(error.status), row)
}

fn by_status(status: u16) -> (Meaning, &'static str) {
    let row = STATUSES.iter().find(|(from, to, ..)| (*from..=*to).contains(&status));
    row.map_or((Retry, "http_unexpected"), |(.., meaning, cause)| (*meaning, cause))
}
