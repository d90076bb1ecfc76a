//! What surrounds the journal and the dispatcher: a clock, providers and rules that follow dice.

use crate::BoxFuture;
use crate::clock::Clock;
use crate::model::{Attempt, Delivery, DeliveryId, Millis, Outcome, ProviderName};
use crate::providers::Provider;
use crate::rules::{Plan, RouteItem, Routed, RuleEngine, Step, Verdict};
use crate::sim::dice::Dice;
use crate::sim::ledger::{Ledger, Receipt};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Wall time: the runtime's paused time, set further by leaps, as clocks of machines are.
#[derive(Debug)]
pub(crate) struct SimClock {
    base: Mutex<Millis>,
    started: tokio::time::Instant,
    dice: Mutex<Dice>,
}

impl SimClock {
    pub(crate) fn new(base: Millis, dice: Dice) -> Self {
        let started = tokio::time::Instant::now();
        Self { base: Mutex::new(base), started, dice: Mutex::new(dice) }
    }

    pub(crate) fn leap(&self, by: Duration) {
        let mut base = self.base.lock();
        *base = base.plus(u64::try_from(by.as_millis()).unwrap_or(0));
    }
}

impl Clock for SimClock {
    fn now(&self) -> Millis {
        let elapsed = self.started.elapsed().as_millis();
        self.base.lock().plus(u64::try_from(elapsed).unwrap_or(0))
    }

    fn steady(&self) -> Millis {
        Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0))
    }

    fn chance(&self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.dice.lock().roll() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How often providers misbehave, in percent of tries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Temper {
    pub(crate) retries: u64,
    pub(crate) unknown: u64,
    pub(crate) rejects: u64,
    pub(crate) slow: u64,
}

/// A provider that answers by dice and writes down what it got.
#[derive(Debug)]
pub(crate) struct SimProvider {
    pub(crate) name: ProviderName,
    pub(crate) temper: Temper,
    pub(crate) dice: Mutex<Dice>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) life: u64,
}

impl SimProvider {
    async fn answer(&self, delivery: &Delivery) -> Attempt {
        let (fate, latency, arrives) = {
            let mut dice = self.dice.lock();
            let is_slow = dice.chance(self.temper.slow);
            let latency = dice.below(if is_slow { 4_000 } else { 20 });
            (dice.below(100), latency, dice.chance(50))
        };
        let Temper { retries, unknown, rejects, .. } = self.temper;
        let (outcome, accepted) = if fate < retries {
            (Outcome::Retry { after: None, cause: "status" }, false)
        } else if fate < retries + unknown {
            (Outcome::Unknown { cause: "timeout" }, arrives)
        } else if fate < retries + unknown + rejects {
            (Outcome::Rejected { cause: "refused" }, false)
        } else {
            (Outcome::Delivered, true)
        };
        // Received when it is sent, whatever becomes of the answer.
        self.ledger.lock().receive(Receipt {
            delivery: delivery.id,
            notification: delivery.notification.id,
            target: delivery.target.key(),
            title: delivery.notification.content.title.clone(),
            at: self.clock.now(),
            start_at: delivery.notification.start_at,
            attempt: delivery.attempt,
            life: self.life,
            accepted,
            ambiguous: matches!(outcome, Outcome::Unknown { .. }),
        });
        let elapsed = Duration::from_millis(latency);
        tokio::time::sleep(elapsed).await;
        Attempt { outcome, status: None, reason: None, provider_id: None, elapsed }
    }
}

impl Provider for SimProvider {
    fn name(&self) -> ProviderName {
        self.name
    }

    fn batch_max(&self) -> usize {
        4
    }

    fn in_flight_max(&self) -> usize {
        8
    }

    fn send<'a>(
        &'a self,
        batch: &'a [Delivery],
        report: &'a (dyn Fn(usize, Attempt) + Send + Sync),
    ) -> BoxFuture<'a, ()> {
        let tries = batch.iter().enumerate().map(async |(index, delivery)| {
            report(index, self.answer(delivery).await);
        });
        let tries: Vec<_> = tries.collect();
        Box::pin(async move {
            futures_util::future::join_all(tries).await;
        })
    }
}

/// Rules that hold, drop and plan, the same for a recipient whenever they are asked.
#[derive(Debug)]
pub(crate) struct SimRules {
    pub(crate) seed: u64,
    /// Percent of answers that are anything but "deliver".
    pub(crate) meddling: u64,
}

impl SimRules {
    fn verdict(&self, now: Millis, item: &RouteItem) -> Verdict {
        let about = DeliveryId::derive(item.notification.id, &item.recipient.id);
        let mut dice = Dice::new(self.seed ^ about.0.as_u64_pair().0);
        let count = item.recipient.targets.len();
        if !dice.chance(self.meddling) {
            return Verdict::Deliver(Plan::all_targets(count));
        }
        let until = item.notification.created_at.plus(dice.below(2_000));
        match dice.below(3) {
            0 if until > now => Verdict::HoldUntil(until),
            1 => Verdict::Drop { rule: String::from("sim"), code: String::from("dropped") },
            _ => {
                let mut plan = Plan::all_targets(count);
                let one = |target| Step { targets: vec![target], within_ms: 500 };
                plan.steps = (0..count).map(one).collect();
                Verdict::Deliver(plan)
            }
        }
    }
}

impl RuleEngine for SimRules {
    fn route(&self, now: Millis, items: Vec<RouteItem>) -> BoxFuture<'_, Vec<Routed>> {
        let answers = items
            .iter()
            .map(|item| Routed { verdict: self.verdict(now, item), decisions: Vec::new() })
            .collect();
        Box::pin(std::future::ready(answers))
    }
}
