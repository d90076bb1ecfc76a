//! `bugler trace`: a notification's timeline, for people or as JSON.

use crate::cli::client::Gateway;
use crate::cli::{CliError, Exit, runtime};
use clap::{Args, ValueEnum};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Which notification, and where it is asked for.
#[derive(Debug, Args)]
pub(super) struct Question {
    /// The notification's id, from `Bugler-Notification-Id` or an answer's body.
    id: String,
    /// Where the gateway serves.
    #[arg(long, env = "BUGLER_URL", default_value = "http://127.0.0.1:2845")]
    url: String,
    /// A bearer token of the notification's organization, or of one above it.
    #[arg(long, env = "BUGLER_TOKEN", hide_env_values = true)]
    token: String,
    /// The organization, if it is one below the token's.
    #[arg(long)]
    org: Option<i32>,
}

impl Question {
    pub(super) fn ask(&self) -> Result<Value, CliError> {
        runtime()?.block_on(async {
            let gateway = Gateway::new(&self.url, &self.token)?;
            fetch(&gateway, &self.id, self.org).await
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct Trace {
    #[command(flatten)]
    question: Question,
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl Trace {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let timeline = self.question.ask()?;
        match self.output {
            Output::Json => writeln!(out, "{timeline:#}")?,
            Output::Text => write!(out, "{}", render(&timeline))?,
        }
        Ok(Exit::Done)
    }
}

/// A notification's timeline as the gateway tells it.
pub(super) async fn fetch(
    gateway: &Gateway,
    id: &str,
    org: Option<i32>,
) -> Result<Value, CliError> {
    let query = org.map(|org| format!("?organization={org}")).unwrap_or_default();
    let is_plain = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !is_plain {
        return Err(CliError::new(Exit::NotFound, "a notification id is an uuid"));
    }
    let reply = gateway.get(&format!("/bugler/v1/notifications/{id}{query}")).await?;
    let exit = match reply.status {
        200 => return reply.json(),
        401 | 403 => Exit::NotAllowed,
        404 => Exit::NotFound,
        _ => Exit::Failed,
    };
    let code = reply.header("bugler-error").unwrap_or("no code").to_owned();
    let detail = reply.header("bugler-error-detail").unwrap_or_default();
    let text = format!("{} {code}: {detail} (see `bugler explain {code}`)", reply.status);
    Err(CliError::new(exit, text))
}

/// The timeline in lines, times relative to acceptance.
pub(super) fn render(timeline: &Value) -> String {
    let mut text = String::new();
    let word = |value: &Value, name: &str| value[name].as_str().unwrap_or("-").to_owned();
    let start = millis(&timeline["createdAt"]);
    writeln!(
        text,
        "{}  {}  {}  from {}  organization {}",
        word(timeline, "id"),
        word(timeline, "state"),
        word(timeline, "event"),
        word(timeline, "source"),
        timeline["organization"]
    )
    .ok();
    writeln!(text, "  +0 ms      accepted   {}", word(timeline, "createdAt")).ok();
    for event in timeline["timeline"].as_array().into_iter().flatten() {
        let at = millis(&event["at"]).zip(start).map_or(0, |(at, start)| at - start);
        for line in lines(event) {
            writeln!(text, "  {:<10} {line}", format!("+{at} ms")).ok();
        }
    }
    writeln!(text, "  deliveries {}", timeline["deliveries"]).ok();
    text
}

fn millis(value: &Value) -> Option<i64> {
    let parsed: Option<jiff::Timestamp> = value.as_str().and_then(|text| text.parse().ok());
    parsed.map(jiff::Timestamp::as_millisecond)
}

fn lines(event: &Value) -> Vec<String> {
    let word = |name: &str| event[name].as_str().unwrap_or_default();
    match word("type") {
        "expanded" => vec![format!(
            "expanded   {} deliveries, {} unknown recipients, {} without a device",
            event["deliveries"], event["unknownRecipients"], event["noDevice"]
        )],
        "ruled" => event["decisions"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|decision| {
                let word = |name: &str| decision[name].as_str().unwrap_or_default();
                format!(
                    "rule       {}@{} {} {} for {} ({} fuel, {} us)",
                    word("rule"),
                    word("version"),
                    word("decision"),
                    word("code"),
                    event["recipient"].as_str().unwrap_or_default(),
                    decision["fuel"],
                    decision["micros"],
                )
            })
            .collect(),
        "attempted" => vec![attempt(event)],
        "settled" => {
            vec![format!("settled    {} {} ({})", word("target"), word("state"), word("cause"))]
        }
        "replayed" => vec![format!(
            "replayed   {} from {}, by {}, at {}",
            word("target"),
            word("from"),
            word("by"),
            word("due")
        )],
        "discarded" => vec![format!("discarded  {} by {}", word("target"), word("by"))],
        "canceled" => vec![format!("canceled   by {}", word("by"))],
        "noted" => vec![format!(
            "inboxes    {} entries, {} of them all there is",
            event["entries"], event["alone"]
        )],
        "held" => {
            vec![format!(
                "held       {} until {} ({})",
                word("recipient"),
                word("until"),
                word("cause")
            )]
        }
        other => vec![other.to_owned()],
    }
}

fn attempt(event: &Value) -> String {
    let word = |name: &str| event[name].as_str().unwrap_or_default();
    let mut line = format!(
        "attempt {}  {} {} in {} ms",
        event["attempt"],
        word("target"),
        word("outcome"),
        event["elapsedMs"]
    );
    if let Some(status) = event["status"].as_u64() {
        write!(line, ", status {status}").ok();
    }
    for (name, label) in
        [("cause", "cause"), ("reason", "reason"), ("providerId", "id"), ("retryAt", "again at")]
    {
        if let Some(value) = event[name].as_str() {
            write!(line, ", {label} {value}").ok();
        }
    }
    if let Some(state) = event["state"].as_str() {
        write!(line, " -> {state}").ok();
    }
    line
}
