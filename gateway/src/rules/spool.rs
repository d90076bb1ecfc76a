//! Lines that wait to be written: bounded in bytes, and taken all at once.

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use std::time::Duration;

/// Kinds of lines.
pub(super) const KINDS: usize = 3;
/// What waits; what comes while so much waits is lost.
const BYTES_MAX: usize = 8 << 20;

/// Between those who write lines and the thread that puts them into files.
#[derive(Debug, Default)]
pub(super) struct Spool {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    texts: [Vec<u8>; KINDS],
    is_over: bool,
}

impl Spool {
    /// Adds `line` as JSON to the lines of its kind; false if there is no room.
    pub(super) fn put(&self, kind: usize, line: &impl Serialize) -> bool {
        let mut waiting = self.waiting.lock();
        let bytes: usize = waiting.texts.iter().map(Vec::len).sum();
        let Some(text) = waiting.texts.get_mut(kind).filter(|_| bytes < BYTES_MAX) else {
            return false;
        };
        let before = text.len();
        let is_written = serde_json::to_writer(&mut *text, line).is_ok();
        if is_written {
            text.push(b'\n');
        } else {
            text.truncate(before);
        }
        drop(waiting);
        self.changed.notify_one();
        is_written
    }

    /// Waits for lines, for at most `patience`, and exchanges them for the empty `texts`; false if there
    /// will be no more.
    pub(super) fn take(&self, texts: &mut [Vec<u8>; KINDS], patience: Duration) -> bool {
        let mut waiting = self.waiting.lock();
        let is_idle =
            |waiting: &mut Waiting| !waiting.is_over && waiting.texts.iter().all(Vec::is_empty);
        self.changed.wait_while_for(&mut waiting, is_idle, patience);
        std::mem::swap(&mut waiting.texts, texts);
        !(waiting.is_over && texts.iter().all(Vec::is_empty))
    }

    /// What is there by now is still taken.
    pub(super) fn end(&self) {
        self.waiting.lock().is_over = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_together_by_their_kind_and_the_last_ones_after_the_end() {
        let (spool, mut texts) = (Spool::default(), <[Vec<u8>; KINDS]>::default());
        assert!(spool.put(0, &1) && spool.put(2, &"x") && spool.put(0, &2));
        assert!(!spool.put(KINDS, &3), "there is no such kind");
        assert!(spool.take(&mut texts, Duration::ZERO));
        assert_eq!(texts.each_ref().map(Vec::as_slice), [&b"1\n2\n"[..], b"", b"\"x\"\n"]);
        texts = Default::default();
        assert!(spool.take(&mut texts, Duration::ZERO), "there may be more");
        assert_eq!(texts, <[Vec<u8>; KINDS]>::default());
        assert!(spool.put(1, &4));
        spool.end();
        assert!(spool.take(&mut texts, Duration::MAX));
        assert_eq!(texts[1], b"4\n");
        texts = Default::default();
        assert!(!spool.take(&mut texts, Duration::MAX));
    }

    #[test]
    fn what_waits_is_bounded() {
        let (spool, line) = (Spool::default(), "x".repeat(1 << 20));
        assert_eq!((0..20).filter(|_| spool.put(0, &line)).count(), BYTES_MAX >> 20);
    }
}
