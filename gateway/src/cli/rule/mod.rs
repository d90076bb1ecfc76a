//! `bugler rule`: the author's side, from a template to a component that answers as its tests say.

mod ask;
mod bench;
mod build;
mod cases;
mod chained;
mod compare;
mod dev;
mod diff;
mod eval;
mod expect;
mod new;
mod operate;
mod project;
mod records;
mod replay;
mod report;
mod test;
mod traffic;

use crate::cli::{CliError, Exit};
use crate::rules::{RuleLimits, check_component, counting_limits, wrap_component};
use clap::{Subcommand, ValueEnum};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a batch may take where only its answers count.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing larger is a rule.
const PROBED_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum Rule {
    /// Make a new rule from a template; needs no network.
    New(new::New),
    /// Say whether the gateway would load this rule, and what it is made of; exits with 11 if not.
    Check {
        /// A component, or the folder of a rule, which is built.
        #[arg(default_value = ".")]
        rule: PathBuf,
    },
    /// Build a rule: compile, wrap, put its manifest inside.
    Build(build::Build),
    /// Run a rule's test cases on its component; exits with 10 if one fails.
    Test(test::Test),
    /// Ask a rule one question.
    Eval(eval::Eval),
    /// Measure fuel and time against the limits; exits with 12 past a gate.
    Bench(bench::Bench),
    /// Compare what two components answer to the same questions.
    Diff(diff::Diff),
    /// Record what a rule decides, with everything it saw: about generated traffic, or in a gateway.
    Capture(replay::Capture),
    /// Ask a rule what was recorded again, and show what it decides otherwise; exits with 12 past a gate.
    Replay(replay::Replay),
    /// On every change build and test, and put what passes into a gateway.
    Dev(dev::Dev),
    /// Send a rule to a gateway: first beside the version in force, in its shadow.
    Deploy(operate::Deploy),
    /// Rules of a gateway, in the order they are asked.
    List(operate::List),
    /// One rule of a gateway: versions and history.
    Show(operate::Show),
    /// Bring a version a stage further.
    Promote(operate::Promote),
    /// Go back to the version before.
    Rollback(operate::Change),
    /// Leave a rule out until it is resumed, or for a time.
    Pause(operate::Pause),
    /// Ask a paused rule again.
    Resume(operate::Change),
    /// Show or set what the rule reads as its settings, for one organization.
    Config(operate::Config),
    /// Once a second: what is in force, and how the shadow does.
    Watch(operate::Watch),
    /// What a gateway's rule decided, oldest first.
    Decisions(records::Decisions),
    /// What a gateway's rule logged, oldest first.
    Logs(records::Logs),
    /// What a rule may use.
    Limits,
    /// Say whether the component on standard input can be a rule. The gateway asks itself, in a child
    /// process with little memory and time.
    #[command(hide = true)]
    Probe,
    /// Make a component of a core module built for wasm32-unknown-unknown, and check it.
    Wrap {
        /// What cargo built.
        core: PathBuf,
        /// Where the component goes.
        component: PathBuf,
        /// The `rule.toml` to put inside.
        #[arg(long)]
        manifest: Option<PathBuf>,
    },
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
    /// Decision records, one a line.
    Jsonl,
    /// Of tests.
    Junit,
}

impl Rule {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        match self {
            Self::New(new) => new.run(out),
            Self::Check { rule } => {
                let subject = project::Subject::open(&rule)?;
                let summary = check(&subject.component)?;
                let hooks: Vec<_> = summary.hooks.iter().map(|hook| hook.as_str()).collect();
                let (bytes, functions) = (summary.bytes, summary.functions);
                let name = subject.title();
                writeln!(
                    out,
                    "{name}  {bytes} bytes  {functions} functions  sha256:{}",
                    summary.digest
                )?;
                writeln!(out, "  hooks    {}", hooks.join(", "))?;
                writeln!(out, "  imports  {}", summary.imports.join(", "))?;
                if let Some(facts) = build::facts(&subject.component) {
                    writeln!(out, "  built    {facts}")?;
                }
                let manifest = if summary.manifest.is_some() { "inside" } else { "none" };
                writeln!(out, "  manifest {manifest}")?;
                Ok(Exit::Done)
            }
            Self::Probe => {
                let mut component = Vec::new();
                std::io::stdin().lock().take(PROBED_BYTES_MAX).read_to_end(&mut component)?;
                check(&component)?;
                Ok(Exit::Done)
            }
            Self::Build(build) => build.run(out),
            Self::Test(test) => test.run(out),
            Self::Eval(eval) => eval.run(out),
            Self::Bench(bench) => bench.run(out),
            Self::Diff(diff) => diff.run(out),
            Self::Capture(capture) => capture.run(out),
            Self::Replay(replay) => replay.run(out),
            Self::Dev(dev) => dev.run(out),
            Self::Deploy(deploy) => deploy.run(out),
            Self::List(list) => list.run(out),
            Self::Show(show) => show.run(out),
            Self::Promote(promote) => promote.run(out),
            Self::Rollback(change) => change.run(operate::Turn::RollBack, out),
            Self::Pause(pause) => pause.run(out),
            Self::Resume(change) => change.run(operate::Turn::Resume, out),
            Self::Config(config) => config.run(out),
            Self::Watch(watch) => watch.run(out),
            Self::Decisions(decisions) => decisions.run(out),
            Self::Logs(logs) => logs.run(out),
            Self::Limits => limits(out),
            Self::Wrap { core, component, manifest } => {
                let bytes = wrap(&core, &component, manifest.as_deref())?;
                writeln!(out, "{}: {bytes} bytes", component.display())?;
                Ok(Exit::Done)
            }
        }
    }
}

/// The gateway's own ceilings, as `test`, `eval` and `bench` apply them.
fn limits(out: &mut impl Write) -> Result<Exit, CliError> {
    let limits = RuleLimits::default();
    let rows = [
        ("component", format!("{} MiB", limits.component_bytes >> 20)),
        ("memory", format!("{} MiB", limits.memory_bytes >> 20)),
        ("fuel", format!("{} an item + {} a batch", limits.fuel_per_item, limits.fuel_per_batch)),
        ("time", format!("{} ms a batch", limits.deadline.as_millis())),
        ("time, authorize", format!("{} ms a batch", limits.authorize_deadline.as_millis())),
        ("output", format!("{} KiB an item", limits.output_bytes_per_item >> 10)),
        ("host calls", format!("{} an item", limits.calls_per_item)),
        ("log", format!("{} lines of {} bytes", limits.log_lines_per_batch, limits.log_line_bytes)),
        ("batch", format!("{} items, {} KiB", limits.batch_items, limits.batch_bytes >> 10)),
        ("codes", String::from("32 of a rule, then other")),
        ("rules", String::from("32 of an organization, 32 of everybody")),
    ];
    let rows = rows.into_iter().chain(counting_limits());
    for (what, most) in rows {
        writeln!(out, "{what:<16} {most}")?;
    }
    Ok(Exit::Done)
}

/// Wraps and checks a rule; answers the size of the component.
pub(super) fn wrap(
    core: &Path,
    component: &Path,
    manifest: Option<&Path>,
) -> Result<usize, CliError> {
    let mut wrapped = wrap_component(&read(core)?).map_err(|error| rejected(&error))?;
    if let Some(manifest) = manifest {
        let text = String::from_utf8_lossy(&read(manifest)?).into_owned();
        wrapped =
            crate::rules::embed_manifest(&wrapped, &text).map_err(|error| rejected(&error))?;
    }
    check(&wrapped)?;
    write(component, &wrapped)?;
    Ok(wrapped.len())
}

fn check(component: &[u8]) -> Result<crate::rules::ComponentSummary, CliError> {
    check_component(component).map_err(|error| rejected(&error))
}

/// A bench with the gateway's own limits, raised as far as `component` asks. One that is patient tells
/// what a rule answers and not how fast: fuel ends what does not end, and a busy machine changes nothing.
fn bench(component: &[u8], is_patient: bool) -> Result<crate::rules::Bench, CliError> {
    let asked = crate::rules::manifest_of(component).map(|manifest| manifest.limits);
    let mut limits = RuleLimits::asked_by(&asked.unwrap_or_default());
    if is_patient {
        limits.deadline = PATIENCE;
        limits.authorize_deadline = PATIENCE;
    }
    crate::rules::Bench::start(limits).map_err(|error| CliError::failed(&error))
}

fn rejected(error: &dyn std::error::Error) -> CliError {
    CliError::new(Exit::RuleRejected, crate::telemetry::chain(error))
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|error| {
        CliError::new(Exit::NotFound, format!("cannot read {}: {error}", path.display()))
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, bytes)).map_err(|error| {
        CliError::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
    })
}
