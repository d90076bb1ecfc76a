//! `bugler rule diff`: two components, the same questions, and where their answers differ.

use crate::cli::rule::Output;
use crate::cli::rule::ask::ask;
use crate::cli::rule::cases;
use crate::cli::rule::compare;
use crate::cli::rule::operate::Perhaps;
use crate::cli::rule::project::Subject;
use crate::cli::rule::report::{Changes, percent};
use crate::cli::rule::traffic::Traffic;
use crate::cli::{CliError, Exit};
use crate::rules::input::Input;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    /// How it is: a component, the folder of a rule, or `active` for what a gateway has in force of the
    /// rule. That needs --token and --org.
    before: String,
    /// A component or the folder of a rule: how it would be.
    after: PathBuf,
    /// Ask what the test cases of this folder ask.
    #[arg(long)]
    cases: Option<PathBuf>,
    /// Without `--cases`: ask so many generated questions.
    #[arg(long, default_value_t = 1_000)]
    generate: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Exit with 12 if a larger share of the answers differs: `0.1%`.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_changed: Option<f64>,
    #[command(flatten)]
    at: Perhaps,
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Output,
}

impl Diff {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let after = Subject::open(&self.after)?.load()?;
        let before = compare::open(&self.before, after.name(), &self.at)?.load()?;
        let inputs: Vec<(String, Input)> = match &self.cases {
            Some(dir) => cases::own(dir)?.into_iter().map(|case| (case.name, case.input)).collect(),
            None => {
                let mut traffic = Traffic::new(self.seed, before.hook(None)?);
                let named = |(number, input)| (format!("#{number}"), input);
                traffic.batch(self.generate).into_iter().enumerate().map(named).collect()
            }
        };
        let mut changes = Changes::default();
        for (name, input) in &inputs {
            let (was, is) = (ask(&before, input)?, ask(&after, input)?);
            if changes.note(name, &was.decided, &is.decided) && self.output == Output::Jsonl {
                let record = is.record(&after, "diff", input)?;
                let mut line = serde_json::to_value(&record).map_err(|e| CliError::failed(&e))?;
                line["before"] = serde_json::json!(was.decided);
                writeln!(out, "{line}")?;
            }
        }
        match self.output {
            Output::Json => writeln!(out, "{:#}", changes.json())?,
            Output::Jsonl => {}
            Output::Text | Output::Junit => write!(out, "{}", changes.text())?,
        }
        let is_outside = self.max_changed.is_some_and(|percent| changes.exceeds(percent));
        Ok(if is_outside { Exit::OutsideGate } else { Exit::Done })
    }
}
