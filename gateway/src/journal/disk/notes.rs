//! What dropped segments held, in room that was set aside, until the index has it for good.
//!
//! With a full disk the index waits for room, which dropping segments makes: so that asks nothing
//! of the index. A note is `length 4 | crc32c 4 | postcard`; zeros follow the last one.

use super::media::{Disk, DiskFile, Opening, read_some, write_all};
use super::retention::Carried;
use crate::model::Millis;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is set aside, as a share of a segment, and at least.
const SHARE: u64 = 32;
const BYTES_MIN: u64 = 4_096;
const FRAME_BYTES: usize = 8;

/// What a dropped segment held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) base: u64,
    /// When the newest of its blocks was committed.
    pub(super) until: Millis,
    pub(super) carried: Carried,
}

/// The notes of one journal.
#[derive(Debug)]
pub(super) struct Notes {
    file: Arc<dyn DiskFile>,
    bytes: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    notes: Vec<Note>,
    /// Where the next one goes.
    end: usize,
    /// So many of them are in the index, if not durably.
    taken: usize,
    /// The file is half wiped: nothing may be written behind that.
    is_torn: bool,
}

/// Where notes are.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("DROPPED")
}

/// The notes in the file that holds `bytes`, and where they end.
pub(super) fn read(bytes: &[u8]) -> (Vec<Note>, usize) {
    let (mut notes, mut end) = (Vec::new(), 0);
    while let Some((note, next)) = read_one(bytes, end) {
        notes.push(note);
        end = next;
    }
    (notes, end)
}

fn read_one(bytes: &[u8], at: usize) -> Option<(Note, usize)> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let body = rest.get(..length).filter(|body| !body.is_empty())?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some((postcard::from_bytes(body).ok()?, at + FRAME_BYTES + length))
}

impl Notes {
    /// Opens the notes in `dir` and sets room aside for more.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, segment_bytes: u64) -> io::Result<Self> {
        let file = disk.open(&path(dir), Opening::OrNew)?;
        let (bytes, len) = ((segment_bytes / SHARE).max(BYTES_MIN), file.len()?);
        let mut stored = vec![0; usize::try_from(len.max(bytes)).unwrap_or(usize::MAX)];
        let read_bytes = read_some(file.as_ref(), &mut stored, 0)?;
        let (notes, end) = read(stored.get(..read_bytes).unwrap_or_default());
        let rest = stored.get_mut(end..).unwrap_or_default();
        if len < bytes || rest.iter().any(|byte| *byte != 0) {
            // What a crash left behind the last note must not follow a new one.
            rest.fill(0);
            write_all(file.as_ref(), rest, end as u64)?;
            file.sync()?;
            disk.sync_dir(dir)?;
        }
        let held = Held { notes, end, ..Held::default() };
        Ok(Self { file, bytes, held: Mutex::new(held) })
    }

    /// Adds a note, durably.
    pub(super) fn add(&self, note: Note) -> io::Result<()> {
        let mut held = self.held.lock();
        if held.is_torn {
            self.wipe(&mut held)?;
        }
        let body = postcard::to_allocvec(&note).map_err(io::Error::other)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let crc = crc32c::crc32c(&body);
        let frame = [&length.to_le_bytes()[..], &crc.to_le_bytes(), &body].concat();
        write_all(self.file.as_ref(), &frame, held.end as u64)?;
        self.file.sync()?;
        held.end += frame.len();
        held.notes.push(note);
        Ok(())
    }

    /// Hands the notes that are not in the index to `take`, which puts them there.
    pub(super) fn take<E>(&self, take: impl FnOnce(&[Note]) -> Result<(), E>) -> Result<(), E> {
        let fresh = {
            let held = self.held.lock();
            held.notes.get(held.taken..).unwrap_or_default().to_vec()
        };
        if !fresh.is_empty() {
            take(&fresh)?;
            self.held.lock().taken += fresh.len();
        }
        Ok(())
    }

    /// Forgets all, if all are in the index: that is durable now.
    pub(super) fn forget_taken(&self) -> io::Result<()> {
        let mut held = self.held.lock();
        if held.taken == 0 || held.taken < held.notes.len() {
            return Ok(());
        }
        self.wipe(&mut held)
    }

    fn wipe(&self, held: &mut Held) -> io::Result<()> {
        held.is_torn = true;
        write_all(self.file.as_ref(), &vec![0; held.end], 0)?;
        self.file.sync()?;
        if self.file.len()? > self.bytes {
            self.file.set_len(self.bytes)?;
        }
        *held = Held::default();
        Ok(())
    }

    /// Looks at all notes while none comes or goes.
    pub(super) fn standing<T>(&self, look: impl FnOnce(&[Note]) -> T) -> T {
        look(&self.held.lock().notes)
    }
}
