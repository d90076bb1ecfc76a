//! Additions that a store beside this journal commits with the changes that cause them.

use super::core::Core;
use super::lane::PART_BYTES_MAX;
use super::options::millis;
use super::plan::{Part, Plan, Terms};
use crate::journal::{Append, JournalError};
use bytes::Bytes;
use std::sync::atomic::Ordering;

impl Core {
    /// What the commit script takes for `append`. It has no number: who commits it with records
    /// knows from them whether it happened.
    pub(super) fn program(&self, append: Append) -> Result<Vec<Bytes>, JournalError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(JournalError::Closed);
        }
        let Append { entries, idempotency } = append;
        let is_kept = self.options.tracks;
        let mut part = Part { entries, idempotency, is_kept, ..Part::default() };
        if part.bytes() > PART_BYTES_MAX {
            return Err(JournalError::TooLarge);
        }
        let terms = Terms {
            now: self.clock.now(),
            writer: "records",
            sequence: 0,
            fence: None,
            own: None,
            known: 0,
            known_mark: b"",
            retention_ms: millis(self.options.retention),
            keys_ttl_ms: millis(self.options.keys_ttl),
            tracks: self.options.tracks,
        };
        let plan = Plan::new(&mut [&mut part], &terms);
        let blocks = plan.blocks.into_iter().map(|block| block.payload);
        Ok([plan.program].into_iter().chain(blocks).collect())
    }
}
