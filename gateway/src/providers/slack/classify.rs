//! Slack's answers as a table: a word, in plain text or in the Web API's envelope.

use crate::model::{Millis, Outcome};
use crate::providers::attempt::{Verdict, words};
use crate::providers::retry_after::retry_after;
use crate::providers::transport::Answer;
use serde::Deserialize;

/// What a word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Gone,
    Rejected,
    Hold,
    Throttle,
    /// Slack says of these itself that part of the work may have been done.
    Unknown,
    Retry,
}

use Meaning::{Gone, Hold, Rejected, Retry, Throttle, Unknown};

/// Slack's words ("Sending messages using incoming webhooks", Web API errors). The word itself is
/// our cause.
#[rustfmt::skip]
pub(super) const WORDS: [(&str, Meaning); 40] = [
    ("invalid_payload",                   Rejected),
    ("invalid_blocks",                    Rejected),
    ("invalid_attachments",               Rejected),
    ("no_text",                           Rejected),
    ("msg_too_long",                      Rejected),
    ("too_many_attachments",              Rejected),
    ("invalid_blocks_format",             Rejected),
    ("message_limit_exceeded",            Rejected),
    ("restricted_action",                 Rejected),
    ("not_in_channel",                    Rejected),
    ("missing_scope",                     Hold),
    ("user_not_found",                    Rejected),
    ("action_prohibited",                 Rejected),
    ("posting_to_general_channel_denied", Rejected),
    ("posting_to_channel_denied",         Rejected),
    ("channel_is_archived",               Gone),
    ("is_archived",                       Gone),
    ("channel_not_found",                 Gone),
    ("no_service",                        Gone),
    ("no_service_id",                     Gone),
    ("no_active_hooks",                   Gone),
    ("no_team",                           Gone),
    ("team_disabled",                     Gone),
    ("invalid_token",                     Gone),
    ("token_revoked",                     Gone),
    ("token_expired",                     Gone),
    ("account_inactive",                  Gone),
    ("not_authed",                        Hold),
    ("invalid_auth",                      Hold),
    ("not_allowed_token_type",            Hold),
    ("org_login_required",                Hold),
    ("ratelimited",                       Throttle),
    ("rate_limited",                      Throttle),
    ("rollup_error",                      Unknown),
    ("internal_error",                    Unknown),
    ("fatal_error",                       Unknown),
    ("service_unavailable",               Retry),
    ("request_timeout",                   Retry),
    ("team_added_to_org",                 Retry),
    ("accesslimited",                     Retry),
];

/// Statuses of answers without a word we know: first row that holds the status.
#[rustfmt::skip]
pub(super) const STATUSES: [(u16, u16, Meaning, &str); 7] = [
    (300, 399, Retry,    "redirect"),
    (408, 408, Retry,    "http_408"),
    (410, 410, Gone,     "http_410"),
    (429, 429, Throttle, "http_429"),
    (400, 499, Rejected, "http_4xx"),
    (500, 599, Retry,    "http_5xx"),
    (0, u16::MAX, Retry, "http_unexpected"),
];

/// The Web API's envelope; compatible servers write `success` for `ok`.
#[derive(Deserialize)]
struct Envelope {
    #[serde(alias = "success")]
    ok: bool,
    error: Option<String>,
}

/// What a body says, whatever the status.
enum Said {
    Yes,
    /// A word, in plain text or as the error of an envelope.
    Word(String),
    /// An envelope that says no without a word.
    No,
    Nothing,
}

fn said(body: &[u8]) -> Said {
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(body) {
        return match envelope {
            Envelope { ok: true, .. } => Said::Yes,
            Envelope { error: Some(word), .. } => Said::Word(word),
            Envelope { error: None, .. } => Said::No,
        };
    }
    match words(body) {
        None => Said::Nothing,
        Some(word) if word == "ok" => Said::Yes,
        Some(word) => Said::Word(word),
    }
}

/// What `answer`, received at `now`, means.
pub(super) fn classify(answer: &Answer, now: Millis) -> Verdict {
    let status = answer.status.as_u16();
    let said = said(&answer.body);
    let word = if let Said::Word(word) = &said { Some(word.clone()) } else { None };
    let known = word
        .as_deref()
        .and_then(|said| WORDS.iter().find(|(word, _)| *word == said))
        .map(|(word, meaning)| (*meaning, *word))
        // A hook is given up on for a word only where its status does not speak of an outage.
        .filter(|(meaning, _)| *meaning != Gone || status < 500);
    let (meaning, cause) = match (status, said, known) {
        (.., Some(known)) => known,
        (200..=299, Said::Yes | Said::Nothing, None) => {
            return Verdict::of(Outcome::Delivered, None);
        }
        (200..=299, Said::No, None) => (Rejected, "not_ok"),
        // Something else than Slack answered, or Slack in words nobody knows.
        (200..=299, Said::Word(_), None) => (Unknown, "unexpected_body"),
        (status, _, None) => by_status(status),
    };
    let asked = retry_after(&answer.headers, now);
    let outcome = match meaning {
        Gone => Outcome::Gone { cause },
        Rejected => Outcome::Rejected { cause },
        Hold => Outcome::Hold { cause },
        Unknown => Outcome::Unknown { cause },
        Throttle | Retry => Outcome::Retry { after: asked, cause },
    };
    Verdict::of(outcome, word)
}

fn by_status(status: u16) -> (Meaning, &'static str) {
    let row = STATUSES.iter().find(|(from, to, ..)| (*from..=*to).contains(&status));
    row.map_or((Retry, "http_unexpected"), |(.., meaning, cause)| (*meaning, cause))
}
