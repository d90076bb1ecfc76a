//! What a test case expects of an answer; only what it names is compared.

use crate::cli::rule::ask::Asked;
use crate::rules::At;
use crate::rules::input::{Input, PlanText, StepText, TargetText};
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Expect {
    decision: Option<String>,
    code: Option<String>,
    detail: Option<String>,
    at: Option<At>,
    key: Option<String>,
    max_items: Option<u16>,
    /// Handles in the plan, all steps together.
    targets: Option<Vec<String>>,
    /// Handles of each step.
    steps: Option<Vec<Vec<String>>>,
    within_ms: Option<Vec<u32>>,
    /// Members of the payload that a transform rule leaves.
    payload: Option<Value>,
    max_fuel: Option<u64>,
    /// Of a chain: the rule that decides.
    by: Option<String>,
    /// Counter and kv calls, in order.
    calls: Option<Vec<String>>,
    /// `level: text`, in order.
    logs: Option<Vec<String>>,
}

impl Expect {
    /// One sentence for each thing that is otherwise.
    pub(super) fn misses(&self, input: &Input, asked: &Asked) -> Vec<String> {
        let got = &asked.decided;
        let mut misses = Vec::new();
        let mut compare = |what: &str, expected: Option<String>, found: Option<String>| {
            if expected.is_some() && expected != found {
                let expected = expected.unwrap_or_default();
                let found = found.unwrap_or_else(|| String::from("nothing"));
                misses.push(format!("{what}: expected {expected}, got {found}"));
            }
        };
        let with_code = || {
            let is_other = self.decision.as_ref() != Some(&got.decision);
            if is_other { format!("{} ({})", got.decision, got.code) } else { got.decision.clone() }
        };
        compare("decision", self.decision.clone(), Some(with_code()));
        compare("by", self.by.clone(), asked.by.clone());
        compare("code", self.code.clone(), Some(got.code.clone()));
        compare("detail", self.detail.clone(), got.detail.clone());
        let time = |at: At| at.0.to_rfc3339();
        compare("at", self.at.map(time), got.at.map(time));
        compare("key", self.key.clone(), got.key.clone());
        let number = |number: u16| number.to_string();
        compare("max_items", self.max_items.map(number), got.max_items.map(number));
        let steps = steps(input, got.plan_after.as_ref());
        let flat = steps.as_ref().map(|steps| {
            let mut all: Vec<_> = steps.iter().flat_map(|(targets, _)| targets.clone()).collect();
            all.sort();
            all
        });
        let sorted = self.targets.clone().map(|mut targets| {
            targets.sort();
            targets
        });
        compare("targets", debug(sorted), debug(flat));
        let handles =
            steps.as_ref().map(|steps| steps.iter().map(|(t, _)| t.clone()).collect::<Vec<_>>());
        compare("steps", debug(self.steps.clone()), debug(handles));
        let waits = steps.map(|steps| steps.iter().map(|(_, within)| *within).collect::<Vec<_>>());
        compare("within_ms", debug(self.within_ms.clone()), debug(waits));
        compare("calls", debug(self.calls.clone()), debug(Some(asked.effects())));
        compare("logs", debug(self.logs.clone()), debug(Some(asked.log_lines())));
        if let Some(payload) = &self.payload {
            let found = got.payload_after.clone().unwrap_or_default();
            if !is_part(payload, &found) {
                misses.push(format!("payload: expected {payload} in it, got {found}"));
            }
        }
        if let Some(most) = self.max_fuel.filter(|most| *most < asked.fuel) {
            misses.push(format!("fuel: expected at most {most}, got {}", asked.fuel));
        }
        misses
    }
}

fn debug<T: std::fmt::Debug>(value: Option<T>) -> Option<String> {
    value.map(|value| format!("{value:?}"))
}

/// A step as the handles of its targets and its patience.
type NamedStep = (Vec<String>, u32);

fn steps(input: &Input, plan: Option<&PlanText>) -> Option<Vec<NamedStep>> {
    let (PlanText::Steps(steps) | PlanText::Whole { steps, .. }) = plan?;
    let handle = |index: &usize| match input.recipient.targets.get(*index) {
        Some(TargetText::Short(text)) => text.clone(),
        Some(TargetText::Whole(whole)) => whole.handle.clone(),
        None => format!("target {index}"),
    };
    let named = |step: &StepText| match step {
        StepText::Targets(targets) => (targets.iter().map(handle).collect(), 0),
        StepText::Whole { targets, within_ms } => {
            (targets.iter().map(handle).collect(), *within_ms)
        }
    };
    Some(steps.iter().map(named).collect())
}

/// True if every member of `expected` is in `found`, at any depth.
fn is_part(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| is_part(value, found))),
        (expected, found) => expected == found,
    }
}

/// What a failing case may be about, if it looks like a known trap.
pub(super) fn hint(input: &Input, asked: &Asked) -> Option<String> {
    if asked.decided.decision == "error" {
        let detail = asked.decided.detail.as_deref().unwrap_or_default();
        return Some(format!("the rule broke ({}): {detail}", asked.decided.code));
    }
    let zone = input.recipient.tz.as_deref()?;
    let is_asked =
        asked.calls.iter().any(|call| call.name.starts_with("clock.") && call.key == zone);
    if is_asked || zone == "UTC" {
        return None;
    }
    let now = jiff::Timestamp::from_millisecond(i64::try_from(input.now().0).ok()?).ok()?;
    let there = now.in_tz(zone).ok()?.strftime("%A %H:%M").to_string();
    let utc = now.in_tz("UTC").ok()?.strftime("%A %H:%M").to_string();
    Some(format!(
        "now is {there} in {zone} and {utc} in UTC; the rule did not ask for the recipient's clock"
    ))
}
