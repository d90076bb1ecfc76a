//! The receipt file: JSON lines, written and synced in batches by one thread.
//!
//! The buffer between the twins and the thread is bounded; a twin that outruns the disk waits, since
//! a ledger with holes proves nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::Receipt;

const BUFFER_BYTES_MAX: usize = 16 << 20;

/// Reads the receipts of a file; a torn last line is ignored.
///
/// # Errors
/// The file cannot be read, or a line other than the last is damaged.
pub fn read(path: &Path) -> io::Result<Vec<Receipt>> {
    let mut receipts = Vec::new();
    let mut damaged = None;
    for line in BufReader::new(File::open(path)?).lines() {
        if let Some(error) = damaged.take() {
            return Err(error);
        }
        match serde_json::from_str(&line?) {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => damaged = Some(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
    Ok(receipts)
}

#[derive(Debug)]
pub(super) struct ReceiptFile {
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
    /// Bytes ever appended and ever synced.
    appended: u64,
    synced: u64,
    failed: Option<io::ErrorKind>,
    closed: bool,
}

impl ReceiptFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("receipts".to_owned())
            .spawn(move || write_batches(&of_thread, file))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    pub(super) fn append(&self, receipt: &Receipt) {
        let mut state = self.shared.state.lock();
        while state.buffer.len() > BUFFER_BYTES_MAX && state.failed.is_none() {
            self.shared.changed.wait(&mut state);
        }
        if state.failed.is_some() {
            return;
        }
        let before = state.buffer.len();
        serde_json::to_writer(&mut state.buffer, receipt)
            .expect("a receipt holds nothing that JSON cannot");
        state.buffer.push(b'\n');
        state.appended += (state.buffer.len() - before) as u64;
        self.shared.changed.notify_all();
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let until = state.appended;
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

impl Drop for ReceiptFile {
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
    loop {
        let batch = {
            let mut state = shared.state.lock();
            while state.buffer.is_empty() && !state.closed {
                shared.changed.wait(&mut state);
            }
            if state.buffer.is_empty() {
                return;
            }
            std::mem::take(&mut state.buffer)
        };
        let written = file.write_all(&batch).and_then(|()| file.sync_data());
        let mut state = shared.state.lock();
        match written {
            Ok(()) => state.synced += batch.len() as u64,
            Err(error) => {
                tracing::error!(%error, "the receipt file failed; free its disk and run again");
                state.failed = Some(error.kind());
            }
        }
        shared.changed.notify_all();
        if state.failed.is_some() {
            return;
        }
    }
}
