//! `bugler explain`: what an error code means and what to do about it.

use crate::cli::{CliError, Exit};
use clap::Args;
use std::io::Write;

/// Code, meaning, what to do, whether the same request may be sent again.
const CODES: &[(&str, &str, &str, bool)] = &[
    (
        "BGL-1400",
        "The request breaks the dialect's rules.",
        "Correct the fields that the answer or the Bugler-Error-Detail header names.",
        false,
    ),
    (
        "BGL-1401",
        "No bearer token was sent.",
        "Send Authorization: Bearer <token>; mint one with `bugler token --org <id>`.",
        false,
    ),
    (
        "BGL-1402",
        "The bearer token is not valid here, has expired, or was revoked.",
        "Get a new one from /oauth2/token, or mint one with `bugler token` and the server's configuration.",
        false,
    ),
    (
        "BGL-1403",
        "The caller may not do this.",
        "Use an organization's token, or a user whose role has the permission the answer names.",
        false,
    ),
    (
        "BGL-1404",
        "There is no such route or object, or it belongs to somebody else.",
        "Check path and ids.",
        false,
    ),
    (
        "BGL-1405",
        "The path does not serve this method.",
        "Use a method the Allow header or the answer names.",
        false,
    ),
    (
        "BGL-1408",
        "The request arrived too slowly.",
        "Send it faster than server.body_timeout allows.",
        true,
    ),
    (
        "BGL-1409",
        "The Idempotency-Key was used with another body.",
        "Use a new key for a new request; repeat a request with exactly the same body.",
        false,
    ),
    (
        "BGL-1411",
        "What the request would make is there already, or changed meanwhile.",
        "Read the record, then decide again.",
        false,
    ),
    (
        "BGL-1410",
        "A request with this Idempotency-Key is still being answered.",
        "Ask again after Retry-After seconds.",
        true,
    ),
    (
        "BGL-1413",
        "The body, or what it asks to store at once, is too large.",
        "Send less at once; see server.max_body and server.bulk_max_body.",
        false,
    ),
    ("BGL-1414", "The request target is longer than 8 KiB.", "Shorten the URL.", false),
    (
        "BGL-1415",
        "The media type or content encoding is not served here.",
        "Send uncompressed application/json (bulk: application/x-ndjson) in UTF-8.",
        false,
    ),
    (
        "BGL-1429",
        "The organization's limit is reached, or too many tries failed, or too many passwords are being checked.",
        "Ask again after Retry-After seconds.",
        true,
    ),
    (
        "BGL-1431",
        "The header section is larger than 16 KiB or has more than 64 fields.",
        "Send fewer or smaller headers.",
        false,
    ),
    (
        "BGL-5000",
        "The gateway failed.",
        "Look into its log with the X-Request-Id of the answer.",
        true,
    ),
    (
        "BGL-5003",
        "The gateway is at its limit, its disk is full, or Redis is away or takes no writes; nothing was stored.",
        "Ask again after Retry-After seconds; look at /readyz, bugler_log_pending_bytes and store.max_disk.",
        true,
    ),
    (
        "BGL-5004",
        "The disk failed, or Redis did not answer, while the request was stored: it may be found later (Bugler-Outcome: unknown).",
        "Send the same request again under the same Idempotency-Key; without one it may be done twice.",
        true,
    ),
];

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The code from a `Bugler-Error` header; without it all are listed.
    code: Option<String>,
}

impl Explain {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let wanted = self.code.map(|code| code.to_uppercase());
        let mut found = false;
        for (code, meaning, action, repeat) in CODES {
            if wanted.as_ref().is_some_and(|wanted| wanted != code) {
                continue;
            }
            found = true;
            let repeat = if *repeat { "yes" } else { "no" };
            writeln!(out, "{code}  {meaning}\n  do     {action}\n  retry  {repeat}")?;
        }
        if found {
            return Ok(Exit::Done);
        }
        let text = "there is no such code; `bugler explain` lists all of them";
        Err(CliError::new(Exit::NotFound, text))
    }
}

#[cfg(test)]
mod tests {
    use super::CODES;
    use crate::api::failure::FailureClass;

    #[test]
    fn every_code_an_answer_can_carry_is_explained_once() {
        for class in FailureClass::ALL {
            let pages = CODES.iter().filter(|(code, ..)| *code == class.code()).count();
            assert_eq!(pages, 1, "{}", class.code());
        }
        assert_eq!(CODES.len(), FailureClass::ALL.len());
    }
}
