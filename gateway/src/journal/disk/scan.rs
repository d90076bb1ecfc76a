//! Walks over block headers in log order, through one buffer, and finds blocks behind damage.

use super::segment::Segments;
use crate::journal::record::{BlockHeader, HEADER_BYTES, read_block, read_header};
use bytes::Bytes;

/// Bytes read at once while looking for headers.
const SCAN_BYTES: usize = 64 << 10;

/// What follows where a segment has no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    /// Nothing was written there.
    End,
    /// Something was, and this is where the next whole block begins.
    Damage(Option<u64>),
}

/// How to go on in the rest of a segment, which starts at `position` and has no block there.
pub(super) fn beyond(rest: &[u8], position: u64) -> Beyond {
    if rest.iter().all(|byte| *byte == 0) {
        return Beyond::End;
    }
    Beyond::Damage(blocks_behind(rest, position).next().map(|header| header.position))
}

/// The whole blocks behind the first bytes of `rest`, which starts at `position`.
pub(super) fn blocks_behind(rest: &[u8], position: u64) -> impl Iterator<Item = BlockHeader> {
    (8..rest.len().saturating_sub(HEADER_BYTES)).step_by(8).filter_map(move |offset| {
        let bytes = rest.get(offset..).filter(|bytes| bytes.starts_with(b"BGLb"))?;
        read_block(bytes, position + offset as u64).ok().map(|(header, _)| header)
    })
}

/// Reads block headers in order through one buffer.
pub(super) struct Scanner<'a> {
    segments: &'a Segments,
    position: u64,
    buffer: Bytes,
    buffer_at: u64,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(segments: &'a Segments, position: u64) -> Self {
        Self { segments, position, buffer: Bytes::new(), buffer_at: position }
    }

    /// The next block that starts below `until`, in this segment or a later one.
    pub(super) fn next_header(&mut self, until: u64) -> Option<BlockHeader> {
        while self.position < until {
            if let Some(segment) = self.segments.at(self.position) {
                // A block may have ended where its segment ends.
                self.position = self.position.max(segment.base + HEADER_BYTES as u64);
            }
            if let Some(header) = self.header_here() {
                self.position += header.block_bytes() as u64;
                return Some(header);
            }
            // Nothing more in this segment: blocks go on behind the next segment's header.
            let segment = self.segments.at(self.position)?;
            let first = segment.base + HEADER_BYTES as u64;
            // A block may have filled the segment before to its last byte.
            let is_before = self.position < first;
            self.position = if is_before { first } else { segment.end() + HEADER_BYTES as u64 };
        }
        None
    }

    fn header_here(&mut self) -> Option<BlockHeader> {
        let offset =
            self.position.checked_sub(self.buffer_at).and_then(|o| usize::try_from(o).ok());
        let buffered = offset.and_then(|o| self.buffer.get(o..o + HEADER_BYTES));
        if let Some(bytes) = buffered {
            return read_header(bytes, self.position).ok();
        }
        let segment = self.segments.at(self.position)?;
        let mut buffer = vec![0; SCAN_BYTES];
        let read = segment.read(self.position, &mut buffer).ok()?;
        buffer.truncate(read);
        self.buffer = Bytes::from(buffer);
        self.buffer_at = self.position;
        read_header(self.buffer.get(..HEADER_BYTES)?, self.position).ok()
    }
}
