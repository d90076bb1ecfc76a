//! Chains in tests: several rules asked in order, each on what the one before left, and what comes of it.

use crate::cli::rule::ask::{Asked, ask};
use crate::cli::rule::cases::{self, Case};
use crate::cli::rule::expect::Expect;
use crate::cli::rule::project::{Loaded, Subject};
use crate::cli::rule::read;
use crate::cli::{CliError, Exit};
use crate::rules::input::{Baseline, Input, PlanText, StepText};
use crate::rules::record::{Decided, DecisionRecord};
use crate::rules::{Hook, shipped_rules};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Rules of a chain, as many as a gateway asks.
const RULES_MAX: usize = 32;
/// What a chain says that no rule of it changed.
const NO_RULE: &str = "no_rule";

/// `[chain]` of a test file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChainText {
    /// Names of shipped rules, the name of the rule under test, or paths of others.
    pub(super) rules: Vec<String>,
    #[serde(default)]
    pub(super) case: Vec<Value>,
    /// Decision records with their inputs and what came of them: `chain/*.jsonl`.
    #[serde(default)]
    pub(super) cases_from: Option<String>,
}

/// The cases of one `[chain]`.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) rules: Vec<String>,
    /// The folder that paths of rules are relative to.
    dir: PathBuf,
    pub(super) cases: Vec<Case>,
}

/// The rules of a chain, loaded.
#[derive(Debug)]
pub(super) struct Links(Vec<Loaded>);

impl Chain {
    /// The chain of a test file with its cases, those in `cases` and those it names.
    pub(super) fn of(
        text: &ChainText,
        file: &Path,
        mut cases: Vec<Case>,
    ) -> Result<Self, CliError> {
        if text.rules.is_empty() || text.rules.len() > RULES_MAX {
            let text = format!("{}: a chain has 1 to {RULES_MAX} rules", file.display());
            return Err(CliError::new(Exit::Failed, text));
        }
        let folder = file.parent().unwrap_or(Path::new("."));
        for golden in text.cases_from.iter().map(|pattern| matching(folder, pattern)) {
            for path in golden? {
                cases.extend(recorded(&path)?);
            }
        }
        let dir = folder.parent().unwrap_or(folder).to_owned();
        Ok(Self { rules: text.rules.clone(), dir, cases })
    }

    /// Loads its rules; `own` is the one under test.
    pub(super) fn load(&self, own: &Subject, name: &str) -> Result<Links, CliError> {
        let load = |rule: &String| {
            if rule == name {
                return own.load();
            }
            let is_shipped = shipped_rules().any(|shipped| shipped == rule);
            let path = if is_shipped { PathBuf::from(rule) } else { self.dir.join(rule) };
            Subject::open(&path)?.load()
        };
        self.rules.iter().map(load).collect::<Result<_, _>>().map(Links)
    }
}

/// Files in `folder` under a pattern like `chain/*.jsonl`, whose last part may have one `*`.
fn matching(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, CliError> {
    let (below, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let folder = folder.join(below);
    let (before, after) = name.split_once('*').unwrap_or((name, ""));
    let is_it = |name: &str| match name.strip_prefix(before) {
        Some(rest) if pattern.ends_with('*') || pattern.contains('*') => rest.ends_with(after),
        Some(rest) => rest.is_empty(),
        None => false,
    };
    let unread = |error: std::io::Error| {
        CliError::new(Exit::NotFound, format!("cannot read {}: {error}", folder.display()))
    };
    let entries = std::fs::read_dir(&folder).map_err(unread)?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_it));
    files.sort();
    Ok(files)
}

/// A case of each line of a file of decision records.
fn recorded(file: &Path) -> Result<Vec<Case>, CliError> {
    let text = String::from_utf8_lossy(&read(file)?).into_owned();
    let mut cases = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let wrong = |what: String| {
            CliError::new(Exit::Failed, format!("{}:{line}: {what}", file.display()))
        };
        let record: DecisionRecord = serde_json::from_str(text)
            .map_err(|error| wrong(format!("is no decision record: {error}")))?;
        let missing = || wrong(String::from("has no input; `bugler rule capture` records it"));
        let input = record.input.clone().ok_or_else(missing)?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let (name, file) = (format!("{stem}:{line}"), file.to_owned());
        let expect = Expect::default();
        cases.push(Case { name, file, line, input, expect, golden: Some(Box::new(record)) });
    }
    Ok(cases)
}

/// How a recorded decision differs from what the chain decides now.
pub(super) fn misses(golden: &DecisionRecord, asked: &Asked) -> Vec<String> {
    let plain = |decided: &Decided| Decided { detail: None, ..decided.clone() };
    let (was, is) = (plain(&golden.decided), plain(&asked.decided));
    let shown = |rule: &str, decided: &Decided| {
        let text = serde_json::to_value(decided).unwrap_or_default();
        format!("{rule}: {text}")
    };
    let by = asked.by.as_deref().unwrap_or_default();
    if was == is && golden.rule == by {
        return Vec::new();
    }
    let (was, is) = (shown(&golden.rule, &was), shown(by, &is));
    vec![format!("recorded {was}, got {is}; `bugler rule test --update` takes it over")]
}

/// Writes what the chain decides now into the files of recorded cases; answers how many lines changed.
pub(super) fn update(tried: &[(&Case, &Asked)]) -> Result<usize, CliError> {
    let mut files: Vec<&Path> = tried.iter().map(|(case, _)| case.file.as_path()).collect();
    files.dedup();
    let mut changed = 0;
    for file in files {
        let text = String::from_utf8_lossy(&read(file)?).into_owned();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (case, asked) in tried.iter().filter(|(case, _)| case.file == file) {
            let Some(golden) = case.golden.as_deref().filter(|one| !misses(one, asked).is_empty())
            else {
                continue;
            };
            let record = DecisionRecord {
                rule: asked.by.clone().unwrap_or_default(),
                stage: String::from("test"),
                decided: asked.decided.clone(),
                version: String::new(),
                digest: String::new(),
                ..golden.clone()
            };
            if let Some(line) = lines.get_mut(case.line - 1) {
                *line = serde_json::to_string(&record).map_err(|e| CliError::failed(&e))?;
                changed += 1;
            }
        }
        cases::write_lines(file, &lines)?;
    }
    Ok(changed)
}

impl Links {
    /// Asks the rules in order. What comes of it stands as the answer of the rule that said so.
    pub(super) fn ask(&self, input: &Input) -> Result<Asked, CliError> {
        let hook = match input.hook {
            Some(hook) => hook,
            None => self.0.first().map_or(Ok(Hook::Route), |loaded| loaded.hook(None))?,
        };
        let mut input = Input { hook: Some(hook), ..input.clone() };
        let mut all = Asked { decided: unchanged(hook, &input), ..Asked::default() };
        for loaded in self.0.iter().filter(|loaded| loaded.rule.summary.hooks.contains(&hook)) {
            let asked = ask(loaded, &input)?;
            let is_over = all.take(loaded, hook, asked);
            if is_over {
                break;
            }
            match &all.decided {
                Decided { plan_after: Some(plan), .. } => input.plan = Some(plan.clone()),
                Decided { payload_after: Some(payload), .. } => {
                    input.payload = Some(payload.clone())
                }
                Decided { decision, .. } if decision == "allow" => {
                    input.baseline = Some(Baseline::Allow)
                }
                _ => {}
            }
        }
        Ok(all)
    }
}

/// What becomes of an item that no rule changes.
fn unchanged(hook: Hook, input: &Input) -> Decided {
    let decision = match hook {
        Hook::Authorize if input.baseline == Some(Baseline::Deny) => "deny",
        Hook::Authorize => "allow",
        Hook::Route => "deliver",
        Hook::Transform => "keep",
    };
    let all =
        || PlanText::Steps(vec![StepText::Targets((0..input.recipient.targets.len()).collect())]);
    let plan = (hook == Hook::Route).then(|| input.plan.clone().unwrap_or_else(all));
    let (decision, code) = (decision.to_owned(), NO_RULE.to_owned());
    Decided { decision, code, plan_after: plan, ..Decided::default() }
}

impl Asked {
    /// Takes over what one more rule of a chain said; true if that ends it.
    fn take(&mut self, loaded: &Loaded, hook: Hook, asked: Self) -> bool {
        self.fuel += asked.fuel;
        self.fuel_limit += asked.fuel_limit;
        self.memory_bytes = self.memory_bytes.max(asked.memory_bytes);
        self.micros += asked.micros;
        self.logs.extend(asked.logs);
        self.calls.extend(asked.calls);
        let config = loaded.rule.config();
        let (counts, is_over) = match asked.decided.decision.as_str() {
            "deliver" | "patch" | "replace" => (true, false),
            "hold-until" | "digest" | "drop" | "deny" => (true, true),
            "allow" => (config.may_grant, false),
            "error" => (config.fails_closed(hook), config.fails_closed(hook)),
            _ => (false, false),
        };
        if counts {
            self.decided = asked.decided;
            self.by = Some(loaded.name().to_owned());
        }
        is_over
    }
}
