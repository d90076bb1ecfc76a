//! `bugler resend` and `bugler cancel`: one notification again, or no longer.

use crate::cli::access::{Access, id, rate};
use crate::cli::amend::{AT_ONCE, Amended};
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
        let how = (self.rate, self.dry_run);
        let mut amended = Amended::new(&self.access, path, "resent", how);
        let asked = runtime()?.block_on(async {
            if self.target.is_empty() {
                let which = if self.all { "all" } else { "failed" };
                return amended.ask(json!({ "targets": which }), None).await;
            }
            for some in self.target.chunks(AT_ONCE) {
                amended.ask(json!({ "targets": some }), None).await?;
            }
            Ok(())
        });
        amended.tell(asked, out)
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
