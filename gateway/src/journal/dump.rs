//! What a journal is carried as to another store: its blocks as logged, then what the log has not.
//!
//! Blocks come in the order of their commits with the places that entries had, so that whoever
//! loads them can tell which entry a settlement is about. Dead letters come apart, since they
//! outlive their blocks, and so do the sums of what retention dropped.

use super::record::{
    Record, Records, encode_append, encode_cancellation, encode_settlement, put_amend, put_entry,
};
use super::shard::{Place, is_timer};
use super::{Append, Books, ClaimId, EntryKind, Resolution, Sums};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId, ShardId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// One part of a journal on its way. They come in the order of the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JournalFrame {
    Block(DumpedBlock),
    /// What an organization's part of the log was that is there no more.
    Before(OrganizationId, Sums),
    /// Nothing of it is sent any more, and the log does not say so.
    Canceled(DumpedCancel),
    Letter(DumpedLetter),
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedBlock {
    shard: ShardId,
    committed_at: Millis,
    /// Where each entry in `payload` stood.
    places: Vec<Place>,
    payload: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedCancel {
    pub(in crate::journal) notification: NotificationId,
    /// Not every store knows whose it is.
    pub(in crate::journal) org: Option<OrganizationId>,
    pub(in crate::journal) at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedLetter {
    pub(in crate::journal) delivery: DeliveryId,
    pub(in crate::journal) notification: NotificationId,
    pub(in crate::journal) org: OrganizationId,
    pub(in crate::journal) at: Millis,
    pub(in crate::journal) copy: Vec<u8>,
}

/// What a journal holds in total: the same before and after it was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalTotals {
    pub books: Books,
    /// Entries not done, timers included.
    pub pending: u64,
    pub timers: u64,
    /// Dead letters that are kept.
    pub letters: u64,
}

/// Names an entry across all shards of a source.
pub(in crate::journal) type Origin = (ShardId, Place);

/// A record with where it stood, if it is an entry.
pub(in crate::journal) type Placed = (Place, Record);

impl DumpedBlock {
    /// A block of these records. Changes of records are left out, since the records have them, and
    /// copies of dead letters, which come apart; `None` if nothing is left.
    pub(in crate::journal) fn of(
        (shard, committed_at): (ShardId, Millis),
        records: impl IntoIterator<Item = Placed>,
    ) -> Option<Self> {
        let (mut places, mut payload) = (Vec::new(), Vec::new());
        for (place, record) in records {
            match record {
                Record::Entry(entry) if entry.kind == EntryKind::Change => {}
                record => {
                    places.extend(matches!(record, Record::Entry(_)).then_some(place));
                    put_record(&mut payload, record);
                }
            }
        }
        let is_some = !payload.is_empty();
        is_some.then_some(Self { shard, committed_at, places, payload })
    }

    pub(in crate::journal) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(in crate::journal) fn committed_at(&self) -> Millis {
        self.committed_at
    }

    /// Its records in their order; `None` if the bytes are no records.
    pub(in crate::journal) fn records(&self) -> Option<Vec<Placed>> {
        let mut places = self.places.iter();
        let mut found = Vec::new();
        for record in Records::new(Bytes::copy_from_slice(&self.payload)) {
            let record = record?;
            let place = match record {
                Record::Entry(_) => *places.next()?,
                _ => Place::default(),
            };
            found.push((place, record));
        }
        places.next().is_none().then_some(found)
    }
}

/// Encodes a record, without the copies of dead letters.
pub(in crate::journal) fn put_record(out: &mut Vec<u8>, record: Record) {
    match record {
        Record::Entry(entry) => {
            put_entry(out, &entry);
        }
        Record::Settle(settle) => {
            let claim = ClaimId { position: settle.position, index: settle.index, lease: 0 };
            let due = settle.due;
            encode_settlement(&settle.settlement(claim), due, out);
        }
        Record::Idempotency(record) => {
            let append = Append { entries: Vec::new(), idempotency: vec![record] };
            out.extend_from_slice(&encode_append(&append).0);
        }
        Record::Amend(amend) => put_amend(out, &amend),
        Record::Cancel(cancel) => encode_cancellation(&cancel, out),
    }
}

/// Counts what went by, so that both ends can be compared, and what is missing is known.
#[derive(Debug, Default)]
pub struct Tally {
    open: HashMap<Origin, bool>,
    by_shard: BTreeMap<ShardId, Sums>,
    /// The first organization seen in each shard.
    orgs: BTreeMap<ShardId, OrganizationId>,
    canceled: HashSet<NotificationId>,
    total: Sums,
    letters: u64,
    /// How many of each there were.
    pub counts: Counts,
}

/// How much of each was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub blocks: u64,
    pub notifications: u64,
    pub settlements: u64,
    pub events: u64,
    pub keys: u64,
}

impl Tally {
    pub fn add(&mut self, frame: &JournalFrame) {
        match frame {
            JournalFrame::Block(block) => self.block(block),
            JournalFrame::Before(_, sums) => self.total.add(sums),
            JournalFrame::Canceled(_) => {}
            JournalFrame::Letter(_) => self.letters += 1,
        }
    }

    /// What all of it comes to; `None` if a state has fewer deliveries than none.
    #[must_use]
    pub fn totals(&self) -> Option<JournalTotals> {
        Some(JournalTotals {
            books: self.total.books()?,
            pending: self.open.len() as u64,
            timers: self.open.values().filter(|is_timer| **is_timer).count() as u64,
            letters: self.letters,
        })
    }

    fn block(&mut self, block: &DumpedBlock) {
        self.counts.blocks += 1;
        let mut sums = Sums::default();
        for (place, record) in block.records().unwrap_or_default() {
            match record {
                Record::Entry(entry) => {
                    let is_root = entry.kind.is_root();
                    sums.accepted += u64::from(is_root);
                    self.counts.notifications += u64::from(is_root);
                    self.orgs.entry(block.shard).or_insert(entry.org);
                    let is_timer = is_timer(entry.due, block.committed_at);
                    self.open.insert((block.shard, place), is_timer);
                }
                Record::Settle(settle) => {
                    self.counts.settlements += 1;
                    self.counts.events += settle.events.len() as u64;
                    sums.settle(&settle.resolved, 0);
                    self.orgs.entry(block.shard).or_insert(settle.org);
                    if settle.done {
                        self.open.remove(&(block.shard, (settle.position, settle.index)));
                    }
                }
                Record::Amend(amend) => {
                    self.counts.events += 1;
                    sums.amend(amend.from, amend.is_reopened);
                }
                Record::Cancel(cancel) => {
                    self.counts.events += 1;
                    self.canceled.insert(cancel.notification);
                }
                Record::Idempotency(_) => self.counts.keys += 1,
            }
        }
        self.total.add(&sums);
        self.by_shard.entry(block.shard).or_default().add(&sums);
    }

    /// The sums of the blocks of a shard, and an organization that is in it.
    pub(in crate::journal) fn of_shard(&self, shard: ShardId) -> (OrganizationId, Sums) {
        let org = self.orgs.get(&shard).copied().unwrap_or(OrganizationId(0));
        (org, self.by_shard.get(&shard).copied().unwrap_or_default())
    }

    /// Entries of a shard that are not done.
    pub(in crate::journal) fn pending_of(&self, shard: ShardId) -> u64 {
        self.open.keys().filter(|(of, _)| *of == shard).count() as u64
    }

    pub(in crate::journal) fn has_canceled(&self, notification: NotificationId) -> bool {
        self.canceled.contains(&notification)
    }
}

/// `books` without what `part` adds to them.
pub(in crate::journal) fn rest_of(books: &Books, part: &Sums) -> Sums {
    let less = |whole: u64, part: u64| whole.saturating_sub(part);
    let mut rest = Sums {
        accepted: less(books.accepted, part.accepted),
        dead_letters: less(books.dead_letters, part.dead_letters),
        discarded: less(books.discarded, part.discarded),
        ..Sums::default()
    };
    for (slot, finals) in rest.finals.iter_mut().enumerate() {
        let whole = books.finals.get(slot).and_then(|count| i64::try_from(*count).ok());
        *finals = whole.unwrap_or(0) - part.finals.get(slot).copied().unwrap_or(0);
    }
    for (slot, reopened) in rest.reopened.iter_mut().enumerate() {
        let whole = books.reopened.get(slot).copied().unwrap_or(0);
        *reopened = less(whole, part.reopened.get(slot).copied().unwrap_or(0));
    }
    rest
}

/// The end of an entry whose settlement the log no longer has.
pub(in crate::journal) fn ended(
    place: Place,
    entry: &super::Entry,
    resolved: Vec<DeliveryId>,
    done: bool,
) -> Record {
    Record::Settle(super::record::SettleRecord {
        position: place.0,
        index: place.1,
        due: Millis(0),
        done,
        notification: entry.notification,
        org: entry.org,
        resolved: resolved.into_iter().map(|delivery| (delivery, Resolution::Moved)).collect(),
        events: Vec::new(),
        dead: Vec::new(),
    })
}

/// What becomes of an entry whose settlement the log no longer has: work that is over is left out,
/// a notification stays to be looked up.
pub(in crate::journal) fn put_over(
    place: Place,
    entry: super::Entry,
    records: &mut Vec<Placed>,
    ends: &mut Vec<Placed>,
) {
    if entry.kind.is_root() {
        ends.push((Place::default(), ended(place, &entry, Vec::new(), true)));
        records.push((place, Record::Entry(entry)));
    }
}
