//! One question to a loaded rule, and what came of it in words.

use crate::cli::CliError;
use crate::cli::rule::project::Loaded;
use crate::rules::input::Input;
use crate::rules::record::{Decided, DecisionRecord};
use crate::rules::{Batch, Hook, HostCall, LogLine, Question, Report};
use serde::Serialize;

/// What came of one question.
#[derive(Debug, Default, Serialize)]
pub(super) struct Asked {
    #[serde(flatten)]
    pub(super) decided: Decided,
    /// Of a chain: the rule that decided, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<String>,
    pub(super) fuel: u64,
    pub(super) fuel_limit: u64,
    pub(super) memory_bytes: usize,
    pub(super) micros: u128,
    pub(super) logs: Vec<LogLine>,
    pub(super) calls: Vec<HostCall>,
}

/// The question of `inputs`, which share clock, organization and settings.
pub(super) fn question(loaded: &Loaded, inputs: &[&Input]) -> Result<Question, CliError> {
    let first = inputs.first().copied().cloned().unwrap_or_default();
    let hook = loaded.hook(first.hook)?;
    let batch = Input::batch(hook, inputs.iter().copied()).map_err(|e| CliError::failed(&e))?;
    let (now, org) = (first.now(), first.org());
    Ok(Question { now, org, config: first.settings(), state: first.state(), batch })
}

/// What each item was shown, for transform rules.
pub(super) fn decided(question: &Question, report: &Report) -> Vec<Decided> {
    let payload = |at: usize| match &question.batch {
        Batch::Transform(items) => items.get(at).map(|item| item.payload.as_str()),
        Batch::Authorize(_) | Batch::Route(_) => None,
    };
    let answers = report.answers.iter().enumerate();
    answers.map(|(at, answer)| Decided::of(answer.as_ref(), payload(at))).collect()
}

pub(super) fn ask(loaded: &Loaded, input: &Input) -> Result<Asked, CliError> {
    let question = question(loaded, &[input])?;
    let report = loaded.bench.ask(&loaded.rule, &question);
    let decided = decided(&question, &report).pop().unwrap_or_default();
    Ok(Asked {
        decided,
        by: None,
        fuel: report.fuel,
        fuel_limit: report.fuel_limit,
        memory_bytes: report.memory_bytes,
        micros: report.elapsed.as_micros(),
        logs: report.logs,
        calls: report.calls,
    })
}

/// The record of one item of a question that was asked here. `of` is its number and the items that the
/// rule was asked about together, `fuel` and `us` the item's share.
pub(super) fn record(
    loaded: &Loaded,
    (stage, hook): (&str, Hook),
    (input, decided): (&Input, Decided),
    (item, batch): (u32, usize),
    (fuel, us): (u64, u32),
) -> DecisionRecord {
    DecisionRecord {
        id: input.notification.id.clone().unwrap_or_default(),
        item,
        org: input.org(),
        rule: loaded.name().to_owned(),
        version: loaded.version().to_owned(),
        digest: format!("sha256:{}", loaded.rule.summary.digest),
        stage: stage.to_owned(),
        fuel,
        us,
        batch: u32::try_from(batch).unwrap_or(u32::MAX),
        plan_before: input.plan.clone(),
        ..DecisionRecord::new(input.now(), hook, decided)
    }
}

impl Asked {
    /// The record of the one item that was asked, with all the rule saw.
    pub(super) fn record(
        &self,
        loaded: &Loaded,
        stage: &str,
        input: &Input,
    ) -> Result<DecisionRecord, CliError> {
        let (hook, us) = (loaded.hook(input.hook)?, u32::try_from(self.micros).unwrap_or(u32::MAX));
        let said = (input, self.decided.clone());
        let record = record(loaded, (stage, hook), said, (0, 1), (self.fuel, us));
        Ok(DecisionRecord { input: Some(input.clone()), ..record })
    }

    /// Calls that change or read what the rule remembers; clock and settings are as the case says.
    pub(super) fn effects(&self) -> Vec<&'static str> {
        let of_state = |name: &&str| name.starts_with("counters.") || name.starts_with("kv.");
        self.calls.iter().map(|call| call.name).filter(of_state).collect()
    }

    /// `warn: text` for each line.
    pub(super) fn log_lines(&self) -> Vec<String> {
        let line = |line: &LogLine| {
            let level = serde_json::to_value(line.level).unwrap_or_default();
            format!("{}: {}", level.as_str().unwrap_or_default(), line.text)
        };
        self.logs.iter().map(line).collect()
    }

    /// Fuel, memory and time, each against its limit.
    pub(super) fn cost(&self, memory_limit: usize) -> String {
        let tenths = self.memory_bytes * 10 / (1 << 20);
        format!(
            "fuel {}/{}  mem {}.{}/{} MiB  {} µs",
            spaced(self.fuel),
            spaced(self.fuel_limit),
            tenths / 10,
            tenths % 10,
            memory_limit >> 20,
            self.micros
        )
    }
}

/// A number with its thousands apart.
pub(super) fn spaced(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
