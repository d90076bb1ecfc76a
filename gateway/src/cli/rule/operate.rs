//! `bugler rule deploy`, `list`, `show`, `promote`, `rollback`, `pause`, `resume`, `config`, `watch`: rules in force.

use crate::cli::client::{Gateway, Reply};
use crate::cli::rule::Output;
use crate::cli::rule::project::Subject;
use crate::cli::rule::records::length;
use crate::cli::{CliError, Exit, runtime};
use crate::model::Millis;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Which gateway, whose rules.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct At {
    /// Where the gateway serves.
    #[arg(long, env = "BUGLER_URL", default_value = "http://127.0.0.1:2845")]
    url: String,
    /// A bearer token of the organization, or of one above it.
    #[arg(long, env = "BUGLER_TOKEN", hide_env_values = true)]
    token: String,
    /// The organization whose rules these are.
    #[arg(long, env = "BUGLER_ORG")]
    org: i32,
    /// Rules of everybody; for the organization that was there first.
    #[arg(long)]
    global: bool,
}

/// Which gateway, for commands that do without one, too.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct Perhaps {
    /// Where the gateway serves.
    #[arg(long, env = "BUGLER_URL", default_value = "http://127.0.0.1:2845")]
    url: String,
    /// A bearer token of the organization, or of one above it.
    #[arg(long, env = "BUGLER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The organization whose rules these are.
    #[arg(long, env = "BUGLER_ORG")]
    org: Option<i32>,
    /// Rules of everybody; for the organization that was there first.
    #[arg(long)]
    global: bool,
}

impl Perhaps {
    pub(super) fn at(&self) -> Result<At, CliError> {
        let missing = || {
            let text = "this asks a gateway: --token and --org say whose rules, --url where";
            CliError::new(Exit::Failed, text)
        };
        let token = self.token.clone().ok_or_else(missing)?;
        let org = self.org.ok_or_else(missing)?;
        Ok(At { url: self.url.clone(), token, org, global: self.global })
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Deploy {
    /// A component, or the folder of a rule, which is built.
    rule: PathBuf,
    /// `shadow`, `shadow:P%`, `canary:P%` or `active`.
    #[arg(long, default_value = "shadow")]
    stage: String,
    /// Why, for the history.
    #[arg(short, long, default_value = "")]
    message: String,
    #[command(flatten)]
    gates: GateFlags,
    #[command(flatten)]
    at: At,
}

/// What the version has to show, over the gates of `rule.toml`.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Gates, over those of rule.toml")]
struct GateFlags {
    /// Items it has to judge before it goes on.
    #[arg(long, value_name = "COUNT")]
    min_items: Option<u32>,
    /// Minutes it has to stay at a stage.
    #[arg(long, value_name = "MINUTES")]
    min_minutes: Option<u32>,
    /// Share of answers of its shadow that may differ: `1%`.
    #[arg(long, value_name = "PERCENT")]
    max_diff: Option<String>,
    #[arg(long, value_name = "COUNT")]
    max_errors: Option<u32>,
    /// Times the fuel of the active version: `1.5x`.
    #[arg(long, value_name = "FACTOR")]
    max_fuel_p99: Option<String>,
    /// Times the time of the active version: `1.5x`.
    #[arg(long, value_name = "FACTOR")]
    max_time_p99: Option<String>,
    /// Share of drops and denies: `5%`.
    #[arg(long, value_name = "PERCENT")]
    max_drop_rate: Option<String>,
    /// Do not withdraw it because it drops or denies another share than the version before.
    #[arg(long)]
    expect_change: bool,
}

impl GateFlags {
    fn body(&self) -> Value {
        let mut gates = Map::new();
        let counts = [
            ("min_items", self.min_items),
            ("min_minutes", self.min_minutes),
            ("max_errors", self.max_errors),
        ];
        for (name, count) in counts {
            gates.extend(count.map(|count| (name.to_owned(), json!(count))));
        }
        let texts = [
            ("max_diff", &self.max_diff),
            ("max_fuel_p99", &self.max_fuel_p99),
            ("max_time_p99", &self.max_time_p99),
            ("max_drop_rate", &self.max_drop_rate),
        ];
        for (name, text) in texts {
            gates.extend(text.as_ref().map(|text| (name.to_owned(), json!(text))));
        }
        gates.into()
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    at: At,
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    name: String,
    #[command(flatten)]
    at: At,
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Promote {
    name: String,
    /// `shadow`, `shadow:P%`, `canary:P%` or `active`.
    #[arg(long)]
    to: String,
    /// The version; left out, the one furthest on.
    #[arg(long)]
    digest: Option<String>,
    /// Past gates of `rule.toml` that are not met.
    #[arg(long)]
    force: bool,
    #[arg(short, long, default_value = "")]
    message: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Change {
    name: String,
    /// Pause a rule that is required.
    #[arg(long)]
    force: bool,
    #[arg(short, long, default_value = "")]
    message: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Pause {
    /// Ask it again by itself after so long: `90s`, `10m`, `1h`, `1d`.
    #[arg(long = "for", value_name = "TIME", value_parser = length)]
    time: Option<Duration>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Config {
    name: String,
    /// `from=21:30` sets a value; without any the settings are shown.
    values: Vec<String>,
    /// Takes a value away, so that the manifest's holds again.
    #[arg(long)]
    unset: Vec<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Watch {
    name: String,
    /// Stop after so many lines.
    #[arg(long)]
    lines: Option<u32>,
    #[command(flatten)]
    at: At,
}

/// What becomes of a rule that is in force.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    RollBack,
    Resume,
}

impl At {
    /// A path under the rule's, for what belongs to one organization.
    pub(super) fn path_under(
        &self,
        name: &str,
        part: &str,
        query: &str,
    ) -> Result<String, CliError> {
        if self.global {
            let text = "that belongs to one organization; leave --global out";
            return Err(CliError::new(Exit::RuleRejected, text));
        }
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        Ok(format!("{}/{part}{query}", self.path(Some(name))?))
    }

    /// The component of the rule's active version, and that version.
    pub(super) fn active(&self, name: &str) -> Result<(Vec<u8>, String), CliError> {
        let shown = self.path(Some(name))?;
        let (path, query) = shown.split_once('?').unwrap_or((&shown, ""));
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let found = self.send_to(Method::GET, &format!("{path}/component{query}"), &Value::Null)?;
        let component = found["component"].as_str().and_then(|text| STANDARD.decode(text).ok());
        let text = "the gateway's answer holds no component";
        let component = component.ok_or_else(|| CliError::new(Exit::Failed, text))?;
        Ok((component, self::text(&found["version"])))
    }

    fn path(&self, name: Option<&str>) -> Result<String, CliError> {
        let is_plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !name.is_none_or(is_plain) {
            return Err(CliError::new(Exit::NotFound, "a rule's name is of a-z, 0-9 and -"));
        }
        let name = name.map(|name| format!("/{name}")).unwrap_or_default();
        let query = if self.global { "?global=true" } else { "" };
        Ok(format!("/bugler/v1/organizations/{}/rules{name}{query}", self.org))
    }

    /// Sends `body`, or asks, and answers what the gateway says.
    fn send(&self, method: Method, name: Option<&str>, body: &Value) -> Result<Value, CliError> {
        self.send_to(method, &self.path(name)?, body)
    }

    pub(super) fn send_to(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, CliError> {
        let gateway = Gateway::new(&self.url, &self.token)?;
        let body =
            if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string().into_bytes()) };
        let reply = runtime()?.block_on(gateway.send(method, path, "application/json", body))?;
        accepted(&reply)
    }
}

/// The body of a good answer; otherwise the gateway's own words.
fn accepted(reply: &Reply) -> Result<Value, CliError> {
    let exit = match reply.status {
        200 | 201 => return reply.json(),
        401 | 403 => Exit::NotAllowed,
        404 => Exit::NotFound,
        409 | 412 => Exit::Conflict,
        400 | 413 | 422 => Exit::RuleRejected,
        _ => Exit::Failed,
    };
    let code = reply.header("bugler-error").unwrap_or("no code").to_owned();
    let said = String::from_utf8_lossy(&reply.body).into_owned();
    let text = format!("{} {code}: {said} (see `bugler explain {code}`)", reply.status);
    Err(CliError::new(exit, text))
}

impl Deploy {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let subject = Subject::open(&self.rule)?;
        let body = json!({
            "component": STANDARD.encode(&subject.component),
            "stage": self.stage,
            "message": self.message,
            "gates": self.gates.body(),
            "expectChange": self.gates.expect_change,
        });
        let shown = self.at.send(Method::POST, None, &body)?;
        writeln!(out, "{}", line(&shown))?;
        writeln!(out, "watch: bugler rule watch {}", text(&shown["name"]))?;
        Ok(Exit::Done)
    }
}

/// Puts a component in force at once.
pub(super) fn swap(at: &At, component: &[u8], message: &str) -> Result<Value, CliError> {
    let body =
        json!({ "component": STANDARD.encode(component), "stage": "active", "message": message });
    at.send(Method::POST, None, &body)
}

impl List {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let set = self.at.send(Method::GET, None, &Value::Null)?;
        if self.output == Output::Json {
            writeln!(out, "{set:#}")?;
            return Ok(Exit::Done);
        }
        if self.output == Output::Jsonl {
            for rule in set["rules"].as_array().into_iter().flatten() {
                writeln!(out, "{rule}")?;
            }
            return Ok(Exit::Done);
        }
        writeln!(out, "revision {}", set["revision"])?;
        for rule in set["rules"].as_array().into_iter().flatten() {
            writeln!(out, "{:>5}  {}", rule["order"], line(rule))?;
        }
        Ok(Exit::Done)
    }
}

impl Show {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let rule = self.at.send(Method::GET, Some(&self.name), &Value::Null)?;
        if self.output == Output::Json {
            writeln!(out, "{rule:#}")?;
            return Ok(Exit::Done);
        }
        if self.output == Output::Jsonl {
            writeln!(out, "{rule}")?;
            return Ok(Exit::Done);
        }
        writeln!(out, "{}", line(&rule))?;
        for name in ["versions", "history"] {
            writeln!(out, "{name}")?;
            for entry in rule[name].as_array().into_iter().flatten() {
                writeln!(out, "  {entry}")?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Promote {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let mut body = json!({ "stage": self.to, "message": self.message, "force": self.force });
        if let Some(digest) = &self.digest {
            body["digest"] = json!(digest.trim_start_matches("sha256:"));
        }
        let shown = self.at.send(Method::PATCH, Some(&self.name), &body)?;
        writeln!(out, "{}", line(&shown))?;
        Ok(Exit::Done)
    }
}

impl Change {
    pub(super) fn run(self, turn: Turn, out: &mut impl Write) -> Result<Exit, CliError> {
        let body = match turn {
            Turn::RollBack => json!({ "rollback": true }),
            Turn::Resume => json!({ "paused": false }),
        };
        self.send(body, out)
    }

    fn send(self, mut body: Value, out: &mut impl Write) -> Result<Exit, CliError> {
        body["message"] = json!(self.message);
        let shown = self.at.send(Method::PATCH, Some(&self.name), &body)?;
        writeln!(out, "{}", line(&shown))?;
        Ok(Exit::Done)
    }
}

impl Pause {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let mut body = json!({ "paused": true, "force": self.change.force });
        if let Some(time) = self.time {
            body["seconds"] = json!(time.as_secs());
        }
        self.change.send(body, out)
    }
}

impl Config {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        if self.at.global {
            let text =
                "an organization sets values for itself; those of everybody are in rule.toml";
            return Err(CliError::new(Exit::RuleRejected, text));
        }
        let path = format!("{}/config", self.at.path(Some(&self.name))?);
        let mut body = json!({});
        for value in &self.values {
            let Some((key, value)) = value.split_once('=') else {
                let text = format!("{value:?} sets nothing; write key=value, or --unset key");
                return Err(CliError::new(Exit::RuleRejected, text));
            };
            body[key] = json!(value);
        }
        for key in &self.unset {
            body[key.as_str()] = Value::Null;
        }
        let is_change = body.as_object().is_some_and(|settings| !settings.is_empty());
        let (method, body) =
            if is_change { (Method::PATCH, body) } else { (Method::GET, Value::Null) };
        let shown = self.at.send_to(method, &path, &body)?;
        let own = shown["config"].as_object();
        for (key, value) in own.into_iter().flatten() {
            writeln!(out, "{key} = {value}")?;
        }
        for (key, value) in shown["defaults"].as_object().into_iter().flatten() {
            if !own.is_some_and(|own| own.contains_key(key)) {
                writeln!(out, "{key} = {value}  (rule.toml)")?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Watch {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let mut left = self.lines.unwrap_or(u32::MAX);
        loop {
            let rule = self.at.send(Method::GET, Some(&self.name), &Value::Null)?;
            writeln!(out, "{}{}", line(&rule), tried(&rule))?;
            left -= 1;
            if left == 0 {
                return Ok(Exit::Done);
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// How the versions that are tried do, and what keeps them from going on.
fn tried(rule: &Value) -> String {
    let mut said = String::new();
    for stage in ["canary", "shadow"] {
        let version = &rule[stage];
        if !version.is_object() {
            continue;
        }
        let number = |name: &str| version[name].as_u64().unwrap_or_default();
        let (items, errors, fuel) = (number("items"), number("errors"), number("fuelP99"));
        said.push_str(&format!("  {stage}: {items} items, {errors} errors, fuel p99 {fuel}"));
        if stage == "shadow" {
            let (compared, same, shed) = (number("compared"), number("same"), number("shed"));
            let tenths = same * 1_000 / compared.max(1);
            let (whole, part) = (tenths / 10, tenths % 10);
            let changed = compared.saturating_sub(same);
            said.push_str(&format!(
                ", {compared} compared, {changed} changed ({whole}.{part} % same), {shed} shed"
            ));
        }
        let missing: Vec<_> = version["missing"].as_array().into_iter().flatten().collect();
        if !missing.is_empty() {
            let missing: Vec<_> = missing.into_iter().map(text).collect();
            said.push_str(&format!("; gates: {}", missing.join(", ")));
        }
    }
    said
}

/// One rule in a line: which version is in force, which is tried.
fn line(rule: &Value) -> String {
    let stage = |name: &str| {
        let version = &rule[name];
        let digest = version["digest"].as_str()?.get(..8)?;
        let share = version["percent"].as_f64().map(|percent| format!(" on {percent} %"));
        let share = share.unwrap_or_default();
        Some(format!("{name} {} ({digest}…){share}", text(&version["version"])))
    };
    let stages: Vec<_> = ["active", "canary", "shadow"].into_iter().filter_map(stage).collect();
    let stages =
        if stages.is_empty() { String::from("nothing in force") } else { stages.join(", ") };
    let whose =
        rule["organization"].as_i64().map_or_else(|| "all".to_owned(), |org| org.to_string());
    let until =
        rule["pausedUntil"].as_u64().map(|until| format!(" until {}", Millis(until).to_rfc3339()));
    let until = until.unwrap_or_default();
    let paused = if rule["paused"] == true { format!("  PAUSED{until}") } else { String::new() };
    let shipped = if rule["shipped"] == true { "  shipped" } else { "" };
    format!("{}  org {whose}  {stages}{shipped}{paused}", text(&rule["name"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}
