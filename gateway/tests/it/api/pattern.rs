//! Compares JSON answers with patterns: same members in the same order, `<…>` stands for values.
//!
//! `<uuid>`, `<time>` (UTC with three digits), `<now>` (such a time within a minute), `<text>`
//! (not empty), `<number>` (not negative), `<object>` (24 hexadecimal digits), `<whsec>` (a
//! webhook's secret), `<any>`; `<now:a>` also wants every `:a` of one answer to be the same.

use std::collections::HashMap;

use serde_json::Value;

use crate::support::now_ms;

#[derive(Default)]
pub(super) struct Matcher {
    named: HashMap<String, Value>,
}

impl Matcher {
    /// Says where `actual` differs.
    pub(super) fn check(&mut self, pattern: &Value, actual: &Value) -> Result<(), String> {
        self.at("$", pattern, actual)
    }

    fn at(&mut self, path: &str, pattern: &Value, actual: &Value) -> Result<(), String> {
        match (pattern, actual) {
            (Value::String(text), _) if text.starts_with('<') && text.ends_with('>') => {
                self.placeholder(path, text, actual)
            }
            (Value::Object(wanted), Value::Object(found)) => {
                let names = |map: &serde_json::Map<String, Value>| {
                    map.keys().cloned().collect::<Vec<_>>().join(" ")
                };
                if !wanted.keys().eq(found.keys()) {
                    let (wanted, found) = (names(wanted), names(found));
                    return Err(format!("{path} has members {found}, not {wanted}"));
                }
                let mut pairs = wanted.iter().zip(found.values());
                pairs.try_for_each(|((name, wanted), found)| {
                    self.at(&format!("{path}.{name}"), wanted, found)
                })
            }
            (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
                let mut pairs = wanted.iter().zip(found).enumerate();
                pairs.try_for_each(|(index, (wanted, found))| {
                    self.at(&format!("{path}[{index}]"), wanted, found)
                })
            }
            (wanted, found) if wanted == found => Ok(()),
            (wanted, found) => Err(format!("{path} is {found}, not {wanted}")),
        }
    }

    fn placeholder(&mut self, path: &str, text: &str, actual: &Value) -> Result<(), String> {
        let word = text.trim_start_matches('<').trim_end_matches('>');
        let (kind, name) = word.split_once(':').unwrap_or((word, ""));
        let found = actual.as_str().unwrap_or_default();
        let fits = match kind {
            "any" => true,
            "text" => !found.is_empty(),
            "number" => actual.is_u64(),
            "uuid" => is_uuid(found),
            "object" => found.len() == 24 && found.bytes().all(|b| b.is_ascii_hexdigit()),
            "whsec" => is_secret(found),
            "time" => millis(found).is_some(),
            "now" => millis(found).is_some_and(|at| at.abs_diff(now_ms()) < 60_000),
            _ => unreachable!("no placeholder is called {kind}"),
        };
        if !fits {
            return Err(format!("{path} is {actual}, which is no {kind}"));
        }
        if !name.is_empty() {
            let first = self.named.entry(name.to_owned()).or_insert_with(|| actual.clone());
            if first != actual {
                return Err(format!("{path} is {actual}, and {name} was {first} before"));
            }
        }
        Ok(())
    }
}

fn is_uuid(text: &str) -> bool {
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    text.len() == 36 && is_lower && uuid::Uuid::try_parse(text).is_ok()
}

/// As a stock verifier takes it, with 32 bytes.
fn is_secret(text: &str) -> bool {
    text.len() == 50 && text.starts_with("whsec_") && standardwebhooks::Webhook::new(text).is_ok()
}

/// `2025-04-04T08:18:54.435Z` and nothing else.
fn millis(text: &str) -> Option<u64> {
    let is_exact =
        text.len() == 24 && text.ends_with('Z') && text.as_bytes().get(19) == Some(&b'.');
    let parsed: jiff::Timestamp = text.parse().ok().filter(|_| is_exact)?;
    u64::try_from(parsed.as_millisecond()).ok()
}

#[test]
fn a_pattern_tells_a_right_answer_from_a_wrong_one() {
    let check = |pattern: Value, actual: Value| Matcher::default().check(&pattern, &actual);
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let pattern = parse(r#"{"a":"<time:t>","b":["<time:t>",1]}"#);
    let right = parse(r#"{"a":"2025-04-04T08:18:54.435Z","b":["2025-04-04T08:18:54.435Z",1]}"#);
    assert_eq!(check(pattern.clone(), right), Ok(()));
    for wrong in [
        r#"{"a":"2025-04-04T08:18:54.435Z","b":["2025-04-04T08:18:54.436Z",1]}"#,
        r#"{"b":["2025-04-04T08:18:54.435Z",1],"a":"2025-04-04T08:18:54.435Z"}"#,
        r#"{"a":"2025-04-04T08:18:54Z","b":["2025-04-04T08:18:54Z",1]}"#,
        r#"{"a":"2025-04-04T08:18:54.435Z","b":["2025-04-04T08:18:54.435Z",1,2]}"#,
        r#"{"a":"2025-04-04T08:18:54.435Z"}"#,
    ] {
        assert!(check(pattern.clone(), parse(wrong)).is_err(), "{wrong}");
    }
}
