//! What the commands that ask a gateway share: where it is, who asks, and what its refusals mean.

use crate::cli::client::{Gateway, Reply};
use crate::cli::{CliError, Exit};
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;
use url::form_urlencoded::Serializer;

/// How often a refusal that says when to come back is waited for, and how long at most.
const WAITS_MAX: u32 = 5;
const WAIT_MAX: Duration = Duration::from_mins(6);

#[derive(Debug, Args)]
pub(super) struct Access {
    /// Where the gateway serves.
    #[arg(long, env = "BUGLER_URL", default_value = "http://127.0.0.1:2845")]
    url: String,
    /// A bearer token that may send for the organization.
    #[arg(long, env = "BUGLER_TOKEN", hide_env_values = true)]
    token: String,
    /// The organization, if it is one below the token's.
    #[arg(long)]
    org: Option<i32>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

impl Access {
    /// Asks `path`, with these parameters where they are there.
    pub(super) async fn get(
        &self,
        path: &str,
        parameters: &[(&str, Option<String>)],
    ) -> Result<Value, CliError> {
        let path = self.path(path, parameters);
        checked(&Gateway::new(&self.url, &self.token)?.get(&path).await?)
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        let gateway = Gateway::new(&self.url, &self.token)?;
        let (path, body) = (self.path(path, &[]), Bytes::from(body.to_string()));
        checked(&gateway.send(Method::POST, &path, "application/json", body).await?)
    }

    /// As `post`; waits and asks again a few times where the gateway says when.
    pub(super) async fn post_patiently(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        let gateway = Gateway::new(&self.url, &self.token)?;
        let (path, body) = (self.path(path, &[]), Bytes::from(body.to_string()));
        let mut waits = 0;
        loop {
            let sent = gateway.send(Method::POST, &path, "application/json", body.clone());
            let reply = sent.await?;
            match wait(&reply) {
                Some(wait) if waits < WAITS_MAX => tokio::time::sleep(wait).await,
                _ => return checked(&reply),
            }
            waits += 1;
        }
    }

    fn path(&self, path: &str, parameters: &[(&str, Option<String>)]) -> String {
        let mut query = Serializer::new(String::new());
        if let Some(org) = self.org {
            query.append_pair("organization", &org.to_string());
        }
        for (name, value) in parameters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }

    /// Prints an answer: as it is, or as `text` makes it.
    pub(super) fn print(
        &self,
        out: &mut impl Write,
        answer: &Value,
        text: impl FnOnce(&Value) -> String,
    ) -> Result<(), CliError> {
        if self.json {
            writeln!(out, "{answer:#}")?;
        } else {
            write!(out, "{}", text(answer))?;
        }
        Ok(())
    }
}

/// How long the gateway asks to wait before the same is asked again.
fn wait(reply: &Reply) -> Option<Duration> {
    let seconds = reply.header("retry-after").filter(|_| matches!(reply.status, 429 | 503))?;
    Some(Duration::from_secs(seconds.parse().ok()?).min(WAIT_MAX))
}

/// The body of a good answer; what a refusal means for the exit code.
pub(super) fn checked(reply: &Reply) -> Result<Value, CliError> {
    let exit = match reply.status {
        200..=299 => return reply.json(),
        401 | 403 => Exit::NotAllowed,
        404 => Exit::NotFound,
        _ => Exit::Failed,
    };
    let code = reply.header("bugler-error").unwrap_or("no code").to_owned();
    let detail = reply.header("bugler-error-detail").unwrap_or_default();
    let text = format!("{} {code}: {detail} (see `bugler explain {code}`)", reply.status);
    Err(CliError::new(exit, text))
}

/// An id that may stand in a path.
pub(super) fn id(text: &str) -> Result<&str, CliError> {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if is_plain && !text.is_empty() {
        return Ok(text);
    }
    Err(CliError::new(Exit::NotFound, "an id is an uuid"))
}

/// Which deliveries a command is about.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// A target as timelines show it, or a provider: `webhook:5f1d…`, `apns`.
    #[arg(long)]
    target: Option<String>,
    /// Only of notifications with this event.
    #[arg(long)]
    event: Option<String>,
    /// Only those that ended for this cause, as timelines show it.
    #[arg(long)]
    cause: Option<String>,
    /// Ended at or after: RFC 3339, or how long ago: `2h`, `30m`, `7d`.
    #[arg(long, alias = "since", allow_hyphen_values = true)]
    from: Option<String>,
    /// Ended at or before, in the same forms.
    #[arg(long, allow_hyphen_values = true)]
    to: Option<String>,
}

impl Wanted {
    pub(super) fn parameters(&self) -> Vec<(&'static str, Option<String>)> {
        vec![
            ("target", self.target.clone()),
            ("event", self.event.clone()),
            ("cause", self.cause.clone()),
            ("from", self.from.as_deref().map(instant)),
            ("to", self.to.as_deref().map(instant)),
        ]
    }

    pub(super) fn is_none(&self) -> bool {
        self.parameters().iter().all(|(_, value)| value.is_none())
    }

    /// As the `filter` of a body.
    pub(super) fn filter(&self) -> Value {
        let there = self.parameters().into_iter();
        there.filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?)))).collect()
    }
}

/// `2h` and `-2h` are two hours ago; everything else is for the gateway to read.
pub(super) fn instant(text: &str) -> String {
    let ago = text.strip_prefix('-').unwrap_or(text);
    let unit = ago.chars().last().and_then(|unit| match unit {
        's' => Some(1_000),
        'm' => Some(60_000),
        'h' => Some(3_600_000),
        'd' => Some(86_400_000_i64),
        _ => None,
    });
    let digits = ago.trim_end_matches(['s', 'm', 'h', 'd']);
    let count = digits.parse::<i64>().ok().filter(|count| *count >= 0);
    match (unit, count) {
        (Some(unit), Some(count)) => {
            let now = jiff::Timestamp::now().as_millisecond();
            now.saturating_sub(count.saturating_mul(unit)).max(0).to_string()
        }
        _ => text.to_owned(),
    }
}

/// `50/s` or `50`.
pub(super) fn rate(text: &str) -> Result<u32, String> {
    let digits = text.strip_suffix("/s").unwrap_or(text);
    let rate = digits.parse().ok().filter(|rate| *rate > 0);
    rate.ok_or_else(|| String::from("write a rate as 50/s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_for_each_second() {
        assert_eq!((rate("50/s"), rate("7")), (Ok(50), Ok(7)));
        for bad in ["0/s", "", "-1", "5/m", "fast"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn how_long_ago_becomes_an_instant_and_the_rest_stays() {
        for ago in ["2h", "-2h", "0s", "7d"] {
            assert!(instant(ago).parse::<u64>().is_ok(), "{ago}");
        }
        for other in ["2026-11-21T09:10:21Z", "1795219200123", "h", "2w"] {
            assert_eq!(instant(other), other);
        }
    }
}
