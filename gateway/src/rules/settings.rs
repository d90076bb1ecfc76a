//! What configuration says about the rules: the chain, each rule's failure mode, pre-filter and settings.

use crate::model::{Notification, Priority, ProviderName};
use crate::rules::compiled::CodeKey;
use crate::rules::hooks::{AuthorizeItem, Hook, TransformItem};
use crate::rules::limits::RuleLimits;
use crate::rules::manifest::{Caps, Manifest, Sticky};
use crate::rules::recorder::Recorder;
use crate::rules::{Plan, RecipientKind, RouteItem};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

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
    /// Where decisions and log lines are kept; `None`: nowhere.
    pub recorder: Option<Arc<Recorder>>,
    /// Where counters and values are kept over a restart; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// Where compiled code is kept over a restart, and what it is sealed with; `None`: nowhere.
    pub code: Option<(PathBuf, CodeKey)>,
}

impl Default for RuleSettings {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            rules: Vec::new(),
            limits: RuleLimits::default(),
            threads,
            queue: 2 * threads,
            recorder: None,
            state_dir: None,
            code: None,
        }
    }
}

/// One rule of the chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleConfig {
    /// 1 to 40 of a-z, 0-9 and `-`, once in a chain.
    pub name: String,
    /// For people; recorded with every decision. Empty: the manifest's.
    pub version: String,
    /// The component file.
    pub path: PathBuf,
    /// Unset: the manifest's, else `closed` for authorize, `default-plan` for route, `open` for transform.
    pub on_error: Option<OnError>,
    /// An item this rule could not judge must not go out, whatever `on_error` says.
    pub required: bool,
    /// Its `allow` lifts a deny of the built-in check.
    pub may_grant: bool,
    pub matches: RuleMatch,
    /// What the rule reads through `config`.
    pub config: BTreeMap<String, String>,
    /// Values of single organizations, which win over `config`; the key is the organization's id.
    pub config_for_org: BTreeMap<String, BTreeMap<String, String>>,
    /// What the rule allows itself at most.
    pub caps: Caps,
    pub sticky: Sticky,
}

/// What happens to an item whose rule broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The item goes out with the plan the rules before left.
    DefaultPlan,
    /// As if the rule were not there; for a route rule the same as `default-plan`.
    Open,
    /// The item does not go out; the request is denied.
    Closed,
}

impl RuleConfig {
    /// What `manifest` says.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            path: PathBuf::new(),
            on_error: manifest.on_error,
            required: manifest.required,
            may_grant: manifest.may_grant,
            matches: manifest.matches.clone(),
            config: manifest.config.clone(),
            config_for_org: BTreeMap::new(),
            caps: manifest.limits,
            sticky: manifest.deploy.sticky,
        }
    }

    /// What this leaves open, as `manifest` says it.
    pub(super) fn completed(mut self, manifest: &Manifest) -> Self {
        let from = Self::of(manifest);
        if self.version.is_empty() {
            self.version = from.version;
        }
        if self.matches == RuleMatch::default() {
            self.matches = from.matches;
        }
        for (key, value) in from.config {
            self.config.entry(key).or_insert(value);
        }
        self.on_error = self.on_error.or(from.on_error);
        self.required |= from.required;
        self.may_grant |= from.may_grant;
        (self.caps, self.sticky) = (from.caps, from.sticky);
        self
    }

    /// The failure mode in force.
    #[must_use]
    pub fn fails_closed(&self, hook: Hook) -> bool {
        let of_hook = if hook == Hook::Authorize { OnError::Closed } else { OnError::DefaultPlan };
        self.required || self.on_error.unwrap_or(of_hook) == OnError::Closed
    }
}

/// Where a rule applies, judged without running it. An empty list matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleMatch {
    /// Event types, for authorize rules actions; `*` stands for any text, a leading `!` excludes:
    /// `["*", "!security.*"]`.
    pub events: Vec<String>,
    pub orgs: Vec<i32>,
    /// The plan so far has a target on at least one of these.
    pub channels: Vec<ProviderName>,
    pub priorities: Vec<Priority>,
    pub recipients: Vec<RecipientKind>,
    /// Custom data that must all be there, by flattened name: `device.id`.
    pub attributes: Vec<String>,
}

impl RuleMatch {
    pub(super) fn applies(&self, item: &RouteItem, plan: &Plan) -> bool {
        let priority = plan.priority.unwrap_or(item.notification.priority);
        self.meets(item.recipient.kind, priority)
            && (self.channels.is_empty() || self.reaches(item, plan))
            && self.concerns(&item.notification)
    }

    pub(super) fn applies_to_request(&self, item: &AuthorizeItem) -> bool {
        (self.orgs.is_empty() || self.orgs.contains(&item.org.0)) && self.selects(&item.action)
    }

    pub(super) fn applies_to_payload(&self, item: &TransformItem) -> bool {
        self.meets(item.recipient.kind, item.notification.priority)
            && (self.channels.is_empty() || self.channels.contains(&item.channel))
            && self.concerns(&item.notification)
    }

    fn meets(&self, recipient: RecipientKind, priority: Priority) -> bool {
        (self.recipients.is_empty() || self.recipients.contains(&recipient))
            && (self.priorities.is_empty() || self.priorities.contains(&priority))
    }

    fn concerns(&self, notification: &Notification) -> bool {
        (self.orgs.is_empty() || self.orgs.contains(&notification.org.0))
            && self.selects(&notification.event)
            && (self.attributes.is_empty() || self.finds(&notification.content.data))
    }

    fn finds(&self, data: &str) -> bool {
        let known = crate::rules::attrs::attrs(data);
        self.attributes.iter().all(|wanted| known.iter().any(|(key, _)| key == wanted))
    }

    fn reaches(&self, item: &RouteItem, plan: &Plan) -> bool {
        let mut planned = plan.steps.iter().flat_map(|step| &step.targets);
        planned.any(|index| {
            let target = item.recipient.targets.get(*index);
            target.is_some_and(|target| self.channels.contains(&target.provider))
        })
    }

    fn selects(&self, event: &str) -> bool {
        let mut wanted = self.events.iter().filter(|pattern| !pattern.starts_with('!')).peekable();
        let mut excluded = self.events.iter().filter(|pattern| pattern.starts_with('!'));
        (wanted.peek().is_none() || wanted.any(|pattern| glob(pattern, event)))
            && !excluded.any(|pattern| glob(pattern.trim_start_matches('!'), event))
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
