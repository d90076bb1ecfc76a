//! Giving up what is damaged: each stretch of the log that cannot be read is kept in a file of its
//! own and covered by blocks that hold nothing, so that all the rest can be read again.

use super::media::{Disk, Opening, read_some, write_all};
use super::scan::{Beyond, beyond};
use super::segment::{Segment, SegmentError, Segments};
use crate::journal::record::{
    BlockHeader, HEADER_BYTES, encode_append, put_block, read_block, read_header,
    read_segment_header, segment_header,
};
use crate::journal::{Append, IdempotencyRecord};
use crate::model::{Millis, ShardId};
use bytes::Bytes;
use std::path::Path;

/// A longer stretch is covered by several blocks.
const COVER_MAX: usize = 64 << 10;

/// Writes headers of segments again that cannot be read: the name and the length say what was there.
/// Answers the bytes that were lost.
pub(super) fn mend_headers(disk: &dyn Disk, dir: &Path) -> Result<u64, SegmentError> {
    let mut lost = 0;
    for path in disk.list(dir).map_err(SegmentError::io("list", dir))? {
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let file = disk.open(&path, Opening::Existing).map_err(SegmentError::io("open", &path))?;
        let mut head = [0; HEADER_BYTES];
        let read = read_some(file.as_ref(), &mut head, 0);
        let read = read.map_err(SegmentError::io("read", &path))?;
        if head.get(..read).and_then(read_segment_header).is_some() {
            continue;
        }
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let Ok(base) = u64::from_str_radix(name, 16) else { continue };
        let mended = file.len().and_then(|length| {
            write_all(file.as_ref(), &segment_header(base, length), 0)?;
            file.sync()
        });
        mended.map_err(SegmentError::io("write the header of", &path))?;
        tracing::warn!(file = %path.display(), "the header of a segment could not be read; it is written again");
        lost += HEADER_BYTES as u64;
    }
    Ok(lost)
}

/// Covers every stretch that cannot be read; `applied` is how far the index has come. Answers the
/// bytes that were given up. A torn tail is left to the recovery.
pub(super) fn cover_damage(segments: &Segments, applied: u64) -> Result<u64, SegmentError> {
    let all = segments.all();
    let mut lost = 0;
    for (number, segment) in all.iter().enumerate() {
        let is_last = number + 1 == all.len();
        lost += cover_segment(segments, segment, is_last, applied)?;
    }
    Ok(lost)
}

fn cover_segment(
    segments: &Segments,
    segment: &Segment,
    is_last: bool,
    applied: u64,
) -> Result<u64, SegmentError> {
    let mut bytes = vec![0; usize::try_from(segment.capacity).unwrap_or(usize::MAX)];
    let read = segment.read(segment.base, &mut bytes);
    bytes.truncate(read.map_err(SegmentError::io("read", &segment.path))?);
    // Where the index ends, if it is in this segment: all before was acknowledged.
    let owed = applied.checked_sub(segment.base).and_then(|offset| usize::try_from(offset).ok());
    let owed = owed.filter(|offset| *offset <= bytes.len()).unwrap_or(0);
    let (mut offset, mut lost) = (HEADER_BYTES, 0);
    while let Some(rest) = bytes.get(offset..) {
        let position = segment.base + offset as u64;
        if let Ok((header, _)) = read_block(rest, position) {
            offset += header.block_bytes();
            continue;
        }
        let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let until = match beyond(rest, position) {
            Beyond::Damage(Some(next)) => usize::try_from(next - segment.base).unwrap_or(offset),
            Beyond::Damage(None) if !is_last => (offset + written).max(owed),
            Beyond::Damage(None) if owed > offset => (offset + written).max(owed),
            Beyond::End if owed > offset => owed,
            Beyond::Damage(None) | Beyond::End => break,
        };
        let until = until.next_multiple_of(8).min(bytes.len());
        let until = roomy(&bytes, segment.base, (offset, until));
        give_up(segments, segment, &bytes, (offset, until))?;
        lost += (until - offset) as u64;
        offset = until;
    }
    Ok(lost)
}

/// `until`, or as far beyond it as the smallest cover needs: whole blocks go with it.
fn roomy(bytes: &[u8], base: u64, (from, mut until): (usize, usize)) -> usize {
    while until - from < HEADER_BYTES + smallest() && until < bytes.len() {
        let rest = bytes.get(until..).unwrap_or_default();
        let next = read_header(rest, base + until as u64).map_or(8, |header| header.block_bytes());
        until = (until + next).min(bytes.len());
    }
    until
}

/// Keeps the bytes of a stretch aside, then covers it.
fn give_up(
    segments: &Segments,
    segment: &Segment,
    bytes: &[u8],
    (from, until): (usize, usize),
) -> Result<(), SegmentError> {
    let (disk, dir) = segments.place();
    let kept = dir.join(format!("{:016x}-{from}.damaged", segment.base));
    let stretch = bytes.get(from..until).unwrap_or_default();
    let save = || {
        let file = disk.open(&kept, Opening::Empty)?;
        write_all(file.as_ref(), stretch, 0)?;
        file.sync()?;
        disk.sync_dir(dir)
    };
    save().map_err(SegmentError::io("keep what is damaged in", &kept))?;
    let header = read_header(stretch, segment.base + from as u64).ok();
    tracing::warn!(
        file = %segment.path.display(), from, until, kept = %kept.display(),
        // A header may be readable where the payload is not.
        entries = header.map(|header| header.entries),
        committed_at = header.map(|header| header.committed_at.0),
        "a stretch of the journal cannot be read and is given up"
    );
    let mut cover = Vec::with_capacity(stretch.len());
    while cover.len() < stretch.len() {
        let left = stretch.len() - cover.len();
        let take = if left > 2 * COVER_MAX { COVER_MAX } else { left };
        let position = segment.base + (from + cover.len()) as u64;
        put_empty(&mut cover, position, take);
    }
    let written = segment.write(segment.base + from as u64, &cover).and_then(|()| segment.sync());
    written.map_err(SegmentError::io("cover what is damaged in", &segment.path))
}

/// A block of `length` bytes that changes nothing: it remembers a key that nobody has, of a time
/// that is long over.
fn put_empty(out: &mut Vec<u8>, position: u64, length: usize) {
    let answer = length - HEADER_BYTES - smallest_record();
    let payload = empty(answer);
    let header = BlockHeader {
        shard: ShardId(0),
        payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        entries: 0,
        position,
        durable_floor: 0,
        committed_at: Millis(0),
        first_root: u64::MAX,
        last_root: 0,
    };
    put_block(out, &header, &[&payload]);
}

fn empty(answer: usize) -> Vec<u8> {
    let record = IdempotencyRecord {
        key: [0; 16],
        body: [0; 16],
        created: Millis(0),
        answer: Bytes::from(vec![0; answer]),
    };
    encode_append(&Append { entries: Vec::new(), idempotency: vec![record] }).0
}

fn smallest_record() -> usize {
    empty(0).len()
}

fn smallest() -> usize {
    smallest_record().next_multiple_of(8)
}
