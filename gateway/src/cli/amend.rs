//! Asks for deliveries to be sent again or given up, request after request, and tells what was done.

use crate::cli::access::Access;
use crate::cli::{CliError, Exit};
use serde_json::{Value, json};
use std::io::Write;

/// Deliveries that one request amends.
pub(super) const AT_ONCE: usize = 1_000;

/// What was done so far.
#[derive(Debug)]
pub(super) struct Amended<'a> {
    access: &'a Access,
    path: String,
    /// What an answer calls those that it amended.
    word: &'static str,
    /// In every request.
    common: Value,
    ids: Vec<Value>,
    refused: Vec<Value>,
    last_due: Value,
}

impl<'a> Amended<'a> {
    pub(super) fn new(
        access: &'a Access,
        path: String,
        word: &'static str,
        (rate, is_dry_run): (Option<u32>, bool),
    ) -> Self {
        let mut common = json!({ "dryRun": is_dry_run });
        if let Some(rate) = rate {
            common["rate"] = rate.into();
        }
        let (ids, refused) = (Vec::new(), Vec::new());
        Self { access, path, word, common, ids, refused, last_due: Value::Null }
    }

    /// Asks until nothing is left of what `body` is about, or `limit` deliveries are amended.
    pub(super) async fn ask(
        &mut self,
        mut body: Value,
        limit: Option<u64>,
    ) -> Result<(), CliError> {
        let mut left = limit;
        loop {
            if let Some(left) = left {
                body["limit"] = left.min(AT_ONCE as u64).into();
            }
            let (count, next) = self.ask_once(&body).await?;
            left = left.map(|left| left.saturating_sub(count));
            if next.is_null() || left == Some(0) {
                return Ok(());
            }
            body["after"] = next;
        }
    }

    /// Answers how many were amended, and where to go on.
    async fn ask_once(&mut self, about: &Value) -> Result<(u64, Value), CliError> {
        let mut body = self.common.clone();
        for (name, value) in about.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        // The next thousand goes on where the last one ended.
        let last: Option<jiff::Timestamp> = self.last_due.as_str().and_then(|at| at.parse().ok());
        if let (Some(rate), Some(last)) = (body["rate"].as_i64(), last) {
            body["startAt"] = (last.as_millisecond() + 1_000 / rate).into();
        }
        let mut answer = self.access.post_patiently(&self.path, &body).await?;
        let mut taken = |name: &str| match answer[name].take() {
            Value::Array(values) => values,
            _ => Vec::new(),
        };
        let (ids, refused) = (taken(self.word), taken("refused"));
        let count = ids.len() as u64;
        self.ids.extend(ids);
        self.refused.extend(refused);
        if !answer["lastDue"].is_null() {
            self.last_due = answer["lastDue"].take();
        }
        Ok((count, answer["next"].take()))
    }

    /// Prints what was done, all of it also if `asked` broke off; fails if something was refused.
    pub(super) fn tell(
        self,
        asked: Result<(), CliError>,
        out: &mut impl Write,
    ) -> Result<Exit, CliError> {
        let Self { access, word, common, ids, refused, last_due, .. } = self;
        let (count, is_whole) = (ids.len(), refused.is_empty());
        if asked.is_err() && count == 0 && is_whole {
            return asked.map(|()| Exit::Failed);
        }
        let would = if common["dryRun"] == true { "would be " } else { "" };
        let answer = json!({
            "dryRun": common["dryRun"],
            word: ids,
            "refused": refused,
            "lastDue": last_due,
            "complete": asked.is_ok(),
        });
        access.print(out, &answer, |answer| {
            use std::fmt::Write as _;
            let mut text = format!("{count} {would}{word}\n");
            if let Some(due) = answer["lastDue"].as_str() {
                writeln!(text, "the last is due {due}").ok();
            }
            for one in answer["refused"].as_array().into_iter().flatten() {
                let word = |name: &str| one[name].as_str().unwrap_or("-");
                writeln!(text, "left alone: {} ({})", word("delivery"), word("reason")).ok();
            }
            text
        })?;
        asked?;
        Ok(if is_whole { Exit::Done } else { Exit::Failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        access: Access,
    }

    /// Answers one request after another with these; answers the bodies it was sent.
    async fn serve(listener: TcpListener, answers: Vec<(&'static str, Value)>) -> Vec<Value> {
        let mut seen = Vec::new();
        for (head, body) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let sent = loop {
                let mut bytes = [0; 4_096];
                let read = stream.read(&mut bytes).await.unwrap();
                request.extend_from_slice(&bytes[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
                if let Some(body) = body.and_then(|body| serde_json::from_str(&body).ok()) {
                    break body;
                }
            };
            seen.push(sent);
            let body = body.to_string();
            let length = body.len();
            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        seen
    }

    async fn access() -> (Access, TcpListener) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let Line { access } = Line::parse_from(["bugler", "--token", "t", "--url", &url]);
        (access, listener)
    }

    #[tokio::test]
    async fn a_refusal_is_waited_for_and_what_was_done_before_a_failure_is_told() {
        let (access, listener) = access().await;
        let first = json!({ "replayed": ["a", "b"], "next": "1-2", "refused": [],
            "lastDue": "2026-11-21T09:10:21.500Z" });
        let second = json!({ "replayed": ["c"], "next": "1-1", "lastDue": null,
            "refused": [{ "delivery": "d", "reason": "busy" }] });
        let answers = vec![
            ("200 OK", first),
            ("429 Too Many Requests\r\nretry-after: 0", json!({})),
            ("503 Service Unavailable\r\nretry-after: 0", json!({})),
            ("200 OK", second),
            ("500 Internal Server Error\r\nbugler-error: BGL-5000", json!({})),
        ];
        let server = tokio::spawn(serve(listener, answers));
        let path = String::from("/replay");
        let mut amended = Amended::new(&access, path, "replayed", (Some(2), false));
        let asked = amended.ask(json!({ "filter": {} }), Some(1_500)).await;
        let mut out = Vec::new();
        let failed = amended.tell(asked, &mut out).unwrap_err();
        assert!(failed.text.contains("BGL-5000"), "{}", failed.text);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("3 replayed\n"), "{text}");
        assert!(text.contains("left alone: d (busy)"), "{text}");
        let seen = server.await.unwrap();
        assert_eq!((&seen[0]["limit"], &seen[0]["after"]), (&json!(1_000), &Value::Null));
        assert_eq!(seen[1], seen[2]);
        assert_eq!(seen[2], seen[3]);
        assert_eq!(seen[3]["after"], "1-2");
        let after_the_last = 1_795_252_221_500_u64 + 500;
        assert_eq!(seen[3]["startAt"], after_the_last);
        assert_eq!((&seen[4]["limit"], &seen[4]["after"]), (&json!(1_000), &json!("1-1")));
    }

    #[tokio::test]
    async fn a_failure_before_anything_was_done_tells_nothing() {
        let (access, listener) = access().await;
        let answers = vec![("404 Not Found", json!({}))];
        let server = tokio::spawn(serve(listener, answers));
        let mut amended = Amended::new(&access, String::from("/x"), "resent", (None, true));
        let asked = amended.ask(json!({}), None).await;
        let mut out = Vec::new();
        amended.tell(asked, &mut out).unwrap_err();
        assert!(out.is_empty());
        server.await.unwrap();
    }
}
