//! One question to a loaded rule, and what came of it in words.

use crate::cli::CliError;
use crate::cli::rule::project::Loaded;
use crate::rules::input::Input;
use crate::rules::record::Decided;
use crate::rules::{Batch, HostCall, LogLine, Question, Report};
use serde::Serialize;

/// What came of one question.
#[derive(Debug, Serialize)]
pub(super) struct Asked {
    #[serde(flatten)]
    pub(super) decided: Decided,
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
        fuel: report.fuel,
        fuel_limit: report.fuel_limit,
        memory_bytes: report.memory_bytes,
        micros: report.elapsed.as_micros(),
        logs: report.logs,
        calls: report.calls,
    })
}

impl Asked {
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
