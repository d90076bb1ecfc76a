//! One commit laid out: the blocks that go to the log, and the program that changes everything else.

use super::pack::{List, Table};
use super::reply::SUMS;
use super::rows;
use crate::journal::record::{
    AmendRecord, encode_append, encode_cancellation, encode_settlement, put_amend, put_entry,
};
use crate::journal::shard::line::Ticket;
use crate::journal::shard::{
    AmendMark, BlockMarks, Place, class, entry_mark, is_timer, mark_settlement,
};
use crate::journal::{
    Amendment, Append, Cancellation, Entry, EntryKind, IdempotencyRecord, Resolution, SettledQuery,
    Settlement,
};
use crate::model::{FinalState, Millis, NotificationId, OrganizationId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Timers lie in blocks of their own and small ones: each is read when it is due.
const LATER_BYTES: usize = 64 << 10;

/// A settlement with what its claim knows of the entry.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) settlement: Settlement,
    pub(super) ticket: Ticket,
    /// Progress on it was stored before.
    pub(super) has_parts: bool,
    pub(super) is_change: bool,
    /// The entry was ended before this log began: only what became of it is told.
    pub(super) is_inherited: bool,
}

/// One atomic addition.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) entries: Vec<Entry>,
    pub(super) idempotency: Vec<IdempotencyRecord>,
    pub(super) settles: Vec<Ended>,
    pub(super) amends: Vec<Amendment>,
    /// Amendments of another store; what carries them on is among `entries`.
    pub(super) amended: Vec<AmendRecord>,
    pub(super) cancels: Vec<Cancellation>,
    /// The settlement is of an entry that was taken, under this token.
    pub(super) taken: Option<(Place, String)>,
    /// An outbox keeps its notifications until they are settled, and asks for them.
    pub(super) is_kept: bool,
    /// An outbox found its notification missing: refused if it is there by now.
    pub(super) is_again: bool,
}

impl Part {
    /// Bytes it takes in the log, about.
    pub(super) fn bytes(&self) -> usize {
        let entries = |entries: &[Entry]| -> usize {
            entries.iter().map(|entry| entry.payload.len() + 64).sum()
        };
        let settles = self.settles.iter().map(|ended| {
            let s = &ended.settlement;
            let events: usize = s.events.iter().map(|event| event.len() + 4).sum();
            let dead: usize = s.dead.iter().map(|(_, copy)| copy.len() + 20).sum();
            entries(&s.follow_ups) + 64 + s.resolved.len() * 17 + events + dead
        });
        let amends = self.amends.iter().map(|amend| {
            64 + amend.event.len() + amend.carrier.as_ref().map_or(0, |e| e.payload.len() + 64)
        });
        let cancels = self.cancels.iter().map(|cancel| cancel.event.len() + 32);
        let keys = self.idempotency.iter().map(|key| key.answer.len() + 64);
        let rest: usize = settles.chain(amends).chain(cancels).chain(keys).sum();
        entries(&self.entries) + rest
    }

    /// What it adds to a script, in entries.
    pub(super) fn weight(&self) -> usize {
        self.entries.len() + self.settles.len() + self.amends.len() + self.cancels.len()
    }

    /// True if the script may refuse it: then nobody else's addition goes with it.
    pub(super) fn has_checks(&self) -> bool {
        self.taken.is_some() || !self.amends.is_empty() || self.is_again
    }

    fn is_for_later(&self, now: Millis) -> bool {
        self.idempotency.is_empty()
            && self.settles.is_empty()
            && self.amends.is_empty()
            && self.amended.is_empty()
            && self.cancels.is_empty()
            && self.entries.iter().all(|entry| is_timer(entry.due, now))
    }
}

/// What the program needs beside the parts.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    pub(super) now: Millis,
    pub(super) writer: &'a str,
    pub(super) sequence: u64,
    /// Refused unless this is the owner's token.
    pub(super) fence: Option<&'a str>,
    /// The token of this node, if it is the owner as far as it knows.
    pub(super) own: Option<&'a str>,
    /// The last position that is known here: a shorter log lost what is settled, and may have other
    /// entries in its place.
    pub(super) known: u64,
    /// What the block there is marked with; empty if that is not known.
    pub(super) known_mark: &'a [u8],
    pub(super) retention_ms: u64,
    pub(super) keys_ttl_ms: u64,
    /// Outboxes ask what is left of their notifications: it is counted.
    pub(super) tracks: bool,
}

/// A block as laid out.
#[derive(Debug)]
pub(super) struct Laid {
    pub(super) payload: Bytes,
    pub(super) marks: BlockMarks,
    /// Its entries wait for a time.
    pub(super) is_later: bool,
}

/// A commit ready to be sent.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) program: Bytes,
    pub(super) blocks: Vec<Laid>,
    /// Payload bytes of taken timers that it ends.
    pub(super) sizes: Vec<(Place, u64)>,
    pub(super) committed_at: Millis,
    /// What the blocks are marked with.
    pub(super) mark: Bytes,
}

#[derive(Debug, Default)]
struct Open {
    bytes: Vec<u8>,
    marks: BlockMarks,
    unindex: Vec<u8>,
    is_later: bool,
    told: BTreeSet<(NotificationId, u32)>,
}

/// Everything that is collected while parts are laid out.
#[derive(Default)]
struct Draft {
    blocks: Vec<Open>,
    sums: [i64; SUMS.len()],
    counts: BTreeMap<OrganizationId, [i64; 3]>,
    /// By bucket: how much longer than usual it is kept, and its rows of each block.
    found: BTreeMap<u128, (u64, BTreeMap<u64, Vec<u8>>)>,
    listed: BTreeMap<OrganizationId, List>,
    timers: BTreeMap<OrganizationId, (u64, List)>,
    changes: List,
    keys: List,
    done: BTreeMap<u64, (u64, List)>,
    timers_done: List,
    partial: List,
    partial_done: List,
    changes_done: List,
    states: BTreeMap<OrganizationId, u8>,
    dead: List,
    amends: List,
    cancels: List,
    sizes: Vec<(Place, u64)>,
    /// What must be so, or nothing is done: leases of taken timers, dead letters that are there, and
    /// where deliveries were sent again last.
    leased: List,
    letters: List,
    again: List,
    /// Notifications that outboxes keep, and those that must not be there.
    kept: List,
    absent: List,
    tracks: bool,
    /// By how much the work left of notifications changes.
    work: BTreeMap<NotificationId, i64>,
}

impl Plan {
    /// Takes out of `parts` all but entries and keys.
    pub(super) fn new(parts: &mut [&mut Part], terms: &Terms<'_>) -> Self {
        let mut draft = Draft { tracks: terms.tracks, ..Draft::default() };
        if !parts.iter().all(|part| part.is_for_later(terms.now)) {
            draft.blocks.push(Open::default());
        }
        for part in parts {
            draft.part(part, terms);
        }
        draft.finish(terms)
    }
}

fn count(value: usize) -> u64 {
    value as u64
}

impl Draft {
    fn part(&mut self, part: &mut Part, terms: &Terms<'_>) {
        if let Some((place, token)) = &part.taken {
            self.leased.text(rows::place(*place)).text(token);
        }
        let is_taken = part.taken.is_some();
        for entry in &part.entries {
            self.entry(entry, terms.now);
            let id = entry.notification.0.as_bytes();
            if part.is_kept && entry.kind.is_root() {
                self.kept.text(id);
            }
            if part.is_again {
                self.absent.text(rows::bucket(entry.notification).to_string()).text(id);
            }
        }
        for ended in part.settles.drain(..) {
            self.settle(ended, is_taken, terms);
        }
        for amendment in part.amends.drain(..) {
            self.amend(amendment, terms);
        }
        for record in part.amended.drain(..) {
            self.amended(AmendMark { record, held: None });
        }
        for cancellation in part.cancels.drain(..) {
            self.cancels.text(cancellation.notification.0.as_bytes());
            let first = self.first();
            encode_cancellation(&cancellation, &mut first.bytes);
            let id = cancellation.notification;
            first.marks.cancels.push(cancellation);
            self.tell(0, id, rows::EVENTS);
        }
        for record in &part.idempotency {
            let created = record.created.0.to_be_bytes();
            let value = [&record.body, created.as_slice(), &record.answer].concat();
            self.keys.text(record.key).number(terms.keys_ttl_ms.max(1)).text(value);
        }
        let only_keys = Append { entries: Vec::new(), idempotency: part.idempotency.clone() };
        if !only_keys.idempotency.is_empty() {
            let bytes = encode_append(&only_keys).0;
            let first = self.first();
            first.bytes.extend_from_slice(&bytes);
            first.marks.idempotency.extend(only_keys.idempotency);
        }
    }

    /// The block of all that is no timer: there is one unless all parts are timers.
    fn first(&mut self) -> &mut Open {
        if self.blocks.is_empty() {
            self.blocks.push(Open::default());
        }
        self.blocks.first_mut().expect("one was pushed where there was none")
    }

    fn entry(&mut self, entry: &Entry, now: Millis) {
        let is_later = is_timer(entry.due, now);
        let at = if is_later { self.later() } else { 0 };
        if !is_later {
            self.first();
        }
        let Some(block) = self.blocks.get_mut(at) else { return };
        let extent = put_entry(&mut block.bytes, entry);
        let index = u32::try_from(block.marks.entries.len()).unwrap_or(u32::MAX);
        block.marks.entries.push(entry_mark((entry, extent)));
        self.add_counts(entry.org, 1, extent.payload_bytes(), is_later);
        if self.tracks && entry.kind.is_follow_up() {
            *self.work.entry(entry.notification).or_default() += 1;
        }
        if entry.kind.is_root() {
            self.sum("accepted", 1);
            self.tell(at, entry.notification, index);
        } else if is_later && entry.kind == EntryKind::FollowUp {
            self.tell(at, entry.notification, rows::WAITS);
        }
        if is_later && let Some(found) = self.found.get_mut(&rows::bucket(entry.notification)) {
            found.0 = found.0.max(entry.due.since(now));
        }
        let ordinal = count(at + 1);
        let index = index.to_be_bytes();
        if entry.kind == EntryKind::Change {
            self.changes.number(ordinal).text(b"").text(index);
        }
        if entry.kind == EntryKind::Listed {
            let id = entry.notification.0.as_bytes().as_slice();
            self.listed.entry(entry.org).or_default().number(ordinal).text(id).text(index);
            self.unindex(at, b'l', entry.org, &[id, &index].concat());
        }
        if is_later {
            let tail = rows::timer_tail(u32::from_be_bytes(index), extent, class(entry.kind));
            let timers = self.timers.entry(entry.org).or_insert((u64::MAX, List::default()));
            timers.0 = timers.0.min(entry.due.0);
            timers.1.number(ordinal).number(entry.due.0).text(tail);
        }
    }

    /// The block that takes timers now.
    fn later(&mut self) -> usize {
        let is_open = |block: &Open| block.is_later && block.bytes.len() < LATER_BYTES;
        if !self.blocks.last().is_some_and(is_open) {
            self.blocks.push(Open { is_later: true, ..Open::default() });
        }
        self.blocks.len() - 1
    }

    /// Notes that block `at` tells of a notification.
    fn tell(&mut self, at: usize, id: NotificationId, index: u32) {
        let Some(block) = self.blocks.get_mut(at) else { return };
        if block.told.insert((id, index)) {
            let (_, told) = self.found.entry(rows::bucket(id)).or_default();
            told.entry(count(at + 1)).or_default().extend_from_slice(&rows::told(id, index));
        }
    }

    /// Notes a row that goes when the block goes.
    fn unindex(&mut self, at: usize, kind: u8, org: OrganizationId, row: &[u8]) {
        let Some(block) = self.blocks.get_mut(at) else { return };
        block.unindex.push(kind);
        block.unindex.extend_from_slice(&org.0.to_be_bytes());
        block.unindex.push(u8::try_from(row.len()).unwrap_or(u8::MAX));
        block.unindex.extend_from_slice(row);
    }

    fn settle(&mut self, ended: Ended, is_taken: bool, terms: &Terms<'_>) {
        let Ended { mut settlement, ticket, has_parts, is_change, is_inherited } = ended;
        for entry in std::mem::take(&mut settlement.follow_ups) {
            self.entry(&entry, terms.now);
        }
        let (org, id) = (settlement.org, settlement.notification);
        let place = (settlement.claim.position, settlement.claim.index);
        let row = rows::place(place);
        for (delivery, resolution) in &settlement.resolved {
            if let Resolution::Final(state) = resolution {
                self.end(*state, 1);
                *self.states.entry(org).or_default() |= SettledQuery::bit(*state);
            }
            if !settlement.done && !is_inherited {
                self.partial.text([row.as_slice(), delivery.0.as_bytes()].concat());
            }
        }
        for (delivery, copy) in &settlement.dead {
            let at = terms.now.0.to_be_bytes();
            let value = [id.0.as_bytes().as_slice(), &org.0.to_be_bytes(), &at, copy].concat();
            self.dead.text(delivery.0.as_bytes()).int(i64::from(org.0)).text(value);
            self.sum("dead", 1);
        }
        if settlement.done && !is_inherited {
            self.finish_entry(org, &ticket, row);
            if self.tracks && !is_change {
                *self.work.entry(id).or_default() -= 1;
            }
            if has_parts {
                self.partial_done.text(row);
            }
            if is_change {
                self.changes_done.text(row);
            }
            if is_taken {
                self.sizes.push((place, ticket.spot.extent.payload_bytes()));
            }
        }
        let has_events = !settlement.events.is_empty();
        let first = self.first();
        encode_settlement(&settlement, ticket.due, &mut first.bytes);
        mark_settlement(settlement, ticket.due, Vec::new(), &mut first.marks);
        if has_events {
            self.tell(0, id, rows::EVENTS);
        }
    }

    fn finish_entry(&mut self, org: OrganizationId, ticket: &Ticket, row: [u8; 12]) {
        let position = ticket.spot.position;
        if ticket.is_timer() {
            let member = rows::timer(ticket);
            self.timers_done.int(i64::from(org.0)).number(position).text(member);
        } else {
            let done = self.done.entry(position).or_default();
            done.0 += 1;
            done.1.text(row);
        }
        self.add_counts(org, -1, ticket.spot.extent.payload_bytes(), ticket.is_timer());
    }

    fn amend(&mut self, amendment: Amendment, terms: &Terms<'_>) {
        if let Some(carrier) = &amendment.carrier {
            self.entry(carrier, terms.now);
        }
        // Another node may be amending, too: the script sees who is first.
        let id = amendment.delivery.0.as_bytes();
        if amendment.from == FinalState::Dead {
            self.letters.text(id);
        } else {
            let last = amendment.last.map(|position| position.to_string()).unwrap_or_default();
            self.again.text(id).text(last);
        }
        self.amended(AmendMark::of(amendment));
    }

    fn amended(&mut self, mark: AmendMark) {
        let AmendRecord { delivery, notification, org, from, is_reopened, .. } = mark.record;
        let slot = |name: &str| format!("{name}{}", slot_of(from));
        if is_reopened {
            self.end(from, -1);
            self.sum(&slot("r"), 1);
        } else {
            self.sum("discarded", 1);
        }
        let (id, reopened) = (delivery.0.as_bytes(), i64::from(is_reopened));
        self.amends.text(id).int(i64::from(org.0)).int(reopened);
        let first = self.first();
        put_amend(&mut first.bytes, &mark.record);
        first.marks.amends.push(mark);
        if is_reopened {
            self.unindex(0, b'r', org, delivery.0.as_bytes());
        }
        self.tell(0, notification, rows::EVENTS);
    }

    fn sum(&mut self, name: &str, by: i64) {
        let at = SUMS.iter().position(|known| *known == name);
        if let Some(sum) = at.and_then(|at| self.sums.get_mut(at)) {
            *sum += by;
        }
    }

    fn end(&mut self, state: FinalState, by: i64) {
        self.sum(&format!("f{}", slot_of(state)), by);
    }

    fn add_counts(&mut self, org: OrganizationId, sign: i64, bytes: u64, is_timer: bool) {
        let bytes = sign * i64::try_from(bytes).unwrap_or(0);
        let timers = if is_timer { sign } else { 0 };
        let counts = self.counts.entry(org).or_default();
        for (sum, by) in counts.iter_mut().zip([sign, timers, bytes]) {
            *sum += by;
        }
        self.sum("pending", sign);
        self.sum("timers", timers);
        self.sum("bytes", bytes);
    }

    fn finish(mut self, terms: &Terms<'_>) -> Plan {
        for (org, states) in std::mem::take(&mut self.states) {
            self.unindex(0, b'o', org, &[states]);
            self.states.insert(org, states);
        }
        let mut table = Table::default();
        table.text("w", terms.writer).number("s", terms.sequence).number("t", terms.now.0);
        table.number("keep", terms.retention_ms);
        if let Some(fence) = terms.fence {
            table.text("e", fence);
        }
        if terms.known > 0 {
            table.number("hw", terms.known);
            if !terms.known_mark.is_empty() {
                table.text("hm", terms.known_mark);
            }
        }
        if let Some(own) = terms.own {
            table.text("o", own);
        }
        self.tables(&mut table);
        let mut sizes = Vec::new();
        for (place, bytes) in &self.sizes {
            sizes.extend_from_slice(&rows::place(*place));
            sizes.extend_from_slice(&bytes.to_be_bytes());
        }
        if !sizes.is_empty() {
            table.text("z", sizes);
        }
        let mut blocks = List::default();
        for block in &self.blocks {
            let mut row = List::default();
            row.number(count(block.marks.entries.len())).int(i64::from(block.is_later));
            blocks.list(row.text(&block.unindex));
        }
        table.list("b", &blocks);
        let laid = self.blocks.into_iter();
        let laid = laid.map(|open| {
            let Open { bytes, marks, is_later, .. } = open;
            Laid { payload: Bytes::from(bytes), marks, is_later }
        });
        Plan {
            program: Bytes::from(table.finish()),
            blocks: laid.collect(),
            sizes: self.sizes,
            committed_at: terms.now,
            mark: Bytes::from(format!("{}:{}:{}", terms.writer, terms.sequence, terms.now.0)),
        }
    }

    fn tables(&self, table: &mut Table) {
        table.list("tk", &self.leased).list("dk", &self.letters).list("rk", &self.again);
        let mut found = List::default();
        for (bucket, (longer, told)) in &self.found {
            let mut blocks = List::default();
            for (ordinal, rows) in told {
                blocks.number(*ordinal).text(rows);
            }
            found.text(bucket.to_string()).number(*longer).list(&blocks);
        }
        let mut listed = List::default();
        for (org, rows) in &self.listed {
            listed.int(i64::from(org.0)).list(rows);
        }
        let mut timers = List::default();
        for (org, (due, rows)) in &self.timers {
            timers.int(i64::from(org.0)).number(*due).list(rows);
        }
        let mut done = List::default();
        for (position, (count, places)) in &self.done {
            done.number(*position).number(*count).list(places);
        }
        let mut states = List::default();
        for (org, bits) in &self.states {
            states.int(i64::from(org.0)).text([*bits]);
        }
        let mut counts = List::default();
        for (org, by) in &self.counts {
            counts.int(i64::from(org.0));
            by.iter().for_each(|by| {
                counts.int(*by);
            });
        }
        let mut sums = List::default();
        for (name, by) in SUMS.iter().zip(self.sums).filter(|(_, by)| *by != 0) {
            sums.text(name).int(by);
        }
        table.list("wh", &found).list("li", &listed).list("ti", &timers);
        table.list("ch", &self.changes).list("k", &self.keys);
        table.list("dn", &done).list("dt", &self.timers_done);
        table.list("pa", &self.partial).list("pd", &self.partial_done);
        table.list("cd", &self.changes_done).list("oc", &states).list("de", &self.dead);
        table.list("am", &self.amends).list("ca", &self.cancels);
        let mut work = List::default();
        for (id, by) in self.work.iter().filter(|(_, by)| **by != 0) {
            work.text(id.0.as_bytes()).int(*by);
        }
        table.list("m", &sums).list("c", &counts);
        table.list("ob", &self.kept).list("ag", &self.absent).list("nt", &work);
    }
}

fn slot_of(state: FinalState) -> usize {
    FinalState::ALL.iter().position(|known| *known == state).unwrap_or(0)
}
