//! `bugler rule capture` and `replay`: decisions with everything the rule saw, and the same questions again.

use crate::cli::rule::Output;
use crate::cli::rule::ask::{decided, question, spaced};
use crate::cli::rule::operate::Perhaps;
use crate::cli::rule::project::{Loaded, Subject};
use crate::cli::rule::records::{self, Records, length};
use crate::cli::rule::report::Changes;
use crate::cli::rule::traffic::Traffic;
use crate::cli::{CliError, Exit};
use crate::rules::Hook;
use crate::rules::input::Input;
use crate::rules::record::{Decided, DecisionRecord};
use clap::Args;
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
    /// Exit with 12 if more percent of the decisions differ.
    #[arg(long, value_name = "PERCENT")]
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
        let was_asked = decided.decision != "skipped";
        let now = input.now();
        DecisionRecord {
            id: input.notification.id.clone().unwrap_or_default(),
            item,
            org: input.org(),
            rule: loaded.name().to_owned(),
            version: loaded.version().to_owned(),
            digest: format!("sha256:{}", loaded.rule.summary.digest),
            fuel: if was_asked { share(report.fuel) } else { 0 },
            us: if was_asked { u32::try_from(share(micros)).unwrap_or(u32::MAX) } else { 0 },
            batch: u32::try_from(asked).unwrap_or(u32::MAX),
            plan_before: input.plan.clone(),
            input: Some(input),
            ..DecisionRecord::new(now, hook, decided)
        }
    };
    Ok((0..).zip(inputs.into_iter().zip(decided)).map(of_one).collect())
}

impl Replay {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let loaded = Subject::open(&self.rule)?.load()?;
        let mut replayed =
            Replayed { loaded: &loaded, waiting: Vec::new(), changes: Changes::default() };
        let mut without_input = 0u64;
        let mut take = |record: DecisionRecord| {
            if record.input.is_none() {
                without_input += 1;
                return Ok(());
            }
            replayed.take(record)
        };
        if let Some(file) = &self.file {
            for (number, line) in lines(file)?.enumerate() {
                take(parse(&line?, number + 1)?)?;
            }
        }
        if let Some(since) = &self.since {
            let at = self.at.at()?;
            let mut captured = Records::captured(&at, loaded.name(), Some(since));
            while !captured.is_end() {
                for (number, record) in captured.next(usize::MAX)?.iter().enumerate() {
                    take(parse(&record.to_string(), number + 1)?)?;
                }
            }
        }
        replayed.ask()?;
        let changes = replayed.changes;
        match self.output {
            Output::Json => writeln!(out, "{:#}", changes.json())?,
            Output::Text | Output::Junit => {
                write!(out, "replayed {} decisions   {}", spaced(changes.items), changes.text())?;
            }
        }
        if changes.items == 0 {
            let text = format!(
                "nothing was replayed: {without_input} records had no input; \
                 `bugler rule capture` records it"
            );
            return Err(CliError::new(Exit::NotFound, text));
        }
        let is_outside = self.max_changed.is_some_and(|percent| changes.exceeds(percent));
        Ok(if is_outside { Exit::OutsideGate } else { Exit::Done })
    }
}

/// A replay under way: what can be asked together waits for each other.
struct Replayed<'a> {
    loaded: &'a Loaded,
    waiting: Vec<DecisionRecord>,
    changes: Changes,
}

impl Replayed<'_> {
    fn take(&mut self, record: DecisionRecord) -> Result<(), CliError> {
        let is_apart = self.waiting.last().is_some_and(|last| !are_together(last, &record));
        if is_apart || self.waiting.len() == BATCH {
            self.ask()?;
        }
        self.waiting.push(record);
        Ok(())
    }

    fn ask(&mut self) -> Result<(), CliError> {
        let records = std::mem::take(&mut self.waiting);
        let inputs: Vec<_> = records.iter().filter_map(|record| record.input.as_ref()).collect();
        if inputs.is_empty() {
            return Ok(());
        }
        let question = question(self.loaded, &inputs)?;
        let report = self.loaded.bench.ask_and_keep(&self.loaded.rule, &question);
        for (record, now) in records.iter().zip(decided(&question, &report)) {
            self.changes.note(&record.id, &record.decided, &now);
        }
        Ok(())
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
