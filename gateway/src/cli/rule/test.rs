//! `bugler rule test`: every case on the compiled component, each in an instance of its own.

use crate::cli::rule::Output;
use crate::cli::rule::ask::{Asked, ask};
use crate::cli::rule::cases::{self, Case};
use crate::cli::rule::expect::hint;
use crate::cli::rule::project::{Loaded, Subject};
use crate::cli::rule::report::junit;
use crate::cli::{CliError, Exit};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(in crate::cli) struct Test {
    /// The rule's folder, with `rule.toml` and `tests/*.toml`.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Test this component instead of building the folder.
    #[arg(long)]
    component: Option<PathBuf>,
    /// Only cases with this in their names.
    #[arg(long, default_value = "")]
    filter: String,
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Output,
}

/// One case and what came of it.
pub(super) struct Tried {
    pub(super) case: Case,
    pub(super) asked: Asked,
    pub(super) misses: Vec<String>,
    pub(super) hint: Option<String>,
    /// The command that asks the same again.
    pub(super) again: String,
}

impl Test {
    /// All cases of the rule in `dir`, built, in words.
    pub(super) fn of(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir, component: None, filter: String::new(), output: Output::Text }
    }

    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let subject = Subject::open(self.component.as_ref().unwrap_or(&self.dir))?;
        let loaded = subject.load()?;
        let mut cases = cases::all(&self.dir)?;
        cases.retain(|case| case.name.contains(&self.filter));
        if cases.is_empty() {
            let text = "no test case; write one into tests/, or look at --filter";
            return Err(CliError::new(Exit::NotFound, text));
        }
        let mut tried = Vec::new();
        for case in cases {
            tried.push(self.try_one(&loaded, case)?);
        }
        match self.output {
            Output::Text => self.text(out, &subject, &loaded, &tried)?,
            Output::Json => writeln!(out, "{:#}", json(&subject, &tried))?,
            Output::Junit => write!(out, "{}", junit(loaded.name(), &tried))?,
        }
        let is_passed = tried.iter().all(|tried| tried.misses.is_empty());
        Ok(if is_passed { Exit::Done } else { Exit::RuleTestFailed })
    }

    fn try_one(&self, loaded: &Loaded, case: Case) -> Result<Tried, CliError> {
        let asked = ask(loaded, &case.input)?;
        let misses = case.expect.misses(&case.input, &asked);
        let hint = if misses.is_empty() { None } else { hint(&case.input, &asked) };
        let name = case.name.replace('\'', "'\\''");
        let again = format!("bugler rule eval {} --case '{name}'", self.dir.display());
        Ok(Tried { case, asked, misses, hint, again })
    }

    fn text(
        &self,
        out: &mut impl Write,
        subject: &Subject,
        loaded: &Loaded,
        tried: &[Tried],
    ) -> Result<(), CliError> {
        writeln!(out, "rule {}", subject.title())?;
        let width = tried.iter().map(|tried| tried.case.name.chars().count()).max().unwrap_or(0);
        let memory = loaded.bench.limits().memory_bytes;
        for Tried { case, asked, misses, hint, again } in tried {
            let word = if misses.is_empty() { "ok  " } else { "FAIL" };
            writeln!(out, "  {word} {:<width$}  {}", case.name, asked.cost(memory))?;
            for miss in misses {
                writeln!(out, "         {miss}    {}:{}", case.file.display(), case.line)?;
            }
            for line in hint.iter().chain((!misses.is_empty()).then_some(again)) {
                writeln!(out, "         {line}")?;
            }
        }
        let passed = tried.iter().filter(|tried| tried.misses.is_empty()).count();
        writeln!(out, "{passed} passed, {} failed", tried.len() - passed)?;
        Ok(())
    }
}

fn json(subject: &Subject, tried: &[Tried]) -> serde_json::Value {
    let one = |tried: &Tried| {
        json!({
            "name": tried.case.name,
            "file": tried.case.file,
            "line": tried.case.line,
            "passed": tried.misses.is_empty(),
            "misses": tried.misses,
            "hint": tried.hint,
            "again": tried.again,
            "answer": tried.asked,
        })
    };
    let passed = tried.iter().filter(|tried| tried.misses.is_empty()).count();
    json!({
        "component": subject.path,
        "passed": passed,
        "failed": tried.len() - passed,
        "cases": tried.iter().map(one).collect::<Vec<_>>(),
    })
}
