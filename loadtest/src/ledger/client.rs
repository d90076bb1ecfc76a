//! The client's side: what it set out to send, and what it was told about each.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::jsonl::{self, JsonLines};
use crate::wall;

/// What the client knows about one notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// 2xx; the id is none when the answer held none.
    Accepted(Option<Uuid>),
    /// Any other status.
    Refused(u16),
    /// Sent, but the connection broke or the answer did not come: either is possible.
    Unknown,
}

/// One notification and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEntry {
    /// The sequence number in its marker.
    pub seq: u64,
    pub outcome: Outcome,
}

/// Written before anything is sent, and after each answer.
#[derive(Debug)]
pub struct ClientLedger {
    /// Dense from `first_seq`: most runs write millions of entries.
    entries: Mutex<Vec<Outcome>>,
    first_seq: u64,
    file: Option<Arc<JsonLines>>,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Intent { first: u64, count: u64, at_ms: u64 },
    Outcome { seq: u64, outcome: Outcome, at_ms: u64 },
}

impl ClientLedger {
    /// A ledger of notifications from `first_seq` on, also appended to `path`, if given.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(first_seq: u64, path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(JsonLines::open).transpose()?.map(Arc::new);
        Ok(Self { entries: Mutex::default(), first_seq, file })
    }

    /// Another ledger, of notifications from `first_seq` on, that appends to the same file.
    #[must_use]
    pub fn beside(&self, first_seq: u64) -> Self {
        Self { entries: Mutex::default(), first_seq, file: self.file.clone() }
    }

    /// Notes that `count` notifications from `first` on are about to be sent.
    pub fn intend(&self, first: u64, count: u64) {
        if let Some(file) = &self.file {
            file.append(&Line::Intent { first, count, at_ms: wall::unix_ms() });
        }
        let Some(end) = self.index(first.saturating_add(count)) else { return };
        let mut entries = self.entries.lock();
        if entries.len() < end {
            entries.resize(end, Outcome::Unknown);
        }
    }

    /// Notes what the client was told about some notifications it intended to send.
    pub fn settle(&self, outcomes: &[ClientEntry]) {
        if let Some(file) = &self.file {
            let at_ms = wall::unix_ms();
            for entry in outcomes {
                let ClientEntry { seq, outcome } = *entry;
                file.append(&Line::Outcome { seq, outcome, at_ms });
            }
        }
        let mut entries = self.entries.lock();
        for entry in outcomes {
            let index = self.index(entry.seq);
            if let Some(slot) = index.and_then(|index| entries.get_mut(index)) {
                *slot = entry.outcome;
            }
        }
    }

    /// All notifications that were to be sent; those without an answer are unknown.
    #[must_use]
    pub fn entries(&self) -> Vec<ClientEntry> {
        let entries = self.entries.lock();
        let numbered = (self.first_seq..).zip(entries.iter());
        numbered.map(|(seq, outcome)| ClientEntry { seq, outcome: *outcome }).collect()
    }

    /// Returns once the file holds everything noted so far.
    ///
    /// # Errors
    /// Writing the file failed, now or earlier.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync())
    }

    /// Reads the entries of a ledger file.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged before its last line.
    pub fn read(path: &Path) -> io::Result<Vec<ClientEntry>> {
        let mut entries = std::collections::BTreeMap::new();
        for line in jsonl::read(path)? {
            match line {
                Line::Intent { first, count, .. } => {
                    for seq in first..first.saturating_add(count) {
                        entries.entry(seq).or_insert(Outcome::Unknown);
                    }
                }
                Line::Outcome { seq, outcome, .. } => {
                    entries.insert(seq, outcome);
                }
            }
        }
        Ok(entries.into_iter().map(|(seq, outcome)| ClientEntry { seq, outcome }).collect())
    }

    fn index(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first_seq)?).ok()
    }
}
