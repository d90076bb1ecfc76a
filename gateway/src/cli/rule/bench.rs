//! `bugler rule bench`: what an item costs in batches of different sizes, against the limits and another version.

use crate::cli::rule::Output;
use crate::cli::rule::ask::{question, spaced};
use crate::cli::rule::cases;
use crate::cli::rule::compare::{self, Condition, Cost};
use crate::cli::rule::operate::Perhaps;
use crate::cli::rule::project::{Loaded, Subject};
use crate::cli::rule::traffic::Traffic;
use crate::cli::{CliError, Exit};
use crate::rules::input::Input;
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

const BATCHES: [usize; 4] = [1, 16, 64, 256];
/// Different items, so that no rule is lucky with one.
const ITEMS: usize = 256;

#[derive(Debug, Args)]
pub(in crate::cli) struct Bench {
    /// A component, or the folder of a rule, which is built.
    #[arg(default_value = ".")]
    rule: PathBuf,
    /// Ask what the test cases of this folder ask, instead of generated traffic.
    #[arg(long)]
    cases: Option<PathBuf>,
    /// Calls for each size of batch.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Exit with 12 if an item in a batch of 64 takes more fuel.
    #[arg(long)]
    max_fuel: Option<u64>,
    /// Exit with 12 if an item in a batch of 64 takes more microseconds.
    #[arg(long)]
    max_us: Option<f64>,
    /// Another version to compare with: a component, a folder, or `active` for what a gateway has in
    /// force of the rule. That needs --token and --org.
    #[arg(long, value_name = "VERSION")]
    against: Option<String>,
    /// Exit with 12 if an item in a batch of 64 takes more: `fuel>+20%`, `time>+50%` and `memory>+10%`
    /// than --against, or `fuel>40000`, `time>10us`, `memory>2MiB`.
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<Condition>,
    #[command(flatten)]
    at: Perhaps,
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Output,
}

/// What batches of one size took.
struct Row {
    batch: usize,
    fuel_per_item: u64,
    fuel_limit_per_item: u64,
    per_item: Duration,
    memory_bytes: usize,
    errors: usize,
}

impl Bench {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        if self.against.is_none() && self.fail_if.iter().any(Condition::is_relative) {
            let text = "a condition in percent compares with another version: say --against active, or which";
            return Err(CliError::new(Exit::CouldNotRun, text));
        }
        let loaded = Subject::open(&self.rule)?.load_to_measure()?;
        let inputs = self.inputs(&loaded)?;
        let other = self.against.as_deref().map(|named| {
            let other = compare::open(named, loaded.name(), &self.at)?.load_to_measure()?;
            let rows = self.rows(&other, &inputs)?;
            Ok::<_, CliError>((other, rows))
        });
        let other = other.transpose()?;
        let rows = self.rows(&loaded, &inputs)?;
        let misses = self.misses(&rows, other.as_ref().map(|(_, rows)| rows.as_slice()));
        match self.output {
            Output::Json => {
                let other = other.as_ref().map(|(other, rows)| {
                    json!({
                        "name": other.name(),
                        "version": other.version(),
                        "digest": other.rule.summary.digest,
                        "rows": json_rows(rows),
                    })
                });
                let rows = json_rows(&rows);
                writeln!(out, "{:#}", json!({ "rows": rows, "against": other, "misses": misses }))?;
            }
            Output::Jsonl => {
                for row in json_rows(&rows).as_array().into_iter().flatten() {
                    writeln!(out, "{row}")?;
                }
            }
            Output::Text | Output::Junit => {
                write_rows(out, &loaded, &rows)?;
                if let Some((other, before)) = &other {
                    write!(out, "against ")?;
                    write_rows(out, other, before)?;
                    writeln!(out, "  in batches of 64: {}", changes(before, &rows))?;
                }
                misses.iter().try_for_each(|miss| writeln!(out, "  MISSED {miss}"))?;
            }
        }
        Ok(if misses.is_empty() { Exit::Done } else { Exit::OutsideGate })
    }

    fn inputs(&self, loaded: &Loaded) -> Result<Vec<Input>, CliError> {
        let Some(dir) = &self.cases else {
            let hook = loaded.hook(None)?;
            return Ok(Traffic::new(1, hook).batch(ITEMS));
        };
        let mut inputs: Vec<_> = cases::own(dir)?.into_iter().map(|case| case.input).collect();
        let Some(first) = inputs.first().cloned() else {
            return Err(CliError::new(Exit::NotFound, "there is no test case to ask"));
        };
        let is_alike = |input: &Input| (input.org(), input.hook) == (first.org(), first.hook);
        inputs.retain(is_alike);
        Ok(inputs)
    }

    fn rows(&self, loaded: &Loaded, inputs: &[Input]) -> Result<Vec<Row>, CliError> {
        BATCHES.iter().map(|batch| self.row(loaded, inputs, *batch)).collect()
    }

    fn row(&self, loaded: &Loaded, inputs: &[Input], batch: usize) -> Result<Row, CliError> {
        let (mut fuel, mut limit, mut elapsed) = (0u64, 0u64, Duration::ZERO);
        let (mut asked, mut errors, mut memory_bytes) = (0u64, 0, 0);
        let mut items = inputs.iter().cycle();
        for _ in 0..self.rounds {
            let some: Vec<_> = items.by_ref().take(batch).collect();
            let report = loaded.bench.ask(&loaded.rule, &question(loaded, &some)?);
            fuel += report.fuel;
            limit += report.fuel_limit;
            elapsed += report.elapsed;
            memory_bytes = memory_bytes.max(report.memory_bytes);
            asked += report.answers.iter().flatten().map(|_| 1).sum::<u64>();
            errors += report.answers.iter().flatten().filter(|answer| answer.is_err()).count();
        }
        let asked = asked.max(1);
        let share = u32::try_from(asked).unwrap_or(u32::MAX);
        Ok(Row {
            batch,
            fuel_per_item: fuel / asked,
            fuel_limit_per_item: limit / asked,
            per_item: elapsed / share,
            memory_bytes,
            errors,
        })
    }

    fn misses(&self, rows: &[Row], before: Option<&[Row]>) -> Vec<String> {
        let mut misses = Vec::new();
        if let Some(row) = rows.iter().find(|row| row.errors > 0) {
            misses.push(format!("{} items in batches of {} failed", row.errors, row.batch));
        }
        let Some(row) = at_64(rows) else { return misses };
        if let Some(most) = self.max_fuel.filter(|most| row.fuel_per_item > *most) {
            misses.push(format!("fuel of an item is {}, over {most}", row.fuel_per_item));
        }
        let micros = row.per_item.as_secs_f64() * 1e6;
        if let Some(most) = self.max_us.filter(|most| micros > *most) {
            misses.push(format!("an item takes {micros:.1} µs, over {most}"));
        }
        let before = before.and_then(at_64);
        let cost = |cost| (row.cost(cost), before.map(|before| before.cost(cost)));
        misses.extend(self.fail_if.iter().filter_map(|condition| condition.missed(cost)));
        misses
    }
}

fn at_64(rows: &[Row]) -> Option<&Row> {
    rows.iter().find(|row| row.batch == 64)
}

fn write_rows(out: &mut impl Write, loaded: &Loaded, rows: &[Row]) -> std::io::Result<()> {
    writeln!(out, "{} {}", loaded.name(), loaded.version())?;
    rows.iter().try_for_each(|row| writeln!(out, "  {}", row.text()))
}

/// `fuel +3.1 %, time -2.0 %, memory +0.0 %`.
fn changes(before: &[Row], rows: &[Row]) -> String {
    let pair = at_64(before).zip(at_64(rows));
    let change = |cost: Cost| {
        let change = pair.map(|(was, is)| compare::change(was.cost(cost), is.cost(cost)));
        format!("{} {}", cost.name(), change.unwrap_or_default())
    };
    Cost::ALL.map(change).join(", ")
}

impl Row {
    /// Fuel and nanoseconds of an item, or bytes of memory.
    #[expect(clippy::cast_precision_loss, reason = "a comparison needs no more digits")]
    fn cost(&self, cost: Cost) -> f64 {
        match cost {
            Cost::Fuel => self.fuel_per_item as f64,
            Cost::Time => self.per_item.as_secs_f64() * 1e9,
            Cost::Memory => self.memory_bytes as f64,
        }
    }

    fn text(&self) -> String {
        format!(
            "batch {:<4} fuel/item {:>9} of {}   {:>8.2} µs/item   memory {} KiB   errors {}",
            self.batch,
            spaced(self.fuel_per_item),
            spaced(self.fuel_limit_per_item),
            self.per_item.as_secs_f64() * 1e6,
            self.memory_bytes >> 10,
            self.errors
        )
    }
}

fn json_rows(rows: &[Row]) -> serde_json::Value {
    let row = |row: &Row| {
        json!({
            "batch": row.batch,
            "fuelPerItem": row.fuel_per_item,
            "fuelLimitPerItem": row.fuel_limit_per_item,
            "nanosPerItem": row.per_item.as_nanos(),
            "memoryBytes": row.memory_bytes,
            "errors": row.errors,
        })
    };
    rows.iter().map(row).collect()
}
