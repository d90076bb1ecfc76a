//! Versions that only watch: asked after the real decision, on copies, and only while there is time.

use crate::model::Millis;
use crate::rules::asking::{Asker, Questions};
use crate::rules::chain::Rule;
use crate::rules::engine::{Exports, Sandbox};
use crate::rules::hooks::{Answer, AuthorizeItem, Hook, TransformItem};
use crate::rules::host::Host;
use crate::rules::input::{Input, PlanText};
use crate::rules::items::{Payloads, Requests, Routes};
use crate::rules::limits::Breach;
use crate::rules::{Plan, RouteItem};
use std::sync::Arc;
use wasmtime::Store;
use wasmtime::component::Instance;

/// Decision and code; `None` where nobody was asked, or what was asked broke.
pub(super) type Said = Option<(String, String)>;

/// Copies of the items as the version in force saw them.
pub(super) enum Seen {
    Authorize(Vec<AuthorizeItem>),
    Route(Vec<RouteItem>, Vec<Plan>),
    Transform(Vec<TransformItem>),
}

/// A batch that a shadow is to be asked about.
pub(super) struct Watched {
    pub(super) rule: Arc<Rule>,
    pub(super) now: Millis,
    pub(super) seen: Seen,
    /// What the version in force said; `None` where there is none.
    pub(super) real: Vec<Said>,
}

impl Watched {
    pub(super) fn len(&self) -> usize {
        self.real.len()
    }

    /// Asks the shadow and compares. What it counts and keeps stays with it.
    pub(super) fn run(self, sandbox: &Sandbox) {
        let Self { rule, now, seen, real } = self;
        let matches = &rule.config.matches;
        match seen {
            Seen::Authorize(items) => {
                let org = items.first().map(|item| item.org.to_string());
                let applies = items.iter().map(|item| matches.applies_to_request(item)).collect();
                let asking = Asking { sandbox, rule: &rule, now, org, applies, real: &real };
                asking.compare(&mut Requests { items: &items });
            }
            Seen::Route(items, plans) => {
                let org = items.first().map(|item| item.notification.org.to_string());
                let pairs = items.iter().zip(&plans);
                let applies = pairs.map(|(item, plan)| matches.applies(item, plan)).collect();
                let asking = Asking { sandbox, rule: &rule, now, org, applies, real: &real };
                asking.compare(&mut Routes::new(&items, plans));
            }
            Seen::Transform(items) => {
                let org = items.first().map(|item| item.notification.org.to_string());
                let applies = items.iter().map(|item| matches.applies_to_payload(item)).collect();
                let asking = Asking { sandbox, rule: &rule, now, org, applies, real: &real };
                asking.compare(&mut Payloads::new(&items));
            }
        }
    }
}

struct Asking<'a> {
    sandbox: &'a Sandbox,
    rule: &'a Rule,
    now: Millis,
    org: Option<String>,
    applies: Vec<bool>,
    real: &'a [Said],
}

/// The items with what the version in force said of each, for the decision log.
struct Beside<'a, Q> {
    questions: &'a mut Q,
    real: &'a [Said],
}

impl<Q: Questions> Questions for Beside<'_, Q> {
    type Raw = Q::Raw;
    const HOOK: Hook = Q::HOOK;

    fn call(
        &mut self,
        asked: &[usize],
        exports: &Exports,
        store: &mut Store<Host>,
        instance: &Instance,
    ) -> wasmtime::Result<Vec<Self::Raw>> {
        self.questions.call(asked, exports, store, instance)
    }

    fn read(&self, at: usize, raw: Self::Raw, now: Millis) -> Result<Answer, Breach> {
        self.questions.read(at, raw, now)
    }

    fn item(&self, at: usize) -> u64 {
        self.questions.item(at)
    }

    fn id(&self, at: usize) -> String {
        self.questions.id(at)
    }

    fn input(&self, at: usize, now: Millis) -> Input {
        self.questions.input(at, now)
    }

    fn plan(&self, at: usize) -> Option<PlanText> {
        self.questions.plan(at)
    }

    fn payload(&self, at: usize) -> Option<&str> {
        self.questions.payload(at)
    }

    fn beside(&self, at: usize) -> Option<&(String, String)> {
        self.real.get(at)?.as_ref()
    }
}

impl Asking<'_> {
    fn compare<Q: Questions>(self, questions: &mut Q) {
        let Self { sandbox, rule, now, org, applies, real } = self;
        let org = org.unwrap_or_default();
        let asker = Asker { sandbox, now, org: &org, is_recorded: false };
        let asked: Vec<usize> =
            (0..).zip(&applies).filter_map(|(at, applies)| applies.then_some(at)).collect();
        let skipped = || Some((String::from("skipped"), String::from("no_match")));
        let mut said: Vec<Said> = applies.iter().map(|_| skipped()).collect();
        for (at, part) in asker.ask(rule, &mut Beside { questions, real }, &asked) {
            if let Some(place) = said.get_mut(at) {
                let answer = part.answer.ok();
                *place = answer.map(|answer| (answer.decision.as_str().to_owned(), answer.code));
            }
        }
        let compared = said.iter().zip(real).filter(|(_, real)| real.is_some());
        let same = compared.clone().filter(|(said, real)| said == real).count();
        let count = compared.count();
        rule.stats.compare(count, same);
        if let Some(metrics) = rule.metrics(Q::HOOK) {
            let [count, same] = [count, same].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
            metrics.compared(count, count.saturating_sub(same));
        }
    }
}
