//! The rules in force, in order, and what all of them together say: each sees what the one before left.

use crate::model::{Millis, OrganizationId, RuleDecision, Word};
use crate::rules::asking::{Asker, Part};
use crate::rules::breaker::{Breaker, hash};
use crate::rules::deployed::Stage;
use crate::rules::engine::{Compiled, Sandbox};
use crate::rules::hooks::{Answer, AuthorizeItem, Decision, Hook, TransformItem};
use crate::rules::items::{Payloads, Requests, Routes};
use crate::rules::limits::RuleLimits;
use crate::rules::manifest::Sticky;
use crate::rules::settings::RuleConfig;
use crate::rules::shadow::{Said, Seen, Watched};
use crate::rules::slot::Slot;
use crate::rules::state::RuleState;
use crate::rules::stats::Stats;
use crate::rules::{Authorized, Plan, RouteItem, Routed, Shown, Transformed, Verdict};
use crate::telemetry::metrics::RuleMetrics;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

/// Reason codes of one rule that are told apart.
const CODES_MAX: usize = 32;
pub(super) const OTHER: &str = "other";
/// Shipped rules come first, then those of the configuration's files, then those that are deployed.
const FILES_FROM: u64 = 100;
pub(super) const DEPLOYED_FROM: u64 = 1_000;

/// The rules in force: for all organizations, and for single ones, each in the order they are asked.
#[derive(Debug, Default)]
pub(super) struct Chain {
    all: Vec<Slot>,
    own: HashMap<OrganizationId, Vec<Slot>>,
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
    pub(super) stage: Stage,
    pub(super) memory: Arc<Memory>,
    pub(super) stats: Arc<Stats>,
    pub(super) words: Words,
}

/// A rule's name, version and digest as every decision record has them.
#[derive(Debug, Default)]
pub(super) struct Words(OnceLock<[Word; 3]>);

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
    /// The rules of the configuration's files, in order.
    pub(super) fn fixed(rules: &[Arc<Rule>]) -> Self {
        let mut chain = Self::default();
        for (order, rule) in (FILES_FROM..).zip(rules) {
            let order = (order, rule.config.name.clone());
            let active = Some(Arc::clone(rule));
            chain.put(None, Slot { order, active, canary: None, shadow: None });
        }
        chain
    }

    pub(super) fn put(&mut self, org: Option<OrganizationId>, slot: Slot) {
        let slots = match org {
            None => &mut self.all,
            Some(org) => self.own.entry(org).or_default(),
        };
        let at = slots.partition_point(|other| other.order <= slot.order);
        slots.insert(at, slot);
    }

    fn slots(&self, org: OrganizationId) -> Vec<&Slot> {
        let own = self.own.get(&org).map(Vec::as_slice).unwrap_or_default();
        let mut slots: Vec<_> = self.all.iter().chain(own).collect();
        if !own.is_empty() {
            slots.sort_by(|one, other| one.order.cmp(&other.order));
        }
        slots
    }

    /// True if some rule with this hook may apply to `org`.
    pub(super) fn has(&self, hook: Hook, org: OrganizationId) -> bool {
        let own = self.own.get(&org).map(Vec::as_slice).unwrap_or_default();
        self.all.iter().chain(own).any(|slot| slot.has(hook))
    }

    /// True if a rule called `name` judges something of `org`.
    pub(super) fn has_rule(&self, org: OrganizationId, name: &str) -> bool {
        let own = self.own.get(&org).map(Vec::as_slice).unwrap_or_default();
        self.all.iter().chain(own).any(|slot| slot.order.1 == name)
    }

    /// Answers every item, in order, and what shadows are to be asked. All items must belong to one
    /// organization: they share instances.
    pub(super) fn route(
        &self,
        sandbox: &Sandbox,
        now: Millis,
        items: &[RouteItem],
    ) -> (Vec<Routed>, Vec<Watched>) {
        let Some(first) = items.first() else { return (Vec::new(), Vec::new()) };
        let (org, slots) = (first.notification.org.to_string(), self.slots(first.notification.org));
        let asker = Asker { sandbox, now, org: &org, is_recorded: false };
        let plans = items.iter().map(|item| Plan::all_targets(item.recipient.targets.len()));
        let mut asked = Routes::new(items, plans.collect());
        let mut progress: Vec<_> = items.iter().map(|_| Progress::new(slots.len())).collect();
        let mut watched = Vec::new();
        for slot in slots {
            let watching = slot.watch(Hook::Route, items.len(), |at| {
                let is_open = progress.get(at).is_some_and(|progress| progress.end.is_none());
                items.get(at).filter(|_| is_open).map(|item| hash(&item.notification.id))
            });
            let seen = Seen::Route(pick(items, &watching), pick(&asked.plans, &watching));
            let key = |at: usize, sticky| {
                items.get(at).map_or(0, |item| match sticky {
                    Sticky::Org => hash(&item.notification.org),
                    Sticky::Recipient => hash(&item.recipient.id),
                })
            };
            for (rule, among) in slot.split(Hook::Route, items.len(), key) {
                let applies = |at: usize| {
                    let (item, plan) = items.get(at).zip(asked.plans.get(at))?;
                    Some(rule.config.matches.applies(item, plan))
                };
                let positions = select((rule, Hook::Route), &mut progress, &among, applies);
                for (at, part) in asker.ask(rule, &mut asked, &positions) {
                    let Some(progress) = progress.get_mut(at) else { continue };
                    match progress.take(rule, Hook::Route, part) {
                        Ok(answer) => progress.end = asked.apply(at, &rule.config.name, answer),
                        Err(kind) if rule.config.fails_closed(Hook::Route) => {
                            let rule = rule.config.name.clone();
                            progress.end = Some(Verdict::Failed { rule, kind });
                        }
                        Err(_) => {}
                    }
                }
            }
            if !watching.is_empty() {
                let said = |at: &usize| said(slot, &progress.get(*at)?.decisions);
                watched.extend(slot.compared(now, seen, watching.iter().map(said).collect()));
            }
        }
        let finish = |(progress, plan): (Progress, Plan)| Routed {
            verdict: progress.end.unwrap_or(Verdict::Deliver(plan)),
            decisions: progress.decisions,
        };
        (progress.into_iter().zip(asked.plans).map(finish).collect(), watched)
    }

    /// Answers every request, in order. All must act in one organization.
    pub(super) fn authorize(
        &self,
        sandbox: &Sandbox,
        now: Millis,
        items: &[AuthorizeItem],
    ) -> (Vec<Authorized>, Vec<Watched>) {
        let Some(first) = items.first() else { return (Vec::new(), Vec::new()) };
        let org = first.org.to_string();
        let asker = Asker { sandbox, now, org: &org, is_recorded: false };
        let mut asked = Requests { items };
        let start = |item: &AuthorizeItem| Authorized {
            is_allowed: item.is_allowed,
            denied: None,
            decisions: Vec::new(),
        };
        let mut answers: Vec<_> = items.iter().map(start).collect();
        let mut watched = Vec::new();
        for slot in self.slots(first.org) {
            let watching = slot.watch(Hook::Authorize, items.len(), |at| {
                let is_open = answers.get(at).is_some_and(|answer| answer.denied.is_none());
                let key = |item: &AuthorizeItem| hash(&(&item.principal.id, &item.action));
                items.get(at).filter(|_| is_open).map(key)
            });
            let key = |at: usize, sticky| {
                items.get(at).map_or(0, |item| match sticky {
                    Sticky::Org => hash(&item.org),
                    Sticky::Recipient => hash(&item.principal.id),
                })
            };
            for (rule, among) in slot.split(Hook::Authorize, items.len(), key) {
                let mut positions = Vec::with_capacity(among.len());
                for at in among {
                    let Some((item, answer)) = items.get(at).zip(answers.get_mut(at)) else {
                        continue;
                    };
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
            if !watching.is_empty() {
                let said = |at: &usize| said(slot, &answers.get(*at)?.decisions);
                let real = watching.iter().map(said).collect();
                watched.extend(slot.compared(now, Seen::Authorize(pick(items, &watching)), real));
            }
        }
        (answers, watched)
    }

    /// Answers every payload, in order. All must belong to one organization.
    pub(super) fn transform(
        &self,
        sandbox: &Sandbox,
        now: Millis,
        items: &[TransformItem],
    ) -> (Vec<Transformed>, Vec<Watched>) {
        let Some(first) = items.first() else { return (Vec::new(), Vec::new()) };
        let (org, slots) = (first.notification.org.to_string(), self.slots(first.notification.org));
        let asker = Asker { sandbox, now, org: &org, is_recorded: false };
        let mut asked = Payloads::new(items);
        let mut ends: Vec<Option<Shown>> = items.iter().map(|_| None).collect();
        let mut progress: Vec<_> = items.iter().map(|_| Progress::new(slots.len())).collect();
        let mut watched = Vec::new();
        for slot in slots {
            let key = |at: usize, sticky| {
                items.get(at).map_or(0, |item| match sticky {
                    Sticky::Org => hash(&item.notification.org),
                    Sticky::Recipient => hash(&item.recipient.id),
                })
            };
            let watching = slot.watch(Hook::Transform, items.len(), |at| {
                let is_open = ends.get(at).is_some_and(Option::is_none);
                items.get(at).filter(|_| is_open).map(|item| hash(&item.notification.id))
            });
            let seen = Seen::Transform(asked.so_far(&watching));
            for (rule, among) in slot.split(Hook::Transform, items.len(), key) {
                let applies = |at: usize| {
                    let is_open = ends.get(at).is_some_and(Option::is_none);
                    let item = items.get(at).filter(|_| is_open)?;
                    Some(rule.config.matches.applies_to_payload(item))
                };
                let positions = select((rule, Hook::Transform), &mut progress, &among, applies);
                for (at, part) in asker.ask(rule, &mut asked, &positions) {
                    let (Some(progress), Some(end)) = (progress.get_mut(at), ends.get_mut(at))
                    else {
                        continue;
                    };
                    let name = || rule.config.name.clone();
                    match progress.take(rule, Hook::Transform, part) {
                        Ok(Answer { decision: Decision::Drop, code, .. }) => {
                            *end = Some(Shown::Drop { rule: name(), code });
                        }
                        Ok(_) => asked.apply(at),
                        Err(kind) if rule.config.fails_closed(Hook::Transform) => {
                            *end = Some(Shown::Failed { rule: name(), kind });
                        }
                        Err(_) => {}
                    }
                }
            }
            if !watching.is_empty() {
                let said = |at: &usize| said(slot, &progress.get(*at)?.decisions);
                watched.extend(slot.compared(now, seen, watching.iter().map(said).collect()));
            }
        }
        let payloads = asked.payloads.into_iter().zip(asked.is_changed);
        let finish = |((progress, end), (payload, is_changed)): ((Progress, _), (String, bool))| {
            let unended = || if is_changed { Shown::Payload(payload) } else { Shown::Keep };
            let shown = Option::unwrap_or_else(end, unended);
            Transformed { shown, decisions: progress.decisions }
        };
        let shown = progress.into_iter().zip(ends).zip(payloads).map(finish).collect();
        (shown, watched)
    }
}

fn pick<T: Clone>(from: &[T], positions: &[usize]) -> Vec<T> {
    positions.iter().filter_map(|at| from.get(*at).cloned()).collect()
}

/// What the version in force said, if it was there to say something.
fn said(slot: &Slot, decisions: &[RuleDecision]) -> Said {
    let last = decisions.last().filter(|last| last.rule == slot.order.1)?;
    Some((last.decision.to_string(), last.code.clone()))
}

/// Those of `among` that `rule` is asked about; those its pre-filter leaves out are recorded. `None`
/// and items that have come to their end are neither.
fn select(
    (rule, hook): (&Rule, Hook),
    progress: &mut [Progress],
    among: &[usize],
    applies: impl Fn(usize) -> Option<bool>,
) -> Vec<usize> {
    let mut asked = Vec::with_capacity(among.len());
    for at in among {
        let Some(progress) = progress.get_mut(*at).filter(|one| one.end.is_none()) else {
            continue;
        };
        match applies(*at) {
            Some(true) => asked.push(*at),
            Some(false) => progress.decisions.push(rule.skipped(hook)),
            None => {}
        }
    }
    asked
}

impl Rule {
    fn decision(&self, hook: Hook, decision: &'static str, code: String) -> RuleDecision {
        let own = [&self.config.name, &self.config.version, &self.digest];
        let [rule, version, digest] =
            self.words.0.get_or_init(|| own.map(|text| Word::from(text.clone()))).clone();
        RuleDecision {
            hook: hook.as_str().into(),
            rule,
            version,
            digest,
            stage: self.stage.as_str().into(),
            decision: decision.into(),
            code,
            detail: None,
            fuel: 0,
            micros: 0,
            batch: 0,
        }
    }

    /// What this version publishes of its part in `hook`.
    pub(super) fn metrics(&self, hook: Hook) -> Option<&RuleMetrics> {
        self.stats.metrics(&self.config, (hook, self.stage))
    }

    fn skipped(&self, hook: Hook) -> RuleDecision {
        if let Some(metrics) = self.metrics(hook) {
            metrics.skipped();
        }
        self.decision(hook, "skipped", String::from("no_match"))
    }

    /// The record of `part`, and the answer or the kind of breach.
    fn record(&self, hook: Hook, part: Part) -> (RuleDecision, Result<Answer, &'static str>) {
        let Part { answer, fuel, micros, batch, .. } = part;
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
                let record = self.decision(hook, "error", kind.to_owned());
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
    pub(super) fn knows(&self, code: &str) -> bool {
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
