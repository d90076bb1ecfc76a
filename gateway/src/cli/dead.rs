//! `bugler dead`: list dead letters, look at one, send them again, give them up.

use crate::cli::access::{Access, Wanted, id, rate};
use crate::cli::outcomes::lines;
use crate::cli::{CliError, Exit, runtime};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::Write;

#[derive(Debug, Subcommand)]
pub(super) enum Dead {
    /// Dead letters, newest first.
    List(List),
    /// One dead letter.
    Show(Show),
    /// Send dead letters again.
    Replay(Replay),
    /// Give dead letters up: their deliveries stay dead.
    Discard(Discard),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    wanted: Wanted,
    /// Lines to show, at most 200.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Go on behind a page: its `next`.
    #[arg(long)]
    after: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The delivery's id.
    delivery: String,
    #[command(flatten)]
    access: Access,
}

/// Which dead letters are meant: these, all, or those a filter finds.
#[derive(Debug, Args)]
struct Selection {
    /// Ids of deliveries.
    deliveries: Vec<String>,
    /// Every dead letter of the organization.
    #[arg(long, conflicts_with = "deliveries")]
    all: bool,
    #[command(flatten)]
    wanted: Wanted,
    /// Stop after so many.
    #[arg(long)]
    limit: Option<u64>,
    /// Change nothing, say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Replay {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    selection: Selection,
    /// Spread them: `50/s`. All at once without it.
    #[arg(long, value_parser = rate)]
    rate: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Discard {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    selection: Selection,
}

impl Dead {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let runtime = runtime()?;
        match self {
            Self::List(List { access, wanted, limit, after }) => {
                let mut parameters = wanted.parameters();
                parameters.push(("limit", Some(limit.to_string())));
                parameters.push(("after", after));
                let page = runtime.block_on(access.get("/bugler/v1/dead-letters", &parameters))?;
                access.print(out, &page, |page| lines(page, "deadLetters"))?;
                Ok(Exit::Done)
            }
            Self::Show(Show { delivery, access }) => {
                let path = format!("/bugler/v1/dead-letters/{}", id(&delivery)?);
                let letter = runtime.block_on(access.get(&path, &[]))?;
                access.print(out, &letter, |letter| format!("{letter:#}\n"))?;
                Ok(Exit::Done)
            }
            Self::Replay(Replay { access, selection, rate }) => {
                let work = amend(&access, &selection, ("replay", "replayed"), rate);
                told(&access, &runtime.block_on(work)?, "replayed", out)
            }
            Self::Discard(Discard { access, selection }) => {
                let work = amend(&access, &selection, ("discard", "discarded"), None);
                told(&access, &runtime.block_on(work)?, "discarded", out)
            }
        }
    }
}

/// Asks until nothing is left of the selection; answers all that was done.
async fn amend(
    access: &Access,
    selection: &Selection,
    (verb, done): (&str, &str),
    rate: Option<u32>,
) -> Result<Value, CliError> {
    let Selection { deliveries, all, wanted, limit, dry_run } = selection;
    if deliveries.is_empty() && wanted.is_any() && !all {
        let text = "name deliveries, or a filter as --target, --event or --since, or --all";
        return Err(CliError::new(Exit::Failed, text));
    }
    let path = format!("/bugler/v1/dead-letters/{verb}");
    let (mut ids, mut refused): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    let mut after = Value::Null;
    let mut last_due = Value::Null;
    let mut left = limit.unwrap_or(u64::MAX);
    loop {
        let mut body = json!({ "dryRun": dry_run });
        if deliveries.is_empty() {
            body["filter"] = wanted.filter();
            body["limit"] = left.min(1_000).into();
        } else {
            body["deliveries"] = deliveries.clone().into();
        }
        if !after.is_null() {
            body["after"] = after;
        }
        if let Some(rate) = rate {
            body["rate"] = rate.into();
            // The next thousand goes on where the last one ended.
            let last: Option<jiff::Timestamp> = last_due.as_str().and_then(|at| at.parse().ok());
            if let Some(last) = last {
                body["startAt"] = (last.as_millisecond() + 1_000 / i64::from(rate)).into();
            }
        }
        let answer = access.post(&path, &body).await?;
        let count = answer[done].as_array().map_or(0, Vec::len);
        left = left.saturating_sub(count as u64);
        ids.extend(answer[done].as_array().cloned().unwrap_or_default());
        refused.extend(answer["refused"].as_array().cloned().unwrap_or_default());
        if !answer["lastDue"].is_null() {
            last_due = answer["lastDue"].clone();
        }
        after = answer["next"].clone();
        if after.is_null() || left == 0 {
            break;
        }
    }
    Ok(json!({ "dryRun": dry_run, done: ids, "refused": refused, "lastDue": last_due }))
}

/// Prints what was done; fails if something was refused.
pub(super) fn told(
    access: &Access,
    answer: &Value,
    done: &str,
    out: &mut impl Write,
) -> Result<Exit, CliError> {
    let refused = answer["refused"].as_array().map_or(&[][..], Vec::as_slice);
    access.print(out, answer, |answer| {
        use std::fmt::Write as _;
        let mut text = String::new();
        let count = answer[done].as_array().map_or(0, Vec::len);
        let would = if answer["dryRun"] == true { "would be " } else { "" };
        writeln!(text, "{count} {would}{done}").ok();
        if let Some(due) = answer["lastDue"].as_str() {
            writeln!(text, "the last is due {due}").ok();
        }
        for one in refused {
            let word = |name: &str| one[name].as_str().unwrap_or("-");
            writeln!(text, "left alone: {} ({})", word("delivery"), word("reason")).ok();
        }
        text
    })?;
    Ok(if refused.is_empty() { Exit::Done } else { Exit::Failed })
}
