//! `bugler resend` and `bugler cancel`: one notification again, or no longer.

use crate::cli::access::{Access, id, rate};
use crate::cli::dead::told;
use crate::cli::{CliError, Exit, runtime};
use clap::Args;
use serde_json::json;
use std::io::Write;

#[derive(Debug, Args)]
pub(super) struct Resend {
    /// The notification's id.
    id: String,
    #[command(flatten)]
    access: Access,
    /// Delivered and suppressed ones, too; failed ones without it.
    #[arg(long)]
    all: bool,
    /// Only this target, as the timeline shows it; can be given more than once.
    #[arg(long, conflicts_with = "all")]
    target: Vec<String>,
    /// Spread them: `50/s`.
    #[arg(long, value_parser = rate)]
    rate: Option<u32>,
    /// Change nothing, say what would be done.
    #[arg(long)]
    dry_run: bool,
}

impl Resend {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let path = format!("/bugler/v1/notifications/{}/resend", id(&self.id)?);
        let mut body = json!({ "dryRun": self.dry_run });
        body["targets"] = if self.target.is_empty() {
            if self.all { "all".into() } else { "failed".into() }
        } else {
            self.target.clone().into()
        };
        if let Some(rate) = self.rate {
            body["rate"] = rate.into();
        }
        let answer = runtime()?.block_on(self.access.post(&path, &body))?;
        told(&self.access, &answer, "resent", out)
    }
}

#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The notification's id.
    id: String,
    #[command(flatten)]
    access: Access,
}

impl Cancel {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let path = format!("/bugler/v1/notifications/{}/cancel", id(&self.id)?);
        let answer = runtime()?.block_on(self.access.post(&path, &json!({})))?;
        self.access.print(out, &answer, |answer| {
            format!("canceled; {} waiting entries end now\n", answer["waiting"])
        })?;
        Ok(Exit::Done)
    }
}
