//! The checker: one line per invariant, after Jepsen's total-queue and set-full checkers.
//!
//! A delivery is a notification at one target of one provider. Notifications are recognised by the
//! marker in their text and, where a payload names it, by the id the gateway answered with; the two
//! must agree.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use super::client::{ClientEntry, Outcome};
use crate::twins::Receipt;

const EXAMPLES_MAX: usize = 5;

/// What a run must come out as.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// Targets each notification goes to.
    pub targets_per_notification: u32,
    /// Most repeats allowed: the attempts in flight at each crash plus the ambiguous ones.
    pub duplicates_max: u64,
    /// Deliveries per notification that ended otherwise (expired, suppressed, dead), by the
    /// gateway's own export of states.
    pub ended_otherwise: HashMap<Uuid, u32>,
}

/// How one invariant came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invariant {
    pub name: &'static str,
    pub found: u64,
    pub bound: u64,
    /// The first few findings.
    pub examples: Vec<String>,
}

impl Invariant {
    fn new(name: &'static str, bound: u64) -> Self {
        Self { name, found: 0, bound, examples: Vec::new() }
    }

    fn add(&mut self, count: u64, example: impl FnOnce() -> String) {
        self.found += count;
        if count > 0 && self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }

    /// Whether no more was found than allowed.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.found <= self.bound
    }
}

/// What the ledgers prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Notifications by what the client knows.
    pub accepted: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Unknown ones that were delivered nevertheless.
    pub recovered: u64,
    /// Deliveries that succeeded, those a provider turned down for good, and those that ended
    /// otherwise.
    pub delivered: u64,
    pub rejected: u64,
    pub ended_otherwise: u64,
    /// I1: accepted (or recovered) deliveries without any end.
    pub lost: Invariant,
    /// I2: deliveries of what was never sent, was refused, or has no such target.
    pub phantom: Invariant,
    /// I3: successes beyond the first of a delivery.
    pub duplicated: Invariant,
    /// I4: texts that changed on the way, wrong signatures, and foreign ids.
    pub corrupt: Invariant,
    /// Repeats that did not carry the id of the first; receivers cannot fold them.
    pub repeats_with_other_id: u64,
}

impl Verdict {
    /// Whether all invariants hold.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.invariants().into_iter().all(Invariant::holds)
    }

    /// The invariants in their order.
    #[must_use]
    pub fn invariants(&self) -> [&Invariant; 4] {
        [&self.lost, &self.phantom, &self.duplicated, &self.corrupt]
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "accepted {}  refused {}  unknown {} (recovered {})",
            self.accepted, self.refused, self.unknown, self.recovered
        )?;
        writeln!(
            f,
            "delivered {}  rejected {}  ended otherwise {}  repeats with another id {}",
            self.delivered, self.rejected, self.ended_otherwise, self.repeats_with_other_id
        )?;
        for invariant in self.invariants() {
            let Invariant { name, found, bound, examples } = invariant;
            let verdict = if invariant.holds() { "holds" } else { "BROKEN" };
            write!(f, "{name:<14} {found:>8}  bound {bound:>6}  {verdict}")?;
            if !examples.is_empty() {
                write!(f, "  e.g. {}", examples.join("; "))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// What happened to one delivery.
#[derive(Default)]
struct Tally {
    successes: u64,
    is_rejected: bool,
    first_key: Option<u64>,
}

/// Judges a run by its two ledgers.
#[must_use]
pub fn check(client: &[ClientEntry], receipts: &[Receipt], expected: &Expectation) -> Verdict {
    let mut checker = Checker::new(client, expected);
    let carrying = receipts.iter().filter(|receipt| receipt.twin.carries_notifications());
    carrying.for_each(|receipt| checker.take(receipt));
    checker.finish(expected)
}

struct Checker {
    outcomes: HashMap<u64, Outcome>,
    seq_of_id: HashMap<Uuid, u64>,
    deliveries: HashMap<(u64, u64), Tally>,
    phantoms: HashSet<(u64, u64)>,
    verdict: Verdict,
}

impl Checker {
    fn new(client: &[ClientEntry], expected: &Expectation) -> Self {
        let mut verdict = Verdict {
            accepted: 0,
            refused: 0,
            unknown: 0,
            recovered: 0,
            delivered: 0,
            rejected: 0,
            ended_otherwise: 0,
            lost: Invariant::new("I1 lost", 0),
            phantom: Invariant::new("I2 phantom", 0),
            duplicated: Invariant::new("I3 duplicated", expected.duplicates_max),
            corrupt: Invariant::new("I4 corrupt", 0),
            repeats_with_other_id: 0,
        };
        let mut seq_of_id = HashMap::new();
        for entry in client {
            match entry.outcome {
                Outcome::Accepted(id) => {
                    verdict.accepted += 1;
                    seq_of_id.extend(id.map(|id| (id, entry.seq)));
                }
                Outcome::Refused(_) => verdict.refused += 1,
                Outcome::Unknown => verdict.unknown += 1,
            }
        }
        let outcomes = client.iter().map(|entry| (entry.seq, entry.outcome)).collect();
        let (deliveries, phantoms) = (HashMap::new(), HashSet::new());
        Self { outcomes, seq_of_id, deliveries, phantoms, verdict }
    }

    fn take(&mut self, receipt: &Receipt) {
        let place = hash_of(&(receipt.twin, &receipt.target));
        let of_id = self.seq_of_id(receipt);
        let Some(seq) = receipt.marker.or(of_id) else {
            let nobody = hash_of(&(&receipt.notification, &receipt.key));
            return self.add_phantom(nobody, place, receipt);
        };
        self.check_content(seq, of_id, receipt);
        match self.outcomes.get(&seq) {
            Some(Outcome::Accepted(_) | Outcome::Unknown) => {}
            Some(Outcome::Refused(_)) | None => return self.add_phantom(seq, place, receipt),
        }
        let tally = self.deliveries.entry((seq, place)).or_default();
        if receipt.succeeded() {
            tally.successes += 1;
            let key = hash_of(&receipt.key);
            let first_key = *tally.first_key.get_or_insert(key);
            self.verdict.repeats_with_other_id += u64::from(first_key != key);
        } else if is_final(receipt.status) {
            tally.is_rejected = true;
        }
    }

    fn seq_of_id(&self, receipt: &Receipt) -> Option<u64> {
        let id = Uuid::try_parse(receipt.notification.as_deref()?).ok()?;
        self.seq_of_id.get(&id).copied()
    }

    fn add_phantom(&mut self, who: u64, place: u64, receipt: &Receipt) {
        if self.phantoms.insert((who, place)) {
            self.verdict.phantom.add(1, || describe(receipt));
        }
    }

    fn check_content(&mut self, seq: u64, of_id: Option<u64>, receipt: &Receipt) {
        let is_signed_wrongly =
            receipt.refused.as_deref().is_some_and(|rule| rule.starts_with("webhook-signature"));
        let is_foreign = of_id.is_some_and(|of_id| of_id != seq);
        if receipt.intact == Some(false) || is_signed_wrongly || is_foreign {
            self.verdict.corrupt.add(1, || describe(receipt));
        }
    }

    fn finish(mut self, expected: &Expectation) -> Verdict {
        let mut ended: HashMap<u64, u32> = HashMap::new();
        for ((seq, _), tally) in &self.deliveries {
            if tally.successes > 0 {
                self.verdict.delivered += 1;
                let repeats = tally.successes - 1;
                self.verdict.duplicated.add(repeats, || format!("n-{seq} {repeats} more"));
            } else if tally.is_rejected {
                self.verdict.rejected += 1;
            } else {
                continue;
            }
            *ended.entry(*seq).or_default() += 1;
        }
        for (seq, outcome) in &self.outcomes {
            let reached = ended.get(seq).copied().unwrap_or(0);
            let otherwise = match outcome {
                Outcome::Accepted(Some(id)) => expected.ended_otherwise.get(id).copied(),
                _ => None,
            };
            let otherwise = otherwise.unwrap_or(0);
            let is_owed = match outcome {
                Outcome::Accepted(_) => true,
                Outcome::Unknown => reached > 0,
                Outcome::Refused(_) => false,
            };
            if !is_owed {
                continue;
            }
            self.verdict.ended_otherwise += u64::from(otherwise);
            self.verdict.recovered += u64::from(*outcome == Outcome::Unknown);
            let wanted = expected.targets_per_notification;
            let missing = wanted.saturating_sub(reached + otherwise);
            self.verdict.lost.add(missing.into(), || format!("n-{seq} at {missing} targets"));
            let surplus = reached.saturating_sub(wanted);
            self.verdict
                .phantom
                .add(surplus.into(), || format!("n-{seq} at {surplus} more targets"));
        }
        self.verdict
    }
}

/// Whether a provider's answer ends a delivery: the target or the request is wrong for good.
fn is_final(status: u16) -> bool {
    matches!(status, 400 | 404 | 405 | 410 | 413)
}

/// Names a receipt without its target, which may be a secret.
fn describe(receipt: &Receipt) -> String {
    let Receipt { twin, seq, key, status, .. } = receipt;
    match receipt.marker {
        Some(marker) => format!("n-{marker} at {twin}, receipt {seq}, id {key}, status {status}"),
        None => format!("receipt {seq} at {twin}, id {key}, status {status}"),
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
