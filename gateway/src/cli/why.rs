//! `bugler why`: what became of a notification and which rule decided so, in a sentence for each recipient.

use crate::cli::trace::Question;
use crate::cli::{CliError, Exit};
use clap::Args;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;

#[derive(Debug, Args)]
pub(super) struct Why {
    #[command(flatten)]
    question: Question,
}

impl Why {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let timeline = self.question.ask()?;
        for sentence in sentences(&timeline) {
            writeln!(out, "{sentence}")?;
        }
        Ok(Exit::Done)
    }
}

/// The whole in one sentence, then one for each recipient rules decided about, as they did last.
fn sentences(timeline: &Value) -> Vec<String> {
    let word = |value: &Value, name: &str| value[name].as_str().unwrap_or("-").to_owned();
    let (event, state) = (word(timeline, "event"), word(timeline, "state"));
    let mut said = vec![format!("{event} is {state}.")];
    let events = timeline["timeline"].as_array();
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for event in events.into_iter().flatten().filter(|event| event["type"] == "ruled") {
        last.insert(word(event, "recipient"), ruled(event));
    }
    if last.is_empty() {
        said.push(String::from("No rule was asked about it."));
    }
    said.extend(last.into_iter().map(|(recipient, why)| format!("{recipient}: {why}")));
    for event in events.into_iter().flatten().filter(|event| event["type"] == "settled") {
        let (target, state, cause) =
            (word(event, "target"), word(event, "state"), word(event, "cause"));
        said.push(format!("{target} ended as {state}: {cause}."));
    }
    said
}

/// What the rules decided, the one that counts first.
fn ruled(event: &Value) -> String {
    let mut deciding = Vec::new();
    let mut rest = Vec::new();
    for decision in event["decisions"].as_array().into_iter().flatten() {
        let word = |name: &str| decision[name].as_str().unwrap_or_default();
        let by = format!("{}@{}", word("rule"), word("version"));
        let code = word("code");
        let sentence = match word("decision") {
            "hold-until" => format!("held by {by} ({code})"),
            "drop" => format!("dropped by {by} ({code})"),
            "digest" => format!("collected into a digest by {by} ({code})"),
            "deliver" => format!("sent as {by} planned ({code})"),
            "patch" | "replace" => format!("changed by {by} ({code})"),
            "deny" => format!("denied by {by} ({code})"),
            "error" => format!("{by} broke ({code}) and its failure mode counted"),
            other => {
                rest.push(format!("{by} {other} ({code})"));
                continue;
            }
        };
        deciding.push(sentence);
    }
    if deciding.is_empty() {
        deciding.push(String::from("sent to every target, since no rule said otherwise"));
    }
    let more = if rest.is_empty() { String::new() } else { format!("; {}", rest.join(", ")) };
    format!("{}{more}.", deciding.join(", then "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn says_who_decided_what_and_how_it_ended() {
        let decision = |rule: &str, decision: &str, code: &str| json!({ "rule": rule, "version": "1.0.0", "decision": decision, "code": code });
        let timeline = json!({ "event": "build", "state": "suppressed", "timeline": [
            { "type": "ruled", "recipient": "user:7", "decisions": [
                decision("event-routing", "abstain", "no_rule"), decision("quiet-hours", "hold-until", "quiet_hours")] },
            { "type": "ruled", "recipient": "user:8", "decisions": [decision("event-routing", "drop", "event_off")] },
            { "type": "settled", "target": "apns:1", "state": "suppressed", "cause": "rule" },
        ]});
        let expected = [
            "build is suppressed.",
            "user:7: held by quiet-hours@1.0.0 (quiet_hours); event-routing@1.0.0 abstain (no_rule).",
            "user:8: dropped by event-routing@1.0.0 (event_off).",
            "apns:1 ended as suppressed: rule.",
        ];
        assert_eq!(sentences(&timeline), expected);
    }

    #[test]
    fn a_notification_no_rule_saw_says_so() {
        let timeline = json!({ "event": "build", "state": "delivered", "timeline": [] });
        assert_eq!(sentences(&timeline), ["build is delivered.", "No rule was asked about it."]);
    }
}
