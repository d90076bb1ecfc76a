//! How the disk is, looked at a few times a second: what admission decides by.

use crate::config::StoreSettings;
use crate::intake::{Admission, Vitals};
use crate::journal::disk::DiskJournal;
use crate::lifecycle::{Readiness, Shutdown};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The condition of readiness.
const CONDITION: &str = "disk";

/// Tells `admission` how the disk is until the process drains.
pub(super) async fn watch(
    admission: Arc<Admission>,
    journal: Arc<DiskJournal>,
    settings: StoreSettings,
    readiness: Readiness,
    shutdown: Shutdown,
) {
    loop {
        look(&admission, &journal, &settings, &readiness);
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.draining() => return,
        }
    }
}

fn look(
    admission: &Admission,
    journal: &DiskJournal,
    settings: &StoreSettings,
    readiness: &Readiness,
) {
    let (waiting, buffer) = journal.buffered();
    let is_full = match space(&settings.dir) {
        Ok(space) => space.is_short(settings),
        Err(error) => {
            // A directory that is gone or unreadable takes no new work either.
            tracing::warn!(%error, "the free space of store.dir cannot be read");
            true
        }
    };
    if is_full {
        let text = "less is free than store.min_free and store.min_free_percent ask for";
        readiness.block(CONDITION, text);
    } else {
        readiness.clear(CONDITION);
    }
    admission
        .observe(Vitals { sync: journal.stats().sync(), is_full: is_full || waiting > buffer });
}

/// The size of a file system and what of it we may still take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Space {
    size: u64,
    free: u64,
}

fn space(dir: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Space { size: bytes(found.f_blocks), free: bytes(found.f_bavail) })
}

impl Space {
    fn is_short(self, settings: &StoreSettings) -> bool {
        let least = self.size / 100 * u64::from(settings.min_free_percent);
        self.free < settings.min_free.0.max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    #[test]
    fn room_is_short_by_bytes_or_by_share() {
        let settings = |free, percent| StoreSettings {
            min_free: ByteSize(free),
            min_free_percent: percent,
            ..StoreSettings::default()
        };
        for (size, free, least, percent, expected) in [
            (1_000, 100, 100, 10, false),
            (1_000, 99, 100, 0, true),
            (1_000, 99, 0, 10, true),
            (1_000, 0, 0, 0, false),
        ] {
            let space = Space { size, free };
            assert_eq!(space.is_short(&settings(least, percent)), expected, "{space:?}");
        }
    }

    #[test]
    fn a_real_directory_has_a_size_and_a_missing_one_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let found = space(dir.path()).unwrap();
        assert!(found.size >= found.free && found.size > 0, "{found:?}");
        space(&dir.path().join("gone")).unwrap_err();
    }
}
