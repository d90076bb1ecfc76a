//! What one version of a rule did at one stage, in numbers: items, errors, and how much each took.

use crate::rules::asking::Part;
use crate::rules::chain::OTHER;
use crate::rules::hooks::Decision;
use crate::rules::hooks::Hook;
use crate::rules::limits::BreachKind;
use crate::rules::settings::RuleConfig;
use crate::rules::stage::Stage;
use crate::telemetry::metrics::RuleMetrics;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Four to a power of two: a percentile is at most a quarter too high.
const BUCKETS: usize = 128;

/// Counted while it runs.
#[derive(Debug, Default)]
pub(super) struct Stats {
    items: AtomicU64,
    errors: AtomicU64,
    deadlines: AtomicU64,
    withheld: AtomicU64,
    fuel: Spread,
    micros: Spread,
    compared: AtomicU64,
    same: AtomicU64,
    shed: AtomicU64,
    /// By hook; made when it is asked first.
    metrics: [OnceLock<Option<RuleMetrics>>; Hook::ALL.len()],
}

/// The counts at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub items: u64,
    pub errors: u64,
    /// Of the errors those at the deadline.
    pub deadlines: u64,
    /// Dropped or denied.
    pub withheld: u64,
    pub fuel_p99: u64,
    pub micros_p99: u64,
    /// Of shadows: compared with the version in force, and the same decision and code.
    pub compared: u64,
    pub same: u64,
    /// Of shadows: not asked about, because there was no time.
    pub shed: u64,
}

#[derive(Debug)]
struct Spread([AtomicU32; BUCKETS]);

impl Default for Spread {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Spread {
    fn note(&self, value: u64) {
        if let Some(bucket) = self.0.get(bucket(value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The upper end of the bucket with the 99th percentile; 0 without values.
    fn p99(&self) -> u64 {
        let counts: Vec<u64> =
            self.0.iter().map(|bucket| u64::from(bucket.load(Ordering::Relaxed))).collect();
        let all: u64 = counts.iter().sum();
        let rank = all - all / 100;
        let mut below = 0;
        for (at, count) in counts.into_iter().enumerate() {
            below += count;
            if count > 0 && below >= rank {
                return upper(at);
            }
        }
        0
    }
}

/// 0 to 7 have their own; from there on four share each power of two.
fn bucket(value: u64) -> usize {
    let power = value.checked_ilog2().unwrap_or_default();
    let at =
        if power < 3 { value } else { u64::from(power) * 4 - 4 + ((value >> (power - 2)) & 3) };
    usize::try_from(at).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

fn upper(at: usize) -> u64 {
    let at = u64::try_from(at).unwrap_or_default();
    if at < 8 {
        return at;
    }
    let power = at.div_euclid(4) + 1;
    let step = 1_u64 << (power - 2).min(61);
    (step * 4).saturating_add(step.saturating_mul(at % 4 + 1)).saturating_sub(1)
}

impl Stats {
    pub(super) fn note(&self, parts: &[(usize, Part)]) {
        for (_, part) in parts {
            self.items.fetch_add(1, Ordering::Relaxed);
            match &part.answer {
                Ok(answer) => {
                    let is_withheld = matches!(answer.decision, Decision::Drop | Decision::Deny);
                    self.withheld.fetch_add(u64::from(is_withheld), Ordering::Relaxed);
                    self.fuel.note(part.fuel);
                    self.micros.note(u64::from(part.micros));
                }
                Err(breach) => {
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    let is_deadline = breach.kind == BreachKind::Deadline;
                    self.deadlines.fetch_add(u64::from(is_deadline), Ordering::Relaxed);
                }
            }
        }
    }

    /// Of a shadow: so many were compared, and so many of them said the same.
    pub(super) fn compare(&self, compared: usize, same: usize) {
        self.compared.fetch_add(count(compared), Ordering::Relaxed);
        self.same.fetch_add(count(same), Ordering::Relaxed);
    }

    /// What the version publishes of its part in `hook`.
    pub(super) fn metrics(
        &self,
        config: &RuleConfig,
        (hook, stage): (Hook, Stage),
    ) -> Option<&RuleMetrics> {
        let place = Hook::ALL.iter().position(|own| *own == hook)?;
        let (version, stage) = ((config.name.as_str(), config.version.as_str()), stage.as_str());
        let made = || RuleMetrics::new(version, hook.as_str(), stage);
        self.metrics.get(place)?.get_or_init(made).as_ref()
    }

    pub(super) fn shed(&self, items: usize) {
        self.shed.fetch_add(count(items), Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Counts {
            items: read(&self.items),
            errors: read(&self.errors),
            deadlines: read(&self.deadlines),
            withheld: read(&self.withheld),
            fuel_p99: self.fuel.p99(),
            micros_p99: self.micros.p99(),
            compared: read(&self.compared),
            same: read(&self.same),
            shed: read(&self.shed),
        }
    }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

/// The calls that an asking took, each with its first item. Items that were refused belong to none.
pub(super) fn calls(parts: &[(usize, Part)]) -> impl Iterator<Item = (usize, &[(usize, Part)])> {
    let mut rest = parts;
    std::iter::from_fn(move || {
        // Parts of one call lie together.
        while let Some((at, first)) = rest.first() {
            let (call, later) = rest.split_at(first.batch.clamp(1, rest.len()));
            rest = later;
            if first.batch > 0 {
                return Some((*at, call));
            }
        }
        None
    })
}

/// What one asking came to: its calls, and each answer. Codes that are not `known` are `other`.
pub(super) fn publish(
    metrics: &RuleMetrics,
    parts: &[(usize, Part)],
    known: impl Fn(&str) -> bool,
) {
    for (_, call) in calls(parts) {
        let fuel = call.iter().map(|(_, part)| part.fuel).sum();
        let micros = call.iter().map(|(_, part)| u64::from(part.micros)).sum();
        let items = u32::try_from(call.len()).unwrap_or(u32::MAX);
        metrics.evaluated(items, fuel, Duration::from_micros(micros));
    }
    let mut words: Vec<((&'static str, &str), u64)> = Vec::new();
    for (_, part) in parts {
        let word = match &part.answer {
            Ok(answer) => (answer.decision.as_str(), answer.code.as_str()),
            Err(breach) => {
                let kind = breach.kind.as_str();
                metrics.broke(kind);
                ("error", kind)
            }
        };
        match words.iter_mut().find(|(own, _)| *own == word) {
            Some((_, count)) => *count += 1,
            None => words.push((word, 1)),
        }
    }
    for ((word, code), count) in words {
        let code = if word == "error" || known(code) { code } else { OTHER };
        metrics.decided((word, code), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_whose_end_is_at_most_a_quarter_above_it() {
        for value in (0..5_000).chain([1 << 20, (1 << 20) + 1, u64::from(u32::MAX)]) {
            let end = upper(bucket(value));
            assert!(end >= value && end <= value + value / 4, "{value}: {end}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn the_99th_percentile_leaves_one_in_a_hundred_above_it() {
        let spread = Spread::default();
        assert_eq!(spread.p99(), 0);
        for _ in 0..99 {
            spread.note(5);
        }
        spread.note(4_000);
        assert_eq!(spread.p99(), 5);
        spread.note(4_000);
        assert!(spread.p99() >= 4_000);
    }
}
