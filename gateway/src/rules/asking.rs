//! Asks one rule about the items of a batch: together, and one by one if that breaks it.

use crate::model::Millis;
use crate::rules::breaker::Trip;
use crate::rules::chain::Rule;
use crate::rules::engine::{Evaluation, Exports, Sandbox};
use crate::rules::hooks::{Answer, Hook};
use crate::rules::host::{Host, Setting};
use crate::rules::input::{Input, PlanText};
use crate::rules::limits::{Breach, BreachKind};
use crate::rules::seen::Seen;
use crate::rules::stats::publish;
use crate::telemetry::metrics::RuleMetrics;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::Store;
use wasmtime::component::Instance;

/// Asking the items of a broken batch one by one may take this many deadlines, then the rest
/// counts as past the deadline too: a batch of nothing but poison must not keep a thread for long.
const ISOLATION_DEADLINES: u32 = 20;
/// A rule that used less than this part of its fuel when its time was over was waiting for a processor
/// most of it.
const WAITED_FUEL_PART: u64 = 10;

/// The items of one organization on their way through one hook's chain.
pub(super) trait Questions {
    type Raw;
    const HOOK: Hook;

    /// Has the instance answer the items at `asked`, in order.
    fn call(
        &mut self,
        asked: &[usize],
        exports: &Exports,
        store: &mut Store<Host>,
        instance: &Instance,
    ) -> wasmtime::Result<Vec<Self::Raw>>;

    /// Checks the answer to the item at `at`.
    fn read(&self, at: usize, raw: Self::Raw, now: Millis) -> Result<Answer, Breach>;

    /// What tells the item at `at` from others.
    fn item(&self, at: usize) -> u64;

    /// The id of the notification; empty for requests.
    fn id(&self, at: usize) -> String;

    /// The item as it is asked, for records.
    fn input(&self, at: usize, now: Millis) -> Input;

    /// The plan so far, of routes.
    fn plan(&self, _at: usize) -> Option<PlanText> {
        None
    }

    /// Of a shadow: decision and code of the version in force about this item.
    fn beside(&self, _at: usize) -> Option<&(String, String)> {
        None
    }

    /// What is shown so far, of payloads.
    fn payload(&self, _at: usize) -> Option<&str> {
        None
    }
}

/// One rule's part in one item.
pub(super) struct Part {
    pub(super) answer: Result<Answer, Breach>,
    pub(super) fuel: u64,
    pub(super) micros: u32,
    /// Items asked together.
    pub(super) batch: usize,
    /// What the first item of a captured call found counted and kept.
    pub(super) seen: Option<Box<Seen>>,
}

/// What one call came to, answers checked.
pub(super) struct Called {
    pub(super) evaluation: Evaluation<()>,
    pub(super) answers: Vec<Result<Answer, Breach>>,
}

/// For whom and when rules are asked.
pub(super) struct Asker<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) now: Millis,
    pub(super) org: &'a str,
    pub(super) is_recorded: bool,
}

impl Asker<'_> {
    /// Every item at `asked` with the rule's part in it. What the rule counts and keeps counts once.
    pub(super) fn ask<Q: Questions>(
        &self,
        rule: &Rule,
        questions: &mut Q,
        asked: &[usize],
    ) -> Vec<(usize, Part)> {
        let metrics = rule.metrics(Q::HOOK);
        let running = metrics.map(RuleMetrics::running);
        let parts = self.parts(rule, questions, asked);
        drop(running);
        rule.stats.note(&parts);
        if let Some(metrics) = metrics {
            publish(metrics, &parts, |code| rule.memory.knows(code));
        }
        if let Some(recorder) = self.sandbox.recorder() {
            recorder.note((rule, self.org, self.now), questions, &parts);
        }
        parts
    }

    fn parts<Q: Questions>(
        &self,
        rule: &Rule,
        questions: &mut Q,
        asked: &[usize],
    ) -> Vec<(usize, Part)> {
        if asked.is_empty() {
            return Vec::new();
        }
        if rule.memory.breaker.is_open(self.org, self.now) {
            let text = "not asked: it broke in the same way three times within a minute";
            return refuse(asked, &Breach::new(BreachKind::Breaker, text));
        }
        let together = self.call_patiently(rule, questions, asked);
        let is_whole = together.answers.iter().all(Result::is_ok);
        if is_whole || asked.len() == 1 || self.can_stay(&together) {
            return self.accept(rule, questions, (asked, together));
        }
        drop(together);
        let begun = Instant::now();
        let patience = rule.limits.deadline.saturating_mul(ISOLATION_DEADLINES);
        let mut parts = Vec::with_capacity(asked.len());
        for alone in asked.chunks(1) {
            if begun.elapsed() >= patience {
                let text = "too many items of this batch broke the rule; this one was not asked";
                parts.extend(refuse(alone, &Breach::new(BreachKind::Deadline, text)));
            } else if rule.memory.breaker.is_open(self.org, self.now) {
                let text = "not asked: it broke in the same way three times within a minute";
                parts.extend(refuse(alone, &Breach::new(BreachKind::Breaker, text)));
            } else {
                let called = self.call_patiently(rule, questions, alone);
                parts.extend(self.accept(rule, questions, (alone, called)));
            }
        }
        parts
    }

    /// One bad answer among good ones spoils none of them, unless what was counted would count for it.
    fn can_stay(&self, called: &Called) -> bool {
        called.evaluation.answers.is_ok() && called.evaluation.effects.is_empty()
    }

    fn accept<Q: Questions>(
        &self,
        rule: &Rule,
        questions: &Q,
        (asked, called): (&[usize], Called),
    ) -> Vec<(usize, Part)> {
        let Called { evaluation, answers } = called;
        for (at, answer) in asked.iter().zip(&answers) {
            if let Err(breach) = answer {
                let trip = Trip { org: self.org, item: questions.item(*at), breach };
                if rule.memory.breaker.note(trip, self.now) {
                    let (rule_name, org_id) = (&rule.config.name, self.org);
                    tracing::error!(%rule_name, %org_id, kind = breach.kind.as_str(), "a rule broke in the same way three times within a minute; it is not asked for a minute");
                }
            }
        }
        let mut seen = evaluation.effects.seen();
        if answers.iter().all(Result::is_ok) {
            evaluation.effects.commit();
        }
        let batch = asked.len().max(1);
        let count = u64::try_from(batch).unwrap_or(u64::MAX);
        let fuel = evaluation.fuel / count;
        let micros = evaluation.elapsed.as_micros() / u128::from(count);
        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
        let parts = answers.into_iter().map(|answer| Part {
            answer,
            fuel,
            micros,
            batch,
            seen: seen.take(),
        });
        asked.iter().copied().zip(parts).collect()
    }

    /// One call, and one more if the rule's own work is not what took the time: somebody waits for the
    /// answer to a request, and without one would be refused.
    fn call_patiently<Q: Questions>(
        &self,
        rule: &Rule,
        questions: &mut Q,
        asked: &[usize],
    ) -> Called {
        let called = self.call(rule, questions, asked);
        let is_late = Q::HOOK == Hook::Authorize && called.is_late(rule.limits.fuel(asked.len()));
        if !is_late {
            return called;
        }
        drop(called);
        if let Some(metrics) = rule.metrics(Q::HOOK) {
            metrics.waited();
        }
        self.call(rule, questions, asked)
    }

    /// One call in a fresh instance. An answer of the wrong length is no answer.
    pub(super) fn call<Q: Questions>(
        &self,
        rule: &Rule,
        questions: &mut Q,
        asked: &[usize],
    ) -> Called {
        let setting = Setting {
            rule: Arc::clone(&rule.config),
            limits: Arc::clone(&rule.limits),
            state: Arc::clone(&rule.memory.state),
            org: self.org.to_owned(),
            now: self.now,
            items: asked.len(),
            is_recorded: self.is_recorded,
        };
        let evaluation = self.sandbox.evaluate(
            &rule.compiled,
            (setting, Q::HOOK),
            |exports, store, instance| questions.call(asked, exports, store, instance),
        );
        let (raw, evaluation) = evaluation.split();
        let raw = raw.and_then(|raw| {
            let (has, wants) = (raw.len(), asked.len());
            let text = || Breach::output(format!("{has} answers for {wants} items"));
            if has == wants { Ok(raw) } else { Err(text()) }
        });
        let read = |(at, raw): (&usize, Q::Raw)| questions.read(*at, raw, self.now);
        match raw {
            Ok(raw) => Called { evaluation, answers: asked.iter().zip(raw).map(read).collect() },
            Err(breach) => Called {
                answers: asked.iter().map(|_| Err(breach.clone())).collect(),
                evaluation: Evaluation { answers: Err(breach), ..evaluation },
            },
        }
    }
}

impl Called {
    /// True if time was over long before `fuel` was.
    fn is_late(&self, fuel: u64) -> bool {
        let is_over =
            self.evaluation.answers.as_ref().is_err_and(|b| b.kind == BreachKind::Deadline);
        is_over && self.evaluation.fuel < fuel / WAITED_FUEL_PART
    }
}

fn refuse(asked: &[usize], breach: &Breach) -> Vec<(usize, Part)> {
    let part = || Part { answer: Err(breach.clone()), fuel: 0, micros: 0, batch: 0, seen: None };
    asked.iter().map(|at| (*at, part())).collect()
}

impl<T> Evaluation<T> {
    /// The answers, and the rest.
    fn split(self) -> (Result<T, Breach>, Evaluation<()>) {
        let Self { answers, fuel, elapsed, memory_bytes, effects, record } = self;
        let rest = Evaluation { answers: Ok(()), fuel, elapsed, memory_bytes, effects, record };
        (answers, rest)
    }
}
