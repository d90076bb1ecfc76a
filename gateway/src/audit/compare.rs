//! The log against the index: books, timers, dead letters, timelines and outcomes.

use super::account::Account;
use super::log::{Log, Place};
use super::report::{Invariant, Report};
use crate::journal::disk::{DeadCounts, IndexFacts, Logged, LoggedBlock, fingerprint};
use crate::journal::{Books, Resolution, Sums};
use crate::model::{FinalState, OrganizationId};
use std::collections::{BTreeMap, BTreeSet};

/// What the log adds up to, as far as the index is to know it.
pub(super) struct Compared {
    facts: Option<IndexFacts>,
    /// Of the log so far.
    total: Sums,
    /// Of the log up to the checkpoint.
    at_checkpoint: Option<Sums>,
    /// Of the log up to the last block the index holds.
    at_applied: Option<Sums>,
    events: BTreeMap<u64, (u64, u64)>,
    outcomes: BTreeMap<u64, u64>,
    has_compared_timers: bool,
}

impl Compared {
    pub(super) fn new(facts: Option<IndexFacts>) -> Self {
        Self {
            facts,
            total: Sums::default(),
            at_checkpoint: None,
            at_applied: None,
            events: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            has_compared_timers: false,
        }
    }

    pub(super) fn total(&self) -> Sums {
        self.total
    }

    pub(super) fn has_compared(&self) -> bool {
        self.has_compared_timers
    }

    /// True once, at the first block that the index does not hold yet.
    pub(super) fn is_behind(&mut self, position: u64) -> bool {
        let Some(facts) = &self.facts else { return false };
        if facts.checkpoint.is_some_and(|(end, _)| position >= end) && self.at_checkpoint.is_none()
        {
            self.at_checkpoint = Some(self.total);
        }
        let is_first =
            facts.applied.is_none_or(|applied| position > applied) && self.at_applied.is_none();
        if is_first {
            self.at_applied = Some(self.total);
        }
        is_first
    }

    pub(super) fn count(&mut self, view: &dyn Log, block: &LoggedBlock) {
        let base = view.segment_of(block.position).unwrap_or_default();
        let mut states = BTreeSet::new();
        let mut told = Vec::new();
        for record in &block.records {
            match record {
                Logged::Entry(entry, ..) => {
                    self.total.accepted += u64::from(entry.kind.is_root());
                }
                Logged::Settlement(settlement) => {
                    self.total.dead_letters += settlement.dead;
                    for (_, resolution) in &settlement.resolved {
                        if let Resolution::Final(state) = resolution {
                            self.total.end(*state);
                            states.insert(settlement.org);
                        }
                    }
                    told.extend(settlement.events.iter().map(|_| settlement.notification));
                }
                Logged::Amendment(amendment) => {
                    self.total.amend(amendment.from, amendment.is_reopened);
                    told.push(amendment.notification);
                }
                Logged::Cancellation(notification) => told.push(*notification),
            }
        }
        let is_indexed = self.at_applied.is_none();
        if is_indexed {
            let sum = self.events.entry(base).or_default();
            for notification in told {
                sum.0 += 1;
                sum.1 = sum.1.wrapping_add(fingerprint(notification, block.position));
            }
            *self.outcomes.entry(base).or_default() += states.len() as u64;
        }
    }

    pub(super) fn timers(
        &mut self,
        view: &dyn Log,
        waiting: u64,
        is_waiting: &dyn Fn(Place) -> bool,
        report: &mut Report,
    ) {
        self.has_compared_timers = true;
        if self.facts.is_none() {
            return;
        }
        let (mut rows, mut strange) = (0u64, Vec::new());
        let read = view.timers(&mut |place| {
            rows += 1;
            if !is_waiting(place) && strange.len() < 10 {
                strange.push(place);
            }
        });
        if let Err(error) = read {
            report.breach(Invariant::Timers, crate::telemetry::chain(&error));
        }
        for (position, number) in strange {
            let text = format!(
                "the index waits for the entry at position {position}, number {number}, and the \
                 log does not"
            );
            report.breach(Invariant::Timers, text);
        }
        if rows != waiting {
            let text = format!("{waiting} entries wait in the log and {rows} in the index");
            report.breach(Invariant::Timers, text);
        }
    }

    pub(super) fn finish(
        self,
        view: &dyn Log,
        accounts: &mut BTreeMap<OrganizationId, Account>,
        report: &mut Report,
    ) {
        let Some(facts) = self.facts else {
            report.without_index = true;
            return;
        };
        let mut before = Sums::default();
        for (org, sums) in &facts.carried {
            before.add(sums);
            let account = accounts.entry(*org).or_default();
            account.accepted_before = sums.accepted;
            account.finals_before = sums.finals;
        }
        if let Some((_, stored)) = facts.checkpoint {
            let mut sums = self.at_checkpoint.unwrap_or(self.total);
            sums.add(&before);
            books(stored, &sums, report);
        }
        let mut sums = self.at_applied.unwrap_or(self.total);
        sums.add(&before);
        dead_letters(&facts, &sums, report);
        let name = |base: u64| view.name(base);
        let bases: BTreeSet<_> = self.events.keys().chain(facts.events.keys()).collect();
        for base in bases {
            let log = self.events.get(base).copied().unwrap_or_default();
            let index = facts.events.get(base).copied().unwrap_or_default();
            if log != index {
                let text = format!(
                    "{}: {} timeline events in the log and {} in the index, or not the same ones",
                    name(*base),
                    log.0,
                    index.0
                );
                report.breach(Invariant::Index, text);
            }
        }
        let bases: BTreeSet<_> = self.outcomes.keys().chain(facts.outcomes.keys()).collect();
        for base in bases {
            let log = self.outcomes.get(base).copied().unwrap_or_default();
            let index = facts.outcomes.get(base).copied().unwrap_or_default();
            if log != index {
                let text = format!(
                    "{}: {log} rows of outcomes follow from the log and {index} are in the index",
                    name(*base)
                );
                report.breach(Invariant::Index, text);
            }
        }
    }
}

fn books(stored: Books, sums: &Sums, report: &mut Report) {
    let mut check = |what: &str, log: i128, books: u64| {
        if log != i128::from(books) {
            let text = format!("{what}: {log} by the log and {books} in the books");
            report.breach(Invariant::Books, text);
        }
    };
    check("accepted", sums.accepted.into(), stored.accepted);
    for (slot, state) in FinalState::ALL.iter().enumerate() {
        let of = |counts: &[u64; 6]| counts.get(slot).copied().unwrap_or_default();
        let log = sums.finals.get(slot).copied().unwrap_or_default();
        check(state.as_str(), log.into(), of(&stored.finals));
        let what = format!("replayed from {}", state.as_str());
        check(&what, of(&sums.reopened).into(), of(&stored.reopened));
    }
    check("dead letters made", sums.dead_letters.into(), stored.dead_letters);
    check("dead letters discarded", sums.discarded.into(), stored.discarded);
}

fn dead_letters(facts: &IndexFacts, sums: &Sums, report: &mut Report) {
    // Not the amendments of the log: a delivery may be sent again without having a dead letter.
    let DeadCounts { kept, dropped, taken, given_up } = facts.dead;
    let accounted = kept + dropped + taken + given_up;
    if accounted != sums.dead_letters {
        let text = format!(
            "{} made; {kept} kept + {dropped} past retention + {taken} replayed + {given_up} \
             discarded = {accounted}",
            sums.dead_letters
        );
        report.breach(Invariant::DeadLetters, text);
    }
}
