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
use crate::rules::packed::{self, Tables};
use crate::rules::{Plan, RouteItem, Verdict};
use std::cell::RefCell;
use wasmtime::Store;
use wasmtime::component::Instance;

/// The items of one batch with their plans so far.
pub(super) struct Routes<'a> {
    items: &'a [RouteItem],
    /// Made when the first rule is asked that wants it so.
    typed: Option<abi::Questions>,
    packed: Option<Tables>,
    pub(super) plans: Vec<Plan>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(items: &'a [RouteItem], plans: Vec<Plan>) -> Self {
        Self { items, typed: None, packed: None, plans }
    }

    /// The batch that asks about the items at `asked`, with their plans so far.
    pub(super) fn pack(&mut self, asked: &[usize]) -> Vec<u8> {
        let Self { items, packed, plans, .. } = self;
        let of = |item: &'a RouteItem| (item.notification.as_ref(), &item.recipient);
        let tables = packed.get_or_insert_with(|| Tables::of(items.iter().map(of)));
        tables.batch(asked, |packer, at| {
            if let Some((item, plan)) = items.get(at).zip(plans.get(at)) {
                packer.routed(item, plan);
            }
        })
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
        if let Some(export) = &exports.route_packed {
            let batch = self.pack(asked);
            let bytes = export.load(&mut *store, instance)?.call_route(store, &batch)?;
            return packed::answers(&bytes, asked.len());
        }
        let Some(export) = &exports.route else { return Ok(Vec::new()) };
        let plans = asked.iter().filter_map(|at| Some((*at, self.plans.get(*at)?)));
        let typed = self.typed.get_or_insert_with(|| abi::Questions::new(self.items));
        let some;
        let batch = if asked.len() == self.items.len() {
            typed.whole(plans.map(|(_, plan)| plan))
        } else {
            some = typed.some(plans);
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
        if let Some(export) = &exports.authorize_packed {
            let requests = packed::requests(self.items, asked);
            let bytes = export.load(&mut *store, instance)?.call_authorize(store, &requests)?;
            return packed::answers(&bytes, asked.len());
        }
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
    packed: Option<Tables>,
    pub(super) payloads: Vec<String>,
    /// What the last answer that was read makes of each.
    after: RefCell<Vec<Option<String>>>,
    pub(super) is_changed: Vec<bool>,
}

impl<'a> Payloads<'a> {
    pub(super) fn new(items: &'a [TransformItem]) -> Self {
        Self {
            items,
            packed: None,
            payloads: items.iter().map(|item| item.payload.clone()).collect(),
            after: RefCell::new(vec![None; items.len()]),
            is_changed: vec![false; items.len()],
        }
    }

    /// The batch that asks about the items at `asked`, with their payloads so far.
    pub(super) fn pack(&mut self, asked: &[usize]) -> Vec<u8> {
        let Self { items, packed, payloads, .. } = self;
        let of = |item: &'a TransformItem| (item.notification.as_ref(), &item.recipient);
        let tables = packed.get_or_insert_with(|| Tables::of(items.iter().map(of)));
        tables.batch(asked, |packer, at| {
            if let Some((item, payload)) = items.get(at).zip(payloads.get(at)) {
                packer.shown(item.channel, payload);
            }
        })
    }

    /// Those at `positions` with the payloads as they are by now.
    pub(super) fn so_far(&self, positions: &[usize]) -> Vec<TransformItem> {
        let item = |at: &usize| {
            let (item, payload) = self.items.get(*at).zip(self.payloads.get(*at))?;
            Some(TransformItem { payload: payload.clone(), ..item.clone() })
        };
        positions.iter().filter_map(item).collect()
    }

    /// Takes over what the answer to the item at `at` made of it.
    pub(super) fn apply(&mut self, at: usize) {
        let after = self.after.get_mut().get_mut(at).and_then(Option::take);
        let place = self.payloads.get_mut(at).zip(self.is_changed.get_mut(at));
        if let Some(((payload, is_changed), after)) = place.zip(after) {
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
        if let Some(export) = &exports.transform_packed {
            let batch = self.pack(asked);
            let bytes = export.load(&mut *store, instance)?.call_transform(store, &batch)?;
            return packed::answers(&bytes, asked.len());
        }
        let Some(export) = &exports.transform else { return Ok(Vec::new()) };
        let batch = abi::payloads(self.items, &self.payloads, asked);
        export.load(&mut *store, instance)?.call_transform(store, &batch)
    }

    fn read(&self, at: usize, raw: Self::Raw, _now: Millis) -> Result<Answer, Breach> {
        let (Some(payload), Some(item)) = (self.payloads.get(at), self.items.get(at)) else {
            return Err(Breach::output("an answer too many"));
        };
        let (answer, after) = answer::transformed(raw, (item, payload))?;
        if let Some(place) = self.after.borrow_mut().get_mut(at) {
            *place = after;
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
