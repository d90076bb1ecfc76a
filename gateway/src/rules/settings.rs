//! What configuration says about the rules: the chain, each rule's failure mode, pre-filter and settings.

use crate::model::{Priority, ProviderName};
use crate::rules::limits::RuleLimits;
use crate::rules::{Plan, RecipientKind, RouteItem};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything [`WasmRules`](crate::rules::WasmRules) needs to start.
#[derive(Clone, Debug)]
pub struct RuleSettings {
    /// The chain, in the order rules are asked. At most 32.
    pub rules: Vec<RuleConfig>,
    pub limits: RuleLimits,
    /// Threads that run rules; at least 1.
    pub threads: usize,
    /// Batches that may wait for a thread; at least 1. Callers wait when it is full.
    pub queue: usize,
}

impl Default for RuleSettings {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { rules: Vec::new(), limits: RuleLimits::default(), threads, queue: 2 * threads }
    }
}

/// One rule of the chain.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// 1 to 40 of a-z, 0-9 and `-`, once in a chain.
    pub name: String,
    /// For people; recorded with every decision.
    pub version: String,
    /// The component file.
    pub path: PathBuf,
    #[serde(default)]
    pub on_error: OnError,
    /// An item this rule could not judge must not go out, whatever `on_error` says.
    #[serde(default)]
    pub required: bool,
    #[serde(default, rename = "match")]
    pub matches: RuleMatch,
    /// What the rule reads through `config`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Values of single organizations, which win over `config`; the key is the organization's id.
    #[serde(default)]
    pub config_for_org: BTreeMap<String, BTreeMap<String, String>>,
}

/// What happens to an item whose rule broke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The item goes out with the plan the rules before left.
    #[default]
    DefaultPlan,
    /// For a route rule the same as `default-plan`.
    Open,
    /// The item does not go out.
    Closed,
}

impl RuleConfig {
    /// The failure mode in force.
    #[must_use]
    pub fn fails_closed(&self) -> bool {
        self.required || self.on_error == OnError::Closed
    }
}

/// Where a rule applies, judged without running it. An empty list matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleMatch {
    /// Event types; `*` stands for any text, a leading `!` excludes. `["*", "!security.*"]`.
    pub events: Vec<String>,
    /// The plan so far has a target on at least one of these.
    pub channels: Vec<ProviderName>,
    pub priorities: Vec<Priority>,
    pub recipients: Vec<RecipientKind>,
}

impl RuleMatch {
    pub(super) fn applies(&self, item: &RouteItem, plan: &Plan) -> bool {
        let among = |list: &[RecipientKind]| list.is_empty() || list.contains(&item.recipient.kind);
        let priority = plan.priority.unwrap_or(item.notification.priority);
        among(&self.recipients)
            && (self.priorities.is_empty() || self.priorities.contains(&priority))
            && (self.channels.is_empty() || self.reaches(item, plan))
            && self.selects(&item.notification.event)
    }

    fn reaches(&self, item: &RouteItem, plan: &Plan) -> bool {
        let mut planned = plan.steps.iter().flat_map(|step| &step.targets);
        planned.any(|index| {
            let target = item.recipient.targets.get(*index);
            target.is_some_and(|target| self.channels.contains(&target.provider))
        })
    }

    fn selects(&self, event: &str) -> bool {
        let (excluded, wanted): (Vec<_>, Vec<_>) =
            self.events.iter().partition(|pattern| pattern.starts_with('!'));
        (wanted.is_empty() || wanted.iter().any(|pattern| glob(pattern, event)))
            && !excluded.iter().any(|pattern| glob(pattern.trim_start_matches('!'), event))
    }
}

/// True if `text` is `pattern`, where each `*` stands for any text. Linear but for the number of stars.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "push"),
            ("push", "push"),
            ("push.*", "push."),
            ("push.*", "push.direct"),
            ("*.direct", "push.direct"),
            ("p*.d*t", "push.direct"),
            ("*a*b*", "xxaxxbxx"),
            ("a**b", "ab"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "push"),
            ("push", "push.direct"),
            ("push.*", "push"),
            ("aa*aa", "aaa"),
            ("*a*b*", "ba"),
            ("*.direct", "push.directly"),
        ] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn an_exclusion_wins_over_every_selection() {
        let events = |list: &[&str]| RuleMatch {
            events: list.iter().map(ToString::to_string).collect(),
            ..RuleMatch::default()
        };
        assert!(events(&[]).selects("anything"));
        assert!(events(&["!security.*"]).selects("push.direct"));
        assert!(!events(&["*", "!security.*"]).selects("security.login"));
        assert!(!events(&["push.*"]).selects("buildCreated"));
    }
}
