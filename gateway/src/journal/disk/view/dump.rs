//! Reading a stopped journal out, to carry it to another store.

use super::{Damage, LogView, ViewError};
use crate::journal::Sums;
use crate::journal::disk::cancel::canceled_of;
use crate::journal::disk::dead::letters;
use crate::journal::disk::index::{IndexError, read_checkpoint};
use crate::journal::disk::retention::carried;
use crate::journal::disk::timers::{TIMERS, read_timer_key};
use crate::journal::dump::{
    DumpedBlock, DumpedCancel, DumpedLetter, JournalFrame, JournalTotals, Placed, Tally, put_over,
};
use crate::journal::record::{BlockHeader, Record, Records};
use crate::journal::shard::{Place, is_timer};
use crate::model::{Millis, OrganizationId};
use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable};
use std::collections::{HashMap, HashSet};

/// Why a journal could not be read out.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("{} is damaged at byte {}: {}; restore it from a backup first", .0.file.display(), .0.byte, .0.what)]
    Damaged(Damage),
    #[error("the journal has no index that was closed; start the gateway on it once, and stop it")]
    Unindexed,
    #[error("the books and the log of the journal do not agree: `bugler audit` says where")]
    Unbalanced,
    /// Nobody takes what is read.
    #[error("reading out the journal was stopped")]
    Stopped,
}

/// Takes what is read; an error stops the reading.
pub(in crate::journal) type Put<'a> = dyn FnMut(JournalFrame) -> Result<(), DumpError> + 'a;

/// What the index knows that the log does not.
struct Beside {
    /// Entries settled by segments that are gone.
    settled: HashSet<Place>,
    /// When each timer is due: bringing it forward is not in the log.
    due: HashMap<Place, Millis>,
}

impl LogView {
    /// True if the log is there from its beginning.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.segment_of(0).is_some()
    }

    /// Reads everything out, block by block; answers what it comes to.
    ///
    /// # Errors
    /// The log is damaged, or `put` stopped it.
    pub fn dump(
        &self,
        put: &mut dyn FnMut(JournalFrame) -> Result<(), DumpError>,
    ) -> Result<(JournalTotals, Tally), DumpError> {
        let Some(index) = &self.index else { return Err(DumpError::Unindexed) };
        let is_stored = |base| self.segments.iter().any(|segment| segment.base == base);
        let kept = carried(index, &self.notes, is_stored).map_err(ViewError::from)?;
        let beside = Beside {
            settled: kept.settled.iter().copied().collect(),
            due: due_times(index).map_err(ViewError::from)?,
        };
        let mut tally = Tally::default();
        let mut stopped = Ok(());
        let mut all = |frame: JournalFrame| {
            tally.add(&frame);
            put(frame)
        };
        let damages = self.scan_raw(&mut |header, payload| {
            if stopped.is_ok()
                && let Some(block) = beside.block(header, payload)
            {
                stopped = all(JournalFrame::Block(block));
            }
            stopped.is_ok()
        })?;
        stopped?;
        if let Some(damage) = damages.into_iter().next() {
            return Err(DumpError::Damaged(damage));
        }
        let books = read_checkpoint(index).map_err(ViewError::from)?.map(|found| found.books);
        let books = books.ok_or(DumpError::Unindexed)?;
        let mut letters_before = Sums { dead_letters: books.dead_letters, ..Sums::default() };
        for (org, sums) in kept.sums {
            // Copies of dead letters are not in the blocks: all that were made are counted here.
            let sums =
                Sums { dead_letters: std::mem::take(&mut letters_before.dead_letters), ..sums };
            all(JournalFrame::Before(OrganizationId(org), sums))?;
        }
        if letters_before.dead_letters > 0 {
            all(JournalFrame::Before(OrganizationId(0), letters_before))?;
        }
        self.dump_rows(index, put, &mut tally)?;
        let totals = tally.totals().filter(|totals| totals.books == books);
        Ok((totals.ok_or(DumpError::Unbalanced)?, tally))
    }

    fn dump_rows(
        &self,
        index: &ReadTransaction,
        put: &mut Put<'_>,
        tally: &mut Tally,
    ) -> Result<(), DumpError> {
        for (notification, org) in canceled_of(index).map_err(ViewError::from)? {
            if !tally.has_canceled(notification) {
                // A version 7 UUID starts with 48 bits of milliseconds.
                let at = Millis(notification.0.as_u64_pair().0 >> 16);
                put(JournalFrame::Canceled(DumpedCancel { notification, org: Some(org), at }))?;
            }
        }
        let mut stopped = Ok(());
        letters(index, &mut |org, row| {
            let letter = JournalFrame::Letter(DumpedLetter {
                delivery: row.letter.delivery,
                notification: row.letter.notification,
                org,
                at: row.at,
                copy: row.letter.copy.to_vec(),
            });
            tally.add(&letter);
            stopped = put(letter);
            stopped.is_ok()
        })
        .map_err(ViewError::from)?;
        stopped
    }
}

fn due_times(index: &ReadTransaction) -> Result<HashMap<Place, Millis>, IndexError> {
    let mut due = HashMap::new();
    for row in index.open_table(TIMERS)?.iter()? {
        let (key, _) = row?;
        if let Some((_, _, at, place)) = read_timer_key(key.value()) {
            due.insert(place, at);
        }
    }
    Ok(due)
}

impl Beside {
    /// The block as it is carried.
    fn block(&self, header: &BlockHeader, payload: Bytes) -> Option<DumpedBlock> {
        let mut records: Vec<Placed> = Vec::new();
        let mut ends = Vec::new();
        let mut index = 0;
        for record in Records::new(payload).flatten() {
            let Record::Entry(mut entry) = record else {
                records.push((Place::default(), record));
                continue;
            };
            let place = (header.position, index);
            index += 1;
            if self.settled.contains(&place) {
                put_over(place, entry, &mut records, &mut ends);
                continue;
            }
            if is_timer(entry.due, header.committed_at) {
                entry.due = self.due.get(&place).copied().unwrap_or(entry.due);
            }
            records.push((place, Record::Entry(entry)));
        }
        records.append(&mut ends);
        DumpedBlock::of((header.shard, header.committed_at), records)
    }
}
