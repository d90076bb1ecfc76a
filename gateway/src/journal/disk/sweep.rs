//! Refilling lines that were cut short: a thread reads on in the log where they end.
//!
//! A stretch is read without any lock, since the log never changes; what of it belongs where is
//! decided under the lock (`Lines::merge`). Stretches are short and lines take turns, so that an
//! organization with few entries far apart does not hold up one with many.

use super::core::{Cell, Core};
use super::scan::{Beyond, beyond};
use super::segment::{Segment, Segments};
use crate::journal::record::{HEADER_BYTES, entries, read_block, read_header};
use crate::journal::shard::line::Spot;
use crate::journal::shard::lines::Stretch;
use crate::journal::shard::{Place, Shard, is_timer};
use crate::model::ShardId;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bytes of the log in one stretch.
const STRETCH_BYTES: u64 = 4 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Blocks whose entries' sizes are remembered while replaying.
const MEASURED_MAX: usize = 1024;

/// Wakes the sweeping thread.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        let mut rung = self.rung.lock();
        if !*rung {
            *rung = true;
            self.wake.notify_one();
        }
    }

    fn wait(&self, patience: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.wake.wait_for(&mut rung, patience);
        }
        *rung = false;
    }
}

/// Sweeps until the journal is closed.
pub(super) fn run(core: &Arc<Core>) {
    while !core.closed.load(Ordering::Acquire) {
        if !step(core) {
            core.bell.wait(Duration::from_millis(500));
        }
    }
}

/// One stretch of each shard; false if nobody moved.
pub(super) fn step(core: &Core) -> bool {
    let mut has_moved = false;
    for (number, cell) in (0u16..).zip(&core.shards) {
        has_moved |= core.sweep(ShardId(number), cell);
    }
    has_moved
}

impl Core {
    /// Refills from one stretch of the log; false if there was nothing to do or no place for it.
    pub(super) fn sweep(&self, shard: ShardId, cell: &Cell) -> bool {
        let (from, until) = {
            let mut state = cell.state.lock();
            let Some(from) = state.lines.next_hungry() else { return false };
            (from, state.applied_end)
        };
        let stretch = read(&self.segments, shard, from, until);
        let has_moved = cell.state.lock().take_in(&stretch);
        if has_moved {
            cell.notify.notify_one();
        }
        has_moved
    }
}

impl Shard {
    /// While replaying a long log: comes to entries that are known as done, so that they need not
    /// be remembered.
    pub(super) fn settle_down(&mut self, segments: &Segments, shard: ShardId) {
        let max = self.lines.places_max();
        if self.lines.done_ahead() <= max {
            return;
        }
        loop {
            self.lines.pass_done();
            if self.lines.done_ahead() <= max / 2 {
                return;
            }
            let Some(from) = self.lines.most_done() else { return };
            let stretch = read(segments, shard, from, self.applied_end);
            if !self.take_in(&stretch) {
                return;
            }
        }
    }
}

/// Reads a stretch that starts with the block at `from` and ends before `until`, or where the disk
/// fails: lines go on from there later.
fn read(segments: &Segments, shard: ShardId, from: u64, until: u64) -> Stretch {
    let mut stretch = Stretch { start: from, next: from, ..Stretch::default() };
    let mut window = Window::default();
    let budget = from + STRETCH_BYTES;
    while stretch.next < until.min(budget) {
        let Some(segment) = segments.at(stretch.next) else {
            // Retention dropped what was here.
            let later = segments.all().into_iter().find(|segment| segment.base > stretch.next);
            stretch.next = later.map_or(until, |segment| segment.base + HEADER_BYTES as u64);
            continue;
        };
        stretch.next = stretch.next.max(segment.base + HEADER_BYTES as u64);
        match window.block(&segment, shard, &mut stretch) {
            Ok(next) => stretch.next = next,
            Err(error) => {
                let file = segment.path.display();
                tracing::error!(%error, %file, "the journal cannot be read on; it is tried again");
                break;
            }
        }
    }
    stretch.next = stretch.next.min(until);
    stretch
}

/// The bytes of a segment that are in memory.
#[derive(Default)]
struct Window {
    at: u64,
    bytes: Bytes,
}

impl Window {
    /// Takes in the block at `stretch.next`; answers where the next one begins.
    fn block(
        &mut self,
        segment: &Segment,
        shard: ShardId,
        stretch: &mut Stretch,
    ) -> io::Result<u64> {
        let position = stretch.next;
        let header = read_header(&self.get(segment, position, HEADER_BYTES)?, position).ok();
        let next = |bytes: usize| position + bytes as u64;
        let Some(header) = header.filter(|h| next(h.block_bytes()) <= segment.end()) else {
            return skip(segment, 1, stretch);
        };
        let next = next(header.block_bytes());
        if header.shard != shard || header.entries == 0 {
            return Ok(next);
        }
        let bytes = self.get(segment, position, header.block_bytes())?;
        if read_block(&bytes, position).is_err() {
            // Its length may be what is wrong with it.
            return skip(segment, header.entries, stretch);
        }
        let payload = bytes.slice(HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize);
        for (index, extent, entry) in entries(payload) {
            if !is_timer(entry.due, header.committed_at) {
                stretch.entries.push((entry.org, Spot { position, index, extent }));
            }
        }
        Ok(next)
    }

    /// `length` bytes from `position`, fewer where the segment ends.
    fn get(&mut self, segment: &Segment, position: u64, length: usize) -> io::Result<Bytes> {
        let held = position.checked_sub(self.at).and_then(|from| usize::try_from(from).ok());
        if let Some(from) = held.filter(|from| from + length <= self.bytes.len()) {
            return Ok(self.bytes.slice(from..from + length));
        }
        // What is broken further on is no reason to miss what is asked for.
        let bytes = fill(segment, position, length.max(READ_BYTES));
        let bytes = bytes.or_else(|_| fill(segment, position, length))?;
        (self.at, self.bytes) = (position, bytes);
        Ok(self.bytes.slice(..length.min(self.bytes.len())))
    }
}

fn fill(segment: &Segment, position: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; length];
    let read = segment.read(position, &mut bytes)?;
    bytes.truncate(read);
    Ok(Bytes::from(bytes))
}

/// Goes on behind what is no block at `stretch.next`; answers where.
fn skip(segment: &Segment, entries: u32, stretch: &mut Stretch) -> io::Result<u64> {
    let position = stretch.next;
    let rest = usize::try_from(segment.end().saturating_sub(position)).unwrap_or(usize::MAX);
    let next = match beyond(&fill(segment, position, rest)?, position) {
        Beyond::End => None,
        Beyond::Damage(next) => {
            stretch.unreadable.push((position, entries));
            next
        }
    };
    Ok(next.unwrap_or(segment.end() + HEADER_BYTES as u64))
}

/// Payload bytes of entries that replayed settlements name.
pub(super) struct Measure<'a> {
    segments: &'a Segments,
    blocks: HashMap<u64, Vec<u64>>,
}

impl<'a> Measure<'a> {
    pub(super) fn new(segments: &'a Segments) -> Self {
        Self { segments, blocks: HashMap::new() }
    }

    pub(super) fn segments(&self) -> &'a Segments {
        self.segments
    }

    /// `None` if the entry is no longer stored.
    pub(super) fn payload_bytes(&mut self, (position, index): Place) -> Option<u64> {
        if self.blocks.len() >= MEASURED_MAX && !self.blocks.contains_key(&position) {
            self.blocks.clear();
        }
        let sizes = self.blocks.entry(position).or_insert_with(|| {
            let stored =
                self.segments.at(position).and_then(|_| self.segments.block(position).ok());
            let payload = stored.map(|(_, payload)| payload).unwrap_or_default();
            entries(payload).map(|(_, extent, _)| extent.payload_bytes()).collect()
        });
        sizes.get(usize::try_from(index).ok()?).copied()
    }
}
