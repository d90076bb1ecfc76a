//! Metric handles that belong to someone: a route, a dialect, a shard, a rule, a provider.

use super::Labeled;
use crate::telemetry::catalog as name;
use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

/// Final states and results known ahead; others are counted as `other`.
const OUTCOMES: &[&str] = &["delivered", "rejected", "expired", "suppressed", "canceled", "dead"];
const RESULTS: &[&str] = &["delivered", "retry", "unknown", "gone", "rejected", "hold"];
const STATUS_CLASSES: &[&str] = &["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Requests being worked on; kept by the server.
#[derive(Debug)]
pub struct InflightMetrics(Gauge);

impl InflightMetrics {
    /// For the listener `listener` (`api`, `admin`).
    #[must_use]
    pub fn new(listener: &'static str) -> Self {
        Self(gauge!(name::HTTP_INFLIGHT_REQUESTS, "listener" => listener))
    }

    /// `requests` are being worked on; sampled, since a gauge moved by every request costs more
    /// than it tells.
    pub fn set(&self, requests: usize) {
        self.0.set(u32::try_from(requests).unwrap_or(u32::MAX));
    }
}

/// The RED series of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    requests: Labeled<Counter>,
    duration: Histogram,
    bytes: Histogram,
}

impl RouteMetrics {
    /// `route` is the route's pattern or name, never a path.
    #[must_use]
    pub fn new(dialect: &'static str, route: &'static str, method: &'static str) -> Self {
        let requests = |class| {
            counter!(name::HTTP_REQUESTS_TOTAL, "dialect" => dialect, "route" => route,
                "method" => method, "status_class" => class)
        };
        Self {
            requests: Labeled::new(STATUS_CLASSES, requests),
            duration: histogram!(name::HTTP_REQUEST_DURATION_SECONDS, "dialect" => dialect,
                "route" => route, "method" => method),
            bytes: histogram!(name::HTTP_REQUEST_BYTES, "dialect" => dialect, "route" => route),
        }
    }

    /// Counts one answer with HTTP `status`.
    pub fn answered(&self, status: u16, elapsed: Duration) {
        let class = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.with(class, |c| c.increment(1));
        self.duration.record(elapsed);
    }

    /// Records a body of `bytes`.
    pub fn received(&self, bytes: u32) {
        self.bytes.record(bytes);
    }
}

/// What one dialect took in.
#[derive(Debug)]
pub struct IntakeMetrics {
    dialect: &'static str,
    accepted: Counter,
    replayed: Counter,
}

impl IntakeMetrics {
    #[must_use]
    pub fn new(dialect: &'static str) -> Self {
        Self {
            dialect,
            accepted: counter!(name::NOTIFICATIONS_ACCEPTED_TOTAL, "dialect" => dialect),
            replayed: counter!(name::IDEMPOTENT_REPLAYS_TOTAL, "dialect" => dialect),
        }
    }

    pub fn accepted(&self, notifications: u64) {
        self.accepted.increment(notifications);
    }

    pub fn replayed(&self) {
        self.replayed.increment(1);
    }

    /// `reason` is one of the failure classes.
    pub fn rejected(&self, reason: &'static str) {
        counter!(name::NOTIFICATIONS_REJECTED_TOTAL, "dialect" => self.dialect,
            "reason" => reason)
        .increment(1);
    }
}

/// The backlog of one shard.
#[derive(Debug)]
pub struct ShardMetrics {
    entries: Gauge,
    bytes: Gauge,
    timers: Gauge,
    unreadable: Gauge,
}

impl ShardMetrics {
    #[must_use]
    pub fn new(shard: u16) -> Self {
        let shard = shard.to_string();
        Self {
            entries: gauge!(name::LOG_PENDING_ENTRIES, "shard" => shard.clone()),
            bytes: gauge!(name::LOG_PENDING_BYTES, "shard" => shard.clone()),
            timers: gauge!(name::LOG_TIMERS, "shard" => shard.clone()),
            unreadable: gauge!(name::LOG_UNREADABLE_ENTRIES, "shard" => shard),
        }
    }

    /// Sets the present backlog; numbers above 2³² − 1 are shown as that.
    pub fn backlog(&self, entries: u64, bytes: u64, timers: u64) {
        let shown = |n: u64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        self.entries.set(shown(entries));
        self.bytes.set(shown(bytes));
        self.timers.set(shown(timers));
    }

    /// Sets the number of entries that were found unreadable.
    pub fn unreadable(&self, entries: u64) {
        self.unreadable.set(f64::from(u32::try_from(entries).unwrap_or(u32::MAX)));
    }
}

/// Rule versions, hooks and stages that are counted one by one in the life of a process.
const RULES_MAX: usize = 1_024;
static RULES: Mutex<BTreeSet<[String; 4]>> = Mutex::new(BTreeSet::new());

/// One version of a rule at one stage, asked through one hook.
#[derive(Debug)]
pub struct RuleMetrics {
    waited: Counter,
    labels: Vec<Label>,
    items: Counter,
    fuel: Counter,
    duration: Histogram,
    batch: Histogram,
    instances: Gauge,
    skipped: OnceLock<Counter>,
    /// By decision and code.
    decisions: Mutex<Vec<(&'static str, String, Counter)>>,
}

/// An instance of a rule at work, until dropped.
#[derive(Debug)]
pub struct RunningInstance<'a>(&'a Gauge);

impl Drop for RunningInstance<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl RuleMetrics {
    /// `None` for the versions of a process that has had too many to tell apart.
    #[must_use]
    pub fn new((rule, version): (&str, &str), hook: &str, stage: &str) -> Option<Self> {
        let known = [rule, version, hook, stage].map(str::to_owned);
        let mut all = RULES.lock();
        if all.len() >= RULES_MAX && !all.contains(&known) {
            return None;
        }
        let names = ["rule", "version", "hook", "stage"];
        let labels =
            names.into_iter().zip(known.clone()).map(|(name, value)| Label::new(name, value));
        let labels: Vec<_> = labels.collect();
        all.insert(known);
        // There from the start: what first appears at 1 has no increase to alert on.
        counter!(name::RULE_ERRORS_TOTAL, and(&labels, "kind", "trap")).increment(0);
        let waited = counter!(name::RULE_WAITED_TOTAL, labels.clone());
        waited.increment(0);
        Some(Self {
            waited,
            items: counter!(name::RULE_ITEMS_TOTAL, labels.clone()),
            fuel: counter!(name::RULE_FUEL_TOTAL, labels.clone()),
            duration: histogram!(name::RULE_BATCH_DURATION_SECONDS, labels.clone()),
            batch: histogram!(name::RULE_BATCH_ITEMS, labels.clone()),
            instances: gauge!(name::RULE_INSTANCES, labels.clone()),
            skipped: OnceLock::new(),
            decisions: Mutex::default(),
            labels,
        })
    }

    /// One call of the rule over `items`.
    pub fn evaluated(&self, items: u32, fuel: u64, elapsed: Duration) {
        self.items.increment(u64::from(items));
        self.fuel.increment(fuel);
        self.duration.record(elapsed);
        self.batch.record(items);
    }

    /// An instance begins to work.
    pub fn running(&self) -> RunningInstance<'_> {
        self.instances.increment(1.0);
        RunningInstance(&self.instances)
    }

    /// `decision` is a word of the rule ABI, `code` one of the few that are told apart of a rule.
    pub fn decided(&self, (decision, code): (&'static str, &str), items: u64) {
        let mut known = self.decisions.lock();
        let is_it = |(own, own_code, _): &&(&'static str, String, Counter)| {
            *own == decision && own_code == code
        };
        if let Some((.., counter)) = known.iter().find(is_it) {
            counter.increment(items);
            return;
        }
        let counter = self.decision(decision, code);
        counter.increment(items);
        known.push((decision, code.to_owned(), counter));
    }

    fn decision(&self, decision: &'static str, code: &str) -> Counter {
        let mut labels = and(&self.labels, "decision", decision);
        labels.push(Label::new("code", code.to_owned()));
        counter!(name::RULE_DECISIONS_TOTAL, labels)
    }

    /// An item was left out without asking the rule.
    pub fn skipped(&self) {
        self.skipped.get_or_init(|| self.decision("skipped", "no_match")).increment(1);
    }

    /// Asked a second time, because the first time passed while its thread waited for a processor.
    pub fn waited(&self) {
        self.waited.increment(1);
    }

    /// `kind`: `trap`, `deadline`, `fuel`, `memory`, `output`, `breaker`.
    pub fn broke(&self, kind: &'static str) {
        counter!(name::RULE_ERRORS_TOTAL, and(&self.labels, "kind", kind)).increment(1);
    }

    /// Of a shadow: so many items were compared, and so many answers differ.
    pub fn compared(&self, items: u64, different: u64) {
        counter!(name::RULE_SHADOW_COMPARED_TOTAL, self.labels.clone()).increment(items);
        counter!(name::RULE_SHADOW_DIFF_TOTAL, self.labels.clone()).increment(different);
    }
}

/// The versions in force, as `bugler_rule_info` shows them.
#[derive(Debug, Default)]
pub struct RulesInForce(Mutex<BTreeSet<[String; 3]>>);

impl RulesInForce {
    /// Shows `versions` (name, version and stage of each) in place of those before: at most 1,024 of a
    /// process that are told apart.
    pub fn set(&self, versions: impl Iterator<Item = [String; 3]>) {
        let gauge = |[rule, version, stage]: &[String; 3]| {
            gauge!(name::RULE_INFO, "rule" => rule.clone(), "version" => version.clone(),
                "stage" => stage.clone())
        };
        let now: BTreeSet<_> = versions.collect();
        let mut known = self.0.lock();
        known.iter().filter(|one| !now.contains(*one)).for_each(|one| gauge(one).set(0.0));
        for one in now {
            if known.contains(&one) || known.len() < RULES_MAX {
                gauge(&one).set(1.0);
                known.insert(one);
            }
        }
    }
}

fn and(labels: &[Label], name: &'static str, value: &'static str) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push(Label::new(name, value));
    labels
}

/// One provider credential.
#[derive(Debug)]
pub struct ProviderMetrics {
    results: Labeled<Counter>,
    duration: Histogram,
    inflight: Gauge,
}

impl ProviderMetrics {
    /// `app` is the configured name of the credential.
    #[must_use]
    pub fn new(channel: &'static str, app: &str) -> Self {
        let app = app.to_owned();
        let result = |result| {
            counter!(name::PROVIDER_REQUESTS_TOTAL, "channel" => channel, "app" => app.clone(),
                "result" => result)
        };
        Self {
            results: Labeled::new(RESULTS, result),
            duration: histogram!(name::PROVIDER_REQUEST_DURATION_SECONDS, "channel" => channel,
                "app" => app.clone()),
            inflight: gauge!(name::PROVIDER_INFLIGHT_REQUESTS, "channel" => channel, "app" => app),
        }
    }

    pub fn started(&self) {
        self.inflight.increment(1.0);
    }

    /// Ends what [`ProviderMetrics::started`] began; `result` as in the timeline.
    pub fn ended(&self, result: &str, elapsed: Duration) {
        self.inflight.decrement(1.0);
        self.results.with(result, |c| c.increment(1));
        self.duration.record(elapsed);
    }
}

/// The deliveries of one channel.
#[derive(Debug)]
pub struct DeliveryMetrics {
    outcomes: Labeled<Counter>,
    duration: Histogram,
    retries: Counter,
}

impl DeliveryMetrics {
    #[must_use]
    pub fn new(channel: &'static str) -> Self {
        let outcome =
            |outcome| counter!(name::DELIVERIES_TOTAL, "channel" => channel, "outcome" => outcome);
        Self {
            outcomes: Labeled::new(OUTCOMES, outcome),
            duration: histogram!(name::DELIVERY_DURATION_SECONDS, "channel" => channel),
            retries: counter!(name::RETRIES_TOTAL, "channel" => channel),
        }
    }

    /// `outcome` is the final state's word.
    pub fn settled(&self, outcome: &str) {
        self.outcomes.with(outcome, |c| c.increment(1));
    }

    /// Time from acceptance to the provider's acceptance.
    pub fn delivered_after(&self, elapsed: Duration) {
        self.duration.record(elapsed);
    }

    pub fn retried(&self) {
        self.retries.increment(1);
    }
}

/// The scheduler.
#[derive(Debug)]
pub struct SchedulerMetrics {
    waiting: Gauge,
    in_flight: Gauge,
    organizations: Gauge,
    rounds: Gauge,
    oldest: Gauge,
    sent_back: Counter,
    collapsed: Counter,
    merged: Counter,
}

impl Default for SchedulerMetrics {
    fn default() -> Self {
        Self {
            waiting: gauge!(name::SCHED_WAITING),
            in_flight: gauge!(name::SCHED_IN_FLIGHT),
            organizations: gauge!(name::SCHED_ORGANIZATIONS),
            rounds: gauge!(name::SCHED_ROUNDS_WAITED_MAX),
            oldest: gauge!(name::OLDEST_DUE_AGE_SECONDS),
            sent_back: counter!(name::SCHED_SENT_BACK_TOTAL),
            collapsed: counter!(name::SCHED_COLLAPSED_TOTAL),
            merged: counter!(name::SCHED_MERGED_TOTAL),
        }
    }
}

impl SchedulerMetrics {
    /// What waits now, what is in flight, and for how many organizations.
    pub fn load(&self, waiting: usize, in_flight: usize, organizations: usize) {
        let shown = |n| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        self.waiting.set(shown(waiting));
        self.in_flight.set(shown(in_flight));
        self.organizations.set(shown(organizations));
    }

    /// The longest wait, in rounds since the start and in time at present.
    pub fn waits(&self, rounds: u64, oldest: Duration) {
        self.rounds.set(f64::from(u32::try_from(rounds).unwrap_or(u32::MAX)));
        self.oldest.set(oldest.as_secs_f64());
    }

    /// `channel`'s most limited target, and its breakers that are open and half open.
    pub fn targets(&self, channel: &'static str, limit: f64, open: u32, half_open: u32) {
        gauge!(name::TARGET_LIMIT, "channel" => channel).set(limit);
        gauge!(name::BREAKER_STATE, "channel" => channel, "state" => "open").set(open);
        gauge!(name::BREAKER_STATE, "channel" => channel, "state" => "half_open").set(half_open);
    }

    pub fn sent_back(&self, deliveries: usize) {
        self.sent_back.increment(deliveries as u64);
    }

    pub fn collapsed(&self, deliveries: usize) {
        self.collapsed.increment(deliveries as u64);
    }

    pub fn merged(&self, deliveries: usize) {
        self.merged.increment(deliveries as u64);
    }
}
