//! The items of a batch as each hook hands them to a rule and reads its answers.

use crate::model::Millis;
use crate::rules::abi;
use crate::rules::answer;
use crate::rules::asking::Questions;
use crate::rules::breaker::hash;
use crate::rules::engine::Exports;
use crate::rules::hooks::{Answer, AuthorizeItem, Decision, Hook, TransformItem};
use crate::rules::host::Host;
use crate::rules::input::{Input, PlanText};
use crate::rules::limits::Breach;
use crate::rules::{Plan, RouteItem, Verdict};
use wasmtime::Store;
use wasmtime::component::Instance;

/// The items of one batch with their plans so far.
pub(super) struct Routes<'a> {
    items: &'a [RouteItem],
    table: abi::Questions,
    pub(super) plans: Vec<Plan>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(items: &'a [RouteItem], plans: Vec<Plan>) -> Self {
        Self { items, table: abi::Questions::new(items), plans }
    }

    /// Takes an answer over; the verdict if it ends the chain.
    pub(super) fn apply(&mut self, at: usize, rule: &str, answer: Answer) -> Option<Verdict> {
        let Answer { decision, code, .. } = answer;
        match decision {
            Decision::Deliver(plan) => {
                if let Some(so_far) = self.plans.get_mut(at) {
                    *so_far = plan;
                }
                None
            }
            Decision::HoldUntil(until) => Some(Verdict::HoldUntil(until)),
            Decision::Digest(digest) => Some(Verdict::Digest(digest)),
            Decision::Drop => Some(Verdict::Drop { rule: rule.to_owned(), code }),
            _ => None,
        }
    }
}

impl Questions for Routes<'_> {
    type Raw = abi::router::Routed;
    const HOOK: Hook = Hook::Route;

    fn call(
        &mut self,
        asked: &[usize],
        exports: &Exports,
        store: &mut Store<Host>,
        instance: &Instance,
    ) -> wasmtime::Result<Vec<Self::Raw>> {
        let Some(export) = &exports.route else { return Ok(Vec::new()) };
        let plans = asked.iter().filter_map(|at| Some((*at, self.plans.get(*at)?)));
        let some;
        let batch = if asked.len() == self.items.len() {
            self.table.whole(plans.map(|(_, plan)| plan))
        } else {
            some = self.table.some(plans);
            &some
        };
        export.load(&mut *store, instance)?.call_route(store, batch)
    }

    fn read(&self, at: usize, raw: Self::Raw, now: Millis) -> Result<Answer, Breach> {
        let item = self.items.get(at).ok_or_else(|| Breach::output("an answer too many"))?;
        answer::routed(raw, item, now)
    }

    fn item(&self, at: usize) -> u64 {
        self.items.get(at).map_or(0, |item| hash(&(item.notification.id, &item.recipient.id)))
    }

    fn id(&self, at: usize) -> String {
        self.items.get(at).map_or_else(String::new, |item| item.notification.id.to_string())
    }

    fn input(&self, at: usize, now: Millis) -> Input {
        let found = self.items.get(at).zip(self.plans.get(at));
        found.map_or_else(Input::default, |(item, plan)| Input::of_route(now, item, plan))
    }

    fn plan(&self, at: usize) -> Option<PlanText> {
        self.plans.get(at).map(PlanText::of)
    }
}

/// The requests of one batch.
pub(super) struct Requests<'a> {
    pub(super) items: &'a [AuthorizeItem],
}

impl Questions for Requests<'_> {
    type Raw = abi::authorizer::Decision;
    const HOOK: Hook = Hook::Authorize;

    fn call(
        &mut self,
        asked: &[usize],
        exports: &Exports,
        store: &mut Store<Host>,
        instance: &Instance,
    ) -> wasmtime::Result<Vec<Self::Raw>> {
        let Some(export) = &exports.authorize else { return Ok(Vec::new()) };
        let requests = abi::requests(self.items, asked);
        export.load(&mut *store, instance)?.call_authorize(store, &requests)
    }

    fn read(&self, _at: usize, raw: Self::Raw, _now: Millis) -> Result<Answer, Breach> {
        answer::authorized(raw)
    }

    fn item(&self, at: usize) -> u64 {
        let key = |item: &AuthorizeItem| hash(&(&item.principal.id, &item.action, &item.resource));
        self.items.get(at).map_or(0, key)
    }

    fn id(&self, _at: usize) -> String {
        String::new()
    }

    fn input(&self, at: usize, now: Millis) -> Input {
        let item = self.items.get(at);
        item.map_or_else(Input::default, |item| Input::of_authorize(now, item))
    }
}

/// The payloads of one batch as they are so far.
pub(super) struct Payloads<'a> {
    items: &'a [TransformItem],
    pub(super) payloads: Vec<String>,
    pub(super) is_changed: Vec<bool>,
}

impl<'a> Payloads<'a> {
    pub(super) fn new(items: &'a [TransformItem]) -> Self {
        Self {
            items,
            payloads: items.iter().map(|item| item.payload.clone()).collect(),
            is_changed: vec![false; items.len()],
        }
    }

    /// Those at `positions` with the payloads as they are by now.
    pub(super) fn so_far(&self, positions: &[usize]) -> Vec<TransformItem> {
        let item = |at: &usize| {
            let (item, payload) = self.items.get(*at).zip(self.payloads.get(*at))?;
            Some(TransformItem { payload: payload.clone(), ..item.clone() })
        };
        positions.iter().filter_map(item).collect()
    }

    pub(super) fn apply(&mut self, at: usize, answer: Answer) {
        let (Some(payload), Some(is_changed)) =
            (self.payloads.get_mut(at), self.is_changed.get_mut(at))
        else {
            return;
        };
        let after = match answer.decision {
            Decision::Patch(edits) => crate::rules::patch::apply(payload, &edits).ok(),
            Decision::Replace(json) => Some(json),
            _ => None,
        };
        if let Some(after) = after {
            (*payload, *is_changed) = (after, true);
        }
    }
}

impl Questions for Payloads<'_> {
    type Raw = abi::transformer::Transformed;
    const HOOK: Hook = Hook::Transform;

    fn call(
        &mut self,
        asked: &[usize],
        exports: &Exports,
        store: &mut Store<Host>,
        instance: &Instance,
    ) -> wasmtime::Result<Vec<Self::Raw>> {
        let Some(export) = &exports.transform else { return Ok(Vec::new()) };
        let batch = abi::payloads(self.items, &self.payloads, asked);
        export.load(&mut *store, instance)?.call_transform(store, &batch)
    }

    fn read(&self, at: usize, raw: Self::Raw, _now: Millis) -> Result<Answer, Breach> {
        let (Some(payload), Some(item)) = (self.payloads.get(at), self.items.get(at)) else {
            return Err(Breach::output("an answer too many"));
        };
        let (answer, after) = answer::transformed(raw, payload)?;
        if let Some(after) = after {
            item.check(&after)?;
        }
        Ok(answer)
    }

    fn item(&self, at: usize) -> u64 {
        let key =
            |item: &TransformItem| hash(&(item.notification.id, &item.recipient.id, item.channel));
        self.items.get(at).map_or(0, key)
    }

    fn id(&self, at: usize) -> String {
        self.items.get(at).map_or_else(String::new, |item| item.notification.id.to_string())
    }

    fn input(&self, at: usize, now: Millis) -> Input {
        let item = self.so_far(&[at]).pop();
        item.map_or_else(Input::default, |item| Input::of_transform(now, &item))
    }

    fn payload(&self, at: usize) -> Option<&str> {
        self.payloads.get(at).map(String::as_str)
    }
}
