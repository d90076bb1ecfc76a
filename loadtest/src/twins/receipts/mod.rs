//! Receipts: what each twin was asked, what it answered, and how often.
//!
//! Kept in a bounded ring in memory (the oldest go first, their counts stay) and, when asked for,
//! in a JSONL file that is synced to disk in batches.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::jsonl::{self, JsonLines};
use crate::twins::TwinName;
use crate::twins::smtp::ReceivedMail;

#[cfg(test)]
mod tests;

/// One attempt that reached a twin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Position in the log, from 1, never reused.
    pub seq: u64,
    pub twin: TwinName,
    /// Arrival, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The id the sender gave the delivery: `apns-id`, FCM tag, `webhook-id`, Slack path,
    /// `Message-ID`.
    pub key: String,
    /// Device token, path or recipient.
    pub target: String,
    /// The notification the payload says it belongs to.
    pub notification: Option<String>,
    /// Sequence number of the load generator's marker in the payload.
    pub marker: Option<u64>,
    /// Whether the marked text arrived unchanged; none when the payload holds none.
    pub intact: Option<bool>,
    /// SHA-256 of the body as it arrived, in hex.
    pub body_sha256: BodyHash,
    /// Status answered; 0 when the twin gave no answer on purpose.
    pub status: u16,
    /// Reason answered, or what the twin did instead of answering.
    pub reason: Option<String>,
    /// The rule of the provider that the request broke; none for a correct request.
    pub refused: Option<String>,
    /// 1 for the first attempt of this delivery.
    pub attempt: u32,
    /// A mail as its reader sees it; other twins have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<ReceivedMail>,
}

impl Receipt {
    /// Whether the sender was told that the delivery succeeded.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Reads the receipts of a file; a torn last line is ignored.
///
/// # Errors
/// The file cannot be read, or a line other than the last is damaged.
pub fn read(path: &Path) -> io::Result<Vec<Receipt>> {
    jsonl::read(path)
}

/// SHA-256 of a body; hex in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BodyHash(pub [u8; 32]);

impl From<BodyHash> for String {
    fn from(hash: BodyHash) -> Self {
        hash.0.iter().fold(Self::with_capacity(64), |mut hex, byte| {
            for nibble in [byte >> 4, byte & 15] {
                hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
            hex
        })
    }
}

impl TryFrom<String> for BodyHash {
    type Error = &'static str;

    fn try_from(hex: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "a body hash is 64 hex digits";
        if hex.len() != 64 {
            return Err(WRONG);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| WRONG)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| WRONG)?;
        }
        Ok(Self(hash))
    }
}

/// Totals of one twin since the start or the last clearing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Attempts received.
    pub received: u64,
    /// Attempts answered with 2xx.
    pub succeeded: u64,
    /// Attempts that broke a rule of the provider.
    pub refused: u64,
    /// Attempts by status answered; 0 stands for no answer.
    pub by_status: BTreeMap<u16, u64>,
}

/// The receipts of all twins.
#[derive(Debug)]
pub(crate) struct ReceiptLog {
    state: Mutex<State>,
    kept_max: usize,
    file: Option<JsonLines>,
}

#[derive(Debug, Default)]
struct State {
    ring: VecDeque<(u64, Receipt)>,
    last_seq: u64,
    attempts: HashMap<u64, Attempts>,
    counts: BTreeMap<TwinName, Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    made: u32,
    held: u32,
}

impl ReceiptLog {
    /// Keeps at most `kept_max` receipts in memory and appends all of them to `path`, if given.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub(crate) fn open(kept_max: usize, path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(JsonLines::open).transpose()?;
        Ok(Self { state: Mutex::default(), kept_max: kept_max.max(1), file })
    }

    /// Records one attempt; `seq` and `attempt` of the receipt are set here.
    pub(crate) fn record(&self, mut receipt: Receipt) {
        let identity = identity(&receipt);
        let mut state = self.state.lock();
        state.last_seq += 1;
        receipt.seq = state.last_seq;
        let attempts = state.attempts.entry(identity).or_default();
        attempts.made += 1;
        attempts.held += 1;
        receipt.attempt = attempts.made;
        let counts = state.counts.entry(receipt.twin).or_default();
        counts.received += 1;
        counts.succeeded += u64::from(receipt.succeeded());
        counts.refused += u64::from(receipt.refused.is_some());
        *counts.by_status.entry(receipt.status).or_default() += 1;
        // Under the lock, so that the file holds the receipts in their order.
        if let Some(file) = &self.file {
            file.append(&receipt);
        }
        state.ring.push_back((identity, receipt));
        while state.ring.len() > self.kept_max {
            state.forget_oldest();
        }
    }

    /// How often the delivery of `receipt` was attempted before.
    pub(crate) fn attempts_before(&self, receipt: &Receipt) -> u32 {
        self.state.lock().attempts.get(&identity(receipt)).map_or(0, |attempts| attempts.made)
    }

    /// Receipts after position `since`, oldest first, at most `limit`; of one twin when given.
    pub(crate) fn list(&self, twin: Option<TwinName>, since: u64, limit: usize) -> Vec<Receipt> {
        let state = self.state.lock();
        let wanted = |receipt: &&Receipt| {
            receipt.seq > since && twin.is_none_or(|twin| receipt.twin == twin)
        };
        state.ring.iter().map(|(_, receipt)| receipt).filter(wanted).take(limit).cloned().collect()
    }

    /// Totals per twin.
    pub(crate) fn counts(&self) -> BTreeMap<TwinName, Counts> {
        self.state.lock().counts.clone()
    }

    /// Forgets all receipts and totals in memory; the file and the positions go on.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        let last_seq = state.last_seq;
        *state = State { last_seq, ..State::default() };
    }

    /// Returns once everything recorded so far is on disk.
    ///
    /// # Errors
    /// Writing or syncing the file failed, now or earlier.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), JsonLines::sync)
    }
}

impl State {
    fn forget_oldest(&mut self) {
        let Some((identity, _)) = self.ring.pop_front() else { return };
        if let Some(attempts) = self.attempts.get_mut(&identity) {
            attempts.held -= 1;
            if attempts.held == 0 {
                self.attempts.remove(&identity);
            }
        }
    }
}

/// What makes two attempts attempts of one delivery.
fn identity(receipt: &Receipt) -> u64 {
    let mut hasher = DefaultHasher::new();
    (receipt.twin, &receipt.key, &receipt.target).hash(&mut hasher);
    (&receipt.notification, receipt.marker).hash(&mut hasher);
    hasher.finish()
}
