//! `bugler rule eval`: one question, with the answer, what the rule did for it, and what that took.

use crate::cli::rule::Output;
use crate::cli::rule::ask::{Asked, ask};
use crate::cli::rule::cases::{self, at_path, merge};
use crate::cli::rule::project::Subject;
use crate::cli::rule::read;
use crate::cli::{CliError, Exit};
use crate::rules::input::Input;
use clap::Args;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::cli) struct Eval {
    /// A component, or the folder of a rule, which is built.
    rule: PathBuf,
    /// The input as JSON, with the members of a test case; `-` reads standard input.
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// Start from the test case of this name, in the folder's `tests`.
    #[arg(long, conflicts_with = "input")]
    case: Option<String>,
    /// What the rule's clock says: `2026-03-29T01:30:00Z`.
    #[arg(long)]
    now: Option<String>,
    /// Change one member: `--set recipient.tz=Europe/Kyiv`. Values that are not TOML are text.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Output,
}

impl Eval {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let loaded = Subject::open(&self.rule)?.load_to_measure()?;
        let input = self.input()?;
        let asked = ask(&loaded, &input)?;
        match self.output {
            Output::Json => writeln!(out, "{:#}", json!({ "input": input, "answer": asked }))?,
            Output::Jsonl => {
                let record = asked.record(&loaded, "eval", &input)?;
                let line = serde_json::to_string(&record).map_err(|e| CliError::failed(&e))?;
                writeln!(out, "{line}")?;
            }
            Output::Text | Output::Junit => {
                writeln!(out, "{} {}", loaded.name(), loaded.version())?;
                write!(out, "{}", text(&asked, loaded.bench.limits().memory_bytes))?;
            }
        }
        let is_broken = asked.decided.decision == "error";
        Ok(if is_broken { Exit::Failed } else { Exit::Done })
    }

    fn input(&self) -> Result<Input, CliError> {
        let mut whole = match (&self.input, &self.case) {
            (Some(path), _) if path.as_os_str() == "-" => {
                let mut text = Vec::new();
                std::io::stdin().read_to_end(&mut text)?;
                parse(&text)?
            }
            (Some(path), _) => parse(&read(path)?)?,
            (None, Some(name)) => {
                let mut cases = cases::own(&self.rule)?;
                cases.retain(|case| case.name == *name);
                let case = cases.pop().ok_or_else(|| {
                    CliError::new(Exit::NotFound, format!("no test case is called {name:?}"))
                })?;
                serde_json::to_value(case.input).map_err(|error| CliError::failed(&error))?
            }
            (None, None) => json!({}),
        };
        if let Some(now) = &self.now {
            merge(&mut whole, &json!({ "now": now }));
        }
        for set in &self.set {
            let wrong = || CliError::new(Exit::Failed, format!("--set {set:?} is no path=value"));
            let (path, text) = set.split_once('=').ok_or_else(wrong)?;
            merge(&mut whole, &at_path(path, value(text)).ok_or_else(wrong)?);
        }
        serde_json::from_value(whole).map_err(|error| CliError::failed(&error))
    }
}

fn parse(text: &[u8]) -> Result<Value, CliError> {
    serde_json::from_slice(text)
        .map_err(|error| CliError::new(Exit::Failed, format!("the input is no JSON: {error}")))
}

/// `text` as TOML reads a value, else as it is.
fn value(text: &str) -> Value {
    let table = toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
    let value = table.and_then(|table| serde_json::to_value(table.get("value")).ok());
    value.filter(|value| !value.is_object()).unwrap_or_else(|| text.into())
}

/// The answer in lines.
fn text(asked: &Asked, memory_limit: usize) -> String {
    let answer = serde_json::to_value(&asked.decided).unwrap_or_default();
    let mut lines = Vec::new();
    for (name, value) in answer.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        lines.push(format!("  {:<13} {value}", name.replace('_', " ")));
    }
    for call in &asked.calls {
        lines.push(format!("  {:<13} {} {}", "asked", call.name, call.key));
    }
    for line in asked.log_lines() {
        lines.push(format!("  {:<13} {line}", "log"));
    }
    lines.push(format!("  {:<13} {}", "took", asked.cost(memory_limit)));
    lines.join("\n") + "\n"
}
