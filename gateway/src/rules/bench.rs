//! One rule asked once, outside a gateway: what it answers, and what that took. For tools and tests.

use crate::model::Millis;
use crate::rules::asking::{Asker, Called, Questions};
use crate::rules::chain::{Memory, Rule, Words};
use crate::rules::component::ComponentSummary;
use crate::rules::engine::Sandbox;
use crate::rules::error::RuleError;
use crate::rules::hooks::{Answer, AuthorizeItem, Hook, TransformItem};
use crate::rules::host::{HostCall, LogLine};
use crate::rules::items::{Payloads, Requests, Routes};
use crate::rules::limits::{Breach, RuleLimits};
use crate::rules::registry;
use crate::rules::settings::RuleConfig;
use crate::rules::state::{RuleState, State};
use crate::rules::{Plan, RouteItem};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A sandbox like the gateway's. Starting one takes milliseconds, loading a rule about 0.1 s.
#[derive(Debug)]
pub struct Bench {
    sandbox: Sandbox,
}

/// A rule on the bench.
#[derive(Debug)]
pub struct BenchRule {
    pub summary: ComponentSummary,
    rule: Rule,
}

/// Items for one hook. All should belong to the organization of the question.
#[derive(Clone, Debug)]
pub enum Batch {
    Authorize(Vec<AuthorizeItem>),
    /// Each with the plan so far.
    Route(Vec<(RouteItem, Plan)>),
    Transform(Vec<TransformItem>),
}

impl Batch {
    #[must_use]
    pub fn hook(&self) -> Hook {
        match self {
            Self::Authorize(_) => Hook::Authorize,
            Self::Route(_) => Hook::Route,
            Self::Transform(_) => Hook::Transform,
        }
    }
}

/// What a rule is asked, and in which world.
#[derive(Clone, Debug)]
pub struct Question {
    /// Time stands still here.
    pub now: Millis,
    /// Organization of the batch.
    pub org: String,
    /// Settings, in place of those in the manifest of the same name.
    pub config: BTreeMap<String, String>,
    /// What was counted and kept before.
    pub state: State,
    pub batch: Batch,
}

/// What came of a question.
#[derive(Debug)]
pub struct Report {
    /// One for each item the rule was asked about, in order; `None` where its `[match]` leaves it out.
    pub answers: Vec<Option<Result<Answer, Breach>>>,
    /// For the whole batch.
    pub fuel: u64,
    pub fuel_limit: u64,
    pub memory_bytes: usize,
    pub elapsed: Duration,
    pub logs: Vec<LogLine>,
    /// At most the first 1,024.
    pub calls: Vec<HostCall>,
}

impl Bench {
    /// A bench with these ceilings.
    ///
    /// # Errors
    /// The WebAssembly engine or its thread cannot start.
    pub fn start(limits: RuleLimits) -> Result<Self, RuleError> {
        Ok(Self { sandbox: Sandbox::start(limits, 1)? })
    }

    #[must_use]
    pub fn limits(&self) -> &RuleLimits {
        self.sandbox.limits()
    }

    /// Inspects, compiles and starts a component once, as a deploy would. `name` stands in logs if it
    /// carries no manifest.
    ///
    /// # Errors
    /// The reason why it would be refused.
    pub fn load(&self, name: &str, component: &[u8]) -> Result<BenchRule, RuleError> {
        let config = RuleConfig { name: name.to_owned(), ..RuleConfig::default() };
        let memory = Arc::new(Memory::default());
        let (summary, rule) = registry::prepare(&self.sandbox, config, component, memory)?;
        Ok(BenchRule { summary, rule })
    }

    /// Asks `rule` in a fresh instance, all items together; nothing of it is remembered.
    pub fn ask(&self, rule: &BenchRule, question: &Question) -> Report {
        let state = RuleState::starting_with(question.state.clone(), &question.org);
        self.put(&rule.asked(question, Arc::new(Memory::with_state(state))), question, false)
    }

    /// Asks `rule` like [`Self::ask`], on top of what it counted and kept in the questions before;
    /// the question's own `state` is left out.
    pub fn ask_and_keep(&self, rule: &BenchRule, question: &Question) -> Report {
        self.put(&rule.asked(question, Arc::clone(&rule.rule.memory)), question, true)
    }

    fn put(&self, rule: &Rule, question: &Question, keeps: bool) -> Report {
        match &question.batch {
            Batch::Authorize(items) => {
                let applies = |item| rule.config.matches.applies_to_request(item);
                let asked = items.iter().map(applies).collect();
                self.report(rule, question, (&mut Requests { items }, asked, keeps))
            }
            Batch::Route(items) => {
                let applies =
                    |(item, plan): &(RouteItem, Plan)| rule.config.matches.applies(item, plan);
                let asked = items.iter().map(applies).collect();
                let (items, plans): (Vec<_>, Vec<_>) = items.iter().cloned().unzip();
                self.report(rule, question, (&mut Routes::new(&items, plans), asked, keeps))
            }
            Batch::Transform(items) => {
                let applies = |item| rule.config.matches.applies_to_payload(item);
                let asked = items.iter().map(applies).collect();
                self.report(rule, question, (&mut Payloads::new(items), asked, keeps))
            }
        }
    }

    fn report<Q: Questions>(
        &self,
        rule: &Rule,
        question: &Question,
        (questions, applies, keeps): (&mut Q, Vec<bool>, bool),
    ) -> Report {
        let (sandbox, now) = (&self.sandbox, question.now);
        let asker = Asker { sandbox, now, org: &question.org, is_recorded: true };
        let asked: Vec<_> = (0..).zip(&applies).filter_map(|(at, is)| is.then_some(at)).collect();
        let called = (!asked.is_empty()).then(|| asker.call(rule, questions, &asked));
        let Some(Called { evaluation, answers }) = called else {
            return Report {
                answers: applies.iter().map(|_| None).collect(),
                fuel: 0,
                fuel_limit: rule.limits.fuel(0),
                memory_bytes: 0,
                elapsed: Duration::ZERO,
                logs: Vec::new(),
                calls: Vec::new(),
            };
        };
        if keeps && answers.iter().all(Result::is_ok) {
            evaluation.effects.commit();
        }
        let mut answers = answers.into_iter();
        Report {
            answers: applies.iter().map(|is| if *is { answers.next() } else { None }).collect(),
            fuel: evaluation.fuel,
            fuel_limit: rule.limits.fuel(asked.len()),
            memory_bytes: evaluation.memory_bytes,
            elapsed: evaluation.elapsed,
            logs: evaluation.record.lines,
            calls: evaluation.record.calls,
        }
    }
}

impl BenchRule {
    /// The rule in the question's world.
    fn asked(&self, question: &Question, memory: Arc<Memory>) -> Rule {
        let mut config = RuleConfig::clone(&self.rule.config);
        config.config.extend(question.config.clone());
        Rule {
            config: Arc::new(config),
            compiled: self.rule.compiled.clone(),
            limits: Arc::clone(&self.rule.limits),
            hooks: self.rule.hooks.clone(),
            digest: self.rule.digest.clone(),
            stage: self.rule.stage,
            memory,
            stats: Arc::default(),
            words: Words::default(),
        }
    }

    /// The rule's settings as its manifest gives them.
    #[must_use]
    pub fn config(&self) -> &RuleConfig {
        &self.rule.config
    }
}
