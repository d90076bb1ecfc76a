//! Slack's answers to incoming webhooks: a word in plain text, as a table.

use crate::model::{Millis, Outcome};
use crate::providers::attempt::{Verdict, words};
use crate::providers::retry_after::retry_after;
use crate::providers::transport::Answer;
use std::time::Duration;

/// Wait where a throttled answer names none.
const THROTTLE_WAIT: Duration = Duration::from_secs(30);

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
pub(super) const WORDS: [(&str, Meaning); 29] = [
    ("invalid_payload",                   Rejected),
    ("invalid_blocks",                    Rejected),
    ("invalid_attachments",               Rejected),
    ("no_text",                           Rejected),
    ("msg_too_long",                      Rejected),
    ("too_many_attachments",              Rejected),
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
    ("account_inactive",                  Gone),
    ("not_authed",                        Hold),
    ("invalid_auth",                      Hold),
    ("ratelimited",                       Throttle),
    ("rate_limited",                      Throttle),
    ("rollup_error",                      Unknown),
    ("internal_error",                    Unknown),
    ("fatal_error",                       Unknown),
    ("service_unavailable",               Retry),
];

/// What `answer`, received at `now`, means.
pub(super) fn classify(answer: &Answer, now: Millis) -> Verdict {
    let word = words(&answer.body);
    let known = word
        .as_deref()
        .and_then(|said| WORDS.iter().find(|(word, _)| *word == said))
        .map(|(word, meaning)| (*meaning, *word));
    let (meaning, cause) = match (answer.status.as_u16(), known) {
        (_, Some(known)) => known,
        // Compatible servers say something else than `ok` here and mean it.
        (200..=299, None) => {
            let unusual = word.filter(|word| word != "ok");
            return Verdict::of(Outcome::Delivered, unusual);
        }
        (300..=399, None) => (Retry, "redirect"),
        (408, None) => (Retry, "http_408"),
        (410, None) => (Gone, "http_410"),
        (429, None) => (Throttle, "http_429"),
        (400..=499, None) => (Rejected, "http_4xx"),
        (500..=599, None) => (Retry, "http_5xx"),
        _ => (Retry, "http_unexpected"),
    };
    let asked = retry_after(&answer.headers, now);
    let outcome = match meaning {
        Gone => Outcome::Gone { cause },
        Rejected => Outcome::Rejected { cause },
        Hold => Outcome::Hold { cause },
        Unknown => Outcome::Unknown { cause },
        Throttle => Outcome::Retry { after: asked.or(Some(THROTTLE_WAIT)), cause },
        Retry => Outcome::Retry { after: asked, cause },
    };
    Verdict::of(outcome, word)
}
