//! The machine's files, failing on request: how tests see a real process on a bad disk.
//!
//! `BUGLER_DISK_FAULTS` names a file that is read before each operation: `full`, `read-only`,
//! `sync-fails`, `write-fails`, `short` or `slow:<milliseconds>`; without the file nothing fails.

use super::media::{Disk, DiskFile, Opening, RealDisk};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// `EIO`.
const BROKEN: i32 = 5;

#[derive(Debug)]
pub(super) struct FaultyDisk(Arc<Orders>);

#[derive(Debug)]
struct Orders {
    file: PathBuf,
    writes: AtomicU64,
}

impl Orders {
    fn now(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default().trim().to_owned()
    }

    /// What creating and removing names comes to.
    fn name(&self) -> io::Result<()> {
        match self.now().as_str() {
            "read-only" => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(()),
        }
    }
}

impl FaultyDisk {
    pub(super) fn new(file: PathBuf) -> Self {
        Self(Arc::new(Orders { file, writes: AtomicU64::new(0) }))
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }

    fn open(&self, path: &Path, opening: Opening) -> io::Result<Arc<dyn DiskFile>> {
        if opening != Opening::Existing {
            self.0.name()?;
        }
        let file = RealDisk.open(path, opening)?;
        Ok(Arc::new(FaultyFile { orders: Arc::clone(&self.0), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.name()?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.name()?;
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
struct FaultyFile {
    orders: Arc<Orders>,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.orders.now() == "full" && len > self.file.len()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.set_len(len)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let number = self.orders.writes.fetch_add(1, Ordering::Relaxed);
        let end = at + bytes.len() as u64;
        match self.orders.now().as_str() {
            // A segment that is in use has all its room.
            "full" if end > self.file.len()? => Err(io::ErrorKind::StorageFull.into()),
            "read-only" => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            "write-fails" => Err(io::Error::from_raw_os_error(BROKEN)),
            "short" if number.is_multiple_of(3) => Err(io::ErrorKind::Interrupted.into()),
            "short" => self.file.write_at(&bytes[..bytes.len().div_ceil(2)], at),
            _ => self.file.write_at(bytes, at),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let orders = self.orders.now();
        if orders == "sync-fails" {
            return Err(io::Error::from_raw_os_error(BROKEN));
        }
        if let Some(millis) = orders.strip_prefix("slow:").and_then(|text| text.parse().ok()) {
            std::thread::sleep(Duration::from_millis(millis));
        }
        self.file.sync()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}
