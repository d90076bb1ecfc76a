//! `bugler outcomes`: deliveries that ended, newest first.

use crate::cli::access::{Access, Wanted};
use crate::cli::{CliError, Exit, runtime};
use clap::Args;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write;

#[derive(Debug, Args)]
pub(super) struct Outcomes {
    #[command(flatten)]
    access: Access,
    /// Only of this notification.
    #[arg(long)]
    notification: Option<String>,
    /// Only in these states: `dead,rejected`.
    #[arg(long)]
    state: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
    /// Lines to show, at most 200.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Go on behind a page: its `next`.
    #[arg(long)]
    after: Option<String>,
}

impl Outcomes {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let mut parameters = self.wanted.parameters();
        parameters.push(("notification", self.notification.clone()));
        parameters.push(("state", self.state.clone()));
        parameters.push(("limit", Some(self.limit.to_string())));
        parameters.push(("after", self.after.clone()));
        let page = runtime()?.block_on(self.access.get("/bugler/v1/outcomes", &parameters))?;
        self.access.print(out, &page, |page| lines(page, "outcomes"))?;
        Ok(Exit::Done)
    }
}

/// One line for each delivery of a page, and how to see more.
pub(super) fn lines(page: &Value, name: &str) -> String {
    let mut text = String::new();
    for line in page[name].as_array().into_iter().flatten() {
        let word = |name: &str| line[name].as_str().unwrap_or("-");
        writeln!(
            text,
            "{}  {:<10} {}  {}  {}  {}  notification {}",
            word("at"),
            line["state"].as_str().unwrap_or("dead"),
            word("delivery"),
            word("target"),
            word("cause"),
            word("event"),
            word("notification"),
        )
        .ok();
    }
    if let Some(next) = page["next"].as_str() {
        writeln!(text, "more: --after {next}").ok();
    }
    text
}
