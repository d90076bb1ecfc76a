//! The shipped rules, which are in the program: switched on by name, and from then on rules like others.

use crate::rules::component::inspect;
use crate::rules::deployed::{DeployedRule, RuleSet, RuleVersion};
use crate::rules::error::RuleError;

/// What `scripts/ship-rules` makes of the folders of `rules/`, in the order that suits most.
const SHIPPED: [(&str, &[u8]); 6] = [
    ("permissions", include_bytes!("../../shipped/permissions.wasm")),
    ("event-routing", include_bytes!("../../shipped/event-routing.wasm")),
    ("quiet-hours", include_bytes!("../../shipped/quiet-hours.wasm")),
    ("throttle-digest", include_bytes!("../../shipped/throttle-digest.wasm")),
    ("fallback", include_bytes!("../../shipped/fallback.wasm")),
    ("pii-redaction", include_bytes!("../../shipped/pii-redaction.wasm")),
];

/// Names of the shipped rules.
pub fn shipped_rules() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

/// The component of the shipped rule called `name`.
#[must_use]
pub fn shipped_component(name: &str) -> Option<&'static [u8]> {
    SHIPPED.iter().find(|(own, _)| *own == name).map(|(_, component)| *component)
}

/// A shipped rule that the configuration switched on.
#[derive(Clone, Debug)]
pub(super) struct Builtin {
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) version: RuleVersion,
    pub(super) component: &'static [u8],
}

/// The shipped rules called so, in this order.
///
/// # Errors
/// There is none of one of these names, or the gateway's limits are too low for it.
pub(super) fn builtins(names: &[String], bytes_max: usize) -> Result<Vec<Builtin>, RuleError> {
    let builtin = |name: &String| {
        let found = SHIPPED.iter().find(|(own, _)| own == name);
        let (_, component) = found.ok_or_else(|| RuleError::NotShipped { name: name.clone() })?;
        let summary = inspect(component, bytes_max)?;
        let manifest = summary.manifest.ok_or(RuleError::NoManifest)?;
        Ok(Builtin {
            name: manifest.name,
            required: manifest.required,
            version: RuleVersion {
                digest: summary.digest,
                version: manifest.version,
                bytes: summary.bytes,
                hooks: summary.hooks,
                ..RuleVersion::default()
            },
            component,
        })
    };
    names.iter().map(builtin).collect()
}

/// `set` as this node sees it: with the shipped rules that are switched on here, in their versions of
/// this release, and without others. What was deployed over a shipped rule stays.
pub(super) fn adopted(mut set: RuleSet, builtins: &[Builtin]) -> RuleSet {
    for rule in &mut set.rules {
        if !builtins.iter().any(|one| rule.org.is_none() && one.name == rule.name) {
            rule.give_up_shipped();
        }
    }
    // Settings and the history outlive a rule that is switched off.
    set.rules.retain(|rule| {
        !(rule.versions.is_empty() && rule.settings.is_empty() && rule.history.is_empty())
    });
    for (order, builtin) in (0..).zip(builtins) {
        let is_it = |rule: &&mut DeployedRule| rule.org.is_none() && rule.name == builtin.name;
        match set.rules.iter_mut().find(is_it) {
            Some(rule) => rule.take_shipped(order, builtin),
            None => {
                let mut rule = DeployedRule::named(&builtin.name, order);
                rule.take_shipped(order, builtin);
                set.rules.push(rule);
            }
        }
    }
    set
}

impl DeployedRule {
    /// The version of this release stands where that of another release stood, or a first one would.
    fn take_shipped(&mut self, order: u32, builtin: &Builtin) {
        let digest = &builtin.version.digest;
        self.order = order;
        let other = self.shipped.replace(digest.clone()).filter(|other| other != digest);
        if let Some(other) = &other {
            self.versions.retain(|version| version.digest != *other);
            let places = self.active.iter_mut().chain(&mut self.before);
            places.filter(|place| *place == other).for_each(|place| place.clone_from(digest));
        }
        if !self.versions.iter().any(|version| version.digest == *digest) {
            self.versions.insert(0, builtin.version.clone());
        }
        let is_there = self.active.as_ref() == Some(digest) || self.before.contains(digest);
        if self.active.is_none() {
            self.active = Some(digest.clone());
        } else if !is_there {
            // A roll back of what was deployed over it leads to it.
            self.before.insert(0, digest.clone());
        }
        if self.active.as_ref() == Some(digest) {
            self.required = builtin.required;
        }
    }

    fn give_up_shipped(&mut self) {
        let Some(digest) = self.shipped.take() else { return };
        self.versions.retain(|version| version.digest != digest);
        self.before.retain(|before| *before != digest);
        self.active.take_if(|active| *active == digest);
        self.canary.take_if(|(tried, _)| *tried == digest);
        self.shadow.take_if(|(tried, _)| *tried == digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::hooks::Hook;
    use std::collections::BTreeMap;

    fn builtin(name: &str, digest: &str) -> Builtin {
        let version = RuleVersion {
            digest: digest.into(),
            version: "1.0.0".into(),
            bytes: 1,
            hooks: vec![Hook::Route],
            ..RuleVersion::default()
        };
        Builtin { name: name.into(), required: false, version, component: &[] }
    }

    fn rule<'a>(set: &'a RuleSet, name: &str) -> &'a DeployedRule {
        set.rule(None, name).unwrap()
    }

    #[test]
    fn every_shipped_rule_can_be_switched_on_and_others_are_named() {
        let names: Vec<_> = shipped_rules().map(str::to_owned).collect();
        let all = builtins(&names, usize::MAX).unwrap();
        assert_eq!(all.iter().map(|one| one.name.clone()).collect::<Vec<_>>(), names);
        let error = builtins(&["quiet".into()], usize::MAX).unwrap_err().to_string();
        assert!(error.contains("quiet") && error.contains("quiet-hours"), "{error}");
    }

    #[test]
    fn what_is_switched_on_is_in_force_in_the_order_of_the_configuration() {
        let set = adopted(RuleSet::default(), &[builtin("b", "d1"), builtin("a", "d2")]);
        assert_eq!((rule(&set, "b").order, rule(&set, "a").order), (0, 1));
        assert_eq!(rule(&set, "a").active.as_deref(), Some("d2"));
        let again = adopted(set.clone(), &[builtin("b", "d1"), builtin("a", "d2")]);
        assert_eq!(again, set, "a second start changes nothing");
        let without = adopted(set, &[builtin("a", "d2")]);
        assert_eq!(without.rule(None, "b"), None);
        assert_eq!(rule(&without, "a").order, 0);
    }

    #[test]
    fn another_release_brings_its_own_version_and_settings_stay() {
        let mut set = adopted(RuleSet::default(), &[builtin("a", "old")]);
        let own = BTreeMap::from([("from".to_owned(), "21:30".to_owned())]);
        set.rules[0].settings.insert(101, own.clone());
        let newer = adopted(set, &[builtin("a", "new")]);
        let a = rule(&newer, "a");
        assert_eq!((a.active.as_deref(), a.versions.len()), (Some("new"), 1));
        let off = adopted(newer, &[]);
        assert_eq!((&rule(&off, "a").active, &rule(&off, "a").settings[&101]), (&None, &own));
        let on = adopted(off, &[builtin("a", "new")]);
        assert_eq!(
            (rule(&on, "a").active.as_deref(), rule(&on, "a").settings.len()),
            (Some("new"), 1)
        );
    }

    #[test]
    fn what_was_deployed_over_a_shipped_rule_stays_and_a_roll_back_leads_to_this_releases() {
        let mut set = adopted(RuleSet::default(), &[builtin("a", "old")]);
        let over = builtin("a", "over").version;
        set.rules[0].versions.push(over);
        let before = set.rules[0].active.replace("over".into());
        set.rules[0].before.extend(before);
        let newer = adopted(set, &[builtin("a", "new")]);
        let a = rule(&newer, "a");
        assert_eq!((a.active.as_deref(), a.before.as_slice()), (Some("over"), &["new".into()][..]));
        let off = adopted(newer, &[]);
        assert_eq!(
            (rule(&off, "a").active.as_deref(), rule(&off, "a").before.len()),
            (Some("over"), 0)
        );
    }
}
