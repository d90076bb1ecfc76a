//! The rules that were deployed: versions, stages, order, and what may become of them. Pure data.

use crate::model::{Millis, OrganizationId};
use crate::rules::hooks::Hook;
use crate::rules::manifest::{ManifestError, check_settings};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) use crate::rules::stage::Stage;

/// Versions of one rule that are kept for a roll back, besides those in force.
const VERSIONS_MAX: usize = 5;
const HISTORY_MAX: usize = 50;
/// Rules of one organization, and of all.
const RULES_MAX: usize = 32;
const MESSAGE_BYTES_MAX: usize = 256;
/// Settings of one rule, all organizations together.
const SETTINGS_MAX: usize = 4_096;

/// Why a change of the set is refused, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("there is no rule of this name")]
    NoRule,
    #[error("there is no version with this digest; upload it first")]
    NoVersion,
    #[error("version {version} was deployed with another content; raise the version in rule.toml")]
    SameVersion { version: String },
    #[error("no version of the rule with this digest is kept, or none is in force")]
    NotInForce,
    #[error("no version was in force before this one")]
    NothingBefore,
    #[error("the rule is required; pause it with \"force\": true if its items may pass unjudged")]
    Required,
    #[error("an organization has at most 32 rules, and as many hold for all; remove one first")]
    TooMany,
    #[error("the stage must be \"active\", \"shadow\", \"shadow:5%\" or \"canary:5%\"")]
    Stage,
    #[error("organizations have set 4096 values of this rule; take some away first")]
    Settings,
    #[error("{0}")]
    Setting(String),
    #[error("the message must be at most 256 printable bytes")]
    Message,
    #[error("{0}")]
    GateText(String),
    #[error(
        "the gates of this version are not met: {missing}; wait, or promote with \"force\": true"
    )]
    Gates { missing: String },
    #[error("the place of a shipped rule is the one it has in rules.builtin of the configuration")]
    Shipped,
    #[error("the rules were changed by somebody else meanwhile; look and ask again")]
    Changed,
}

/// Every rule that was deployed. One value: nodes have this revision or another, never a mix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSet {
    pub revision: u64,
    pub rules: Vec<DeployedRule>,
}

/// One rule with its versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployedRule {
    pub name: String,
    /// Whose it is; none: everybody's.
    pub org: Option<i32>,
    /// The organization that deployed it last: its trail has what the gates do.
    #[serde(default)]
    pub home: i32,
    pub order: u32,
    pub required: bool,
    pub is_paused: bool,
    /// When it is resumed by itself; none: by a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<u64>,
    pub versions: Vec<RuleVersion>,
    /// Digest of the version in force.
    pub active: Option<String>,
    /// Digests of those that were, the last one last.
    pub before: Vec<String>,
    pub canary: Option<(String, u16)>,
    pub shadow: Option<(String, u16)>,
    pub history: Vec<Transition>,
    /// What organizations set for themselves, over the manifest's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<i32, BTreeMap<String, String>>,
    /// Digest of the version that came with the gateway, if the configuration switched the rule on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipped: Option<String>,
}

/// One content, for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleVersion {
    /// Lower-case hex SHA-256 of the component.
    pub digest: String,
    pub version: String,
    pub bytes: usize,
    pub hooks: Vec<Hook>,
    /// What was said of its gates when it was deployed, over those of its manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gates: BTreeMap<String, Value>,
    /// Another share of drops and denies than that of the version before is what it is for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expects_change: bool,
}

/// Who did what, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub at: u64,
    pub by: String,
    pub what: String,
    pub digest: Option<String>,
    pub message: String,
}

/// Who asks for a change, and why.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub at: Millis,
    pub by: String,
    pub message: String,
}

/// What is to become of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleChange {
    /// The version with this digest; without one the one that is being tried, else the last.
    Promote {
        to: Stage,
        digest: Option<String>,
        /// Past gates that are not met.
        is_forced: bool,
    },
    /// Gives up the version with this digest at the stage with this word, and nothing else.
    Withdraw {
        digest: String,
        stage: &'static str,
    },
    /// Gives up what is being tried; if nothing is, the version before is in force again.
    RollBack,
    Pause {
        is_forced: bool,
        /// When it is resumed by itself.
        until: Option<Millis>,
    },
    Resume,
    Order(u32),
    /// Sets values of one organization, or takes them away.
    Configure {
        org: OrganizationId,
        settings: BTreeMap<String, Option<String>>,
    },
}

/// A version that is to be deployed.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub name: String,
    pub org: Option<OrganizationId>,
    pub home: OrganizationId,
    pub order: u32,
    pub required: bool,
    pub version: RuleVersion,
    pub stage: Stage,
}

impl RuleSet {
    /// The rule called `name` of `org`, or of everybody.
    #[must_use]
    pub fn rule(&self, org: Option<OrganizationId>, name: &str) -> Option<&DeployedRule> {
        let org = org.map(|org| org.0);
        self.rules.iter().find(|rule| rule.org == org && rule.name == name)
    }

    /// The set with a version more.
    pub(super) fn with(mut self, upload: Upload, asked: Asked) -> Result<Self, SetError> {
        check(&asked)?;
        let Upload { name, org, home, order, required, version, stage } = upload;
        let org = org.map(|org| org.0);
        let known = self.rules.iter().position(|rule| rule.org == org && rule.name == name);
        let at = match known {
            Some(at) => at,
            None if self.rules.iter().filter(|rule| rule.org == org).count() >= RULES_MAX => {
                return Err(SetError::TooMany);
            }
            None => {
                let bare = DeployedRule::named(&name, order);
                self.rules.push(DeployedRule { org, home: home.0, required, ..bare });
                self.rules.len() - 1
            }
        };
        let rule = self.rules.get_mut(at).ok_or(SetError::NoRule)?;
        let digest = version.digest.clone();
        let known = rule.versions.iter_mut().find(|one| one.digest == digest);
        if let Some(known) = known {
            (known.gates, known.expects_change) = (version.gates, version.expects_change);
        } else {
            if rule.versions.iter().any(|one| one.version == version.version) {
                return Err(SetError::SameVersion { version: version.version });
            }
            rule.versions.push(version);
        }
        (rule.required, rule.home) = (required, home.0);
        rule.stage((stage, digest), asked);
        self.revision += 1;
        Ok(self)
    }

    /// The set after a change of one rule.
    pub(super) fn changed(
        mut self,
        (org, name): (Option<OrganizationId>, &str),
        change: RuleChange,
        asked: Asked,
    ) -> Result<Self, SetError> {
        check(&asked)?;
        let org = org.map(|org| org.0);
        let mut rules = self.rules.iter_mut();
        let rule = rules.find(|rule| rule.org == org && rule.name == name);
        rule.ok_or(SetError::NoRule)?.change(change, asked)?;
        self.revision += 1;
        Ok(self)
    }

    /// Digests of all versions that may be needed.
    pub(super) fn digests(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().flat_map(DeployedRule::in_force)
    }
}

fn check(asked: &Asked) -> Result<(), SetError> {
    let text = &asked.message;
    let is_fine = text.len() <= MESSAGE_BYTES_MAX && !text.contains(char::is_control);
    if is_fine { Ok(()) } else { Err(SetError::Message) }
}

impl DeployedRule {
    /// A rule of everybody without a version.
    pub(super) fn named(name: &str, order: u32) -> Self {
        Self {
            name: name.to_owned(),
            org: None,
            home: 0,
            order,
            required: false,
            is_paused: false,
            paused_until: None,
            versions: Vec::new(),
            active: None,
            before: Vec::new(),
            canary: None,
            shadow: None,
            history: Vec::new(),
            settings: BTreeMap::new(),
            shipped: None,
        }
    }

    /// Digests of the versions that judge something.
    fn in_force(&self) -> impl Iterator<Item = &str> {
        let tried = self.canary.iter().chain(&self.shadow).map(|(digest, _)| digest.as_str());
        self.active.as_deref().into_iter().chain(tried)
    }

    fn change(&mut self, change: RuleChange, asked: Asked) -> Result<(), SetError> {
        match change {
            RuleChange::Promote { to, digest, .. } => {
                let digest = self.promoted(digest)?;
                self.stage((to, digest), asked);
            }
            RuleChange::Withdraw { digest, stage } => {
                self.withdraw(&digest, stage)?;
                self.note("withdraw", Some(digest), asked);
            }
            RuleChange::RollBack => {
                let is_tried = self.canary.take().is_some() | self.shadow.take().is_some();
                if !is_tried {
                    self.active = Some(self.before.pop().ok_or(SetError::NothingBefore)?);
                }
                self.note("rollback", self.active.clone(), asked);
            }
            RuleChange::Pause { is_forced, until } => {
                if self.required && !is_forced {
                    return Err(SetError::Required);
                }
                (self.is_paused, self.paused_until) = (true, until.map(|until| until.0));
                self.note("pause", None, asked);
            }
            RuleChange::Resume => {
                (self.is_paused, self.paused_until) = (false, None);
                self.note("resume", None, asked);
            }
            RuleChange::Order(_) if self.shipped.is_some() => return Err(SetError::Shipped),
            RuleChange::Order(order) => {
                self.order = order;
                self.note(&format!("order:{order}"), None, asked);
            }
            RuleChange::Configure { org, settings } => self.configure(org, settings)?,
        }
        Ok(())
    }

    /// The history is read by all whom the rule judges; who set what is in the audit trail.
    fn configure(
        &mut self,
        org: OrganizationId,
        settings: BTreeMap<String, Option<String>>,
    ) -> Result<(), SetError> {
        let own = self.settings.entry(org.0).or_default();
        for (key, value) in settings {
            match value {
                Some(value) => own.insert(key, value),
                None => own.remove(&key),
            };
        }
        let refused = |error: ManifestError| SetError::Setting(error.to_string());
        check_settings(own).map_err(refused)?;
        self.settings.retain(|_, own| !own.is_empty());
        let count: usize = self.settings.values().map(BTreeMap::len).sum();
        if count > SETTINGS_MAX { Err(SetError::Settings) } else { Ok(()) }
    }

    /// Which version is promoted if this one, or none, is named.
    pub(super) fn promoted(&self, digest: Option<String>) -> Result<String, SetError> {
        let tried = || self.canary.as_ref().or(self.shadow.as_ref()).map(|(d, _)| d.clone());
        let last = || self.versions.last().map(|version| version.digest.clone());
        let digest = digest.or_else(tried).or_else(last).ok_or(SetError::NoVersion)?;
        let is_known = self.versions.iter().any(|version| version.digest == digest);
        if is_known { Ok(digest) } else { Err(SetError::NoVersion) }
    }

    fn withdraw(&mut self, digest: &str, stage: &str) -> Result<(), SetError> {
        let is_it = |tried: &(String, u16)| tried.0 == digest;
        let is_gone = match stage {
            "shadow" => self.shadow.take_if(|tried| is_it(tried)).is_some(),
            "canary" => self.canary.take_if(|tried| is_it(tried)).is_some(),
            _ if self.active.as_deref() == Some(digest) => {
                self.active = Some(self.before.pop().ok_or(SetError::NothingBefore)?);
                true
            }
            _ => false,
        };
        // Somebody was faster.
        if is_gone { Ok(()) } else { Err(SetError::NoVersion) }
    }

    /// The version with this digest.
    pub(super) fn version(&self, digest: &str) -> Option<&RuleVersion> {
        self.versions.iter().find(|version| version.digest == digest)
    }

    /// The versions that judge or watch, with their stages.
    pub(super) fn staged(&self) -> impl Iterator<Item = (&str, Stage)> {
        let active = self.active.as_deref().map(|digest| (digest, Stage::Active));
        let canary = self.canary.as_ref().map(|(digest, n)| (digest.as_str(), Stage::Canary(*n)));
        let shadow = self.shadow.as_ref().map(|(digest, n)| (digest.as_str(), Stage::Shadow(*n)));
        active.into_iter().chain(canary).chain(shadow)
    }

    /// When a version came to the stage where it is; 0 if that is forgotten.
    pub(super) fn since(&self, digest: &str, stage: Stage) -> u64 {
        let is_it = |one: &&Transition| {
            one.digest.as_deref() == Some(digest)
                && [stage.as_str(), "rollback"].contains(&one.what.as_str())
        };
        self.history.iter().rev().find(is_it).map_or(0, |one| one.at)
    }

    fn stage(&mut self, (stage, digest): (Stage, String), asked: Asked) {
        let is_it = |tried: &(String, u16)| tried.0 == digest;
        match stage {
            Stage::Shadow(share) => self.shadow = Some((digest.clone(), share)),
            Stage::Canary(share) => {
                self.shadow.take_if(|tried| is_it(tried));
                self.canary = Some((digest.clone(), share));
            }
            Stage::Active => {
                self.shadow.take_if(|tried| is_it(tried));
                self.canary = None;
                if self.active.as_ref() != Some(&digest) {
                    self.before.extend(self.active.replace(digest.clone()));
                }
            }
        }
        self.note(stage.as_str(), Some(digest), asked);
        self.forget();
    }

    /// Drops the oldest versions that nothing leads back to.
    fn forget(&mut self) {
        let excess = self.before.len().saturating_sub(VERSIONS_MAX);
        self.before.drain(..excess);
        let used: Vec<String> = self.in_force().map(str::to_owned).collect();
        let is_kept = |version: &RuleVersion| {
            used.contains(&version.digest)
                || self.before.contains(&version.digest)
                || self.shipped.as_ref() == Some(&version.digest)
        };
        let mut spare = self.versions.iter().filter(|version| !is_kept(version)).count();
        let mut kept = Vec::with_capacity(self.versions.len());
        for version in &self.versions {
            if is_kept(version) || spare <= VERSIONS_MAX {
                kept.push(version.clone());
            }
            spare -= usize::from(!is_kept(version) && spare > 0);
        }
        self.versions = kept;
    }

    fn note(&mut self, what: &str, digest: Option<String>, asked: Asked) {
        let excess = (self.history.len() + 1).saturating_sub(HISTORY_MAX);
        self.history.drain(..excess);
        let Asked { at, by, message } = asked;
        self.history.push(Transition { at: at.0, by, what: what.to_owned(), digest, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked { at: Millis(1), by: "user:1".into(), message: String::from("why") }
    }

    fn upload(version: &str, stage: Stage) -> Upload {
        Upload {
            name: "quiet".into(),
            org: None,
            home: OrganizationId(1),
            order: 300,
            required: false,
            version: RuleVersion {
                digest: format!("d{version}"),
                version: version.into(),
                bytes: 1,
                hooks: vec![Hook::Route],
                ..RuleVersion::default()
            },
            stage,
        }
    }

    fn change(set: RuleSet, change: RuleChange) -> Result<RuleSet, SetError> {
        set.changed((None, "quiet"), change, asked())
    }

    fn promote(to: &str) -> RuleChange {
        RuleChange::Promote { to: to.parse().unwrap(), digest: None, is_forced: false }
    }

    #[test]
    fn a_version_goes_from_shadow_to_active_and_back() {
        let set = RuleSet::default().with(upload("1.0.0", Stage::Active), asked()).unwrap();
        let set = set.with(upload("1.1.0", Stage::Shadow(10_000)), asked()).unwrap();
        let set = change(set, promote("canary:5%")).unwrap();
        let rule = set.rule(None, "quiet").unwrap();
        assert_eq!((&rule.canary, &rule.shadow), (&Some(("d1.1.0".into(), 500)), &None));
        assert_eq!(rule.active.as_deref(), Some("d1.0.0"));
        let set = change(set, promote("active")).unwrap();
        let rule = set.rule(None, "quiet").unwrap();
        assert_eq!((rule.active.as_deref(), &rule.canary), (Some("d1.1.0"), &None));
        let set = change(set, RuleChange::RollBack).unwrap();
        assert_eq!(set.rule(None, "quiet").unwrap().active.as_deref(), Some("d1.0.0"));
        assert_eq!(set.revision, 5);
        let whats: Vec<_> = set.rules[0].history.iter().map(|t| t.what.as_str()).collect();
        assert_eq!(whats, ["active", "shadow", "canary", "active", "rollback"]);
        assert_eq!(change(set, RuleChange::RollBack), Err(SetError::NothingBefore));
    }

    #[test]
    fn a_roll_back_first_gives_up_what_is_being_tried() {
        let set = RuleSet::default().with(upload("1.0.0", Stage::Active), asked()).unwrap();
        let set = set.with(upload("1.1.0", Stage::Canary(500)), asked()).unwrap();
        let set = change(set, RuleChange::RollBack).unwrap();
        let rule = set.rule(None, "quiet").unwrap();
        assert_eq!((rule.active.as_deref(), &rule.canary), (Some("d1.0.0"), &None));
    }

    #[test]
    fn what_is_withdrawn_is_given_up_and_nothing_else() {
        let set = RuleSet::default().with(upload("1.0.0", Stage::Active), asked()).unwrap();
        let set = set.with(upload("1.1.0", Stage::Canary(500)), asked()).unwrap();
        let set = set.with(upload("1.2.0", Stage::Shadow(500)), asked()).unwrap();
        let withdraw = |set, version: &str, stage| {
            let digest = format!("d{version}");
            change(set, RuleChange::Withdraw { digest, stage })
        };
        assert_eq!(withdraw(set.clone(), "1.1.0", "shadow"), Err(SetError::NoVersion));
        assert_eq!(withdraw(set.clone(), "1.0.0", "active"), Err(SetError::NothingBefore));
        let set = withdraw(set, "1.2.0", "shadow").unwrap();
        let stages: Vec<_> = set.rules[0].staged().collect();
        assert_eq!(stages, [("d1.0.0", Stage::Active), ("d1.1.0", Stage::Canary(500))]);
        let set = withdraw(change(set, promote("active")).unwrap(), "1.1.0", "active").unwrap();
        assert_eq!(set.rules[0].active.as_deref(), Some("d1.0.0"));
    }

    #[test]
    fn a_version_has_one_content_and_a_required_rule_is_not_paused_by_accident() {
        let set = RuleSet::default().with(upload("1.0.0", Stage::Active), asked()).unwrap();
        let mut other = upload("1.0.0", Stage::Active);
        other.version.digest = "other".into();
        let error = set.clone().with(other, asked()).unwrap_err();
        assert_eq!(error, SetError::SameVersion { version: "1.0.0".into() });
        let mut required = upload("1.0.1", Stage::Active);
        required.required = true;
        let set = set.with(required, asked()).unwrap();
        let pause = |is_forced| RuleChange::Pause { is_forced, until: None };
        assert_eq!(change(set.clone(), pause(false)), Err(SetError::Required));
        assert!(change(set.clone(), pause(true)).unwrap().rules[0].is_paused);
        assert_eq!(change(set, promote("active")).map(|_| ()), Ok(()));
    }

    #[test]
    fn versions_and_rules_are_bounded() {
        let mut set = RuleSet::default();
        for n in 0..40 {
            set = set.with(upload(&format!("1.0.{n}"), Stage::Active), asked()).unwrap();
        }
        assert_eq!(set.rules[0].before.len(), VERSIONS_MAX);
        assert!(set.rules[0].versions.len() <= 2 * VERSIONS_MAX + 1);
        for n in 1..RULES_MAX {
            let rule = Upload { name: format!("r{n}"), ..upload("1.0.0", Stage::Active) };
            set = set.with(rule, asked()).unwrap();
        }
        let more = Upload { name: "more".into(), ..upload("1.0.0", Stage::Active) };
        assert_eq!(set.with(more, asked()), Err(SetError::TooMany));
    }
}
