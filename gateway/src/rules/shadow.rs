//! Versions that only watch: asked after the real decision, on copies, and only while there is time.

use crate::model::Millis;
use crate::rules::asking::Asker;
use crate::rules::chain::Rule;
use crate::rules::engine::Sandbox;
use crate::rules::items::Routes;
use crate::rules::{Plan, RouteItem};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A batch that a shadow is to be asked about.
pub(super) struct Watched {
    pub(super) rule: Arc<Rule>,
    pub(super) now: Millis,
    pub(super) items: Vec<RouteItem>,
    pub(super) plans: Vec<Plan>,
    /// Decision and code of the version in force; `None` where that one broke.
    pub(super) real: Vec<Option<(String, String)>>,
}

/// What a shadow said, in numbers.
#[derive(Debug, Default)]
pub(super) struct Tally {
    items: AtomicU64,
    same: AtomicU64,
    errors: AtomicU64,
    fuel: AtomicU64,
    /// Not asked about: there was no time.
    shed: AtomicU64,
}

/// What a shadow said so far, beside the version in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowCount {
    pub items: u64,
    /// Answered with the same decision and code.
    pub same: u64,
    pub errors: u64,
    pub fuel: u64,
    /// Not asked about, because there was no time.
    pub shed: u64,
}

impl Tally {
    pub(super) fn shed(&self, items: usize) {
        self.shed.fetch_add(u64::try_from(items).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> ShadowCount {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        ShadowCount {
            items: read(&self.items),
            same: read(&self.same),
            errors: read(&self.errors),
            fuel: read(&self.fuel),
            shed: read(&self.shed),
        }
    }
}

impl Watched {
    /// Asks the shadow and compares. What it counts and keeps stays with it.
    pub(super) fn run(self, sandbox: &Sandbox) {
        let Self { rule, now, items, plans, real } = self;
        let org = items.first().map(|item| item.notification.org.to_string()).unwrap_or_default();
        let asker = Asker { sandbox, now, org: &org, is_recorded: false };
        let applies = |(item, plan): (&RouteItem, &Plan)| rule.config.matches.applies(item, plan);
        let asked: Vec<usize> = (0..)
            .zip(items.iter().zip(&plans))
            .filter_map(|(at, pair)| applies(pair).then_some(at))
            .collect();
        let skipped = || Some((String::from("skipped"), String::from("no_match")));
        let mut said: Vec<Option<(String, String)>> = items.iter().map(|_| skipped()).collect();
        let tally = &rule.memory.tally;
        for (at, part) in asker.ask(&rule, &mut Routes::new(&items, plans), &asked) {
            tally.fuel.fetch_add(part.fuel, Ordering::Relaxed);
            let answer =
                part.answer.ok().map(|answer| (answer.decision.as_str().to_owned(), answer.code));
            tally.errors.fetch_add(u64::from(answer.is_none()), Ordering::Relaxed);
            if let Some(place) = said.get_mut(at) {
                *place = answer;
            }
        }
        let same = said.iter().zip(&real).filter(|(said, real)| said.is_some() && said == real);
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        tally.same.fetch_add(count(same.count()), Ordering::Relaxed);
        tally.items.fetch_add(count(said.len()), Ordering::Relaxed);
    }
}
