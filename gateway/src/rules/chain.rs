//! Asks the rules of a chain in order: each sees the plan so far, and one that breaks hits only its item.

use crate::model::{Millis, RuleDecision};
use crate::rules::abi::Questions;
use crate::rules::answer::{Answer, Decision};
use crate::rules::engine::{Compiled, Evaluation, Sandbox};
use crate::rules::host::Host;
use crate::rules::limits::{Breach, BreachKind};
use crate::rules::settings::RuleConfig;
use crate::rules::{Plan, RouteItem, Routed, Verdict};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Asking the items of a broken batch one by one may take this many deadlines, then the rest
/// counts as past the deadline too: a batch of nothing but poison must not keep a thread for long.
const ISOLATION_DEADLINES: u32 = 20;

/// The rules in force, in the order they are asked.
#[derive(Debug, Default)]
pub(super) struct Chain {
    rules: Vec<Rule>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) config: Arc<RuleConfig>,
    pub(super) compiled: Compiled,
}

/// How far one item got.
struct Progress {
    plan: Plan,
    end: Option<Verdict>,
    decisions: Vec<RuleDecision>,
}

/// One rule's part in one item.
struct Part {
    answer: Result<Answer, Breach>,
    fuel: u64,
    micros: u32,
}

impl Chain {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Answers every item, in order. All items must belong to one organization: they share
    /// instances.
    pub(super) fn route(&self, sandbox: &Sandbox, now: Millis, items: &[RouteItem]) -> Vec<Routed> {
        let mut batch = Batch { sandbox, now, items, questions: Questions::new(items) };
        let start = |item: &RouteItem| Progress {
            plan: Plan::all_targets(item.recipient.targets.len()),
            end: None,
            decisions: Vec::with_capacity(self.rules.len()),
        };
        let mut progress: Vec<Progress> = items.iter().map(start).collect();
        for rule in &self.rules {
            let asked = select(rule, items, &mut progress);
            for (position, part) in batch.ask(rule, &asked, &progress) {
                if let Some(progress) = progress.get_mut(position) {
                    progress.take(rule, part);
                }
            }
        }
        progress.into_iter().map(Progress::finish).collect()
    }
}

/// Positions of the items `rule` is asked about; those its pre-filter leaves out are recorded.
fn select(rule: &Rule, items: &[RouteItem], progress: &mut [Progress]) -> Vec<usize> {
    let mut asked = Vec::with_capacity(items.len());
    for (position, (item, progress)) in items.iter().zip(progress).enumerate() {
        if progress.end.is_some() {
            continue;
        }
        if rule.config.matches.applies(item, &progress.plan) {
            asked.push(position);
        } else {
            progress.decisions.push(rule.decision("skipped", "no_match"));
        }
    }
    asked
}

/// Items of one organization on their way through the chain.
struct Batch<'a> {
    sandbox: &'a Sandbox,
    now: Millis,
    items: &'a [RouteItem],
    questions: Questions,
}

impl Batch<'_> {
    fn ask(&mut self, rule: &Rule, asked: &[usize], progress: &[Progress]) -> Vec<(usize, Part)> {
        if asked.is_empty() {
            return Vec::new();
        }
        let together = self.evaluate(rule, asked, progress);
        if asked.len() == 1 || together.answers.is_ok() {
            return self.read(asked, together);
        }
        let begun = Instant::now();
        let patience = self.sandbox.limits().deadline.saturating_mul(ISOLATION_DEADLINES);
        let mut parts = Vec::with_capacity(asked.len());
        for position in asked.chunks(1) {
            let alone = if begun.elapsed() < patience {
                self.evaluate(rule, position, progress)
            } else {
                out_of_patience()
            };
            parts.extend(self.read(position, alone));
        }
        parts
    }

    /// One call in a fresh instance. An answer of the wrong length is no answer.
    fn evaluate(&mut self, rule: &Rule, asked: &[usize], progress: &[Progress]) -> Evaluation {
        let plans = asked.iter().filter_map(|at| Some((*at, &progress.get(*at)?.plan)));
        let some;
        let batch = if asked.len() == self.items.len() {
            self.questions.whole(plans.map(|(_, plan)| plan))
        } else {
            some = self.questions.some(plans);
            &some
        };
        let org = batch.notifications.first().map_or_else(String::new, |n| n.org_id.clone());
        let limits = (self.sandbox.limits(), asked.len());
        let zones = self.sandbox.zones().clone();
        let host = Host::new(Arc::clone(&rule.config), org, self.now, zones, limits);
        let mut evaluation = self.sandbox.evaluate(&rule.compiled, host, batch);
        if let Ok(answers) = &evaluation.answers
            && answers.len() != asked.len()
        {
            let text = format!("{} answers for {} items", answers.len(), asked.len());
            evaluation.answers = Err(Breach::output(text));
        }
        evaluation
    }

    /// Checks the answers to the items at `asked` one by one: a bad one spoils no other.
    fn read(&self, asked: &[usize], evaluation: Evaluation) -> Vec<(usize, Part)> {
        let count = u64::try_from(asked.len().max(1)).unwrap_or(u64::MAX);
        let fuel = evaluation.fuel / count;
        let micros = evaluation.elapsed.as_micros() / u128::from(count);
        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
        let answers: Vec<Result<Answer, Breach>> = match evaluation.answers {
            Ok(answers) => {
                let asked_items = asked.iter().filter_map(|at| self.items.get(*at));
                let pairs = answers.into_iter().zip(asked_items);
                pairs.map(|(answer, item)| Answer::read(answer, item, self.now)).collect()
            }
            Err(breach) => asked.iter().map(|_| Err(breach.clone())).collect(),
        };
        let parts = answers.into_iter().map(|answer| Part { answer, fuel, micros });
        asked.iter().copied().zip(parts).collect()
    }
}

fn out_of_patience() -> Evaluation {
    let text = "too many items of this batch broke the rule; this one was not asked";
    Evaluation {
        answers: Err(Breach::new(BreachKind::Deadline, text)),
        fuel: 0,
        elapsed: Duration::ZERO,
    }
}

impl Rule {
    fn decision(&self, decision: &str, code: impl Into<String>) -> RuleDecision {
        RuleDecision {
            rule: self.config.name.clone(),
            version: self.config.version.clone(),
            decision: decision.to_owned(),
            code: code.into(),
            detail: None,
            fuel: 0,
            micros: 0,
        }
    }
}

impl Progress {
    fn take(&mut self, rule: &Rule, part: Part) {
        let recorded = match part.answer {
            Ok(Answer { decision, code, detail }) => {
                let record = rule.decision(decision.as_str(), code.clone());
                self.apply(rule, decision, code);
                RuleDecision { detail, ..record }
            }
            Err(breach) => {
                let kind = breach.kind.as_str();
                let rule_name = &rule.config.name;
                tracing::debug!(target: "rules", %rule_name, kind, text = ?breach.text, "a rule broke");
                if rule.config.fails_closed() {
                    self.end = Some(Verdict::Failed { rule: rule.config.name.clone(), kind });
                }
                RuleDecision { detail: Some(breach.text), ..rule.decision("error", kind) }
            }
        };
        let (fuel, micros) = (part.fuel, part.micros);
        self.decisions.push(RuleDecision { fuel, micros, ..recorded });
    }

    fn apply(&mut self, rule: &Rule, decision: Decision, code: String) {
        match decision {
            Decision::Abstain => {}
            Decision::Deliver(plan) => self.plan = plan,
            Decision::HoldUntil(until) => self.end = Some(Verdict::HoldUntil(until)),
            Decision::Drop => {
                self.end = Some(Verdict::Drop { rule: rule.config.name.clone(), code });
            }
        }
    }

    fn finish(self) -> Routed {
        let verdict = self.end.unwrap_or(Verdict::Deliver(self.plan));
        Routed { verdict, decisions: self.decisions }
    }
}
