//! A disk in memory that forgets, tears, fills up and fails as its seed says.

use crate::journal::disk::media::{Disk, DiskFile, Opening};
use crate::sim::dice::Dice;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PAGE: usize = 4096;
const SECTOR: usize = 512;
/// `EIO`.
const BROKEN: i32 = 5;

type Page = [u8; PAGE];

/// What a file holds; pages are shared until one side writes.
#[derive(Clone, Debug, Default)]
struct Pages {
    len: u64,
    pages: Vec<Option<Arc<Page>>>,
}

impl Pages {
    fn write(&mut self, bytes: &[u8], at: u64) {
        self.len = self.len.max(at + bytes.len() as u64);
        let mut at = usize::try_from(at).expect("simulated files are small");
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page, offset) = (at / PAGE, at % PAGE);
            let take = rest.len().min(PAGE - offset);
            if self.pages.len() <= page {
                self.pages.resize(page + 1, None);
            }
            let page = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[offset..offset + take].copy_from_slice(&rest[..take]);
            rest = &rest[take..];
            at += take;
        }
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> usize {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let at = usize::try_from(at).expect("simulated files are small");
        let take = buffer.len().min(left).min(PAGE - at % PAGE);
        match self.pages.get(at / PAGE) {
            Some(Some(page)) => {
                buffer[..take].copy_from_slice(&page[at % PAGE..at % PAGE + take]);
            }
            _ => buffer[..take].fill(0),
        }
        take
    }

    fn set_len(&mut self, len: u64) {
        let whole = usize::try_from(len).expect("simulated files are small");
        if len < self.len {
            self.pages.truncate(whole.div_ceil(PAGE));
            if let Some(Some(page)) = self.pages.get_mut(whole / PAGE) {
                Arc::make_mut(page)[whole % PAGE..].fill(0);
            }
        }
        self.len = len;
    }

    fn used(&self) -> u64 {
        self.pages.iter().flatten().count() as u64
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Pages,
    durable: Pages,
    unsynced: Vec<Change>,
}

impl Inode {
    /// What a power cut leaves: each unsynced change is there, away or torn.
    fn cut(&mut self, dice: &mut Dice) {
        let mood = dice.below(4);
        let kept = dice.below(self.unsynced.len() as u64 + 1);
        for (number, change) in (0u64..).zip(std::mem::take(&mut self.unsynced)) {
            let fate = match mood {
                0 => 0,
                1 => 1,
                2 if number < kept => 1,
                2 if number > kept => 0,
                _ => dice.below(4),
            };
            match (fate, change) {
                (0, _) => {}
                (1, Change::Write(at, bytes)) => self.durable.write(&bytes, at),
                (_, Change::Write(at, bytes)) => self.tear(dice, at, &bytes),
                (_, Change::Len(len)) => self.durable.set_len(len),
            }
        }
        self.live = self.durable.clone();
    }

    /// A part of one write: up to any byte, or any of its sectors.
    fn tear(&mut self, dice: &mut Dice, at: u64, bytes: &[u8]) {
        if dice.chance(50) {
            let until = usize::try_from(dice.below(bytes.len() as u64 + 1)).unwrap_or(0);
            self.durable.write(&bytes[..until], at);
            return;
        }
        let mut from = 0;
        while from < bytes.len() {
            let place = usize::try_from(at).unwrap_or(0) + from;
            let take = (SECTOR - place % SECTOR).min(bytes.len() - from);
            if dice.chance(50) {
                self.durable.write(&bytes[from..from + take], at + from as u64);
            }
            from += take;
        }
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Put(PathBuf, usize),
    Moved(PathBuf, PathBuf),
    Gone(PathBuf),
}

impl NameChange {
    fn make(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Put(path, inode) => {
                names.insert(path, inode);
            }
            Self::Moved(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
            Self::Gone(path) => {
                names.remove(&path);
            }
        }
    }
}

/// What goes wrong, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// The power fails at this operation, counted from now.
    pub(crate) power_at: Option<u64>,
    /// This sync from now fails once; what it was to make durable may be lost.
    pub(crate) sync_fails_at: Option<u64>,
    /// This write from now fails once.
    pub(crate) write_fails_at: Option<u64>,
    /// This read from now fails once, and would have succeeded a moment later.
    pub(crate) read_fails_at: Option<u64>,
    /// Pages that all files together may take.
    pub(crate) room: Option<u64>,
    /// Nothing can be created, removed or written.
    pub(crate) read_only: bool,
    /// Percent of writes that are cut short or interrupted.
    pub(crate) short: u64,
}

#[derive(Debug)]
struct Platter {
    dice: Dice,
    life: u64,
    is_off: bool,
    faults: Faults,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    unsynced: Vec<NameChange>,
    /// Waits for room; the next to last frees some.
    waits: u64,
}

impl Platter {
    /// Counts an operation of `life`; false if the power is off or fails right now.
    fn operate(&mut self, life: u64) -> io::Result<bool> {
        if self.is_off || life != self.life {
            return Err(io::Error::other("the power is off"));
        }
        let fails = count_down(&mut self.faults.power_at);
        self.is_off = fails;
        Ok(!fails)
    }

    fn off<T>(&self) -> io::Result<T> {
        Err(io::Error::other("the power failed"))
    }

    fn has_room(&self, inode: usize, at: u64, bytes: u64) -> bool {
        let Some(room) = self.faults.room else { return true };
        let file = &self.inodes[inode].live;
        let (first, last) = (at / PAGE as u64, (at + bytes).div_ceil(PAGE as u64));
        let has = |page: u64| {
            let page = usize::try_from(page).unwrap_or(usize::MAX);
            file.pages.get(page).is_some_and(Option::is_some)
        };
        let new = (first..last).filter(|page| !has(*page)).count() as u64;
        let used: u64 = self.names.values().map(|inode| self.inodes[*inode].live.used()).sum();
        new == 0 || used + new <= room
    }
}

fn count_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(0) => {
            *left = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

/// The disk, which outlives the processes that use it.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk(Arc<Mutex<Platter>>);

impl SimDisk {
    pub(crate) fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            dice,
            life: 0,
            is_off: false,
            faults: Faults::default(),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
            waits: 0,
        })))
    }

    /// The disk as a process sees it, until its end.
    pub(crate) fn mount(&self) -> Arc<dyn Disk> {
        let life = self.0.lock().life;
        Arc::new(Mount { platter: Arc::clone(&self.0), life })
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// Has the read after so many others fail.
    pub(crate) fn fail_read(&self, after: u64) {
        self.0.lock().faults.read_fails_at = Some(after);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.0.lock().is_off
    }

    /// Ends the process and nothing else: what it wrote is in the kernel's hands.
    pub(crate) fn kill(&self) {
        let mut platter = self.0.lock();
        platter.life += 1;
        platter.is_off = false;
        platter.faults = Faults::default();
    }

    /// Ends the machine: what was not synced is there, away or torn.
    pub(crate) fn cut_power(&self) {
        self.kill();
        let platter = &mut *self.0.lock();
        for inode in &mut platter.inodes {
            inode.cut(&mut platter.dice);
        }
        let pending = std::mem::take(&mut platter.unsynced);
        let kept = usize::try_from(platter.dice.below(pending.len() as u64 + 1)).unwrap_or(0);
        for change in pending.into_iter().take(kept) {
            change.make(&mut platter.durable);
        }
        platter.names = platter.durable.clone();
    }
}

#[derive(Debug)]
struct Mount {
    platter: Arc<Mutex<Platter>>,
    life: u64,
}

impl Mount {
    fn rename_or_remove(&self, change: NameChange, path: &Path) -> io::Result<()> {
        let mut platter = self.platter.lock();
        let goes_on = platter.operate(self.life)?;
        if platter.faults.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if !platter.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        change.clone().make(&mut platter.names);
        platter.unsynced.push(change);
        if goes_on { Ok(()) } else { platter.off() }
    }
}

impl Disk for Mount {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.platter.lock().operate(self.life).map(|_| ())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut platter = self.platter.lock();
        platter.operate(self.life)?;
        Ok(platter.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn open(&self, path: &Path, opening: Opening) -> io::Result<Arc<dyn DiskFile>> {
        let mut platter = self.platter.lock();
        let goes_on = platter.operate(self.life)?;
        let found = platter.names.get(path).copied();
        let inode = match (found, opening) {
            (None, Opening::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(inode), Opening::Existing | Opening::OrNew) => inode,
            (Some(inode), Opening::Empty) => {
                platter.inodes[inode].live.set_len(0);
                platter.inodes[inode].unsynced.push(Change::Len(0));
                inode
            }
            (None, _) if platter.faults.read_only => {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
            (None, _) => {
                platter.inodes.push(Inode::default());
                let inode = platter.inodes.len() - 1;
                let change = NameChange::Put(path.to_path_buf(), inode);
                change.clone().make(&mut platter.names);
                platter.unsynced.push(change);
                inode
            }
        };
        if !goes_on {
            return platter.off();
        }
        Ok(Arc::new(SimFile { platter: Arc::clone(&self.platter), life: self.life, inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_or_remove(NameChange::Moved(from.to_path_buf(), to.to_path_buf()), from)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.rename_or_remove(NameChange::Gone(path.to_path_buf()), path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let platter = &mut *self.platter.lock();
        let goes_on = platter.operate(self.life)?;
        if !goes_on {
            return platter.off();
        }
        for change in platter.unsynced.drain(..) {
            change.make(&mut platter.durable);
        }
        Ok(())
    }

    fn wait_for_room(&self) {
        let mut platter = self.platter.lock();
        platter.waits += 1;
        if platter.waits.is_multiple_of(3) {
            // Somebody has cleaned up.
            platter.faults.room = None;
            platter.faults.read_only = false;
        }
    }
}

#[derive(Debug)]
struct SimFile {
    platter: Arc<Mutex<Platter>>,
    life: u64,
    inode: usize,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut platter = self.platter.lock();
        platter.operate(self.life)?;
        Ok(platter.inodes[self.inode].live.len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.platter.lock();
        let goes_on = platter.operate(self.life)?;
        if platter.faults.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let inode = &mut platter.inodes[self.inode];
        inode.live.set_len(len);
        inode.unsynced.push(Change::Len(len));
        if goes_on { Ok(()) } else { platter.off() }
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut platter = self.platter.lock();
        platter.operate(self.life)?;
        if count_down(&mut platter.faults.read_fails_at) {
            return Err(io::Error::from_raw_os_error(BROKEN));
        }
        Ok(platter.inodes[self.inode].live.read(buffer, at))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let platter = &mut *self.platter.lock();
        let goes_on = platter.operate(self.life)?;
        if platter.faults.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if count_down(&mut platter.faults.write_fails_at) {
            return Err(io::Error::from_raw_os_error(BROKEN));
        }
        let mut taken = bytes;
        if bytes.len() > 1 && platter.dice.chance(platter.faults.short) {
            if platter.dice.chance(30) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let take = 1 + platter.dice.below(bytes.len() as u64 - 1);
            taken = &bytes[..usize::try_from(take).unwrap_or(1)];
        }
        if !platter.has_room(self.inode, at, taken.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut platter.inodes[self.inode];
        inode.live.write(taken, at);
        inode.unsynced.push(Change::Write(at, taken.to_vec()));
        if goes_on { Ok(taken.len()) } else { platter.off() }
    }

    fn sync(&self) -> io::Result<()> {
        let platter = &mut *self.platter.lock();
        let goes_on = platter.operate(self.life)?;
        let inode = &mut platter.inodes[self.inode];
        if count_down(&mut platter.faults.sync_fails_at) {
            // As kernels do: the pages count as clean, whether they reached the disk or not.
            let live = inode.live.clone();
            inode.cut(&mut platter.dice);
            inode.live = live;
            return Err(io::Error::from_raw_os_error(BROKEN));
        }
        if !goes_on {
            return platter.off();
        }
        inode.durable = inode.live.clone();
        inode.unsynced.clear();
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }
}
