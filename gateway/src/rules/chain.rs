//! The rules in force, in order, and what all of them together say: each sees what the one before left.

use crate::model::{Millis, RuleDecision};
use crate::rules::abi;
use crate::rules::answer;
use crate::rules::asking::{Asker, Part, Questions};
use crate::rules::breaker::{Breaker, hash};
use crate::rules::engine::{Compiled, Exports, Sandbox};
use crate::rules::hooks::{Answer, AuthorizeItem, Decision, Hook, TransformItem};
use crate::rules::host::Host;
use crate::rules::limits::{Breach, RuleLimits};
use crate::rules::settings::RuleConfig;
use crate::rules::state::RuleState;
use crate::rules::{Authorized, Plan, RouteItem, Routed, Shown, Transformed, Verdict};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use wasmtime::Store;
use wasmtime::component::Instance;

/// Reason codes of one rule that are told apart.
const CODES_MAX: usize = 32;
const OTHER: &str = "other";

/// The rules in force, in the order they are asked.
#[derive(Debug, Default)]
pub(super) struct Chain {
    rules: Vec<Arc<Rule>>,
}

/// One version of a rule, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) config: Arc<RuleConfig>,
    pub(super) compiled: Compiled,
    pub(super) limits: Arc<RuleLimits>,
    pub(super) hooks: Vec<Hook>,
    /// Lower-case hex SHA-256 of the component.
    pub(super) digest: String,
    pub(super) memory: Arc<Memory>,
}

/// What outlives a rule's versions.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) state: Arc<RuleState>,
    pub(super) breaker: Breaker,
    codes: Mutex<BTreeSet<String>>,
}

/// How far one item got.
struct Progress {
    end: Option<Verdict>,
    decisions: Vec<RuleDecision>,
}

impl Chain {
    pub(super) fn new(rules: Vec<Arc<Rule>>) -> Self {
        Self { rules }
    }

    fn of(&self, hook: Hook) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(Arc::as_ref).filter(move |rule| rule.hooks.contains(&hook))
    }

    /// True if some rule has this hook.
    pub(super) fn has(&self, hook: Hook) -> bool {
        self.of(hook).next().is_some()
    }

    /// Answers every item, in order. All items must belong to one organization: they share
    /// instances.
    pub(super) fn route(&self, sandbox: &Sandbox, now: Millis, items: &[RouteItem]) -> Vec<Routed> {
        let org = items.first().map(|item| item.notification.org.to_string()).unwrap_or_default();
        let asker = Asker { sandbox, now, org: &org, is_recorded: false };
        let plans = items.iter().map(|item| Plan::all_targets(item.recipient.targets.len()));
        let mut asked = Routes::new(items, plans.collect());
        let mut progress: Vec<_> = items.iter().map(|_| Progress::new(self.rules.len())).collect();
        for rule in self.of(Hook::Route) {
            let applies = |at: usize| {
                let (item, plan) = items.get(at).zip(asked.plans.get(at))?;
                Some(rule.config.matches.applies(item, plan))
            };
            let positions = select(rule, Hook::Route, &mut progress, applies);
            for (at, part) in asker.ask(rule, &mut asked, &positions) {
                let Some(progress) = progress.get_mut(at) else { continue };
                match progress.take(rule, Hook::Route, part) {
                    Ok(answer) => asked.apply(at, rule, answer, progress),
                    Err(kind) if rule.config.fails_closed(Hook::Route) => {
                        let rule = rule.config.name.clone();
                        progress.end = Some(Verdict::Failed { rule, kind });
                    }
                    Err(_) => {}
                }
            }
        }
        let finish = |(progress, plan): (Progress, Plan)| Routed {
            verdict: progress.end.unwrap_or(Verdict::Deliver(plan)),
            decisions: progress.decisions,
        };
        progress.into_iter().zip(asked.plans).map(finish).collect()
    }

    /// Answers every request, in order. All must act in one organization.
    pub(super) fn authorize(
        &self,
        sandbox: &Sandbox,
        now: Millis,
        items: &[AuthorizeItem],
    ) -> Vec<Authorized> {
        let org = items.first().map(|item| item.org.to_string()).unwrap_or_default();
        let asker = Asker { sandbox, now, org: &org, is_recorded: false };
        let mut asked = Requests { items };
        let start = |item: &AuthorizeItem| Authorized {
            is_allowed: item.is_allowed,
            denied: None,
            decisions: Vec::new(),
        };
        let mut answers: Vec<_> = items.iter().map(start).collect();
        for rule in self.of(Hook::Authorize) {
            let mut positions = Vec::with_capacity(items.len());
            for (at, (item, answer)) in items.iter().zip(&mut answers).enumerate() {
                if answer.denied.is_some() {
                    continue;
                }
                if rule.config.matches.applies_to_request(item) {
                    positions.push(at);
                } else {
                    answer.decisions.push(rule.skipped(Hook::Authorize));
                }
            }
            for (at, part) in asker.ask(rule, &mut asked, &positions) {
                if let Some(answer) = answers.get_mut(at) {
                    answer.take(rule, part);
                }
            }
        }
        answers
    }

    /// Answers every payload, in order. All must belong to one organization.
    pub(super) fn transform(
        &self,
        sandbox: &Sandbox,
        now: Millis,
        items: &[TransformItem],
    ) -> Vec<Transformed> {
        let org = items.first().map(|item| item.notification.org.to_string()).unwrap_or_default();
        let asker = Asker { sandbox, now, org: &org, is_recorded: false };
        let mut asked = Payloads::new(items);
        let mut ends: Vec<Option<Shown>> = items.iter().map(|_| None).collect();
        let mut progress: Vec<_> = items.iter().map(|_| Progress::new(self.rules.len())).collect();
        for rule in self.of(Hook::Transform) {
            let applies = |at: usize| {
                let is_open = ends.get(at).is_some_and(Option::is_none);
                let item = items.get(at).filter(|_| is_open)?;
                Some(rule.config.matches.applies_to_payload(item))
            };
            let positions = select(rule, Hook::Transform, &mut progress, applies);
            for (at, part) in asker.ask(rule, &mut asked, &positions) {
                let (Some(progress), Some(end)) = (progress.get_mut(at), ends.get_mut(at)) else {
                    continue;
                };
                let name = || rule.config.name.clone();
                match progress.take(rule, Hook::Transform, part) {
                    Ok(Answer { decision: Decision::Drop, code, .. }) => {
                        *end = Some(Shown::Drop { rule: name(), code });
                    }
                    Ok(answer) => asked.apply(at, answer),
                    Err(kind) if rule.config.fails_closed(Hook::Transform) => {
                        *end = Some(Shown::Failed { rule: name(), kind });
                    }
                    Err(_) => {}
                }
            }
        }
        let is_changed = asked.is_changed;
        let payloads = asked.payloads.into_iter().zip(is_changed);
        let finish = |((progress, end), (payload, is_changed)): ((Progress, _), (String, bool))| {
            let unended = || if is_changed { Shown::Payload(payload) } else { Shown::Keep };
            Transformed {
                shown: Option::unwrap_or_else(end, unended),
                decisions: progress.decisions,
            }
        };
        progress.into_iter().zip(ends).zip(payloads).map(finish).collect()
    }
}

/// Positions of the items `rule` is asked about; those its pre-filter leaves out are recorded. `None`
/// and items that have come to their end are neither.
fn select(
    rule: &Rule,
    hook: Hook,
    progress: &mut [Progress],
    applies: impl Fn(usize) -> Option<bool>,
) -> Vec<usize> {
    let mut asked = Vec::with_capacity(progress.len());
    for (at, progress) in progress.iter_mut().enumerate() {
        match applies(at).filter(|_| progress.end.is_none()) {
            Some(true) => asked.push(at),
            Some(false) => progress.decisions.push(rule.skipped(hook)),
            None => {}
        }
    }
    asked
}

/// The items of one batch with their plans so far.
pub(super) struct Routes<'a> {
    items: &'a [RouteItem],
    table: abi::Questions,
    plans: Vec<Plan>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(items: &'a [RouteItem], plans: Vec<Plan>) -> Self {
        Self { items, table: abi::Questions::new(items), plans }
    }

    fn apply(&mut self, at: usize, rule: &Rule, answer: Answer, progress: &mut Progress) {
        let Answer { decision, code, .. } = answer;
        match decision {
            Decision::Deliver(plan) => {
                if let Some(so_far) = self.plans.get_mut(at) {
                    *so_far = plan;
                }
            }
            Decision::HoldUntil(until) => progress.end = Some(Verdict::HoldUntil(until)),
            Decision::Digest(digest) => progress.end = Some(Verdict::Digest(digest)),
            Decision::Drop => {
                progress.end = Some(Verdict::Drop { rule: rule.config.name.clone(), code });
            }
            _ => {}
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
}

/// The payloads of one batch as they are so far.
pub(super) struct Payloads<'a> {
    items: &'a [TransformItem],
    payloads: Vec<String>,
    is_changed: Vec<bool>,
}

impl<'a> Payloads<'a> {
    pub(super) fn new(items: &'a [TransformItem]) -> Self {
        Self {
            items,
            payloads: items.iter().map(|item| item.payload.clone()).collect(),
            is_changed: vec![false; items.len()],
        }
    }

    fn apply(&mut self, at: usize, answer: Answer) {
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
}

impl Rule {
    fn decision(&self, hook: Hook, decision: &str, code: impl Into<String>) -> RuleDecision {
        RuleDecision {
            hook: hook.as_str().to_owned(),
            rule: self.config.name.clone(),
            version: self.config.version.clone(),
            digest: self.digest.clone(),
            stage: String::from("active"),
            decision: decision.to_owned(),
            code: code.into(),
            detail: None,
            fuel: 0,
            micros: 0,
            batch: 0,
        }
    }

    fn skipped(&self, hook: Hook) -> RuleDecision {
        self.decision(hook, "skipped", "no_match")
    }

    /// The record of `part`, and the answer or the kind of breach.
    fn record(&self, hook: Hook, part: Part) -> (RuleDecision, Result<Answer, &'static str>) {
        let Part { answer, fuel, micros, batch } = part;
        let (record, answer) = match answer {
            Ok(mut answer) => {
                if !self.memory.knows(&answer.code) {
                    let code = std::mem::replace(&mut answer.code, String::from(OTHER));
                    answer.detail.get_or_insert(code);
                }
                let record = self.decision(hook, answer.decision.as_str(), answer.code.clone());
                (RuleDecision { detail: answer.detail.clone(), ..record }, Ok(answer))
            }
            Err(breach) => {
                let kind = breach.kind.as_str();
                let rule_name = &self.config.name;
                tracing::debug!(target: "rules", %rule_name, kind, text = ?breach.text, "a rule broke");
                let record = self.decision(hook, "error", kind);
                (RuleDecision { detail: Some(breach.text), ..record }, Err(kind))
            }
        };
        let batch = u16::try_from(batch).unwrap_or(u16::MAX);
        (RuleDecision { fuel, micros, batch, ..record }, answer)
    }
}

impl Memory {
    pub(super) fn with_state(state: RuleState) -> Self {
        Self { state: Arc::new(state), ..Self::default() }
    }

    /// True for the first words a rule uses as codes; the rest would grow without end.
    fn knows(&self, code: &str) -> bool {
        let mut codes = self.codes.lock();
        if codes.contains(code) {
            return true;
        }
        let has_room = codes.len() < CODES_MAX;
        if has_room {
            codes.insert(code.to_owned());
        }
        has_room
    }
}

impl Progress {
    fn new(rules: usize) -> Self {
        Self { end: None, decisions: Vec::with_capacity(rules) }
    }

    fn take(&mut self, rule: &Rule, hook: Hook, part: Part) -> Result<Answer, &'static str> {
        let (record, answer) = rule.record(hook, part);
        self.decisions.push(record);
        answer
    }
}

impl Authorized {
    fn take(&mut self, rule: &Rule, part: Part) {
        let (record, answer) = rule.record(Hook::Authorize, part);
        match answer {
            Ok(Answer { decision: Decision::Deny, code, .. }) => self.deny(rule, code),
            Ok(Answer { decision: Decision::Allow, .. }) => {
                self.is_allowed |= rule.config.may_grant;
            }
            Ok(_) => {}
            Err(kind) if rule.config.fails_closed(Hook::Authorize) => {
                self.deny(rule, kind.to_owned());
            }
            Err(_) => {}
        }
        self.decisions.push(record);
    }

    fn deny(&mut self, rule: &Rule, code: String) {
        self.is_allowed = false;
        self.denied = Some((rule.config.name.clone(), code));
    }
}
