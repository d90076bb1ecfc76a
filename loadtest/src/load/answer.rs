//! Reads from an answer what the client was promised about each notification of its request.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::wire::Answer;
use crate::ledger::{ClientEntry, Outcome};

const UUID_BYTES: usize = 36;

/// One line of a bulk answer; the summary at the end has no index.
#[derive(Deserialize)]
struct BulkLine<'a> {
    i: Option<u64>,
    status: Option<u16>,
    #[serde(borrow)]
    id: Option<&'a str>,
    #[serde(borrow)]
    outcome: Option<&'a str>,
    #[serde(borrow)]
    code: Option<&'a str>,
}

/// An answer that refuses the whole request.
#[derive(Deserialize)]
struct Refusal<'a> {
    #[serde(borrow)]
    code: Option<&'a str>,
}

/// How many notifications each error code was answered for.
pub(super) type Codes = BTreeMap<String, u64>;

fn note(codes: &mut Codes, code: Option<&str>, count: u64) {
    if let Some(code) = code.filter(|_| count > 0) {
        *codes.entry(code.to_owned()).or_default() += count;
    }
}

/// Appends an outcome for each of `first..first + count`.
pub(super) fn outcomes(
    answer: &Answer<'_>,
    (first, count): (u64, u64),
    out: &mut Vec<ClientEntry>,
    codes: &mut Codes,
) {
    let is_accepted = (200..300).contains(&answer.status);
    let all = |outcome| (first..first + count).map(move |seq| ClientEntry { seq, outcome });
    if !is_accepted && let Ok(refusal) = serde_json::from_slice::<Refusal<'_>>(answer.body) {
        note(codes, refusal.code, count);
    }
    if answer.is_unknown {
        out.extend(all(Outcome::Unknown));
    } else if !is_accepted {
        out.extend(all(Outcome::Refused(answer.status)));
    } else if is_bulk(answer.body) {
        // A line without an answer stays unknown.
        let from = out.len();
        out.extend(all(Outcome::Unknown));
        let entries = out.get_mut(from..).unwrap_or_default();
        for line in answer.body.split(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<BulkLine<'_>>(line) else { continue };
            note(codes, line.code, u64::from(line.i.is_some()));
            let index = line.i.and_then(|index| usize::try_from(index).ok());
            if line.outcome.is_none()
                && let (Some(index), Some(status)) = (index, line.status)
                && let Some(entry) = entries.get_mut(index)
            {
                entry.outcome = outcome(status, line.id.and_then(|id| Uuid::try_parse(id).ok()));
            }
        }
    } else {
        let id = answer.id.or_else(|| find_id(answer.body));
        out.extend(all(Outcome::Accepted(id)));
    }
}

fn outcome(status: u16, id: Option<Uuid>) -> Outcome {
    if (200..300).contains(&status) { Outcome::Accepted(id) } else { Outcome::Refused(status) }
}

fn is_bulk(body: &[u8]) -> bool {
    body.starts_with(b"{\"i\":")
}

/// The id in the body of a single answer, as Jigx and the native dialect write it.
fn find_id(body: &[u8]) -> Option<Uuid> {
    for name in [&b"\"notificationId\":\""[..], b"\"id\":\""] {
        let Some(at) = body.windows(name.len()).position(|window| window == name) else { continue };
        let from = at + name.len();
        return Uuid::try_parse_ascii(body.get(from..from + UUID_BYTES)?).ok();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands for a refusal whose header says that the outcome is unknown.
    const UNKNOWN: u16 = 599;

    fn of(status: u16, id: Option<Uuid>, body: &str, count: u64) -> Vec<Outcome> {
        let mut out = Vec::new();
        let is_unknown = status == UNKNOWN;
        let body = body.as_bytes();
        let answer = Answer { status, id, is_unknown, says_when: false, closes: false, body };
        outcomes(&answer, (5, count), &mut out, &mut Codes::new());
        assert!(out.iter().map(|entry| entry.seq).eq(5..5 + count));
        out.into_iter().map(|entry| entry.outcome).collect()
    }

    #[test]
    fn the_id_comes_from_the_header_or_else_the_body() {
        let (header, body) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let jigx = format!("{{\"organizationId\":\"x\",\"notificationId\":\"{body}\"}}");
        assert_eq!(of(201, Some(header), &jigx, 1), [Outcome::Accepted(Some(header))]);
        assert_eq!(of(201, None, &jigx, 1), [Outcome::Accepted(Some(body))]);
        let native = format!("{{\"id\":\"{body}\"}}");
        assert_eq!(of(201, None, &native, 1), [Outcome::Accepted(Some(body))]);
        assert_eq!(of(204, None, "", 1), [Outcome::Accepted(None)]);
        assert_eq!(of(429, Some(header), "", 1), [Outcome::Refused(429)]);
    }

    #[test]
    fn each_bulk_line_has_its_own_outcome_and_a_missing_one_is_unknown() {
        let id = Uuid::from_u128(3);
        let body = format!(
            "{{\"i\":0,\"status\":201,\"id\":\"{id}\"}}\n{{\"i\":2,\"status\":422}}\n\
             {{\"accepted\":1,\"refused\":1}}\n"
        );
        let expected = [Outcome::Accepted(Some(id)), Outcome::Unknown, Outcome::Refused(422)];
        assert_eq!(of(200, None, &body, 3), expected);
        assert_eq!(of(503, None, "", 2), [Outcome::Refused(503); 2]);
        assert_eq!(of(UNKNOWN, None, "", 2), [Outcome::Unknown; 2]);
        let body = "{\"i\":0,\"status\":503,\"outcome\":\"unknown\"}\n{\"i\":1,\"status\":503}\n";
        assert_eq!(of(200, None, body, 2), [Outcome::Unknown, Outcome::Refused(503)]);
    }

    #[test]
    fn refused_notifications_are_counted_by_error_code() {
        let mut codes = Codes::new();
        let mut count = |status, body: &str, count| {
            let (id, is_unknown, body) = (None, false, body.as_bytes());
            let answer = Answer { status, id, is_unknown, says_when: false, closes: false, body };
            outcomes(&answer, (0, count), &mut Vec::new(), &mut codes);
        };
        count(503, "{\"code\":\"BGL-5003\",\"detail\":\"later\"}", 2);
        count(502, "no gateway", 1);
        let lines = "{\"i\":0,\"status\":201}\n{\"i\":1,\"status\":503,\"code\":\"BGL-5003\"}\n\
                     {\"i\":2,\"status\":503,\"code\":\"BGL-5004\",\"outcome\":\"unknown\"}\n\
                     {\"summary\":true,\"code\":\"BGL-1000\"}\n";
        count(200, lines, 3);
        let expected = [("BGL-5003", 3), ("BGL-5004", 1)];
        assert!(codes.iter().map(|(code, count)| (code.as_str(), *count)).eq(expected));
    }
}
