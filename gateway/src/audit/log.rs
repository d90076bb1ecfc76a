//! What an audit asks of a log, wherever it lies.

use crate::journal::disk::{LogView, ViewError};

/// An entry named by where it stands.
pub(super) type Place = (u64, u32);

/// Where the blocks of a log lie.
pub(super) trait Log {
    /// True if nothing was dropped from its beginning.
    fn is_whole(&self) -> bool;

    /// The base of the part that holds a position, if it is there.
    fn segment_of(&self, position: u64) -> Option<u64>;

    /// What the part with this base is called.
    fn name(&self, base: u64) -> String;

    /// Every waiting entry that is known beside the log.
    fn timers(&self, visit: &mut dyn FnMut(Place)) -> Result<(), ViewError>;
}

impl Log for LogView {
    fn is_whole(&self) -> bool {
        self.segment_of(0).is_some()
    }

    fn segment_of(&self, position: u64) -> Option<u64> {
        Self::segment_of(self, position)
    }

    fn name(&self, base: u64) -> String {
        let file = self.file(base).and_then(|file| file.file_name());
        file.unwrap_or_default().to_string_lossy().into_owned()
    }

    fn timers(&self, visit: &mut dyn FnMut(Place)) -> Result<(), ViewError> {
        Self::timers(self, visit)
    }
}
