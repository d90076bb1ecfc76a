//! The text notation of fault plans, after fortio's echo parameters.
//!
//! `fcm:status=503:5,429:1&delay=150ms:10;apns:goaway=every:5000` reads: FCM answers 5 % of
//! requests with 503 and 1 % with 429, and delays 10 % by 150 ms; APNs sends GOAWAY every 5,000
//! requests. A share is a per cent (`5`, `5%`), `every:<n>` or the first `x<n>`.

use std::str::FromStr;

use super::{Action, FaultPlan, FaultRule, Share};
use crate::twins::TwinName;

/// A plan that cannot be read, with the part at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultSyntax {
    #[error(
        "no fault is called {0:?}; use status, delay, reset, rst-stream, refuse, goaway, streams, \
         window, freeze, drip, drip-head, endless, huge, cut, bad-json, html, no-id, redirect or \
         unregistered"
    )]
    Fault(String),
    #[error("{0:?} is no share; write a per cent such as 5 or 5%, every:<n>, or x<n>")]
    Share(String),
    #[error("{0:?} is no status between 200 and 599")]
    Status(String),
    #[error("{0:?} is no duration; write a number and ms, s or us")]
    Duration(String),
    #[error("{0:?} is no number")]
    Number(String),
    #[error("{0} needs a value, as in {0}=…")]
    Value(&'static str),
    #[error(transparent)]
    Twin(#[from] crate::twins::UnknownTwin),
}

impl FaultPlan {
    /// Reads a plan in text notation; empty text is the plan without faults.
    ///
    /// # Errors
    /// The text is not in the notation; the error names the part at fault.
    pub fn parse(text: &str) -> Result<Self, FaultSyntax> {
        let mut plan = Self::default();
        for section in text.split(';').map(str::trim).filter(|section| !section.is_empty()) {
            let (twin, faults) = split_twin(section)?;
            plan.rules.extend(parse_section(twin, faults)?);
        }
        Ok(plan)
    }
}

impl FromStr for FaultPlan {
    type Err = FaultSyntax;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// What holds for all faults of a section, wherever it stands in it.
#[derive(Default)]
struct Common {
    matching: Option<String>,
    reason: Option<String>,
    retry_after: Vec<String>,
}

fn split_twin(section: &str) -> Result<(Option<TwinName>, &str), FaultSyntax> {
    match section.split_once(':') {
        // The first colon may also be the one of a share: `status=503:5`, `unregistered:2%`.
        Some((word, rest)) if !word.contains(['=', '&']) => match word.parse() {
            Ok(twin) => Ok((Some(twin), rest)),
            Err(_) if parse_fault(word, None, &Common::default()).is_ok() => Ok((None, section)),
            Err(unknown) => Err(unknown.into()),
        },
        _ => Ok((None, section)),
    }
}

fn parse_section(twin: Option<TwinName>, faults: &str) -> Result<Vec<FaultRule>, FaultSyntax> {
    let mut common = Common::default();
    let mut items = Vec::new();
    for item in faults.split('&').filter(|item| !item.is_empty()) {
        match item.split_once('=') {
            Some(("match", text)) => common.matching = Some(text.to_owned()),
            Some(("reason", reason)) => common.reason = Some(reason.to_owned()),
            Some(("retry-after", values)) => {
                common.retry_after = values.split(',').map(str::to_owned).collect();
            }
            Some((name, values)) => {
                // A URL holds colons and commas of its own, so it takes no list and no share.
                let values =
                    if name == "redirect" { vec![values] } else { values.split(',').collect() };
                items.extend(values.into_iter().map(|value| (name, Some(value))));
            }
            None => items.push((item, None)),
        }
    }
    let rule = |(name, value)| parse_rule(twin, name, value, &common);
    items.into_iter().map(rule).collect()
}

fn parse_rule(
    twin: Option<TwinName>,
    name: &str,
    value: Option<&str>,
    common: &Common,
) -> Result<FaultRule, FaultSyntax> {
    let (name, value, share) = match value {
        Some(value) if name == "redirect" => (name, Some(value), Share::Always),
        Some(value) if is_share(value) => (name, None, parse_share(value)?),
        Some(value) => match value.split_once(':') {
            Some((value, share)) => (name, Some(value), parse_share(share)?),
            None => (name, Some(value), Share::Always),
        },
        None => match name.split_once(':') {
            Some((name, share)) => (name, None, parse_share(share)?),
            None => (name, None, Share::Always),
        },
    };
    let action = parse_fault(name, value, common)?;
    Ok(FaultRule { twin, matching: common.matching.clone(), share, action })
}

/// Whether the value is nothing but a share, as in `goaway=every:5000` and `reset=5%`.
fn is_share(value: &str) -> bool {
    value.starts_with("every:") || value.ends_with('%') && !value.contains(':')
}

fn parse_share(text: &str) -> Result<Share, FaultSyntax> {
    let wrong = || FaultSyntax::Share(text.to_owned());
    if let Some(every) = text.strip_prefix("every:") {
        return every.parse().ok().filter(|every| *every > 0).map(Share::Every).ok_or_else(wrong);
    }
    if let Some(first) = text.strip_prefix('x') {
        return first.parse().map(Share::First).map_err(|_| wrong());
    }
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| wrong())?;
    (0.0..=100.0).contains(&percent).then_some(Share::Percent(percent)).ok_or_else(wrong)
}

fn parse_fault(name: &str, value: Option<&str>, common: &Common) -> Result<Action, FaultSyntax> {
    let needed = |fault| value.ok_or(FaultSyntax::Value(fault));
    let status = |code| Action::Status {
        code,
        reason: common.reason.clone(),
        retry_after: common.retry_after.clone(),
    };
    Ok(match name {
        "status" => status(parse_status(needed("status")?)?),
        "unregistered" => status(410),
        "delay" => Action::Delay { ms: parse_ms(needed("delay")?)? },
        "reset" => Action::Reset,
        "rst-stream" => Action::ResetStream { refused: false },
        "refuse" => Action::ResetStream { refused: true },
        "goaway" => Action::GoAway { reason: common.reason.clone() },
        "streams" => {
            let text = needed("streams")?;
            let streams = text.parse().map_err(|_| FaultSyntax::Number(text.to_owned()))?;
            Action::StreamLimit { streams }
        }
        "window" => {
            let text = needed("window")?;
            let bytes = text.parse().map_err(|_| FaultSyntax::Number(text.to_owned()))?;
            Action::Window { bytes }
        }
        "freeze" => Action::Freeze,
        "drip" => Action::Drip { ms_per_byte: parse_ms(value.unwrap_or("1s"))?, head: false },
        "drip-head" => Action::Drip { ms_per_byte: parse_ms(value.unwrap_or("1s"))?, head: true },
        "endless" => Action::EndlessBody,
        "huge" => {
            let text = value.unwrap_or("1073741824");
            let bytes = text.parse().map_err(|_| FaultSyntax::Number(text.to_owned()))?;
            Action::HugeBody { bytes }
        }
        "html" => Action::Html,
        "no-id" => Action::NoId,
        "cut" => Action::Cut,
        "bad-json" => Action::BadJson,
        "redirect" => Action::Redirect { to: needed("redirect")?.to_owned() },
        other => return Err(FaultSyntax::Fault(other.to_owned())),
    })
}

fn parse_status(text: &str) -> Result<u16, FaultSyntax> {
    let code = text.parse().ok().filter(|code| (200..600).contains(code));
    code.ok_or_else(|| FaultSyntax::Status(text.to_owned()))
}

fn parse_ms(text: &str) -> Result<u64, FaultSyntax> {
    let wrong = || FaultSyntax::Duration(text.to_owned());
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match text.strip_prefix(digits) {
        Some("ms") => Ok(number),
        Some("s") => number.checked_mul(1000).ok_or_else(wrong),
        // Below the timers' millisecond: the shortest delay there is.
        Some("us") => Ok(number.div_ceil(1000)),
        _ => Err(wrong()),
    }
}
