//! What an audit found: one line for each invariant, and every breach by name.

use super::account::Account;
use crate::journal::disk::Damage;
use crate::model::OrganizationId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Breaches told by name; further ones are only counted.
const NAMED_MAX: usize = 100;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// Every block can be read.
    Readable,
    /// Every entry is settled for good at most once, and was there before.
    SettledOnce,
    /// Every entry pays the deliveries it owes.
    Paid,
    /// Every delivery has one end, or one entry that carries it on.
    OneEnd,
    /// Announced deliveries are those that ended and those that are pending.
    Balanced,
    /// The stored books are the log and what retention dropped.
    Books,
    /// The index waits for what the log says is waiting.
    Timers,
    /// Dead letters kept, dropped, replayed and discarded are all that were made.
    DeadLetters,
    /// The index has the timelines and outcomes of the log.
    Index,
}

impl Invariant {
    pub const ALL: [Self; 9] = [
        Self::Readable,
        Self::SettledOnce,
        Self::Paid,
        Self::OneEnd,
        Self::Balanced,
        Self::Books,
        Self::Timers,
        Self::DeadLetters,
        Self::Index,
    ];

    /// The word that stands for it in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Readable => "readable",
            Self::SettledOnce => "settled_once",
            Self::Paid => "paid",
            Self::OneEnd => "one_end",
            Self::Balanced => "balanced",
            Self::Books => "books",
            Self::Timers => "timers",
            Self::DeadLetters => "dead_letters",
            Self::Index => "index",
        }
    }

    fn means(self) -> &'static str {
        match self {
            Self::Readable => "every block of the log can be read",
            Self::SettledOnce => "every entry is settled for good once, and was there before",
            Self::Paid => "every entry accounts for the deliveries it owes",
            Self::OneEnd => "every delivery has one final state or one entry that carries it on",
            Self::Balanced => "announced deliveries have ended or are pending, by organization",
            Self::Books => "the stored books equal the log and what retention dropped",
            Self::Timers => "the index waits for what the log says is waiting",
            Self::DeadLetters => {
                "dead letters made are kept, replayed, discarded or past retention"
            }
            Self::Index => "the index has the timelines and outcomes of the log",
        }
    }
}

/// One invariant and whether it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub invariant: Invariant,
    pub breaches: u64,
}

/// The result of an audit.
#[derive(Clone, Debug, Default)]
pub struct Report {
    counts: BTreeMap<Invariant, u64>,
    named: Vec<(Invariant, String)>,
    pub organizations: BTreeMap<OrganizationId, Account>,
    pub blocks: u64,
    /// Notifications and deliveries nobody has begun with.
    pub entries_pending: u64,
    /// The index was not there, so only the log was audited.
    pub without_index: bool,
}

impl Report {
    pub(super) fn breach(&mut self, invariant: Invariant, text: String) {
        *self.counts.entry(invariant).or_default() += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push((invariant, text));
        }
    }

    /// Adds what another pass found.
    pub(super) fn also(&mut self, other: Self) {
        for (invariant, count) in other.counts {
            *self.counts.entry(invariant).or_default() += count;
        }
        self.named.extend(other.named);
        self.named.truncate(NAMED_MAX);
    }

    /// Adds what was found in another journal.
    pub fn join(&mut self, other: Self) {
        for (org, account) in &other.organizations {
            self.organizations.entry(*org).or_default().add(account);
        }
        self.blocks += other.blocks;
        self.entries_pending += other.entries_pending;
        self.without_index |= other.without_index;
        self.also(other);
    }

    pub(super) fn damaged(&mut self, damages: Vec<Damage>) {
        for Damage { file, byte, what } in damages {
            let text = format!("{} is damaged at byte {byte}: {what}", file.display());
            self.breach(Invariant::Readable, text);
        }
    }

    /// True if everything held.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.counts.is_empty()
    }

    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let breaches = |one| self.counts.get(one).copied().unwrap_or_default();
        Invariant::ALL.iter().map(|one| Line { invariant: *one, breaches: breaches(one) }).collect()
    }

    /// What broke, by name; at most a hundred.
    pub fn breaches(&self) -> impl Iterator<Item = (Invariant, &str)> {
        self.named.iter().map(|(invariant, text)| (*invariant, text.as_str()))
    }

    #[must_use]
    pub fn total(&self) -> Account {
        let mut total = Account::default();
        self.organizations.values().for_each(|account| total.add(account));
        total
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        let lines = self.lines().into_iter().map(|line| {
            json!({
                "invariant": line.invariant.word(),
                "means": line.invariant.means(),
                "holds": line.breaches == 0,
                "breaches": line.breaches,
            })
        });
        let breaches = self
            .breaches()
            .map(|(invariant, text)| json!({ "invariant": invariant.word(), "what": text }));
        let organizations = self.organizations.iter().map(|(org, account)| {
            let mut account = account.to_json();
            account["organization"] = org.0.into();
            account
        });
        json!({
            "good": self.is_good(),
            "blocks": self.blocks,
            "entriesPending": self.entries_pending,
            "withoutIndex": self.without_index,
            "invariants": lines.collect::<Vec<_>>(),
            "breaches": breaches.collect::<Vec<_>>(),
            "total": self.total().to_json(),
            "organizations": organizations.collect::<Vec<_>>(),
        })
    }
}

/// A report in the form of [`Report::to_json`] as text: one line for each invariant.
#[must_use]
pub fn render(report: &Value) -> String {
    let mut text = String::new();
    for line in report["invariants"].as_array().into_iter().flatten() {
        let holds = if line["holds"] == true { "ok    " } else { "BROKEN" };
        let word = line["invariant"].as_str().unwrap_or_default();
        let means = line["means"].as_str().unwrap_or_default();
        // Writing into a string cannot fail.
        writeln!(text, "{holds}  {word:<13} {means}").ok();
        for breach in report["breaches"].as_array().into_iter().flatten() {
            if breach["invariant"] == line["invariant"] {
                writeln!(text, "          {}", breach["what"].as_str().unwrap_or_default()).ok();
            }
        }
    }
    let total = &report["total"];
    let ended = total["ended"].as_object().into_iter().flatten();
    let ended: Vec<_> = ended.map(|(state, count)| format!("{state} {count}")).collect();
    writeln!(
        text,
        "accepted {}, deliveries {} = {} + pending {}; inherited {}, replayed {}, discarded {}",
        total["accepted"],
        total["expanded"],
        ended.join(" + "),
        total["pending"],
        total["inherited"],
        total["replayed"],
        total["discarded"],
    )
    .ok();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: usize, invariant: Invariant) -> Report {
        let mut report = Report::default();
        (0..count).for_each(|number| report.breach(invariant, format!("{number}")));
        report
    }

    #[test]
    fn what_another_pass_found_counts_however_much_is_named() {
        let mut report = of(NAMED_MAX, Invariant::Paid);
        report.also(of(1, Invariant::OneEnd));
        report.also(of(2 * NAMED_MAX, Invariant::OneEnd));
        let broken: Vec<_> = report.lines().into_iter().filter(|line| line.breaches > 0).collect();
        let count = 2 * NAMED_MAX as u64 + 1;
        assert_eq!(
            broken,
            [
                Line { invariant: Invariant::Paid, breaches: NAMED_MAX as u64 },
                Line { invariant: Invariant::OneEnd, breaches: count }
            ]
        );
        assert_eq!(report.breaches().count(), NAMED_MAX);
    }
}
