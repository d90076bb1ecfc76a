//! Byte layouts of the journal: blocks, the records inside them, and their checks.
//!
//! ```text
//! segment file   = segment header (64 B) block* zeros
//! block          = block header (64 B) record* padding to 8 B
//! block header   = magic 4 | version 1 | flags 1 | shard 2 | payload bytes 4 | entries 4
//!                | position 8 | durable floor 8 | committed at, ms 8 | first root id 8
//!                | last root id 8 | crc32c 4 | reserved 4
//! record         = kind 1 | body
//! ```
//! All integers are little-endian. The checksum covers header (with its own field zero) and
//! payload. `position` is where the block belongs, so a block copied elsewhere is no block.
//! `durable floor` says how far the log was synced when the block was written: an unreadable
//! block below a later block's floor was acknowledged (damage), one above was not (torn tail).

use super::{
    Amendment, Append, Cancellation, ClaimId, Entry, EntryKind, IdempotencyRecord, Resolution,
    Settlement,
};
use crate::model::{DeliveryId, FinalState, Millis, NotificationId, OrganizationId, ShardId};
use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Bytes before the payload of a block, and before the first block of a segment.
pub(in crate::journal) const HEADER_BYTES: usize = 64;
const BLOCK_MAGIC: [u8; 4] = *b"BGLb";
const SEGMENT_MAGIC: [u8; 8] = *b"BGLsegm1";
const FORMAT_VERSION: u8 = 1;
const CRC_OFFSET: usize = 56;

/// Bytes of an entry's record before its payload.
const ENTRY_HEAD_BYTES: u64 = 1 + 16 + 4 + 1 + 8 + 4;

const RECORD_ENTRY: u8 = 1;
const RECORD_SETTLE: u8 = 2;
const RECORD_IDEMPOTENCY: u8 = 3;
const RECORD_AMEND: u8 = 4;
const RECORD_CANCEL: u8 = 5;

/// The first 64 bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct BlockHeader {
    pub(in crate::journal) shard: ShardId,
    pub(in crate::journal) payload_bytes: u32,
    pub(in crate::journal) entries: u32,
    pub(in crate::journal) position: u64,
    pub(in crate::journal) durable_floor: u64,
    pub(in crate::journal) committed_at: Millis,
    /// Leading 8 bytes of the smallest and largest root id inside; `u64::MAX`, 0 when there is none.
    pub(in crate::journal) first_root: u64,
    pub(in crate::journal) last_root: u64,
}

impl BlockHeader {
    /// Bytes of the whole block in the file, padding included.
    pub(in crate::journal) fn block_bytes(&self) -> usize {
        HEADER_BYTES + padded(self.payload_bytes as usize)
    }
}

fn padded(bytes: usize) -> usize {
    bytes.div_ceil(8) * 8
}

/// Why bytes are not the block they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum BlockFault {
    /// All zeros: nothing was written here.
    Empty,
    /// Not a block, not this position, cut short, or the checksum differs.
    Invalid,
}

/// Appends one block with `payload` to `out`.
pub(in crate::journal) fn put_block(out: &mut Vec<u8>, header: &BlockHeader, payload: &[&[u8]]) {
    let start = out.len();
    out.extend_from_slice(&BLOCK_MAGIC);
    out.put_u8(FORMAT_VERSION);
    out.put_u8(0);
    out.put_u16_le(header.shard.0);
    out.put_u32_le(header.payload_bytes);
    out.put_u32_le(header.entries);
    out.put_u64_le(header.position);
    out.put_u64_le(header.durable_floor);
    out.put_u64_le(header.committed_at.0);
    out.put_u64_le(header.first_root);
    out.put_u64_le(header.last_root);
    out.put_u32_le(0);
    out.put_u32_le(0);
    for part in payload {
        out.extend_from_slice(part);
    }
    let end = start + HEADER_BYTES + header.payload_bytes as usize;
    let crc = crc32c::crc32c(&out[start..end]);
    out[start + CRC_OFFSET..start + CRC_OFFSET + 4].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + header.block_bytes(), 0);
}

/// Reads a header; says nothing about the payload.
pub(in crate::journal) fn read_header(
    mut bytes: &[u8],
    position: u64,
) -> Result<BlockHeader, BlockFault> {
    if bytes.len() < HEADER_BYTES {
        return Err(BlockFault::Invalid);
    }
    if bytes[..HEADER_BYTES].iter().all(|b| *b == 0) {
        return Err(BlockFault::Empty);
    }
    let mut magic = [0; 4];
    bytes.copy_to_slice(&mut magic);
    let version = bytes.get_u8();
    let _flags = bytes.get_u8();
    let header = BlockHeader {
        shard: ShardId(bytes.get_u16_le()),
        payload_bytes: bytes.get_u32_le(),
        entries: bytes.get_u32_le(),
        position: bytes.get_u64_le(),
        durable_floor: bytes.get_u64_le(),
        committed_at: Millis(bytes.get_u64_le()),
        first_root: bytes.get_u64_le(),
        last_root: bytes.get_u64_le(),
    };
    if magic != BLOCK_MAGIC || version != FORMAT_VERSION || header.position != position {
        return Err(BlockFault::Invalid);
    }
    Ok(header)
}

/// Reads and checks the block at the start of `bytes`; the payload is a slice of it.
pub(in crate::journal) fn read_block(
    bytes: &[u8],
    position: u64,
) -> Result<(BlockHeader, &[u8]), BlockFault> {
    let header = read_header(bytes, position)?;
    let end = HEADER_BYTES + header.payload_bytes as usize;
    let Some(block) = bytes.get(..end) else { return Err(BlockFault::Invalid) };
    let (head, payload) = block.split_at(HEADER_BYTES);
    let mut unsigned = [0; HEADER_BYTES];
    unsigned.copy_from_slice(head);
    let stored = u32::from_le_bytes([head[56], head[57], head[58], head[59]]);
    unsigned[CRC_OFFSET..CRC_OFFSET + 4].fill(0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&unsigned), payload);
    if crc == stored { Ok((header, payload)) } else { Err(BlockFault::Invalid) }
}

/// The first bytes of a segment file: magic, base position, capacity, checksum.
pub(in crate::journal) fn segment_header(base: u64, capacity: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
    bytes[8..16].copy_from_slice(&base.to_le_bytes());
    bytes[16..24].copy_from_slice(&capacity.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Base position and capacity of a segment, if `bytes` is a segment header.
pub(in crate::journal) fn read_segment_header(mut bytes: &[u8]) -> Option<(u64, u64)> {
    let head = bytes.get(..24)?;
    let crc = crc32c::crc32c(head);
    let stored = bytes.get(24..28)?;
    if head.get(..8)? != SEGMENT_MAGIC || stored != crc.to_le_bytes() {
        return None;
    }
    bytes.advance(8);
    Some((bytes.get_u64_le(), bytes.get_u64_le()))
}

/// The leading bytes of a notification id, by which blocks are found again.
pub(in crate::journal) fn id_prefix(id: NotificationId) -> u64 {
    id.0.as_u64_pair().0
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}

/// Where an entry's record lies in the payload of its block, and its checksum, so that it can be
/// read and checked without the rest of the block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct Extent {
    pub(in crate::journal) offset: u32,
    pub(in crate::journal) bytes: u32,
    pub(in crate::journal) crc: u32,
}

impl Extent {
    fn of(bytes: &[u8], offset: usize) -> Self {
        let fits = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Self { offset: fits(offset), bytes: fits(bytes.len()), crc: crc32c::crc32c(bytes) }
    }

    /// Bytes of the entry's payload.
    pub(in crate::journal) fn payload_bytes(self) -> u64 {
        u64::from(self.bytes).saturating_sub(ENTRY_HEAD_BYTES)
    }
}

/// Encodes one entry, and says where it lies.
pub(in crate::journal) fn put_entry(out: &mut Vec<u8>, entry: &Entry) -> Extent {
    let start = out.len();
    out.put_u8(RECORD_ENTRY);
    out.extend_from_slice(entry.notification.0.as_bytes());
    out.put_i32_le(entry.org.0);
    out.put_u8(match entry.kind {
        EntryKind::Root => 0,
        EntryKind::FollowUp => 1,
        EntryKind::Change => 2,
        EntryKind::Listed => 3,
        EntryKind::Deferred => 4,
    });
    out.put_u64_le(entry.due.0);
    put_bytes(out, &entry.payload);
    Extent::of(out.get(start..).unwrap_or_default(), start)
}

/// Encodes everything an `append` adds, and says where its entries lie.
pub(in crate::journal) fn encode_append(append: &Append) -> (Vec<u8>, Vec<Extent>) {
    let bytes: usize = append.entries.iter().map(|e| e.payload.len() + 48).sum();
    let mut out = Vec::with_capacity(bytes + 128);
    let extents = append.entries.iter().map(|entry| put_entry(&mut out, entry)).collect();
    for idempotency in &append.idempotency {
        out.put_u8(RECORD_IDEMPOTENCY);
        out.extend_from_slice(&idempotency.key);
        out.extend_from_slice(&idempotency.body);
        out.put_u64_le(idempotency.created.0);
        put_bytes(&mut out, &idempotency.answer);
    }
    (out, extents)
}

/// Room for a settlement as it is encoded.
pub(in crate::journal) fn settled_bytes(settlement: &Settlement) -> usize {
    let entries = settlement.follow_ups.iter().map(|entry| entry.payload.len() + 48);
    let events = settlement.events.iter().map(|event| event.len() + 4);
    let dead = settlement.dead.iter().map(|(_, copy)| copy.len() + 20);
    let resolved = settlement.resolved.len() * 17;
    64 + resolved + entries.chain(events).chain(dead).sum::<usize>()
}

/// Encodes a settlement and its follow-up entries, and says where those lie. `due` is that of a
/// claimed timer, else 0.
pub(in crate::journal) fn encode_settlement(
    settlement: &Settlement,
    due: Millis,
    out: &mut Vec<u8>,
) -> Vec<Extent> {
    let extents = settlement.follow_ups.iter().map(|entry| put_entry(out, entry)).collect();
    out.put_u8(RECORD_SETTLE);
    out.put_u64_le(settlement.claim.position);
    out.put_u32_le(settlement.claim.index);
    out.put_u64_le(due.0);
    out.put_u8(u8::from(settlement.done));
    out.extend_from_slice(settlement.notification.0.as_bytes());
    out.put_i32_le(settlement.org.0);
    out.put_u32_le(u32::try_from(settlement.resolved.len()).unwrap_or(u32::MAX));
    for (delivery, resolution) in &settlement.resolved {
        out.extend_from_slice(delivery.0.as_bytes());
        out.put_u8(resolution_code(*resolution));
    }
    out.put_u32_le(u32::try_from(settlement.events.len()).unwrap_or(u32::MAX));
    for event in &settlement.events {
        put_bytes(out, event);
    }
    out.put_u32_le(u32::try_from(settlement.dead.len()).unwrap_or(u32::MAX));
    for (delivery, copy) in &settlement.dead {
        out.extend_from_slice(delivery.0.as_bytes());
        put_bytes(out, copy);
    }
    extents
}

/// Encodes what is done to a delivery that has ended, and the entry that carries it on.
pub(in crate::journal) fn encode_amendment(
    amendment: &Amendment,
    out: &mut Vec<u8>,
) -> Option<Extent> {
    let extent = amendment.carrier.as_ref().map(|entry| put_entry(out, entry));
    let Amendment { delivery, notification, org, from, .. } = *amendment;
    let is_reopened = amendment.carrier.is_some();
    let event = amendment.event.clone();
    put_amend(out, &AmendRecord { delivery, notification, org, from, is_reopened, event });
    extent
}

/// Encodes what is done to a delivery that has ended.
pub(in crate::journal) fn put_amend(out: &mut Vec<u8>, record: &AmendRecord) {
    out.put_u8(RECORD_AMEND);
    out.extend_from_slice(record.delivery.0.as_bytes());
    out.extend_from_slice(record.notification.0.as_bytes());
    out.put_i32_le(record.org.0);
    out.put_u8(resolution_code(Resolution::Final(record.from)));
    out.put_u8(u8::from(record.is_reopened));
    put_bytes(out, &record.event);
}

/// Encodes the wish that nothing of a notification is sent any more.
pub(in crate::journal) fn encode_cancellation(cancellation: &Cancellation, out: &mut Vec<u8>) {
    out.put_u8(RECORD_CANCEL);
    out.extend_from_slice(cancellation.notification.0.as_bytes());
    out.put_i32_le(cancellation.org.0);
    put_bytes(out, &cancellation.event);
}

fn resolution_code(resolution: Resolution) -> u8 {
    match resolution {
        Resolution::Moved => 0,
        Resolution::Final(state) => match state {
            FinalState::Delivered => 1,
            FinalState::Rejected => 2,
            FinalState::Expired => 3,
            FinalState::Suppressed => 4,
            FinalState::Canceled => 5,
            FinalState::Dead => 6,
        },
    }
}

fn resolution(code: u8) -> Option<Resolution> {
    match code.checked_sub(1) {
        None => Some(Resolution::Moved),
        Some(index) => FinalState::ALL.get(usize::from(index)).copied().map(Resolution::Final),
    }
}

/// A settlement as stored.
#[derive(Clone, Debug)]
pub(in crate::journal) struct SettleRecord {
    pub(in crate::journal) position: u64,
    pub(in crate::journal) index: u32,
    pub(in crate::journal) due: Millis,
    pub(in crate::journal) done: bool,
    pub(in crate::journal) notification: NotificationId,
    pub(in crate::journal) org: OrganizationId,
    pub(in crate::journal) resolved: Vec<(DeliveryId, Resolution)>,
    pub(in crate::journal) events: Vec<Bytes>,
    pub(in crate::journal) dead: Vec<(DeliveryId, Bytes)>,
}

impl SettleRecord {
    /// What ended, as somebody who held `claim` would say it; without follow-ups and copies of dead letters.
    pub(in crate::journal) fn settlement(self, claim: ClaimId) -> Settlement {
        Settlement {
            claim,
            notification: self.notification,
            org: self.org,
            resolved: self.resolved,
            events: self.events,
            follow_ups: Vec::new(),
            dead: Vec::new(),
            done: self.done,
        }
    }
}

/// What was done to a delivery that had ended, as stored.
#[derive(Clone, Debug)]
pub(in crate::journal) struct AmendRecord {
    pub(in crate::journal) delivery: DeliveryId,
    pub(in crate::journal) notification: NotificationId,
    pub(in crate::journal) org: OrganizationId,
    pub(in crate::journal) from: FinalState,
    /// An entry before it in the block carries the delivery on; else its dead letter is discarded.
    pub(in crate::journal) is_reopened: bool,
    pub(in crate::journal) event: Bytes,
}

/// One record of a block.
#[derive(Clone, Debug)]
pub(in crate::journal) enum Record {
    Entry(Entry),
    Settle(SettleRecord),
    Idempotency(IdempotencyRecord),
    Amend(AmendRecord),
    Cancel(Cancellation),
}

/// Walks over the records of a checked payload. Stops with `None` at the end, and with
/// `Some(None)` if the bytes are no record, which a matching checksum makes a format error.
pub(in crate::journal) struct Records(Bytes);

/// The entries of a checked payload in their order: index, place in the payload, entry.
pub(in crate::journal) fn entries(payload: Bytes) -> impl Iterator<Item = (u32, Extent, Entry)> {
    let mut index = 0u32;
    Located::new(payload).filter_map(move |(extent, record)| match record {
        Some(Record::Entry(entry)) => {
            index += 1;
            Some((index - 1, extent, entry))
        }
        _ => None,
    })
}

/// The entry whose whole record is `bytes`.
pub(in crate::journal) fn read_entry(bytes: Bytes, extent: Extent) -> Option<Entry> {
    if crc32c::crc32c(&bytes) != extent.crc {
        return None;
    }
    match Records::new(bytes).next() {
        Some(Some(Record::Entry(entry))) => Some(entry),
        _ => None,
    }
}

/// Records, and for entries where they lie.
pub(in crate::journal) struct Located {
    all: Bytes,
    records: Records,
}

impl Located {
    pub(in crate::journal) fn new(payload: Bytes) -> Self {
        Self { all: payload.clone(), records: Records::new(payload) }
    }
}

impl Iterator for Located {
    type Item = (Extent, Option<Record>);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.all.len() - self.records.0.len();
        let record = self.records.next()?;
        let end = self.all.len() - self.records.0.len();
        let extent = match &record {
            Some(Record::Entry(_)) => {
                Extent::of(self.all.get(start..end).unwrap_or_default(), start)
            }
            _ => Extent::default(),
        };
        Some((extent, record))
    }
}

impl Records {
    pub(in crate::journal) fn new(payload: Bytes) -> Self {
        Self(payload)
    }

    fn id(&mut self) -> Option<Uuid> {
        (self.0.remaining() >= 16).then(|| Uuid::from_u128(self.0.get_u128()))
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let len = self.0.try_get_u32_le().ok()? as usize;
        (self.0.remaining() >= len).then(|| self.0.split_to(len))
    }

    fn hash(&mut self) -> Option<[u8; 16]> {
        self.id().map(Uuid::into_bytes)
    }

    fn entry(&mut self) -> Option<Record> {
        let notification = NotificationId(self.id()?);
        let org = OrganizationId(self.0.try_get_i32_le().ok()?);
        let kind = match self.0.try_get_u8().ok()? {
            0 => EntryKind::Root,
            1 => EntryKind::FollowUp,
            2 => EntryKind::Change,
            3 => EntryKind::Listed,
            4 => EntryKind::Deferred,
            _ => return None,
        };
        let due = Millis(self.0.try_get_u64_le().ok()?);
        let payload = self.bytes()?;
        Some(Record::Entry(Entry { notification, org, kind, due, payload }))
    }

    fn settle(&mut self) -> Option<Record> {
        let position = self.0.try_get_u64_le().ok()?;
        let index = self.0.try_get_u32_le().ok()?;
        let due = Millis(self.0.try_get_u64_le().ok()?);
        let done = self.0.try_get_u8().ok()? == 1;
        let notification = NotificationId(self.id()?);
        let org = OrganizationId(self.0.try_get_i32_le().ok()?);
        let mut resolved = Vec::new();
        for _ in 0..self.0.try_get_u32_le().ok()? {
            let delivery = DeliveryId(self.id()?);
            let code = self.0.try_get_u8().ok()?;
            resolved.push((delivery, resolution(code)?));
        }
        let mut events = Vec::new();
        for _ in 0..self.0.try_get_u32_le().ok()? {
            events.push(self.bytes()?);
        }
        let mut dead = Vec::new();
        for _ in 0..self.0.try_get_u32_le().ok()? {
            let delivery = DeliveryId(self.id()?);
            dead.push((delivery, self.bytes()?));
        }
        Some(Record::Settle(SettleRecord {
            position,
            index,
            due,
            done,
            notification,
            org,
            resolved,
            events,
            dead,
        }))
    }

    fn amend(&mut self) -> Option<Record> {
        let delivery = DeliveryId(self.id()?);
        let notification = NotificationId(self.id()?);
        let org = OrganizationId(self.0.try_get_i32_le().ok()?);
        let Resolution::Final(from) = resolution(self.0.try_get_u8().ok()?)? else { return None };
        let is_reopened = self.0.try_get_u8().ok()? == 1;
        let event = self.bytes()?;
        Some(Record::Amend(AmendRecord { delivery, notification, org, from, is_reopened, event }))
    }

    fn cancel(&mut self) -> Option<Record> {
        let notification = NotificationId(self.id()?);
        let org = OrganizationId(self.0.try_get_i32_le().ok()?);
        let event = self.bytes()?;
        Some(Record::Cancel(Cancellation { notification, org, event }))
    }

    fn idempotency(&mut self) -> Option<Record> {
        let key = self.hash()?;
        let body = self.hash()?;
        let created = Millis(self.0.try_get_u64_le().ok()?);
        let answer = self.bytes()?;
        Some(Record::Idempotency(IdempotencyRecord { key, body, created, answer }))
    }
}

impl Iterator for Records {
    type Item = Option<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let kind = self.0.try_get_u8().ok()?;
        let record = match kind {
            RECORD_ENTRY => self.entry(),
            RECORD_SETTLE => self.settle(),
            RECORD_IDEMPOTENCY => self.idempotency(),
            RECORD_AMEND => self.amend(),
            RECORD_CANCEL => self.cancel(),
            _ => None,
        };
        if record.is_none() {
            self.0.clear();
        }
        Some(record)
    }
}
