//! What a torture run came to: a table for people, JSON for machines, HTML with the plots.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::findings::{Findings, Invariant};
use super::plot;
use super::{Options, Trouble};

/// Columns of the table, one line for each row.
pub(super) const HEADING: &str = "\
row   seed     accepted delivered    final  lost phantom      dup(bound) corrupt cross-tenant order books drain-s residue verdict";

/// How a row came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// The machine, or the binary, lacks what the fault needs.
    Skipped(String),
    /// Something that must always hold did not.
    Broken(String),
    /// The harness failed, and nothing is known.
    CouldNotRun(String),
}

impl Verdict {
    pub(super) fn add(&mut self, breach: &str) {
        *self = match self {
            Self::Broken(text) => Self::Broken(format!("{text}; {breach}")),
            _ => Self::Broken(breach.to_owned()),
        };
    }
}

/// One row.
#[derive(Clone, Debug)]
pub struct RowReport {
    pub row: &'static str,
    pub what: &'static str,
    pub seed: u64,
    /// Notifications accepted, deliveries at their provider, and deliveries in any final state.
    pub accepted: u64,
    pub delivered: u64,
    pub ended: u64,
    pub unknown: u64,
    pub recovered: u64,
    pub refused: u64,
    /// From healing to the last final state; none if it did not come.
    pub drain: Option<Duration>,
    /// The longest start.
    pub ready_max: Duration,
    /// I1 to I9.
    pub invariants: Vec<Invariant>,
    /// What was done, and when, in milliseconds after the warm-up.
    pub schedule: Vec<String>,
    pub remarks: Vec<String>,
    /// Titles and SVG.
    pub plots: Vec<(String, String)>,
    pub verdict: Verdict,
    pub took: Duration,
    /// Where ledgers and data of the row are, if they were kept.
    pub kept: Option<PathBuf>,
}

impl RowReport {
    pub(super) fn new(row: &'static str, what: &'static str, seed: u64) -> Self {
        Self {
            row,
            what,
            seed,
            accepted: 0,
            delivered: 0,
            ended: 0,
            unknown: 0,
            recovered: 0,
            refused: 0,
            drain: None,
            ready_max: Duration::ZERO,
            invariants: Vec::new(),
            schedule: Vec::new(),
            remarks: Vec::new(),
            plots: Vec::new(),
            verdict: Verdict::Passed,
            took: Duration::ZERO,
            kept: None,
        }
    }

    pub(super) fn take(&mut self, findings: &Findings) {
        self.accepted = findings.accepted;
        self.delivered = findings.delivered;
        self.ended = findings.delivered + findings.ended_otherwise;
        self.unknown = findings.unknown;
        self.recovered = findings.recovered;
        self.refused = findings.refused;
    }

    pub(super) fn fail(&mut self, trouble: &Trouble) {
        match trouble {
            Trouble::Missing(reason) => self.verdict = Verdict::Skipped(reason.clone()),
            Trouble::Broken(reason) => self.verdict.add(reason),
            Trouble::Setup(_) | Trouble::Io { .. } | Trouble::NoSuchRow(_) => {
                self.verdict = Verdict::CouldNotRun(trouble.to_string());
            }
        }
    }

    fn line(&self, name: &str) -> Option<&Invariant> {
        self.invariants.iter().find(|line| line.name.starts_with(name))
    }

    fn to_json(&self) -> Value {
        let (verdict, reason) = match &self.verdict {
            Verdict::Passed => ("passed", ""),
            Verdict::Skipped(reason) => ("skipped", reason.as_str()),
            Verdict::Broken(reason) => ("broken", reason.as_str()),
            Verdict::CouldNotRun(reason) => ("could-not-run", reason.as_str()),
        };
        let line = |line: &Invariant| {
            json!({ "name": line.name, "found": line.found, "bound": line.bound,
                    "holds": line.holds(), "note": line.note })
        };
        json!({
            "row": self.row, "what": self.what, "seed": self.seed, "accepted": self.accepted,
            "delivered": self.delivered, "final": self.ended, "unknown": self.unknown,
            "recovered": self.recovered, "refused": self.refused,
            "drain_s": self.drain.map(|drain| drain.as_secs_f64()),
            "ready_max_ms": self.ready_max.as_millis(),
            "invariants": self.invariants.iter().map(line).collect::<Vec<_>>(),
            "schedule": self.schedule, "remarks": self.remarks,
            "verdict": verdict, "reason": reason, "took_s": self.took.as_secs_f64(),
        })
    }
}

impl fmt::Display for RowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = |name: &str| {
            self.line(name).map_or_else(|| String::from("-"), |line| line.found.to_string())
        };
        let repeats = self.line("I3").map_or_else(
            || String::from("-"),
            |line| format!("{}({})", line.found, line.bound.unwrap_or_default()),
        );
        let order = match self.line("I6") {
            Some(Invariant { found, bound: None, .. }) => format!("({found})"),
            Some(line) => line.found.to_string(),
            None => String::from("-"),
        };
        let residue = self.line("I9").map_or("-", |line| if line.holds() { "ok" } else { "GROWN" });
        let drain =
            self.drain.map_or_else(|| String::from("-"), |d| format!("{:.1}", d.as_secs_f64()));
        let (verdict, reason) = match &self.verdict {
            Verdict::Passed => ("passed", String::new()),
            Verdict::Skipped(reason) => ("skipped", format!(": {reason}")),
            Verdict::Broken(reason) => ("BROKEN", format!(": {reason}")),
            Verdict::CouldNotRun(reason) => ("COULD NOT RUN", format!(": {reason}")),
        };
        writeln!(
            f,
            "{:<5} {:<8} {:>8} {:>9} {:>8} {:>5} {:>7} {repeats:>15} {:>7} {:>12} {order:>5} {:>5} \
             {drain:>7} {residue:>7} {verdict}{reason}",
            self.row,
            self.seed,
            self.accepted,
            self.delivered,
            self.ended,
            found("I1"),
            found("I2"),
            found("I4"),
            found("I5"),
            found("I8"),
        )?;
        if self.invariants.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "      {}: {:.0} s, refused {}, unknown {} (recovered {}), slowest start {} ms",
            self.what,
            self.took.as_secs_f64(),
            self.refused,
            self.unknown,
            self.recovered,
            self.ready_max.as_millis()
        )?;
        for line in &self.invariants {
            writeln!(f, "      {line}")?;
        }
        for remark in &self.remarks {
            writeln!(f, "      {remark}")?;
        }
        if matches!(self.verdict, Verdict::Broken(_)) {
            writeln!(f, "      schedule: {}", self.schedule.join(", "))?;
        }
        Ok(())
    }
}

/// All rows of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub binary: PathBuf,
    pub rows: Vec<RowReport>,
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        Self { seed: options.seed, binary: options.binary.clone(), rows: Vec::new() }
    }

    fn count(&self, is: impl Fn(&Verdict) -> bool) -> usize {
        self.rows.iter().filter(|row| is(&row.verdict)).count()
    }

    /// Rows with a breach.
    #[must_use]
    pub fn broken(&self) -> usize {
        self.count(|verdict| matches!(verdict, Verdict::Broken(_)))
    }

    /// Rows that say nothing, because they were skipped or the harness failed.
    #[must_use]
    pub fn unproved(&self) -> usize {
        self.count(|verdict| matches!(verdict, Verdict::Skipped(_) | Verdict::CouldNotRun(_)))
    }

    #[must_use]
    pub fn passed(&self) -> usize {
        self.count(|verdict| *verdict == Verdict::Passed)
    }

    /// One line.
    #[must_use]
    pub fn summary(&self) -> String {
        let failed = self.count(|verdict| matches!(verdict, Verdict::CouldNotRun(_)));
        format!(
            "seed {}: {} rows passed, {} broken, {} skipped, {failed} could not run",
            self.seed,
            self.passed(),
            self.broken(),
            self.unproved() - failed,
        )
    }

    /// 0 if every row that ran passed, 1 if one was broken, 2 if nothing ran or the harness failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let failed = self.count(|verdict| matches!(verdict, Verdict::CouldNotRun(_)));
        match (self.broken(), failed, self.passed()) {
            (1.., _, _) => 1,
            (0, 1.., _) | (0, 0, 0) => 2,
            (0, 0, _) => 0,
        }
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "seed": self.seed,
            "summary": self.summary(),
            "rows": self.rows.iter().map(RowReport::to_json).collect::<Vec<_>>(),
        })
    }

    /// A page with the table and all plots, which needs nothing else.
    #[must_use]
    pub fn to_html(&self) -> String {
        let table: String = self.rows.iter().map(ToString::to_string).collect();
        let table = format!("{HEADING}\n{table}{}", self.summary());
        let plots = self.rows.iter().flat_map(|row| &row.plots);
        plot::page(&table, plots)
    }
}
