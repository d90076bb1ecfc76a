//! `bugler torture`: faults from a seed against this binary or another, judged by ledgers.

use crate::cli::{CliError, Exit, runtime};
use bugler_loadtest::torture::{self, Backend, Options, Sabotage, Suite};
use clap::{Args, ValueEnum};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Rows of `--suite short`: a minute or two, one of each kind.
const SHORT: [&str; 6] = ["F1", "F13", "F28", "F53", "F55", "F58"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// A few rows, a few seconds each.
    Short,
    /// Every row at full size: 200 organizations, 5,000 notifications a second, for a minute.
    Long,
    /// Every row, a few seconds each.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendName {
    Embedded,
    /// One redis-server, which must be installed.
    Redis,
    /// Six redis-servers: three primaries, each with a replica.
    Cluster,
}

impl From<BackendName> for Backend {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Embedded => Self::Embedded,
            BackendName::Redis => Self::Redis,
            BackendName::Cluster => Self::Cluster,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SabotageName {
    AckBeforeFsync,
    DropOutcome,
    NoFence,
}

impl From<SabotageName> for Sabotage {
    fn from(name: SabotageName) -> Self {
        match name {
            SabotageName::AckBeforeFsync => Self::AckBeforeFsync,
            SabotageName::DropOutcome => Self::DropOutcome,
            SabotageName::NoFence => Self::NoFence,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Torture {
    /// Rows of the fault matrix, as `F1,F8`; `--list` shows them.
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<String>,
    /// Which rows, and how large.
    #[arg(long, value_enum, default_value_t = Rows::Short, overrides_with = "suite")]
    suite: Rows,
    /// Where the gateway keeps what it is given; each has rows of its own.
    #[arg(long, value_enum, default_value_t = BackendName::Embedded)]
    backend: BackendName,
    /// Draws when and where faults strike; printed with every row, to play it again.
    #[arg(long, overrides_with = "seed")]
    seed: Option<u64>,
    /// How long each fault lasts.
    #[arg(long)]
    minutes: Option<f64>,
    /// Where ledgers and data go; a new folder among the temporary files if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Fail if a row was skipped.
    #[arg(long)]
    strict: bool,
    /// Keep ledgers and data of rows that passed, too.
    #[arg(long)]
    keep: bool,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table and the plots as one page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write each plot as an SVG file into this folder, which must be there.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// The gateway to torture; this very binary if not given.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Sabotage the gateway, which must be built with the feature `crash-points`.
    #[arg(long, value_enum)]
    sabotage: Option<SabotageName>,
    /// Check that each sabotage is caught, and that the same binary passes without.
    #[arg(long)]
    self_test: bool,
    /// Show the rows and exit.
    #[arg(long)]
    list: bool,
}

impl Torture {
    pub(super) fn run(self, out: &mut (impl Write + Send)) -> Result<Exit, CliError> {
        if self.list {
            for (id, what) in torture::rows(self.backend.into()) {
                writeln!(out, "{id:<5} {what}")?;
            }
            return Ok(Exit::Done);
        }
        let options = self.options()?;
        let runtime = runtime()?;
        if self.self_test {
            let wanted = self.sabotage.map(Sabotage::from);
            let wanted = wanted.map_or_else(|| Sabotage::ALL.to_vec(), |one| vec![one]);
            let tested = runtime.block_on(torture::self_test(&options, &wanted, &mut *out));
            let tested = tested.map_err(|e| CliError::failed(&e))?;
            write!(out, "{tested}")?;
            return Ok(if tested.holds() { Exit::Done } else { Exit::Failed });
        }
        let report = runtime.block_on(torture::run(&options, &mut *out));
        let report = report.map_err(|e| CliError::new(Exit::CouldNotRun, e.to_string()))?;
        if let Some(file) = &self.json {
            std::fs::write(file, format!("{:#}\n", report.to_json()))?;
        }
        if let Some(file) = &self.html {
            std::fs::write(file, report.to_html())?;
        }
        for (row, dir) in report.rows.iter().zip(self.plots.iter().cycle()) {
            for (number, (_, svg)) in row.plots.iter().enumerate() {
                std::fs::write(dir.join(format!("{}-{}.svg", row.row, number + 1)), svg)?;
            }
        }
        for row in report.rows.iter().filter_map(|row| Some((row.row, row.kept.as_ref()?))) {
            writeln!(out, "ledgers of {}: {}", row.0, row.1.display())?;
        }
        Ok(match report.exit_code() {
            0 if self.strict && report.unproved() > 0 => Exit::CouldNotRun,
            0 => Exit::Done,
            1 => Exit::Failed,
            _ => Exit::CouldNotRun,
        })
    }

    fn options(&self) -> Result<Options, CliError> {
        let binary = match &self.binary {
            Some(binary) => std::path::absolute(binary)?,
            None => std::env::current_exe()?,
        };
        let seed = self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let dir = match &self.dir {
            Some(dir) => std::path::absolute(dir)?,
            None => {
                std::env::temp_dir().join(format!("bugler-torture-{seed}-{}", std::process::id()))
            }
        };
        if !is_free(&dir) {
            let text = format!("{} holds something; name an empty directory", dir.display());
            return Err(CliError::new(Exit::CouldNotRun, text));
        }
        let rows = match self.suite {
            Rows::Short if self.rows.is_empty() && self.backend == BackendName::Embedded => {
                SHORT.map(str::to_owned).to_vec()
            }
            Rows::Short | Rows::Long | Rows::All => self.rows.clone(),
        };
        let suite = if self.suite == Rows::Long { Suite::Long } else { Suite::Short };
        let sabotage = self.sabotage.filter(|_| !self.self_test).map(Sabotage::from);
        let variable = |one: Sabotage| (String::from("BUGLER_SABOTAGE"), one.variable().to_owned());
        Ok(Options {
            rows,
            suite,
            backend: self.backend.into(),
            seed,
            minutes: self.minutes,
            dir,
            binary,
            env: sabotage.map(variable).into_iter().collect(),
            keeps: self.keep,
        })
    }
}

fn is_free(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        torture: Torture,
    }

    #[test]
    fn the_last_suite_and_seed_hold() {
        let words = ["bugler", "--suite", "all", "--seed", "7", "--suite", "long", "--seed", "9"];
        let line = Line::try_parse_from(words).expect("as scripts/torture calls it");
        assert_eq!((line.torture.suite, line.torture.seed), (Rows::Long, Some(9)));
        assert!(!line.torture.strict);
    }
}
