//! Torture runs: faults from a seed against a gateway process, judged by ledgers that no fault
//! touches.
//!
//! A run plays rows of the fault matrix one after another. Each row has its own twins, data
//! directory and gateway; load runs while the fault strikes, heals, and the backlog drains; then
//! what the client was promised, what the providers received and what the gateway says became of it
//! are laid side by side.

use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

mod ask;
mod books;
mod clock;
mod export;
mod findings;
mod gateway;
mod judge;
mod mount;
mod names;
mod plot;
mod proxy;
mod redis;
mod report;
mod rows;
mod rules;
mod selftest;
mod series;
mod shape;
mod stage;
#[cfg(test)]
mod tests;
mod traffic;
mod world;

pub use findings::Invariant;
pub use report::{Report, RowReport, Verdict};
pub use selftest::{Sabotage, SelfTest, self_test};
pub use shape::Suite;

use shape::Shape;
use stage::{Opening, Stage};

/// Where the gateway keeps what it is given; each has rows of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Files of its own.
    #[default]
    Embedded,
    /// One Redis server.
    Redis,
    /// A Redis Cluster of three primaries with a replica each.
    Cluster,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ids of rows, as `F1`; empty is every row of the suite.
    pub rows: Vec<String>,
    pub suite: Suite,
    /// Where the gateway keeps what it is given.
    pub backend: Backend,
    /// Draws every fault's time, kind and place.
    pub seed: u64,
    /// How long each row's fault lasts, in minutes; by the suite if none.
    pub minutes: Option<f64>,
    /// Where runs keep their ledgers and data; must be empty or not there.
    pub dir: PathBuf,
    /// The gateway.
    pub binary: PathBuf,
    /// More variables of the gateway's environment.
    pub env: Vec<(String, String)>,
    /// Keep ledgers and data of rows that passed.
    pub keeps: bool,
}

/// Why a row could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The machine, or the binary, lacks what the fault needs: the row is skipped.
    #[error("{0}")]
    Missing(String),
    /// The gateway did what it never may.
    #[error("{0}")]
    Broken(String),
    /// The harness itself could not do its work.
    #[error("{0}")]
    Setup(String),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("no row is called {0:?}; `--list` shows all")]
    NoSuchRow(String),
}

impl Trouble {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Ids and descriptions of all rows.
#[must_use]
pub fn rows(backend: Backend) -> Vec<(&'static str, &'static str)> {
    rows::of(backend).map(|row| (row.id, row.what)).collect()
}

/// Plays the rows one after another and writes each as it ends.
///
/// # Errors
/// A row is unknown, or `out` cannot be written. What goes wrong within a row is in its report.
pub async fn run(options: &Options, mut out: impl Write + Send) -> Result<Report, Trouble> {
    let mut report = Report::new(options);
    let wanted: Vec<_> = if options.rows.is_empty() {
        rows::of(options.backend).collect()
    } else {
        let found = options.rows.iter().map(|id| {
            rows::of(options.backend)
                .find(|row| row.id.eq_ignore_ascii_case(id))
                .ok_or_else(|| Trouble::NoSuchRow(id.clone()))
        });
        found.collect::<Result<_, _>>()?
    };
    let told = |error| Trouble::Io { what: "the report cannot be written", source: error };
    writeln!(out, "{}", report::HEADING).map_err(told)?;
    for row in wanted {
        let played = play(row, options).await;
        write!(out, "{played}").and_then(|()| out.flush()).map_err(told)?;
        report.rows.push(played);
    }
    if !options.keeps {
        // Only there if a row made rules.
        std::fs::remove_dir_all(options.dir.join(rules::FOLDER)).ok();
    }
    writeln!(out, "{}", report.summary()).map_err(told)?;
    Ok(report)
}

async fn play(row: &rows::Row, options: &Options) -> RowReport {
    let begun = Instant::now();
    let mut report = RowReport::new(row.id, row.what, options.seed);
    let dir = options.dir.join(row.id);
    if let Some(reason) = row.lacks {
        report.verdict = Verdict::Skipped(reason.to_owned());
        return report;
    }
    for need in row.needs {
        if let Some(reason) = need.is_missing(&options.binary).await {
            report.verdict = Verdict::Skipped(reason);
            return report;
        }
    }
    match stage_row(row, options, dir.clone()).await {
        Ok(stage) => {
            let stage = Box::new(stage);
            judge::judge(stage, &mut report).await;
        }
        Err(trouble) => report.fail(&trouble),
    }
    report.took = begun.elapsed();
    if !options.keeps && !matches!(report.verdict, Verdict::Broken(_)) {
        // What cannot be removed is only in the way of a second run in the same directory.
        std::fs::remove_dir_all(&dir).ok();
    } else {
        report.kept = Some(dir);
    }
    report
}

async fn stage_row(row: &rows::Row, options: &Options, dir: PathBuf) -> Result<Stage, Trouble> {
    let shape = Shape::of(options.suite, options.minutes);
    let mut shape = (row.shape)(shape);
    shape.env.extend(options.env.iter().cloned());
    if !options.env.is_empty() {
        shape.is_armed_at_start = true;
    }
    let opening =
        Opening { id: row.id, seed: options.seed, dir, binary: options.binary.clone(), shape };
    let mut stage = Stage::open(opening).await?;
    redis::expect_class(&mut stage).await?;
    if stage.shape.rate > 0.0 {
        stage.begin_traffic()?;
    }
    (row.inject)(&mut stage).await?;
    stage.end_traffic().await;
    // Under load there is no end: a row that heals before it ends its load says so itself.
    stage.healed.get_or_insert_with(Instant::now);
    Ok(stage)
}
