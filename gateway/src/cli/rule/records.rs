//! `bugler rule decisions` and `logs`, and captures of real traffic: what a gateway recorded of a rule.

use crate::cli::access::instant;
use crate::cli::rule::operate::At;
use crate::cli::{CliError, Exit};
use clap::{Args, ValueEnum};
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};
use url::form_urlencoded::Serializer;

/// How often a gateway is asked for more.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Records of one answer, the most a gateway gives.
const PAGE: usize = 1_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Shape {
    #[default]
    Text,
    /// A record a line.
    Jsonl,
}

/// Which records, and how they are shown.
#[derive(Debug, Args)]
struct Selection {
    /// From when on: `-10m`, milliseconds since 1970, or RFC 3339. Left out: all that is kept.
    #[arg(long, allow_hyphen_values = true)]
    since: Option<String>,
    /// No more than so many.
    #[arg(long)]
    limit: Option<usize>,
    /// Go on with what is recorded from now on, until it is interrupted.
    #[arg(short, long)]
    follow: bool,
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Shape,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Decisions {
    name: String,
    /// Only these decisions: `hold,drop`.
    #[arg(long)]
    decision: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Logs {
    name: String,
    /// This level and above: `debug`, `info`, `warn`, `error`.
    #[arg(long)]
    level: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

impl Decisions {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let filter = ("decision", self.decision.as_deref());
        let records = Records::new(&self.selection.at, &self.name, ("decisions", "decisions"));
        records.since(self.selection.since.as_deref(), filter).show(&self.selection, out, decision)
    }
}

impl Logs {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let filter = ("level", self.level.as_deref());
        let records = Records::new(&self.selection.at, &self.name, ("logs", "lines"));
        records.since(self.selection.since.as_deref(), filter).show(&self.selection, out, log_line)
    }
}

/// Records of one kind of one rule, page by page.
#[derive(Debug)]
pub(super) struct Records<'a> {
    at: &'a At,
    rule: &'a str,
    /// The last part of the path, and the name of the list in its answers.
    kind: (&'static str, &'static str),
    filters: Vec<(&'static str, String)>,
    after: Option<String>,
    is_end: bool,
}

impl<'a> Records<'a> {
    fn new(at: &'a At, rule: &'a str, kind: (&'static str, &'static str)) -> Self {
        Self { at, rule, kind, filters: Vec::new(), after: None, is_end: false }
    }

    /// What captures recorded of `rule`.
    pub(super) fn captured(at: &'a At, rule: &'a str, since: Option<&str>) -> Self {
        Self::new(at, rule, ("capture", "decisions")).since(since, ("decision", None))
    }

    fn since(mut self, since: Option<&str>, (name, value): (&'static str, Option<&str>)) -> Self {
        self.filters.extend(since.map(|since| ("since", instant(since))));
        self.filters.extend(value.map(|value| (name, value.to_owned())));
        self
    }

    /// The next page; empty where nothing more is recorded yet.
    pub(super) fn next(&mut self, limit: usize) -> Result<Vec<Value>, CliError> {
        let mut query = Serializer::new(String::new());
        query.append_pair("limit", &limit.clamp(1, PAGE).to_string());
        for (name, value) in &self.filters {
            query.append_pair(name, value);
        }
        if let Some(after) = &self.after {
            query.append_pair("after", after);
        }
        let path = self.at.path_under(self.rule, self.kind.0, &query.finish())?;
        let mut page = self.at.send_to(Method::GET, &path, &Value::Null)?;
        self.after = page["next"].as_str().map(str::to_owned);
        self.is_end = page["end"] != false;
        match page[self.kind.1].take() {
            Value::Array(found) => Ok(found),
            _ => Err(CliError::new(Exit::Failed, "the gateway's answer holds no records")),
        }
    }

    /// No more was recorded when the last page was read.
    pub(super) fn is_end(&self) -> bool {
        self.is_end
    }

    fn show(
        mut self,
        selection: &Selection,
        out: &mut impl Write,
        line: fn(&Value) -> String,
    ) -> Result<Exit, CliError> {
        let mut left = selection.limit.unwrap_or(usize::MAX);
        loop {
            for record in self.next(left)? {
                match selection.output {
                    Shape::Text => writeln!(out, "{}", line(&record))?,
                    Shape::Jsonl => writeln!(out, "{record}")?,
                }
                left = left.saturating_sub(1);
            }
            if left == 0 || (self.is_end && !selection.follow) {
                return Ok(Exit::Done);
            }
            if self.is_end {
                out.flush()?;
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

/// Has the gateway record what it asks `rule`, and writes it to `file` until that ends.
pub(super) fn capture(
    at: &At,
    rule: &str,
    (share, time): (&str, Duration),
    file: &mut impl Write,
) -> Result<usize, CliError> {
    let path = at.path_under(rule, "capture", "")?;
    let seconds = time.as_secs().max(1);
    let begun = at.send_to(Method::POST, &path, &json!({ "share": share, "seconds": seconds }))?;
    // What is recorded is written a moment later.
    let until = Instant::now() + Duration::from_secs(seconds) + 2 * LOOK_EVERY;
    // What earlier captures recorded stays for a day, and is not part of this one.
    let ends = begun["until"].as_str().and_then(|until| until.parse::<Timestamp>().ok());
    let since = ends.and_then(|ends| ends.checked_sub(time).ok());
    let since = since.map(|since| since.as_millisecond().to_string());
    let mut records = Records::captured(at, rule, since.as_deref());
    let mut count = 0;
    loop {
        let was_over = Instant::now() >= until;
        for record in records.next(PAGE)? {
            writeln!(file, "{record}")?;
            count += 1;
        }
        if records.is_end() {
            file.flush()?;
            if was_over {
                return Ok(count);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// `90s`, `10m`, `1h`, `1d`.
pub(super) fn length(text: &str) -> Result<Duration, String> {
    let refused = || String::from("a length is a count and a unit: 90s, 10m, 1h, 1d");
    let (count, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(refused)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(refused()),
    };
    let count: u32 = count.parse().map_err(|_| refused())?;
    Ok(Duration::from_secs(u64::from(count) * unit))
}

fn decision(record: &Value) -> String {
    let word = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
    let mut line = format!(
        "{}  {:<9} {}@{} {}  {}",
        word("ts"),
        word("hook"),
        word("rule"),
        word("version"),
        word("stage"),
        word("decision")
    );
    for (name, before) in [("at", " until "), ("code", ": "), ("detail", ", ")] {
        if let Some(text) = record[name].as_str().filter(|text| !text.is_empty()) {
            line.push_str(before);
            line.push_str(text);
        }
    }
    let count = |name: &str| record[name].as_u64().unwrap_or_default();
    format!("{line}  {}  fuel {}  {} us", word("id"), count("fuel"), count("us"))
}

fn log_line(line: &Value) -> String {
    let word = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
    format!(
        "{}  {:<5} {}@{}  {}",
        word("ts"),
        word("level"),
        word("rule"),
        word("version"),
        word("text")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_a_unit() {
        assert_eq!(length("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(length("1h"), Ok(Duration::from_hours(1)));
        for wrong in ["", "h", "90", "-1h", "1 h", "1é"] {
            assert!(length(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_decision_is_told_in_a_line() {
        let record = json!({
            "ts": "2026-01-01T00:00:00Z", "hook": "route", "rule": "quiet", "version": "1.0.0",
            "stage": "active", "decision": "hold-until", "at": "2026-01-01T07:00:00Z",
            "code": "quiet_hours", "detail": null, "id": "n1", "fuel": 9204, "us": 4,
        });
        assert_eq!(
            decision(&record),
            "2026-01-01T00:00:00Z  route     quiet@1.0.0 active  hold-until until \
             2026-01-01T07:00:00Z: quiet_hours  n1  fuel 9204  4 us"
        );
    }
}
