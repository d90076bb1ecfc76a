//! The machine's files, failing as a test says.

use super::media::{Disk, DiskFile, Opening, RealDisk};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// `EIO`.
const BROKEN: i32 = 5;

#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Reads of segments fail.
    pub(super) log_is_unreadable: AtomicBool,
    /// The index can neither grow nor be written.
    pub(super) index_is_full: AtomicBool,
    /// Reads that failed.
    pub(super) failed: AtomicUsize,
    /// Syncs of the index.
    pub(super) index_syncs: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct FailingDisk(Arc<Orders>);

impl FailingDisk {
    pub(super) fn with_orders() -> (Arc<dyn Disk>, Arc<Orders>) {
        let orders = Arc::<Orders>::default();
        (Arc::new(Self(Arc::clone(&orders))), orders)
    }
}

impl Disk for FailingDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }

    fn open(&self, path: &Path, opening: Opening) -> io::Result<Arc<dyn DiskFile>> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        Ok(Arc::new(FailingFile {
            orders: Arc::clone(&self.0),
            file: RealDisk.open(path, opening)?,
            is_index: name.starts_with("index."),
            // Segments are made under another name.
            is_log: name.ends_with(".log") || name.ends_with(".tmp"),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn wait_for_room(&self) {
        RealDisk.wait_for_room();
    }
}

#[derive(Debug)]
struct FailingFile {
    orders: Arc<Orders>,
    file: Arc<dyn DiskFile>,
    is_index: bool,
    is_log: bool,
}

impl FailingFile {
    fn has_room(&self) -> io::Result<()> {
        if self.is_index && self.orders.index_is_full.load(Ordering::Acquire) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl DiskFile for FailingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.has_room()?;
        self.file.set_len(len)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        if self.is_log && self.orders.log_is_unreadable.load(Ordering::Acquire) {
            self.orders.failed.fetch_add(1, Ordering::AcqRel);
            return Err(io::Error::from_raw_os_error(BROKEN));
        }
        self.file.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.has_room()?;
        self.file.write_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.orders.index_syncs.fetch_add(usize::from(self.is_index), Ordering::AcqRel);
        self.file.sync()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}
