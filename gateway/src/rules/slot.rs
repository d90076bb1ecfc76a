//! A rule's place in the chain: which of its versions judges which items, and which only watch.

use crate::model::Millis;
use crate::rules::breaker::hash;
use crate::rules::chain::Rule;
use crate::rules::hooks::Hook;
use crate::rules::manifest::Sticky;
use crate::rules::shadow::{Said, Seen, Watched};
use std::sync::Arc;

const WHOLE: u64 = 10_000;

/// A rule's place, with the versions of it that judge something.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) order: (u64, String),
    pub(super) active: Option<Arc<Rule>>,
    /// With hundredths of a percent.
    pub(super) canary: Option<(Arc<Rule>, u16)>,
    pub(super) shadow: Option<(Arc<Rule>, u16)>,
}

impl Slot {
    pub(super) fn has(&self, hook: Hook) -> bool {
        let canary = self.canary.as_ref().map(|(rule, _)| rule);
        let watching = self.shadow.as_ref().map(|(rule, _)| rule);
        let mut versions = self.active.iter().chain(canary).chain(watching);
        versions.any(|rule| rule.hooks.contains(&hook))
    }

    /// Which version judges which of `count` items: the same bucket always the same.
    pub(super) fn split(
        &self,
        hook: Hook,
        count: usize,
        key: impl Fn(usize, Sticky) -> u64,
    ) -> Vec<(&Rule, Vec<usize>)> {
        let (mut tried, mut rest) = (Vec::new(), Vec::new());
        for at in 0..count {
            let is_tried = self.canary.as_ref().is_some_and(|(rule, share)| {
                let bucket = hash(&(&rule.config.name, key(at, rule.config.sticky))) % WHOLE;
                bucket < u64::from(*share)
            });
            if is_tried { tried.push(at) } else { rest.push(at) }
        }
        let canary = self.canary.as_ref().map(|(rule, _)| (rule.as_ref(), tried));
        let active = self.active.as_ref().map(|rule| (rule.as_ref(), rest));
        let versions = canary.into_iter().chain(active);
        versions.filter(|(rule, _)| rule.hooks.contains(&hook)).collect()
    }

    /// What the shadow is to be asked about, before the version in force answers; `key` is that of an
    /// item that is still open.
    pub(super) fn watch(
        &self,
        hook: Hook,
        count: usize,
        key: impl Fn(usize) -> Option<u64>,
    ) -> Vec<usize> {
        let Some((rule, share)) = &self.shadow else { return Vec::new() };
        if !rule.hooks.contains(&hook) {
            return Vec::new();
        }
        let is_watched =
            |at: &usize| key(*at).is_some_and(|key| hash(&key) % WHOLE < u64::from(*share));
        (0..count).filter(is_watched).collect()
    }

    /// With what the version in force said of each.
    pub(super) fn compared(&self, now: Millis, seen: Seen, real: Vec<Said>) -> Option<Watched> {
        let (rule, _) = self.shadow.as_ref()?;
        Some(Watched { rule: Arc::clone(rule), now, seen, real })
    }
}
