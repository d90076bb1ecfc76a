//! The books of a run: three ledgers read line by line and laid side by side, a few organizations
//! at a time.
//!
//! What is kept in memory is a few dozen bytes for each notification of the organizations of one
//! pass; passes are cut so that this stays below a bound, whatever the size of the files.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::findings::Findings;
use super::world::{Owner, World};
use crate::jsonl;
use crate::ledger::{ClientLine, Outcome};
use crate::process;
use crate::twins::Receipt;

/// Of several tries that are on their way to a target at once, each on a connection of its own, who
/// arrives first is up to the network: so close together their order says nothing.
const ABREAST: Duration = Duration::from_millis(100);
/// Notifications of one pass.
const PER_PASS_MAX: u64 = 2_000_000;

/// The three ledgers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ledgers<'a> {
    pub(super) client: &'a Path,
    pub(super) receipts: &'a Path,
    pub(super) states: &'a Path,
}

/// A time of which Redis has lost what it was told: by its class, or until an outbox adds it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    /// Whether what was accepted meanwhile may stay lost.
    pub(super) loses: bool,
}

impl Gap {
    fn holds(&self, at_ms: u64) -> bool {
        (self.from_ms..=self.to_ms).contains(&at_ms)
    }
}

/// A line of the state export: what the gateway says became of a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) seq: u64,
    pub(super) id: Uuid,
    pub(super) total: u64,
    pub(super) pending: u64,
    pub(super) delivered: u64,
    /// Rejected, expired, suppressed, canceled and dead.
    pub(super) otherwise: u64,
    /// Deliveries whose timeline holds more than one final state.
    pub(super) twice: u64,
    /// The gateway does not know the id.
    pub(super) unknown: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Refused,
    Unknown,
    Accepted,
}

/// One notification, as the client and the export know it.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    told: Told,
    id: Option<Uuid>,
    pub(super) intent_ms: u64,
    pub(super) answered_ms: u64,
    state: Option<Box<State>>,
}

impl Entry {
    pub(super) fn is_accepted(&self) -> bool {
        self.told == Told::Accepted
    }

    pub(super) fn is_refused(&self) -> bool {
        self.told == Told::Refused
    }
}

/// One delivery, as its provider knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    successes: u32,
    /// Successes that the gateway could not know of: the answer was cut off.
    ambiguous: u32,
    attempts: u32,
    pub(super) first_ms: u64,
    pub(super) success_ms: u64,
    key: u64,
}

/// The books of some organizations.
pub(super) struct Books<'a> {
    world: &'a World,
    orgs: Range<usize>,
    entries: Vec<Vec<Entry>>,
    tallies: Vec<Vec<Tally>>,
    /// Targets that their provider called gone, by hash.
    gone: HashSet<u64>,
    /// How close together arrivals at a hook with several tries at once have no order.
    abreast_ms: u64,
    gaps: &'a [Gap],
    findings: Findings,
}

/// Reads the ledgers, hands each pass to `look`, and sums up what was found.
///
/// # Errors
/// A ledger cannot be read, or is damaged before its last line.
pub(super) fn audit(
    world: &World,
    ledgers: Ledgers<'_>,
    notifications: u64,
    gaps: &[Gap],
    mut look: impl FnMut(&Books<'_>),
) -> io::Result<Findings> {
    let organizations = world.size.organizations;
    let passes = usize::try_from(notifications.div_ceil(PER_PASS_MAX)).unwrap_or(usize::MAX);
    let step = organizations.div_ceil(passes.max(1)).max(1);
    let mut total = Findings::default();
    for first in (0..organizations).step_by(step) {
        let orgs = first..(first + step).min(organizations);
        let mut books = Books::new(world, orgs, gaps);
        jsonl::each(ledgers.client, |line| books.take_line(line))?;
        jsonl::each(ledgers.states, |state| books.take_state(state))?;
        let is_first = first == 0;
        jsonl::each(ledgers.receipts, |receipt| books.take_receipt(&receipt, is_first))?;
        books.close();
        look(&books);
        total.merge(books.findings);
    }
    Ok(total)
}

impl<'a> Books<'a> {
    fn new(world: &'a World, orgs: Range<usize>, gaps: &'a [Gap]) -> Self {
        let count = orgs.len();
        Self {
            world,
            orgs,
            entries: vec![Vec::new(); count],
            tallies: vec![Vec::new(); count],
            gone: HashSet::new(),
            abreast_ms: abreast_ms(),
            gaps,
            findings: Findings::default(),
        }
    }

    fn place(&self, seq: u64) -> Option<(usize, usize)> {
        let (org, index) = self.world.sender(seq)?;
        self.orgs.contains(&org).then(|| (org - self.orgs.start, index))
    }

    fn entry(&mut self, seq: u64) -> Option<&mut Entry> {
        let (row, index) = self.place(seq)?;
        let entries = self.entries.get_mut(row)?;
        if entries.len() <= index {
            entries.resize(index + 1, Entry::default());
        }
        entries.get_mut(index)
    }

    fn take_line(&mut self, line: ClientLine) {
        match line {
            ClientLine::Intent { first, count, at_ms } => {
                for seq in first..first.saturating_add(count) {
                    let Some(entry) = self.entry(seq) else { continue };
                    if entry.told == Told::Nothing {
                        (entry.told, entry.intent_ms) = (Told::Unknown, at_ms);
                    }
                }
            }
            ClientLine::Outcome { seq, outcome, at_ms } => self.settle(seq, outcome, at_ms),
        }
    }

    /// The same request may be sent again under its key: what was once accepted stays so.
    fn settle(&mut self, seq: u64, outcome: Outcome, at_ms: u64) {
        let Some(entry) = self.entry(seq) else { return };
        let is_first = entry.answered_ms == 0;
        entry.answered_ms = at_ms;
        match outcome {
            Outcome::Accepted(id) => {
                let differs = entry.told == Told::Accepted && entry.id != id;
                (entry.told, entry.id) = (Told::Accepted, id);
                if differs {
                    let what = || format!("n-{seq}: its key was answered with two ids");
                    self.findings.phantom.add(1, what);
                }
            }
            Outcome::Refused(_) if is_first => entry.told = Told::Refused,
            Outcome::Refused(_) | Outcome::Unknown => {}
        }
    }

    fn take_state(&mut self, state: State) {
        if let Some(entry) = self.entry(state.seq) {
            entry.state = Some(Box::new(state));
        }
    }

    fn take_receipt(&mut self, receipt: &Receipt, takes_strays: bool) {
        let is_torn = receipt.reason.as_deref() == Some("broken off by the sender");
        if !receipt.twin.carries_notifications() || is_torn {
            return;
        }
        let seq = receipt.marker;
        let Some((org, _)) = seq.and_then(|seq| self.world.sender(seq)) else {
            if takes_strays {
                self.findings.phantom.add(1, || describe(receipt));
            }
            return;
        };
        if !self.orgs.contains(&org) {
            return;
        }
        let Some(seq) = seq else { return };
        self.check_content(receipt);
        match self.world.owner(&receipt.target) {
            Some(owner) if owner.org != org => {
                self.findings.foreign.add(1, || describe(receipt));
            }
            Some(owner) if owner.user.is_some_and(|user| user != self.world.user(org, seq)) => {
                self.findings.phantom.add(1, || describe(receipt));
            }
            Some(owner) => self.tally(seq, owner, receipt),
            None => self.findings.phantom.add(1, || describe(receipt)),
        }
    }

    fn check_content(&mut self, receipt: &Receipt) {
        let refused = receipt.refused.as_deref();
        let is_signed_wrongly = refused.is_some_and(|rule| rule.starts_with("webhook-signature"));
        if receipt.intact == Some(false) || is_signed_wrongly {
            self.findings.corrupt.add(1, || describe(receipt));
        }
    }

    fn tally(&mut self, seq: u64, owner: Owner, receipt: &Receipt) {
        let Some((row, index)) = self.place(seq) else { return };
        let known = self.entry(seq).and_then(|entry| entry.id);
        let said = receipt.notification.as_deref().and_then(|id| Uuid::try_parse(id).ok());
        if let (Some(known), Some(said)) = (known, said)
            && known != said
        {
            self.findings.phantom.add(1, || format!("{} has another id", describe(receipt)));
        }
        if removes_target(receipt) {
            self.gone.insert(hash_of(&receipt.target));
        }
        let at = index * self.world.slots(owner.org) + owner.slot;
        let Some(tallies) = self.tallies.get_mut(row) else { return };
        if tallies.len() <= at {
            tallies.resize(at + 1, Tally::default());
        }
        let Some(tally) = tallies.get_mut(at) else { return };
        tally.attempts += 1;
        if tally.attempts == 1 || receipt.at_ms < tally.first_ms {
            tally.first_ms = receipt.at_ms;
        }
        self.findings.attempts += 1;
        let key = hash_of(&receipt.key);
        if tally.attempts > 1 && tally.key != key {
            self.findings.other_id.add(1, || describe(receipt));
        }
        tally.key = key;
        if receipt.succeeded() {
            tally.successes += 1;
            if tally.success_ms == 0 {
                tally.success_ms = receipt.at_ms;
            }
            if receipt.reason.is_some() {
                tally.ambiguous += 1;
                self.findings.ambiguous += 1;
            }
        }
    }

    fn close(&mut self) {
        for row in 0..self.orgs.len() {
            let entries = std::mem::take(self.entries.get_mut(row).unwrap_or(&mut Vec::new()));
            let mut sums = State::default();
            for (index, entry) in entries.iter().enumerate() {
                self.close_entry(row, index, entry, &mut sums);
            }
            let ended = sums.delivered + sums.otherwise;
            let open = sums.total.abs_diff(ended);
            let id = World::id(self.orgs.start + row);
            self.findings.books.add(open, || {
                format!("organization {id}: {} deliveries, {ended} ended", sums.total)
            });
            if let Some(slot) = self.entries.get_mut(row) {
                *slot = entries;
            }
            self.check_order(row);
        }
    }

    fn close_entry(&mut self, row: usize, index: usize, entry: &Entry, sums: &mut State) {
        let org = self.orgs.start + row;
        let seq = World::first_seq(org) + index as u64;
        let tallies = self.slots_of(row, index);
        let reached = tallies.iter().filter(|tally| tally.attempts > 0).count() as u64;
        let is_owed = match entry.told {
            Told::Accepted => true,
            Told::Unknown => reached > 0,
            Told::Refused | Told::Nothing => {
                self.findings.refused += u64::from(entry.told == Told::Refused);
                self.findings.phantom.add(reached, || format!("n-{seq} was refused or never sent"));
                return;
            }
        };
        self.findings.unknown += u64::from(entry.told == Told::Unknown);
        if !is_owed {
            return;
        }
        self.findings.recovered += u64::from(entry.told == Told::Unknown);
        self.findings.accepted += u64::from(entry.told == Told::Accepted);
        let (mut arrived, mut sure, mut missing) = (0_u64, 0_u64, 0_u64);
        for (slot, tally) in tallies.iter().enumerate() {
            if tally.successes > 0 {
                arrived += 1;
                sure += u64::from(tally.successes > tally.ambiguous);
                let repeats = u64::from(tally.successes) - 1;
                self.findings.duplicated.add(repeats, || format!("n-{seq} {repeats} more"));
            } else if !self.is_gone(org, seq, slot) {
                missing += 1;
            }
        }
        self.findings.delivered += arrived;
        let state = entry.state.as_deref().cloned().unwrap_or_default();
        let is_absent = entry.state.is_none() || state.unknown;
        let in_gap = |at_ms: u64| self.gaps.iter().find(|gap| gap.holds(at_ms));
        // An outcome that was lost is found out once more, by another try.
        let forgotten = tallies.iter().filter(|tally| in_gap(tally.success_ms).is_some()).count();
        self.findings.forgotten += forgotten as u64;
        if is_absent && let Some(gap) = in_gap(entry.answered_ms) {
            let lost = if gap.loses { &mut self.findings.let_go } else { &mut self.findings.lost };
            lost.add(missing, || format!("n-{seq} at {missing} targets"));
            return;
        }
        let excused = state.otherwise + state.pending;
        let lost = if is_absent { missing } else { missing.saturating_sub(excused) };
        self.findings.lost.add(lost, || format!("n-{seq} at {lost} targets"));
        self.findings.pending.add(state.pending, || format!("n-{seq}"));
        self.findings.ended_otherwise += state.otherwise;
        // What the gateway calls delivered must have reached a provider, and the other way round.
        let is_told_apart = state.delivered > arrived || state.delivered < sure;
        // One without an answer can be asked for only if a provider got its id.
        let is_wrong = is_told_apart && !is_absent || is_absent && entry.is_accepted();
        self.findings.twice += state.twice;
        self.findings.books.add(u64::from(is_wrong) + state.twice, || {
            format!(
                "n-{seq}: {} delivered by the export, {arrived} by the providers",
                state.delivered
            )
        });
        sums.total += state.total;
        sums.delivered += state.delivered;
        sums.otherwise += state.otherwise;
    }

    /// What the providers know of each target of a notification.
    pub(super) fn slots_of(&self, row: usize, index: usize) -> Vec<Tally> {
        let slots = self.world.slots(self.orgs.start + row);
        let tallies = self.tallies.get(row).map_or(&[][..], Vec::as_slice);
        let of = |slot| tallies.get(index * slots + slot).copied().unwrap_or_default();
        (0..slots).map(of).collect()
    }

    fn is_gone(&self, org: usize, seq: u64, slot: usize) -> bool {
        if self.gone.is_empty() {
            return false;
        }
        let target = match slot.checked_sub(1) {
            None => Some(World::token(org, self.world.user(org, seq))),
            Some(hook) => self.world.hook_paths(org).into_iter().nth(hook),
        };
        target.is_some_and(|target| self.gone.contains(&hash_of(&target)))
    }

    /// First attempts of one target must come in the order of acceptance, as far as the client can
    /// tell it: one was answered before the other was sent.
    fn check_order(&mut self, row: usize) {
        let org = self.orgs.start + row;
        let mut targets: BTreeMap<(u64, bool), Vec<(u64, usize)>> = BTreeMap::new();
        let count = self.entries.get(row).map_or(0, Vec::len);
        for index in 0..count {
            let seq = World::first_seq(org) + index as u64;
            for (slot, tally) in self.slots_of(row, index).iter().enumerate() {
                if tally.attempts > 0 {
                    let target = if slot == 0 { self.world.user(org, seq) } else { slot as u64 };
                    let is_abreast = self.world.is_abreast(org, slot);
                    let arrivals = targets.entry((target, is_abreast)).or_default();
                    arrivals.push((tally.first_ms, index));
                }
            }
        }
        let Some(entries) = self.entries.get(row) else { return };
        for ((_, is_abreast), arrivals) in &mut targets {
            arrivals.sort_unstable();
            let slack_ms = if *is_abreast { self.abreast_ms } else { 0 };
            // Arrivals, of which those count that are more than the slack ago.
            let mut before = arrivals.iter().peekable();
            let mut latest_intent = 0;
            for (at, index) in arrivals.iter() {
                while let Some((_, earlier)) =
                    before.next_if(|one| (one.0 + slack_ms, one.1) < (*at, *index))
                {
                    let intent = entries.get(*earlier).map_or(0, |entry| entry.intent_ms);
                    latest_intent = latest_intent.max(intent);
                }
                let Some(entry) = entries.get(*index) else { continue };
                let is_late = entry.is_accepted() && entry.answered_ms < latest_intent;
                let seq = World::first_seq(org) + *index as u64;
                self.findings.inverted.add(u64::from(is_late), || format!("n-{seq} was overtaken"));
            }
        }
    }

    /// Every notification of the pass, with its organization and its targets.
    pub(super) fn each(&self, mut look: impl FnMut(usize, &Entry, &[Tally])) {
        for (row, entries) in self.entries.iter().enumerate() {
            for (index, entry) in entries.iter().enumerate() {
                if entry.told != Told::Nothing {
                    look(self.orgs.start + row, entry, &self.slots_of(row, index));
                }
            }
        }
    }
}

/// On a crowded machine whoever arrives waits for a processor before it is noted.
fn abreast_ms() -> u64 {
    let slack = ABREAST.mul_f64(process::crowding()).as_millis();
    u64::try_from(slack).unwrap_or(u64::MAX)
}

/// Whether the answer says that there is no such target any more.
fn removes_target(receipt: &Receipt) -> bool {
    let reason = receipt.reason.as_deref().unwrap_or_default();
    matches!(receipt.status, 404 | 410)
        || receipt.status == 400 && ["BadDeviceToken", "DeviceTokenNotForTopic"].contains(&reason)
}

/// Names a receipt without its target, which may be a secret.
fn describe(receipt: &Receipt) -> String {
    let Receipt { twin, seq, key, status, .. } = receipt;
    let marker = receipt.marker.map_or_else(|| String::from("unmarked"), |seq| format!("n-{seq}"));
    format!("{marker} at {twin}, receipt {seq}, id {key}, status {status}")
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
