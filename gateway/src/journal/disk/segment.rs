//! Segment files: created zero-filled ahead of the writer, read by position, dropped whole.
//!
//! Zero-filling before use keeps `fdatasync` from having to commit block allocation: the write
//! that a caller waits for touches only data. A new segment is written under a temporary name,
//! synced, renamed, and the directory synced, so a crash leaves the old set or the new one.

use super::media::{Disk, DiskFile, Opening, read_some, write_all};
use crate::crash::{self, Stage};
use crate::journal::record::{
    BlockFault, BlockHeader, HEADER_BYTES, read_block, read_header, read_segment_header,
    segment_header,
};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILL_CHUNK: usize = 1 << 20;

/// One open segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    pub(super) capacity: u64,
    pub(super) path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl Segment {
    /// The segment in `file`, as its header describes it.
    pub(super) fn of(file: Arc<dyn DiskFile>, path: PathBuf) -> Result<Self, SegmentError> {
        let mut head = [0; HEADER_BYTES];
        let read = read_some(file.as_ref(), &mut head, 0);
        let read = read.map_err(SegmentError::io("read", &path))?;
        let Some((base, capacity)) = head.get(..read).and_then(read_segment_header) else {
            let what = "the segment header is unreadable";
            return Err(SegmentError::Damaged { path, offset: 0, what });
        };
        Ok(Self { base, capacity, path, file })
    }

    /// One past the last position this segment can hold.
    pub(super) fn end(&self) -> u64 {
        self.base + self.capacity
    }

    /// Writes `bytes` at `position`, which lies inside this segment.
    pub(super) fn write(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        write_all(self.file.as_ref(), bytes, position - self.base)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Fills `buffer` from `position` as far as the segment reaches; answers the bytes read.
    pub(super) fn read(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_some(self.file.as_ref(), buffer, position - self.base)
    }
}

/// The segments of one journal, by base position.
#[derive(Debug)]
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    by_base: RwLock<BTreeMap<u64, Arc<Segment>>>,
}

/// A segment file that cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is damaged at byte {offset}: {what}. Restore the data directory from a backup, \
         or start once with --salvage to give up what cannot be read", path.display()
    )]
    Damaged { path: PathBuf, offset: u64, what: &'static str },
}

impl SegmentError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

impl Segments {
    /// Opens every segment file in `dir`.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, SegmentError> {
        let mut by_base = BTreeMap::new();
        for path in disk.list(dir).map_err(SegmentError::io("list", dir))? {
            match path.extension().and_then(|e| e.to_str()) {
                Some("log") => {}
                Some("tmp") => {
                    disk.remove(&path).map_err(SegmentError::io("remove", &path))?;
                    continue;
                }
                _ => continue,
            }
            let file = disk.open(&path, Opening::Existing);
            let segment = Segment::of(file.map_err(SegmentError::io("open", &path))?, path)?;
            by_base.insert(segment.base, Arc::new(segment));
        }
        Ok(Self { disk, dir: dir.to_path_buf(), by_base: RwLock::new(by_base) })
    }

    /// Creates the segment that starts at `base`, ready to be written.
    pub(super) fn create(&self, base: u64, capacity: u64) -> Result<Arc<Segment>, SegmentError> {
        let path = self.dir.join(format!("{base:016x}.log"));
        let temporary = self.dir.join(format!("{base:016x}.tmp"));
        let file = fill(self.disk.as_ref(), &temporary, base, capacity).inspect_err(|_| {
            // A half-filled file is useless and may be what filled the disk.
            self.disk.remove(&temporary).ok();
        });
        let file = file.map_err(SegmentError::io("create", &temporary))?;
        self.disk.rename(&temporary, &path).map_err(SegmentError::io("rename", &temporary))?;
        crash::point(Stage::Files);
        self.disk.sync_dir(&self.dir).map_err(SegmentError::io("sync", &self.dir))?;
        crash::point(Stage::Files);
        Ok(Arc::new(Segment { base, capacity, path, file }))
    }

    /// The disk the segments lie on, and where.
    pub(super) fn place(&self) -> (&dyn Disk, &Path) {
        (self.disk.as_ref(), &self.dir)
    }

    /// Makes a created segment visible to readers.
    pub(super) fn adopt(&self, segment: Arc<Segment>) {
        self.by_base.write().insert(segment.base, segment);
    }

    /// The segment that holds `position`.
    pub(super) fn at(&self, position: u64) -> Option<Arc<Segment>> {
        let segments = self.by_base.read();
        let (_, segment) = segments.range(..=position).next_back()?;
        (position < segment.end()).then(|| Arc::clone(segment))
    }

    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.by_base.read().values().cloned().collect()
    }

    /// Bytes of all segment files.
    pub(super) fn bytes(&self) -> u64 {
        self.by_base.read().values().map(|s| s.capacity).sum()
    }

    /// Deletes a whole segment.
    pub(super) fn remove(&self, base: u64) -> Result<(), SegmentError> {
        let Some(segment) = self.by_base.write().remove(&base) else { return Ok(()) };
        crash::point(Stage::Files);
        self.disk.remove(&segment.path).map_err(SegmentError::io("remove", &segment.path))?;
        crash::point(Stage::Files);
        self.disk.sync_dir(&self.dir).map_err(SegmentError::io("sync", &self.dir))?;
        crash::point(Stage::Files);
        Ok(())
    }

    /// Reads the header of the block at `position`; `None` at the end of what is written there.
    pub(super) fn header(&self, position: u64) -> Option<BlockHeader> {
        let segment = self.at(position)?;
        let mut bytes = [0; HEADER_BYTES];
        let read = segment.read(position, &mut bytes).ok()?;
        read_header(bytes.get(..read)?, position).ok()
    }

    /// Reads and checks the block at `position`.
    pub(super) fn block(&self, position: u64) -> Result<(BlockHeader, Bytes), SegmentError> {
        let missing = || SegmentError::Damaged {
            path: self.dir.clone(),
            offset: position,
            what: "the segment that holds this position is missing",
        };
        let segment = self.at(position).ok_or_else(missing)?;
        let damaged = |what| SegmentError::Damaged {
            path: segment.path.clone(),
            offset: position - segment.base,
            what,
        };
        let header = self.header(position).ok_or_else(|| damaged("no block header"))?;
        let mut bytes =
            vec![
                0;
                header.block_bytes().min(usize::try_from(segment.capacity).unwrap_or(usize::MAX))
            ];
        let read =
            segment.read(position, &mut bytes).map_err(SegmentError::io("read", &segment.path))?;
        bytes.truncate(read);
        let payload_end = HEADER_BYTES + header.payload_bytes as usize;
        match read_block(&bytes, position) {
            Ok((header, _)) => Ok((header, Bytes::from(bytes).slice(HEADER_BYTES..payload_end))),
            Err(BlockFault::Empty | BlockFault::Invalid) => Err(damaged("checksum mismatch")),
        }
    }
}

fn fill(disk: &dyn Disk, path: &Path, base: u64, capacity: u64) -> io::Result<Arc<dyn DiskFile>> {
    crash::point(Stage::Files);
    let file = disk.open(path, Opening::Empty)?;
    crash::point(Stage::Files);
    let zeros = vec![0; FILL_CHUNK];
    let mut at = 0;
    while at < capacity {
        let take = usize::try_from(capacity - at).unwrap_or(FILL_CHUNK).min(FILL_CHUNK);
        write_all(file.as_ref(), &zeros[..take], at)?;
        at += take as u64;
    }
    crash::point(Stage::Files);
    write_all(file.as_ref(), &segment_header(base, capacity), 0)?;
    crash::point(Stage::Files);
    file.sync()?;
    crash::point(Stage::Files);
    Ok(file)
}
