//! Dead letters: kept by organization and delivery until they are replayed, discarded or too old.

use super::core::Core;
use super::index::{EVENTS, Index, IndexError, META, Projection, split_u64};
use super::view::DeadCounts;
use crate::journal::record::{Record, Records, encode_amendment};
use crate::journal::shard::{AmendMark, BlockMarks, entry_mark};
use crate::journal::{Amendment, Commit, DeadLetter, DeadPage, DeadPlace, DeadRow, JournalError};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId, ShardId};
use bytes::Bytes;
use redb::{
    ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};
use std::collections::HashMap;
use uuid::Uuid;

/// settlement position 8 | ordinal 4 → delivery 16 | notification 16 | organization 4 | at 8 | copy
const DEAD: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("dead");
/// organization 4 | settlement position 8 | ordinal 4 → nothing
const DEAD_OF: TableDefinition<'_, &[u8], ()> = TableDefinition::new("dead_of");
/// delivery 16 → settlement position 8 | ordinal 4 | organization 4
const DEAD_AT: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("dead_at");
/// delivery 16 → position 8 of the last block that sent it again
const REOPENED: TableDefinition<'_, &[u8], u64> = TableDefinition::new("reopened");
/// How many dead letters retention dropped.
const DEAD_DROPPED: &str = "dead_dropped";
/// How many went because their delivery was sent again, and because they were discarded. Not every
/// such delivery has one: work given up leaves none, and retention may have been first.
const DEAD_TAKEN: &str = "dead_taken";
const DEAD_GIVEN_UP: &str = "dead_given_up";
/// Position of the last block with amendments that these two count.
const DEAD_COUNTED: &str = "dead_counted";
/// Dead letters that retention drops at once.
const DROPPED_AT_ONCE: usize = 10_000;
/// Events of amendments are numbered from here, behind those of settlements in the same block.
const AMEND_ORDINAL: u32 = 1 << 31;

pub(super) fn open(txn: &WriteTransaction) -> Result<(), IndexError> {
    txn.open_table(DEAD)?;
    txn.open_table(DEAD_OF)?;
    txn.open_table(DEAD_AT)?;
    txn.open_table(REOPENED)?;
    Ok(())
}

pub(super) fn apply(txn: &WriteTransaction, projection: &Projection) -> Result<(), IndexError> {
    // Within a block an amendment never concerns what the same block settles.
    if !projection.amends.is_empty() {
        amend(txn, projection)?;
    }
    if projection.settles.iter().all(|settle| settle.dead.is_empty()) {
        return Ok(());
    }
    let mut dead = txn.open_table(DEAD)?;
    let mut of = txn.open_table(DEAD_OF)?;
    let mut at = txn.open_table(DEAD_AT)?;
    let letters = projection.settles.iter().flat_map(|settle| {
        settle.dead.iter().map(move |(delivery, copy)| (settle, delivery, copy))
    });
    for (ordinal, (settle, delivery, copy)) in (0u32..).zip(letters) {
        let place = DeadPlace { position: projection.position, ordinal };
        let org = settle.org.0.to_be_bytes();
        let value = [
            delivery.0.as_bytes().as_slice(),
            settle.notification.0.as_bytes(),
            &org,
            &projection.at.0.to_be_bytes(),
            copy.as_ref(),
        ];
        dead.insert(place_key(place).as_slice(), value.concat().as_slice())?;
        of.insert(of_key(settle.org, place).as_slice(), ())?;
        let there = [place_key(place).as_slice(), &org].concat();
        at.insert(delivery.0.as_bytes().as_slice(), there.as_slice())?;
    }
    Ok(())
}

fn amend(txn: &WriteTransaction, projection: &Projection) -> Result<(), IndexError> {
    let mut dead = txn.open_table(DEAD)?;
    let mut of = txn.open_table(DEAD_OF)?;
    let mut at = txn.open_table(DEAD_AT)?;
    let mut events = txn.open_table(EVENTS)?;
    let mut reopened = txn.open_table(REOPENED)?;
    let (mut taken, mut given_up) = (0, 0);
    for (ordinal, mark) in (AMEND_ORDINAL..).zip(&projection.amends) {
        let record = &mark.record;
        let found = at.remove(record.delivery.0.as_bytes().as_slice())?;
        if let Some(place) = found.and_then(|there| read_place(there.value())) {
            dead.remove(place_key(place).as_slice())?;
            of.remove(of_key(record.org, place).as_slice())?;
            *(if record.is_reopened { &mut taken } else { &mut given_up }) += 1;
        }
        if record.is_reopened {
            reopened.insert(record.delivery.0.as_bytes().as_slice(), projection.position)?;
        }
        let position = projection.position.to_be_bytes();
        let id = record.notification.0.as_bytes().as_slice();
        let key = [id, &position, &ordinal.to_be_bytes()].concat();
        let value = [&record.org.0.to_be_bytes(), record.event.as_ref()].concat();
        events.insert(key.as_slice(), value.as_slice())?;
    }
    let mut meta = txn.open_table(META)?;
    // The index can be ahead of its checkpoint: then a crash has blocks applied once more.
    if projection.position > count(&meta, DEAD_COUNTED)? {
        for (name, more) in [(DEAD_TAKEN, taken), (DEAD_GIVEN_UP, given_up)] {
            let sum = count(&meta, name)? + more;
            meta.insert(name, sum.to_be_bytes().as_slice())?;
        }
        meta.insert(DEAD_COUNTED, projection.position.to_be_bytes().as_slice())?;
    }
    Ok(())
}

/// A number kept in `META`; 0 before it was written.
fn count(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<u64, IndexError> {
    let stored = meta.get(name)?;
    Ok(stored.and_then(|count| split_u64(&mut count.value())).unwrap_or_default())
}

fn place_key(place: DeadPlace) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&place.position.to_be_bytes());
    key[8..].copy_from_slice(&place.ordinal.to_be_bytes());
    key
}

fn of_key(org: OrganizationId, place: DeadPlace) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&org.0.to_be_bytes());
    key[4..].copy_from_slice(&place_key(place));
    key
}

fn read_place(mut key: &[u8]) -> Option<DeadPlace> {
    let position = split_u64(&mut key)?;
    Some(DeadPlace { position, ordinal: u32::from_be_bytes(*key.first_chunk()?) })
}

/// Forgets replays that the log no longer tells of.
pub(super) fn retain(
    txn: &WriteTransaction,
    is_stored: impl Fn(u64) -> bool,
) -> Result<(), IndexError> {
    txn.open_table(REOPENED)?.retain(|_, position| is_stored(position))?;
    Ok(())
}

/// A row of `DEAD` and the organization it belongs to.
fn read_row(place: DeadPlace, value: &[u8]) -> Option<(OrganizationId, DeadRow)> {
    let (delivery, rest) = value.split_first_chunk::<16>()?;
    let (notification, rest) = rest.split_first_chunk::<16>()?;
    let (org, rest) = rest.split_first_chunk::<4>()?;
    let (at, copy) = rest.split_first_chunk::<8>()?;
    let letter = DeadLetter {
        delivery: DeliveryId(Uuid::from_bytes(*delivery)),
        notification: NotificationId(Uuid::from_bytes(*notification)),
        copy: Bytes::copy_from_slice(copy),
    };
    let at = Millis(u64::from_be_bytes(*at));
    let org = OrganizationId(i32::from_be_bytes(*org));
    Some((org, DeadRow { place, at, letter, events: Vec::new() }))
}

/// What became of dead letters, as of a transaction.
pub(super) fn counts(txn: &ReadTransaction) -> Result<DeadCounts, IndexError> {
    let meta = txn.open_table(META)?;
    Ok(DeadCounts {
        kept: txn.open_table(DEAD)?.len()?,
        dropped: count(&meta, DEAD_DROPPED)?,
        taken: count(&meta, DEAD_TAKEN)?,
        given_up: count(&meta, DEAD_GIVEN_UP)?,
    })
}

/// Every dead letter, oldest first, until `visit` answers false.
pub(super) fn letters(
    txn: &ReadTransaction,
    visit: &mut dyn FnMut(OrganizationId, DeadRow) -> bool,
) -> Result<(), IndexError> {
    for row in txn.open_table(DEAD)?.iter()? {
        let (key, value) = row?;
        let row = read_place(key.value()).and_then(|place| read_row(place, value.value()));
        if let Some((org, row)) = row
            && !visit(org, row)
        {
            break;
        }
    }
    Ok(())
}

/// A dead letter that comes from another store.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) org: OrganizationId,
    pub(super) row: DeadRow,
}

/// Puts in dead letters of another store, and how many more than it kept were ever made.
pub(super) fn load(txn: &WriteTransaction, letters: &[Loaded]) -> Result<(), IndexError> {
    let mut dead = txn.open_table(DEAD)?;
    let mut of = txn.open_table(DEAD_OF)?;
    let mut at = txn.open_table(DEAD_AT)?;
    for Loaded { org, row } in letters {
        let DeadRow { place, letter, .. } = row;
        let org_bytes = org.0.to_be_bytes();
        let value = [
            letter.delivery.0.as_bytes().as_slice(),
            letter.notification.0.as_bytes(),
            &org_bytes,
            &row.at.0.to_be_bytes(),
            letter.copy.as_ref(),
        ];
        dead.insert(place_key(*place).as_slice(), value.concat().as_slice())?;
        of.insert(of_key(*org, *place).as_slice(), ())?;
        let there = [place_key(*place).as_slice(), &org_bytes].concat();
        at.insert(letter.delivery.0.as_bytes().as_slice(), there.as_slice())?;
    }
    Ok(())
}

/// Notes how many dead letters were gone before the others were loaded.
pub(super) fn note_dropped(txn: &WriteTransaction, gone: u64) -> Result<(), IndexError> {
    let mut meta = txn.open_table(META)?;
    meta.insert(DEAD_DROPPED, gone.to_be_bytes().as_slice())?;
    Ok(())
}

impl Index {
    pub(super) fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(DEAD)?;
        let mut found = Vec::new();
        for row in table.iter()?.take(limit) {
            let (key, value) = row?;
            let row = read_place(key.value()).and_then(|place| read_row(place, value.value()));
            found.extend(row.map(|(_, row)| row.letter));
        }
        Ok(found)
    }

    /// Where each of `deliveries` was sent again last.
    pub(super) fn reopened(
        &self,
        deliveries: impl Iterator<Item = DeliveryId>,
    ) -> Result<HashMap<DeliveryId, u64>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(REOPENED)?;
        let mut found = HashMap::new();
        if table.is_empty()? {
            return Ok(found);
        }
        for delivery in deliveries {
            let position = table.get(delivery.0.as_bytes().as_slice())?;
            found.extend(position.map(|position| (delivery, position.value())));
        }
        Ok(found)
    }

    pub(super) fn dead_kept(&self) -> Result<u64, IndexError> {
        Ok(counts(&self.database.begin_read()?)?.kept)
    }

    fn dead_of(
        &self,
        org: OrganizationId,
        before: Option<DeadPlace>,
        limit: usize,
    ) -> Result<DeadPage, IndexError> {
        let txn = self.database.begin_read()?;
        let (of, dead) = (txn.open_table(DEAD_OF)?, txn.open_table(DEAD)?);
        let low = of_key(org, DeadPlace { position: 0, ordinal: 0 });
        let last = DeadPlace { position: u64::MAX, ordinal: u32::MAX };
        let high = of_key(org, before.unwrap_or(last));
        let mut page = DeadPage::default();
        for row in of.range(low.as_slice()..high.as_slice())?.rev() {
            if page.rows.len() >= limit {
                page.next = page.rows.last().map(|row: &DeadRow| row.place);
                break;
            }
            let (key, _) = row?;
            let Some(place) = key.value().get(4..).and_then(read_place) else { continue };
            let value = dead.get(place_key(place).as_slice())?;
            page.rows.extend(value.and_then(|v| read_row(place, v.value())).map(|(_, row)| row));
        }
        Ok(page)
    }

    fn dead_letter(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> Result<Option<DeadRow>, IndexError> {
        let txn = self.database.begin_read()?;
        let found = txn.open_table(DEAD_AT)?.get(delivery.0.as_bytes().as_slice())?;
        let Some(place) = found.and_then(|there| read_place(there.value())) else {
            return Ok(None);
        };
        let value = txn.open_table(DEAD)?.get(place_key(place).as_slice())?;
        let row = value.and_then(|value| read_row(place, value.value()));
        Ok(row.filter(|(of, _)| *of == org).map(|(_, row)| row))
    }

    /// Drops dead letters made before `until`, oldest first; answers how many.
    pub(super) fn drop_dead(&self, until: Millis) -> Result<usize, IndexError> {
        let old = self.dead_before(until)?;
        if old.is_empty() {
            return Ok(0);
        }
        let txn = self.begin_behind()?;
        let mut dropped = 0;
        {
            let mut dead = txn.open_table(DEAD)?;
            let mut of = txn.open_table(DEAD_OF)?;
            let mut at = txn.open_table(DEAD_AT)?;
            for (org, row) in &old {
                // Amended since, and so counted elsewhere.
                if dead.remove(place_key(row.place).as_slice())?.is_none() {
                    continue;
                }
                of.remove(of_key(*org, row.place).as_slice())?;
                at.remove(row.letter.delivery.0.as_bytes().as_slice())?;
                dropped += 1;
            }
            let mut meta = txn.open_table(META)?;
            let sum = count(&meta, DEAD_DROPPED)? + dropped as u64;
            meta.insert(DEAD_DROPPED, sum.to_be_bytes().as_slice())?;
        }
        txn.commit()?;
        Ok(dropped)
    }

    /// The oldest dead letters made before `until`, as many as are dropped at once.
    fn dead_before(&self, until: Millis) -> Result<Vec<(OrganizationId, DeadRow)>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(DEAD)?;
        let mut old = Vec::new();
        for row in table.iter()?.take(DROPPED_AT_ONCE) {
            let (key, value) = row?;
            let row = read_place(key.value()).and_then(|place| read_row(place, value.value()));
            match row {
                Some((org, row)) if row.at < until => old.push((org, row)),
                _ => break,
            }
        }
        Ok(old)
    }
}

impl Core {
    pub(super) fn dead_of(
        &self,
        org: OrganizationId,
        before: Option<DeadPlace>,
        limit: usize,
    ) -> Result<DeadPage, IndexError> {
        // Committed amendments that the index may not show yet. Before the index, since whoever
        // gives the right back has it shown there.
        let reserved = self.reserved.lock().clone();
        let mut page = self.index.dead_of(org, before, limit)?;
        page.rows.retain(|row| !reserved.contains(&row.letter.delivery));
        self.tell(&mut page.rows);
        Ok(page)
    }

    pub(super) fn dead_letter(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> Result<Option<DeadRow>, IndexError> {
        let mut row: Vec<_> = self.index.dead_letter(org, delivery)?.into_iter().collect();
        self.tell(&mut row);
        Ok(row.pop())
    }

    /// The letter alone: no block of the log is read for it.
    pub(super) fn dead_copy(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> Result<Option<DeadLetter>, IndexError> {
        Ok(self.index.dead_letter(org, delivery)?.map(|row| row.letter))
    }

    /// Adds what the settlements of dead letters said, where retention has left them.
    fn tell(&self, rows: &mut [DeadRow]) {
        let mut read: Option<(u64, Vec<Record>)> = None;
        for row in rows {
            let position = row.place.position;
            if read.as_ref().is_none_or(|(at, _)| *at != position) {
                let is_there = self.segments.at(position).is_some();
                let block = is_there.then(|| self.segments.block(position).ok()).flatten();
                let records = block.map(|(_, payload)| Records::new(payload).flatten().collect());
                read = Some((position, records.unwrap_or_default()));
            }
            let settles = read.iter().flat_map(|(_, records)| records).filter_map(|r| match r {
                Record::Settle(settle) => Some(settle),
                _ => None,
            });
            let mut own = settles.filter(|s| s.dead.iter().any(|(d, _)| *d == row.letter.delivery));
            row.events = own.next().map(|settle| settle.events.clone()).unwrap_or_default();
        }
    }

    /// Enqueues amendments as one addition: each with its entry, or none of them.
    pub(super) fn amend(
        &self,
        shard: ShardId,
        amendments: Vec<Amendment>,
    ) -> Result<Commit, JournalError> {
        let mut bytes = Vec::new();
        let mut marks = BlockMarks::default();
        for amendment in amendments {
            let extent = encode_amendment(&amendment, &mut bytes);
            marks.entries.extend(amendment.carrier.as_ref().zip(extent).map(entry_mark));
            marks.amends.push(AmendMark::of(amendment));
        }
        self.enqueue(shard, bytes, marks, 1)
    }
}
