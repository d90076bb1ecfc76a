//! Fills in what a request of a case file cannot spell out: long texts, times and known ids.
//!
//! `<<é*200>>` is a repetition, `<<now+60s>>` milliseconds, `<<now+60s:s>>` seconds,
//! `<<now+60s:rfc>>` RFC 3339; `<<acme>>` and the like are ids of the tests' directory;
//! `<<basic>>` is how client `oa2-client-id_acme` proves itself, `<<fresh>>` a word no request had.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::now_ms;
use crate::support::world::{
    ACME, ACME_OBJECT, BRANCH, CLIENT_SECRET, PASSWORD, RIVAL, RIVAL_WEBHOOK, SLACK, SOLUTION,
    WEBHOOK,
};

pub(super) fn fill(text: &str) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<<") {
        let (word, after) = after.split_once(">>").expect("a template is closed");
        filled.push_str(before);
        filled.push_str(&value(word));
        rest = after;
    }
    filled + rest
}

fn value(word: &str) -> String {
    let id = match word {
        "acme" => ACME,
        "branch" => BRANCH,
        "rival" => RIVAL,
        "solution" => SOLUTION,
        "acme-object" => ACME_OBJECT,
        "webhook" => WEBHOOK,
        "slack" => SLACK,
        "rival-webhook" => RIVAL_WEBHOOK,
        "client-secret" => CLIENT_SECRET,
        "password" => PASSWORD,
        "basic" => return STANDARD.encode(format!("oa2-client-id_acme:{CLIENT_SECRET}")),
        "fresh" => return uuid::Uuid::new_v4().simple().to_string(),
        "solution-upper" => return SOLUTION.to_uppercase(),
        _ => "",
    };
    if !id.is_empty() {
        return id.to_owned();
    }
    if let Some(time) = word.strip_prefix("now") {
        return instant(time);
    }
    let (text, count) = word.rsplit_once('*').expect("a known word or a repetition");
    text.repeat(count.parse().expect("a count"))
}

/// `+60s`, `-60s:s`, `+0s:rfc`.
fn instant(word: &str) -> String {
    let (offset, form) = word.split_once(':').unwrap_or((word, "ms"));
    let seconds: i64 = offset.trim_end_matches('s').parse().expect("seconds with their sign");
    let now = i64::try_from(now_ms()).expect("this century");
    let at = now + seconds * 1000;
    match form {
        "ms" => at.to_string(),
        "s" => (at / 1000).to_string(),
        "rfc" => {
            let at = jiff::Timestamp::from_millisecond(at).expect("this century");
            format!("{at:.3}")
        }
        _ => unreachable!("no form of time is called {form}"),
    }
}
