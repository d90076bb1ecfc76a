//! The files a journal is made of: a seam, so that crashes and failing disks can be simulated.

use std::fmt::Debug;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks whether a full disk has room again.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// What a file that is opened may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// There already.
    Existing,
    /// There, or made now.
    OrNew,
    /// Made now, or emptied.
    Empty,
}

/// Where files lie. Names of one directory at a time; nothing is durable before its sync.
pub(crate) trait Disk: Send + Sync + Debug {
    /// Makes `dir` and what is above it, readable by the owner only.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The files in `dir`, by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Opens a file for reading and writing; a new one is readable by the owner only.
    fn open(&self, path: &Path, opening: Opening) -> io::Result<Arc<dyn DiskFile>>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes created, renamed and removed names durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Returns when it is worth looking for room again.
    fn wait_for_room(&self);
}

/// An open file, written and read by offset.
pub(crate) trait DiskFile: Send + Sync + Debug {
    fn len(&self) -> io::Result<u64>;

    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reads some bytes; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes some of `bytes`, as many as it says.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize>;

    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;

    /// Locks the file for this process until it is closed; false if another one has.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Writes all of `bytes`, however the disk cuts or interrupts it.
pub(crate) fn write_all(file: &dyn DiskFile, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                at += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `buffer` from `at` as far as the file reaches; answers the bytes read.
pub(crate) fn read_some(file: &dyn DiskFile, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// True if an operation failed for want of room or of permission to write, and changed nothing
/// that was there: it may succeed later.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
    )
}

/// The machine's files, failing as `BUGLER_DISK_FAULTS` says.
#[cfg(feature = "crash-points")]
pub(super) fn machine() -> Arc<dyn Disk> {
    match std::env::var_os("BUGLER_DISK_FAULTS") {
        Some(orders) => Arc::new(super::faulty::FaultyDisk::new(orders.into())),
        None => Arc::new(RealDisk),
    }
}

/// The machine's files.
#[cfg(not(feature = "crash-points"))]
pub(super) fn machine() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

/// The machine's files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let found: io::Result<Vec<_>> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect();
        let mut found = found?;
        found.sort();
        Ok(found)
    }

    fn open(&self, path: &Path, opening: Opening) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(opening != Opening::Existing)
            .truncate(opening == Opening::Empty)
            .mode(0o600)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn wait_for_room(&self) {
        std::thread::sleep(ROOM_PAUSE);
    }
}

/// A file that somebody has opened, as part of a journal.
pub(super) fn opened(file: File) -> Arc<dyn DiskFile> {
    Arc::new(RealFile(file))
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.0.write_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        // `fdatasync` also commits a changed length.
        self.0.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
