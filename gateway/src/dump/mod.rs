//! Everything a gateway keeps as one stream of frames: what a move, a backup and a restore carry.
//!
//! ```text
//!  head │ rows of records … │ journal: blocks … sums … dead letters … │ end: what it all comes to
//! ```
//!
//! Whoever puts it together is `app::moving`; a backup is the same stream in a file (`file`).

mod file;

pub use file::{DumpReader, DumpWriter, FileError};

use crate::journal::dump::{Counts, JournalFrame, JournalTotals};
use crate::model::Millis;
use crate::store::dump::{Row, RowTotals};
use serde::{Deserialize, Serialize};

/// Of the stream: raised when frames change.
pub const VERSION: u16 = 1;

/// One part of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    Head(Head),
    Row(Row),
    Journal(JournalFrame),
    End(Totals),
}

/// Where a stream comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub version: u16,
    /// The release that wrote it.
    pub release: String,
    pub taken_at: Millis,
    /// The kind of store it was read from.
    pub backend: String,
    pub shards: u16,
    /// The log is there from its beginning.
    pub is_whole: bool,
}

/// What everything comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub records: RowTotals,
    pub journal: JournalTotals,
    pub counts: Counts,
}

impl Totals {
    /// Where both differ, in a few words; `None` if a target holds what the source held.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let mut found = Vec::new();
        for (name, sums) in &self.records.tables {
            let have = other.records.tables.get(name).copied().unwrap_or_default();
            if have != *sums {
                found.push(format!("{name}: {} rows of {}", have.0, sums.0));
            }
        }
        let (is, was) = (other.journal, self.journal);
        let counts = [
            ("pending entries", is.pending, was.pending),
            ("timers", is.timers, was.timers),
            ("dead letters", is.letters, was.letters),
            ("accepted notifications", is.books.accepted, was.books.accepted),
        ];
        let differ = counts.iter().filter(|(_, is, was)| is != was);
        found.extend(differ.map(|(name, is, was)| format!("{name}: {is} of {was}")));
        if found.is_empty() && is != was {
            found.push(String::from("the books of the journal"));
        }
        (!found.is_empty()).then(|| found.join(", "))
    }
}
