//! `bugler rule capture` and `replay`: decisions with everything the rule saw, and the same questions again.

use crate::cli::rule::Output;
use crate::cli::rule::ask::{decided, question, record, spaced};
use crate::cli::rule::operate::Perhaps;
use crate::cli::rule::project::{Loaded, Subject};
use crate::cli::rule::records::{self, Records, length};
use crate::cli::rule::report::{Changes, percent};
use crate::cli::rule::traffic::Traffic;
use crate::cli::{CliError, Exit};
use crate::rules::Hook;
use crate::rules::input::Input;
use crate::rules::record::{Decided, DecisionRecord};
use clap::Args;
use serde_json::json;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Items asked together, at most, as in the gateway.
const BATCH: usize = 256;

#[derive(Debug, Args)]
pub(in crate::cli) struct Capture {
    /// A component, or the folder of a rule, which is built; with --rate the name of a gateway's rule.
    rule: PathBuf,
    /// So many items of generated traffic.
    #[arg(long, default_value_t = 1_000)]
    generate: usize,
    /// The same seed generates the same traffic.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Real traffic instead: `1%` of what a gateway asks the rule. Needs --token and --org.
    #[arg(long, value_name = "PERCENT")]
    rate: Option<String>,
    /// How long real traffic is captured: `90s`, `10m`, `1h`.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = length)]
    time: Duration,
    #[command(flatten)]
    at: Perhaps,
    /// Where the records go, one line of JSON each.
    #[arg(short, long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    /// A component, or the folder of a rule, which is built.
    rule: PathBuf,
    /// Decision records with their inputs, from `bugler rule capture`.
    #[arg(long, required_unless_present = "since", conflicts_with = "since")]
    file: Option<PathBuf>,
    /// What a gateway captured of the rule since then: `-1h`, an instant. Needs --token and --org.
    #[arg(long, allow_hyphen_values = true, value_name = "TIME")]
    since: Option<String>,
    #[command(flatten)]
    at: Perhaps,
    /// Exit with 12 if a larger share of the decisions differs: `0.1%`.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_changed: Option<f64>,
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Output,
}

impl Capture {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        if let Some(share) = &self.rate {
            let at = self.at.at()?;
            let name = self.rule.to_string_lossy();
            let mut file = BufWriter::new(create(&self.out)?);
            let count = records::capture(&at, &name, (share, self.time), &mut file)?;
            let count = spaced(u64::try_from(count).unwrap_or(u64::MAX));
            writeln!(out, "captured {count} decisions of {name} in {}", self.out.display())?;
            return Ok(Exit::Done);
        }
        let loaded = Subject::open(&self.rule)?.load()?;
        let hook = loaded.hook(None)?;
        let mut traffic = Traffic::new(self.seed, hook);
        let mut file = BufWriter::new(create(&self.out)?);
        let mut left = self.generate;
        while left > 0 {
            let inputs = traffic.batch(left.min(BATCH));
            left -= inputs.len();
            for record in recorded(&loaded, hook, inputs)? {
                serde_json::to_writer(&mut file, &record).map_err(|e| CliError::failed(&e))?;
                file.write_all(b"\n")?;
            }
        }
        file.flush()?;
        let count = spaced(u64::try_from(self.generate).unwrap_or(u64::MAX));
        writeln!(out, "captured {count} decisions of {} in {}", loaded.name(), self.out.display())?;
        Ok(Exit::Done)
    }
}

/// Asks all `inputs` together, on top of what the rule remembers, and records each.
fn recorded(
    loaded: &Loaded,
    hook: Hook,
    inputs: Vec<Input>,
) -> Result<Vec<DecisionRecord>, CliError> {
    let refs: Vec<_> = inputs.iter().collect();
    let question = question(loaded, &refs)?;
    let report = loaded.bench.ask_and_keep(&loaded.rule, &question);
    let decided = decided(&question, &report);
    let asked = report.answers.iter().flatten().count();
    let share = |whole: u64| whole / u64::try_from(asked.max(1)).unwrap_or(1);
    let micros = u64::try_from(report.elapsed.as_micros()).unwrap_or(u64::MAX);
    let of_one = |(item, (input, decided)): (u32, (Input, Decided))| {
        let took = if decided.decision == "skipped" {
            (0, 0)
        } else {
            (share(report.fuel), u32::try_from(share(micros)).unwrap_or(u32::MAX))
        };
        let record = record(loaded, ("capture", hook), (&input, decided), (item, asked), took);
        DecisionRecord { input: Some(input), ..record }
    };
    Ok((0..).zip(inputs.into_iter().zip(decided)).map(of_one).collect())
}

impl Replay {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let loaded = Subject::open(&self.rule)?.load()?;
        let is_listed = self.output == Output::Jsonl;
        let mut replayed = Replayed::new(&loaded, is_listed.then_some(out as &mut dyn Write));
        if let Some(file) = &self.file {
            for (number, line) in lines(file)?.enumerate() {
                replayed.take(parse(&line?, number + 1)?)?;
            }
        }
        if let Some(since) = &self.since {
            let at = self.at.at()?;
            let mut captured = Records::captured(&at, loaded.name(), Some(since));
            while !captured.is_end() {
                for (number, record) in captured.next(usize::MAX)?.iter().enumerate() {
                    replayed.take(parse(&record.to_string(), number + 1)?)?;
                }
            }
        }
        replayed.ask_waiting()?;
        let (without_input, incomplete) = (replayed.without_input, replayed.incomplete());
        let changes = replayed.changes;
        match self.output {
            Output::Json => {
                let mut shown = changes.json();
                (shown["withoutInput"], shown["incomplete"]) =
                    (without_input.into(), incomplete.into());
                writeln!(out, "{shown:#}")?;
            }
            Output::Jsonl => {}
            Output::Text | Output::Junit => {
                write!(out, "replayed {} decisions   {}", spaced(changes.items), changes.text())?;
                if incomplete > 0 {
                    let text = "left out, since not all that was asked with them is there";
                    writeln!(out, "  {} {text}", spaced(incomplete))?;
                }
            }
        }
        if changes.items == 0 {
            let text = format!(
                "nothing was replayed: {without_input} records had no input, and of {incomplete} the call \
                 is not whole; `bugler rule capture` records both"
            );
            return Err(CliError::new(Exit::NotFound, text));
        }
        let is_outside = self.max_changed.is_some_and(|percent| changes.exceeds(percent));
        Ok(if is_outside { Exit::OutsideGate } else { Exit::Done })
    }
}

/// A replay under way: what was or can be asked together waits for each other.
struct Replayed<'a> {
    loaded: &'a Loaded,
    waiting: Vec<DecisionRecord>,
    /// Calls of a gateway, of which lines of others may lie between.
    calls: HashMap<String, Vec<DecisionRecord>>,
    changes: Changes,
    without_input: u64,
    /// Where changed decisions go, as records.
    listed: Option<&'a mut dyn Write>,
}

impl<'a> Replayed<'a> {
    fn new(loaded: &'a Loaded, listed: Option<&'a mut dyn Write>) -> Self {
        let (waiting, calls, changes) = (Vec::new(), HashMap::new(), Changes::default());
        Self { loaded, waiting, calls, changes, without_input: 0, listed }
    }

    fn take(&mut self, record: DecisionRecord) -> Result<(), CliError> {
        if record.input.is_none() {
            self.without_input += 1;
            return Ok(());
        }
        if let Some(name) = record.call.clone() {
            let whole = usize::try_from(record.batch).unwrap_or(usize::MAX);
            let call = self.calls.entry(name.clone()).or_default();
            call.push(record);
            if call.len() >= whole {
                let call = self.calls.remove(&name).unwrap_or_default();
                self.ask(&call, false)?;
            }
            return Ok(());
        }
        let is_apart = self.waiting.last().is_some_and(|last| !are_together(last, &record));
        if is_apart || self.waiting.len() == BATCH {
            self.ask_waiting()?;
        }
        self.waiting.push(record);
        Ok(())
    }

    /// Asks what waits, on top of what the rule counted and kept in the questions before.
    fn ask_waiting(&mut self) -> Result<(), CliError> {
        let records = std::mem::take(&mut self.waiting);
        self.ask(&records, true)
    }

    /// Asks `records` together: if they do not keep, on what the first says was counted and kept.
    fn ask(&mut self, records: &[DecisionRecord], keeps: bool) -> Result<(), CliError> {
        let inputs: Vec<_> = records.iter().filter_map(|record| record.input.as_ref()).collect();
        if inputs.is_empty() {
            return Ok(());
        }
        let (bench, question) = (&self.loaded.bench, question(self.loaded, &inputs)?);
        let report = if keeps {
            bench.ask_and_keep(&self.loaded.rule, &question)
        } else {
            bench.ask(&self.loaded.rule, &question)
        };
        let hook = question.batch.hook();
        for (before, (input, now)) in
            records.iter().zip(inputs.iter().zip(decided(&question, &report)))
        {
            let is_changed = self.changes.note(&before.id, &before.decided, &now);
            if let Some(listed) = self.listed.as_mut().filter(|_| is_changed) {
                let at = (before.item, records.len());
                let record = record(self.loaded, ("replay", hook), (input, now), at, (0, 0));
                let mut line = serde_json::to_value(&record).map_err(|e| CliError::failed(&e))?;
                line["before"] = json!(before.decided);
                writeln!(listed, "{line}")?;
            }
        }
        Ok(())
    }

    /// Records of calls of which some were not kept.
    fn incomplete(&self) -> u64 {
        let count: usize = self.calls.values().map(Vec::len).sum();
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

/// One call has one clock, one organization and one set of settings.
fn are_together(one: &DecisionRecord, other: &DecisionRecord) -> bool {
    let key = |record: &DecisionRecord| {
        let input = record.input.as_ref()?;
        Some((input.hook, input.now(), input.org(), input.settings()))
    };
    key(one) == key(other)
}

fn parse(line: &str, number: usize) -> Result<DecisionRecord, CliError> {
    let record: DecisionRecord = serde_json::from_str(line).map_err(|error| {
        CliError::new(Exit::Failed, format!("line {number} is no decision record: {error}"))
    })?;
    if record.v != DecisionRecord::VERSION {
        let text = format!("line {number} has version {}, this reads 1", record.v);
        return Err(CliError::new(Exit::Failed, text));
    }
    Ok(record)
}

fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<String>>, CliError> {
    let file = File::open(path).map_err(|error| {
        CliError::new(Exit::NotFound, format!("cannot read {}: {error}", path.display()))
    })?;
    Ok(BufReader::new(file).lines())
}

fn create(path: &Path) -> Result<File, CliError> {
    File::create(path).map_err(|error| {
        CliError::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
    })
}
