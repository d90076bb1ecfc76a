//! Append-only JSON lines for ledgers: written by one thread, synced at least once a second.
//!
//! The buffer in front of the thread is bounded; who outruns the disk waits, since a ledger with
//! holes proves nothing. A failed write or sync is final and shows in [`JsonLines::sync`].

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use serde::de::DeserializeOwned;

const BUFFER_BYTES_MAX: usize = 16 << 20;
/// A sync competes with the journal of the gateway under test, so it is not done for every batch.
const SYNC_EVERY: Duration = Duration::from_secs(1);
const WRITE_EVERY: Duration = Duration::from_millis(50);

/// Reads all lines of a file; a torn last line is ignored.
///
/// # Errors
/// The file cannot be read, or a line other than the last is damaged.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let mut items = Vec::new();
    each(path, |item| items.push(item))?;
    Ok(items)
}

/// Hands every line of a file to `take`, one at a time, so that a ledger may be larger than memory.
///
/// # Errors
/// As [`read`].
pub(crate) fn each<T: DeserializeOwned>(path: &Path, mut take: impl FnMut(T)) -> io::Result<()> {
    let mut damaged = None;
    for line in BufReader::with_capacity(1 << 20, File::open(path)?).lines() {
        if let Some(error) = damaged.take() {
            return Err(error);
        }
        match serde_json::from_str(&line?) {
            Ok(item) => take(item),
            Err(error) => damaged = Some(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
    Ok(())
}

#[derive(Debug)]
pub(crate) struct JsonLines {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// Bytes ever appended, ever synced, and that somebody waits to see synced.
    appended: u64,
    synced: u64,
    awaited: u64,
    failed: Option<io::ErrorKind>,
    closed: bool,
}

impl JsonLines {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || write_batches(&of_thread, file))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    pub(crate) fn append(&self, item: &impl Serialize) {
        let mut state = self.shared.state.lock();
        while state.buffer.len() > BUFFER_BYTES_MAX && state.failed.is_none() {
            self.shared.changed.notify_all();
            self.shared.changed.wait(&mut state);
        }
        if state.failed.is_some() {
            return;
        }
        let before = state.buffer.len();
        serde_json::to_writer(&mut state.buffer, item)
            .expect("ledger items hold nothing that JSON cannot");
        state.buffer.push(b'\n');
        state.appended += (state.buffer.len() - before) as u64;
    }

    /// Returns once everything appended so far is on disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let until = state.appended;
        state.awaited = state.awaited.max(until);
        self.shared.changed.notify_all();
        loop {
            if let Some(kind) = state.failed {
                return Err(kind.into());
            }
            if state.synced >= until {
                return Ok(());
            }
            self.shared.changed.wait(&mut state);
        }
    }
}

impl Drop for JsonLines {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(writer) = self.writer.take() {
            // The thread has no panic of its own to report.
            writer.join().ok();
        }
    }
}

fn write_batches(shared: &Shared, mut file: File) {
    let mut written = 0;
    let mut synced_at = Instant::now();
    loop {
        let (batch, must_sync, closed) = {
            let mut state = shared.state.lock();
            if state.awaited <= state.synced && !state.closed {
                shared.changed.wait_for(&mut state, WRITE_EVERY);
            }
            let must_sync = state.awaited > state.synced || state.closed;
            (std::mem::take(&mut state.buffer), must_sync, state.closed)
        };
        let is_due = synced_at.elapsed() >= SYNC_EVERY;
        let mut done = file.write_all(&batch);
        written += batch.len() as u64;
        if done.is_ok() && (must_sync || is_due) {
            done = file.sync_data();
            synced_at = Instant::now();
        }
        let mut state = shared.state.lock();
        match done {
            Ok(()) if must_sync || is_due => state.synced = written,
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "a ledger file failed; free its disk and run again");
                state.failed = Some(error.kind());
            }
        }
        shared.changed.notify_all();
        if state.failed.is_some() || closed && state.buffer.is_empty() {
            return;
        }
    }
}
