//! Counts one pass over the log: what entries owe, and what settlements pay.

use super::account::Account;
use super::compare::Compared;
use super::log::{Log, Place};
use super::report::{Invariant, Report};
use super::shared::Found;
use crate::journal::disk::{
    IndexFacts, Logged, LoggedAmendment, LoggedBlock, LoggedSettlement, ViewError,
};
use crate::journal::{Entry, EntryKind, Resolution};
use crate::model::{DeliveryId, OrganizationId, TimelineEvent};
use crate::work::{Work, decode_event};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What an entry owes, as far as it is known before it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    /// As many as its expansion announces.
    Announced,
    /// The delivery with this fingerprint.
    Delivery(u64),
    /// So many later targets of a plan.
    Targets(u32),
    /// Nothing: changes of records, and what this release cannot read.
    Nothing,
}

/// An entry that is not settled for good.
#[derive(Clone, Copy, Debug)]
struct OpenEntry {
    owed: Owed,
    org: OrganizationId,
    is_timer: bool,
}

/// The entries of a block: `None` once they are settled for good.
#[derive(Debug, Default)]
struct OpenBlock {
    entries: Vec<Option<OpenEntry>>,
    left: usize,
}

impl OpenBlock {
    fn put(&mut self, index: u32, entry: OpenEntry) {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        if self.entries.len() <= at {
            self.entries.resize(at + 1, None);
        }
        if let Some(slot) = self.entries.get_mut(at) {
            *slot = Some(entry);
            self.left += 1;
        }
    }
}

/// What was paid for an entry.
#[derive(Debug, Default)]
struct Partial {
    announced: Option<u32>,
    paid: HashSet<u64>,
}

impl Partial {
    /// Deliveries the entry is known to have had: those told of before an expansion counted them
    /// may be more.
    fn expanded(&self) -> u64 {
        let paid = self.paid.len() as u64;
        self.announced.map_or(paid, |announced| paid.max(u64::from(announced)))
    }
}

fn short(delivery: DeliveryId) -> u64 {
    delivery.0.as_u64_pair().0
}

fn spot(block: &LoggedBlock) -> String {
    let name = block.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match block.byte {
        // Redis has blocks, and no bytes between them.
        0 => format!("{name} block {}", block.position),
        byte => format!("{name} byte {byte}"),
    }
}

/// The deliveries that a follow-up carries on.
fn carries(work: &Work) -> Vec<DeliveryId> {
    let id = work.notification().id;
    match work {
        Work::Retry { target, .. } => vec![DeliveryId::derive(id, &target.key())],
        Work::Step { steps, .. } => {
            let targets = steps.iter().flat_map(|(targets, _)| targets);
            targets.map(|target| DeliveryId::derive(id, &target.key())).collect()
        }
        Work::Notification(_)
        | Work::Chunk { .. }
        | Work::Recipient { .. }
        | Work::Collected { .. }
        | Work::Digested { .. } => Vec::new(),
    }
}

/// One pass over the log.
pub(super) struct Ledger {
    compared: Compared,
    /// This pass keeps the ended deliveries whose fingerprint is `part` modulo `parts`.
    part: u64,
    parts: u64,
    open: HashMap<u64, OpenBlock>,
    partials: HashMap<Place, Partial>,
    ended: HashSet<u64>,
    accounts: BTreeMap<OrganizationId, Account>,
    /// Entries that a dropped segment settled for good.
    settled: HashSet<Place>,
    breaches: Report,
    is_whole: bool,
    /// Of each organization it is known what was dropped.
    knows_before: bool,
}

impl Ledger {
    /// Of one shard of a journal on Redis; `settled` as for the index.
    pub(super) fn of_shard(settled: HashSet<Place>, knows_before: bool) -> Self {
        Self { settled, knows_before, ..Self::new(None, (0, 1)) }
    }

    /// What it comes to so far.
    pub(super) fn found(&self) -> Found {
        let blocks = self.open.iter().flat_map(|(position, open)| {
            let entries = (0u32..).zip(&open.entries);
            entries.filter_map(|(index, entry)| Some(((*position, index), entry.as_ref()?)))
        });
        let open = blocks.map(|(place, entry)| (place, (entry.org, entry.is_timer)));
        Found { sums: self.compared.total(), open: open.collect(), ..Found::default() }
    }

    pub(super) fn new(facts: Option<IndexFacts>, (part, parts): (u64, u64)) -> Self {
        let settled = facts.iter().flat_map(|facts| facts.settled.iter().copied()).collect();
        Self {
            compared: Compared::new(facts),
            part,
            parts,
            open: HashMap::new(),
            partials: HashMap::new(),
            ended: HashSet::new(),
            accounts: BTreeMap::new(),
            settled,
            breaches: Report::default(),
            is_whole: false,
            knows_before: true,
        }
    }

    fn account(&mut self, org: OrganizationId) -> &mut Account {
        self.accounts.entry(org).or_default()
    }

    /// Notes a breach. Passes after the first find only what they keep deliveries for.
    fn breach(&mut self, invariant: Invariant, text: String) {
        if self.part == 0 || invariant == Invariant::OneEnd {
            self.breaches.breach(invariant, text);
        }
    }

    /// True if this pass keeps the delivery.
    fn is_ours(&self, delivery: DeliveryId) -> bool {
        short(delivery) % self.parts == self.part
    }

    /// Counts one block, in the order of the log.
    pub(super) fn block(&mut self, view: &dyn Log, block: LoggedBlock) {
        if self.breaches.blocks == 0 {
            self.is_whole = view.is_whole();
        }
        self.breaches.blocks += 1;
        if self.compared.is_behind(block.position) {
            self.compare_timers(view);
        }
        self.compared.count(view, &block);
        let mut carried = Vec::new();
        let mut effects = Vec::new();
        for record in &block.records {
            match record {
                Logged::Entry(entry, is_timer, place) => {
                    let is_done = self.settled.contains(place);
                    let (owed, work) = self.entry(entry);
                    // Follow-ups stand before the settlement they belong to.
                    if entry.kind.is_follow_up() {
                        carried.extend(work);
                    }
                    let left = OpenEntry { owed, org: entry.org, is_timer: *is_timer };
                    if !is_done {
                        self.open.entry(place.0).or_default().put(place.1, left);
                    }
                }
                Logged::Settlement(_) | Logged::Amendment(_) => {
                    effects.push((record, std::mem::take(&mut carried)));
                }
                Logged::Cancellation(_) => {}
            }
        }
        for (record, carried) in effects {
            match record {
                Logged::Settlement(settlement) => self.settle(view, &block, settlement, &carried),
                Logged::Amendment(amendment) => self.amend(&block, *amendment, &carried),
                Logged::Entry(..) | Logged::Cancellation(_) => {}
            }
        }
    }

    /// What an entry owes.
    fn entry(&mut self, entry: &Entry) -> (Owed, Option<Work>) {
        if entry.kind.is_root() {
            self.account(entry.org).accepted += 1;
        }
        if entry.kind == EntryKind::Change {
            return (Owed::Nothing, None);
        }
        let work = Work::decode(&entry.payload);
        let owed = match &work {
            Some(work @ Work::Retry { .. }) => {
                carries(work).first().map_or(Owed::Nothing, |one| Owed::Delivery(short(*one)))
            }
            Some(work @ Work::Step { .. }) => {
                Owed::Targets(u32::try_from(carries(work).len()).unwrap_or(u32::MAX))
            }
            Some(
                Work::Notification(_)
                | Work::Chunk { .. }
                | Work::Recipient { .. }
                | Work::Collected { .. }
                | Work::Digested { .. },
            ) => Owed::Announced,
            None => Owed::Nothing,
        };
        (owed, work)
    }

    fn settle(
        &mut self,
        view: &dyn Log,
        block: &LoggedBlock,
        settlement: &LoggedSettlement,
        carried: &[Work],
    ) {
        let place = settlement.entry;
        let open = self.open.get(&place.0).and_then(|open| {
            let index = usize::try_from(place.1).ok()?;
            *open.entries.get(index)?
        });
        let is_stored = view.segment_of(place.0).is_some();
        if open.is_none() && is_stored {
            let text = format!(
                "notification {}: the settlement in {} is about an entry (position {}, number {}) \
                 that was settled before or never there",
                settlement.notification,
                spot(block),
                place.0,
                place.1
            );
            self.breach(Invariant::SettledOnce, text);
        }
        let paid = self.pay(block, settlement, carried, open.is_some());
        let Some(open) = open else {
            // Retention dropped the entry, and with it what it owed.
            self.account(settlement.org).inherited += if is_stored { 0 } else { paid };
            return;
        };
        if settlement.done {
            self.close(block, settlement, open);
        }
    }

    /// Counts the ends and the carriers of a settlement; answers how many deliveries they are.
    fn pay(
        &mut self,
        block: &LoggedBlock,
        settlement: &LoggedSettlement,
        carried: &[Work],
        is_open: bool,
    ) -> u64 {
        let mut paid = Vec::new();
        for (delivery, resolution) in &settlement.resolved {
            if let Resolution::Final(state) = resolution {
                self.account(settlement.org).end(*state, 1);
                paid.push(*delivery);
                self.end(block, settlement, *delivery);
            }
        }
        paid.extend(carried.iter().flat_map(carries));
        let announced = settlement.events.iter().filter_map(|event| decode_event(event));
        let announced: Option<u32> = announced
            .filter_map(|event| match event {
                TimelineEvent::Expanded { deliveries, .. } => Some(deliveries),
                _ => None,
            })
            .reduce(u32::saturating_add);
        let count = paid.len() as u64;
        if !is_open {
            return count;
        }
        let partial = self.partials.entry(settlement.entry).or_default();
        if let Some(announced) = announced {
            partial.announced = Some(partial.announced.unwrap_or(0).saturating_add(announced));
        }
        let mut twice: Vec<_> =
            paid.into_iter().filter(|delivery| !partial.paid.insert(short(*delivery))).collect();
        twice.retain(|delivery| self.is_ours(*delivery));
        for delivery in twice {
            let text = format!(
                "delivery {delivery} of notification {} is accounted for twice by one entry, \
                 again in {}",
                settlement.notification,
                spot(block)
            );
            self.breach(Invariant::OneEnd, text);
        }
        count
    }

    /// Notes that a delivery ended; it must not have before.
    fn end(&mut self, block: &LoggedBlock, settlement: &LoggedSettlement, delivery: DeliveryId) {
        // Entries nobody can read are of one name for all of a notification.
        let is_nameless = delivery == DeliveryId::derive(settlement.notification, "entry");
        if self.is_ours(delivery) && !is_nameless && !self.ended.insert(short(delivery)) {
            let text = format!(
                "delivery {delivery} of notification {} has a second final state in {}",
                settlement.notification,
                spot(block)
            );
            self.breach(Invariant::OneEnd, text);
        }
    }

    /// Settles an entry for good: it must have paid what it owes.
    fn close(&mut self, block: &LoggedBlock, settlement: &LoggedSettlement, entry: OpenEntry) {
        let place = settlement.entry;
        let partial = self.partials.remove(&place).unwrap_or_default();
        if let Some(open) = self.open.get_mut(&place.0) {
            let slot = usize::try_from(place.1).ok().and_then(|i| open.entries.get_mut(i));
            if let Some(slot) = slot {
                *slot = None;
                open.left -= 1;
            }
            if open.left == 0 {
                self.open.remove(&place.0);
            }
        }
        let paid = partial.paid.len() as u64;
        let lost = match entry.owed {
            Owed::Announced => partial.expanded().saturating_sub(paid),
            Owed::Delivery(one) => u64::from(!partial.paid.contains(&one)),
            Owed::Targets(count) => u64::from(count).saturating_sub(paid),
            Owed::Nothing => 0,
        };
        if lost > 0 {
            let text = format!(
                "notification {}: {lost} deliveries of the entry at position {}, number {}, have \
                 neither an end nor an entry that carries them on; it was settled for good in {}",
                settlement.notification,
                place.0,
                place.1,
                spot(block)
            );
            self.breach(Invariant::Paid, text);
        }
        let is_new = matches!(entry.owed, Owed::Announced | Owed::Nothing);
        let known = match entry.owed {
            Owed::Announced | Owed::Nothing => partial.expanded(),
            Owed::Delivery(_) => 1,
            Owed::Targets(count) => u64::from(count),
        };
        let account = self.account(entry.org);
        if is_new {
            account.expanded += known;
        } else {
            // What a plan or an audience had more by then counts as announced then.
            account.expanded += paid.saturating_sub(known);
        }
    }

    fn amend(&mut self, block: &LoggedBlock, amendment: LoggedAmendment, carried: &[Work]) {
        let LoggedAmendment { delivery, notification, org, from, is_reopened } = amendment;
        if !is_reopened {
            self.account(org).discarded += 1;
            return;
        }
        let account = self.account(org);
        account.end(from, -1);
        account.reopened += 1;
        if self.is_ours(delivery) && !self.ended.remove(&short(delivery)) && self.is_whole {
            let text = format!(
                "delivery {delivery} of notification {notification} is sent again in {} and had \
                 not ended",
                spot(block)
            );
            self.breach(Invariant::OneEnd, text);
        }
        if !carried.iter().flat_map(carries).any(|one| one == delivery) {
            let text = format!(
                "delivery {delivery} of notification {notification} is sent again in {} and no \
                 entry carries it on",
                spot(block)
            );
            self.breach(Invariant::Paid, text);
        }
    }

    fn compare_timers(&mut self, view: &dyn Log) {
        let waiting = |place: Place| {
            let index = usize::try_from(place.1).ok()?;
            let open = self.open.get(&place.0)?.entries.get(index)?;
            open.filter(|entry| entry.is_timer)
        };
        let open = self.open.values().flat_map(|open| open.entries.iter().flatten());
        let count = open.filter(|entry| entry.is_timer).count() as u64;
        let is_waiting = |place| waiting(place).is_some();
        self.compared.timers(view, count, &is_waiting, &mut self.breaches);
    }

    /// Sums up at the end of the log.
    pub(super) fn finish(mut self, view: &dyn Log, report: &mut Report) -> Result<(), ViewError> {
        if !self.compared.has_compared() {
            self.compare_timers(view);
        }
        let mut pending: BTreeMap<OrganizationId, (u64, u64)> = BTreeMap::new();
        for (position, open) in &self.open {
            for (index, entry) in (0u32..).zip(&open.entries) {
                let Some(entry) = entry else { continue };
                self.breaches.entries_pending += 1;
                let partial = self.partials.get(&(*position, index));
                let paid = partial.map_or(0, |partial| partial.paid.len() as u64);
                let known = partial.map_or(0, Partial::expanded);
                let (expanded, left) = match entry.owed {
                    Owed::Announced | Owed::Nothing => (known, known - paid),
                    Owed::Delivery(_) => (paid.saturating_sub(1), 1u64.saturating_sub(paid)),
                    Owed::Targets(count) => (
                        paid.saturating_sub(u64::from(count)),
                        u64::from(count).saturating_sub(paid),
                    ),
                };
                let sums = pending.entry(entry.org).or_default();
                sums.0 += expanded;
                sums.1 += left;
            }
        }
        for (org, (expanded, left)) in pending {
            let account = self.account(org);
            account.expanded += expanded;
            account.pending += left;
        }
        let Self { compared, mut accounts, breaches, part, knows_before, .. } = self;
        if part > 0 {
            report.also(breaches);
            return Ok(());
        }
        *report = breaches;
        compared.finish(view, &mut accounts, report);
        for (org, account) in &accounts {
            if !account.is_balanced() {
                let text = format!(
                    "organization {org}: {} announced and {} inherited deliveries, {} ended and {} \
                     pending",
                    account.expanded,
                    account.inherited,
                    account.ended(),
                    account.pending
                );
                report.breach(Invariant::Balanced, text);
            }
            let finals = account.finals.iter().zip(account.finals_before);
            if knows_before && finals.into_iter().any(|(now, before)| now + before < 0) {
                let text =
                    format!("organization {org}: more deliveries were sent again than ended");
                report.breach(Invariant::Balanced, text);
            }
        }
        report.organizations = accounts;
        Ok(())
    }
}
