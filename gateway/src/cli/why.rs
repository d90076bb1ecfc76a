//! `bugler why`: what became of a notification and which rule decided so, in a sentence for each recipient.

use crate::cli::trace::Question;
use crate::cli::{CliError, Exit};
use crate::rules::record::DecisionRecord;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

#[derive(Debug, Args)]
pub(super) struct Why {
    #[command(flatten)]
    question: Question,
    /// `json`: sentences and decisions; `jsonl`: the decision records alone, one a line.
    #[arg(short = 'o', long, alias = "format", value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
    Jsonl,
}

impl Why {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let timeline = self.question.ask()?;
        match self.output {
            Output::Text => {
                sentences(&timeline).iter().try_for_each(|said| writeln!(out, "{said}"))?;
            }
            Output::Json => {
                let (id, event, state) = (&timeline["id"], &timeline["event"], &timeline["state"]);
                let (why, decisions) = (sentences(&timeline), records(&timeline));
                let shown = json!({ "id": id, "event": event, "state": state, "why": why, "decisions": decisions });
                writeln!(out, "{shown:#}")?;
            }
            Output::Jsonl => {
                records(&timeline).iter().try_for_each(|record| writeln!(out, "{record}"))?;
            }
        }
        Ok(Exit::Done)
    }
}

/// What the timeline has of every decision, as decision records; each names the recipient, too.
fn records(timeline: &Value) -> Vec<Value> {
    let mut records = Vec::new();
    let events = timeline["timeline"].as_array().into_iter().flatten();
    for (item, event) in (0..).zip(events.filter(|event| event["type"] == "ruled")) {
        for decision in event["decisions"].as_array().into_iter().flatten() {
            let digest = decision["digest"].as_str().unwrap_or_default();
            records.push(json!({
                "v": DecisionRecord::VERSION,
                "ts": event["at"],
                "id": timeline["id"],
                "item": item,
                "org": timeline["organization"].to_string(),
                "hook": decision["hook"],
                "rule": decision["rule"],
                "version": decision["version"],
                "digest": format!("sha256:{digest}"),
                "stage": decision["stage"],
                "decision": decision["decision"],
                "code": decision["code"],
                "detail": decision["detail"],
                "fuel": decision["fuel"],
                "us": decision["micros"],
                "batch": decision["batch"],
                "sampled": 1.0,
                "recipient": event["recipient"],
            }));
        }
    }
    records
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

    #[test]
    fn every_decision_of_the_timeline_is_a_decision_record() {
        let decision = crate::model::RuleDecision {
            hook: "route".into(),
            rule: "quiet-hours".into(),
            decision: "drop".into(),
            fuel: 7,
            ..Default::default()
        };
        let timeline = json!({ "id": "n1", "organization": 101, "timeline": [
            { "type": "expanded", "at": "2026-01-01T00:00:00Z" },
            { "type": "ruled", "at": "2026-01-01T00:00:00Z", "recipient": "user:7", "decisions": [decision] },
        ]});
        let [record] = <[Value; 1]>::try_from(records(&timeline)).unwrap();
        assert_eq!(record["recipient"], "user:7");
        let record: DecisionRecord = serde_json::from_value(record).unwrap();
        let found = (record.org.as_str(), record.decided.decision.as_str(), record.fuel);
        assert_eq!(found, ("101", "drop", 7));
    }
}
