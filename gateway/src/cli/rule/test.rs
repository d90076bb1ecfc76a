//! `bugler rule test`: every case on the compiled component, each in an instance of its own.

use crate::cli::rule::Output;
use crate::cli::rule::ask::{Asked, ask};
use crate::cli::rule::cases::{self, Case, Cases};
use crate::cli::rule::chained;
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
    /// Write what chains decide now into the files of recorded cases (`cases_from`).
    #[arg(long)]
    update: bool,
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
        Self { dir, component: None, filter: String::new(), update: false, output: Output::Text }
    }

    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let subject = Subject::open(self.component.as_ref().unwrap_or(&self.dir))?;
        let loaded = subject.load()?;
        let Cases { own, chains } = cases::all(&self.dir)?;
        let is_wanted = |case: &Case| case.name.contains(&self.filter);
        let mut tried = Vec::new();
        for case in own.into_iter().filter(is_wanted) {
            let asked = ask(&loaded, &case.input)?;
            tried.push(self.tried(case, asked));
        }
        for mut chain in chains {
            let links = chain.load(&subject, loaded.name())?;
            for case in std::mem::take(&mut chain.cases).into_iter().filter(is_wanted) {
                let asked = links.ask(&case.input)?;
                tried.push(self.tried_chain(case, asked));
            }
        }
        if tried.is_empty() {
            let text = "no test case; write one into tests/, or look at --filter";
            return Err(CliError::new(Exit::NotFound, text));
        }
        if self.update {
            let golden = tried.iter().filter(|tried| tried.case.golden.is_some());
            let golden: Vec<_> = golden.map(|tried| (&tried.case, &tried.asked)).collect();
            let changed = chained::update(&golden)?;
            writeln!(std::io::stderr(), "{changed} recorded decisions changed")?;
            tried.iter_mut().filter(|tried| tried.case.golden.is_some()).for_each(|tried| {
                tried.misses.clear();
            });
        }
        match self.output {
            Output::Text => self.text(out, &subject, &loaded, &tried)?,
            Output::Json => writeln!(out, "{:#}", json(&subject, &tried))?,
            Output::Jsonl => records(out, &loaded, &tried)?,
            Output::Junit => write!(out, "{}", junit(loaded.name(), &tried))?,
        }
        let is_passed = tried.iter().all(|tried| tried.misses.is_empty());
        Ok(if is_passed { Exit::Done } else { Exit::RuleTestFailed })
    }

    fn tried(&self, case: Case, asked: Asked) -> Tried {
        let misses = case.expect.misses(&case.input, &asked);
        let hint = if misses.is_empty() { None } else { hint(&case.input, &asked) };
        let name = case.name.replace('\'', "'\\''");
        let again = format!("bugler rule eval {} --case '{name}'", self.dir.display());
        Tried { case, asked, misses, hint, again }
    }

    fn tried_chain(&self, case: Case, asked: Asked) -> Tried {
        let misses = match &case.golden {
            Some(golden) => chained::misses(golden, &asked),
            None => case.expect.misses(&case.input, &asked),
        };
        let name = case.name.replace('\'', "'\\''");
        let again = format!("bugler rule test {} --filter '{name}'", self.dir.display());
        Tried { case, asked, misses, hint: None, again }
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

/// Each case as the decision record of its item, with what it is called and what is otherwise.
fn records(out: &mut impl Write, loaded: &Loaded, tried: &[Tried]) -> Result<(), CliError> {
    for Tried { case, asked, misses, .. } in tried {
        let record = asked.record(loaded, "test", &case.input)?;
        let mut line = serde_json::to_value(&record).map_err(|error| CliError::failed(&error))?;
        (line["case"], line["misses"]) = (json!(case.name), json!(misses));
        writeln!(out, "{line}")?;
    }
    Ok(())
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
