//! The memory of a rule: handed out upwards, and all free again once nothing of it is in use.
//!
//! A batch is lifted, answered and freed as a whole, so that a list of free blocks would only cost.

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32::{memory_grow, memory_size};
use std::ptr::{copy_nonoverlapping, null_mut};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

const PAGE: usize = 1 << 16;
/// Growing costs a call out of the rule, and the gateway two calls of its kernel.
const PAGES_MIN: usize = 8;
/// There from the start, and enough for most batches: pages that are not touched cost nothing.
const FIRST_BYTES: usize = 8 * PAGE;

static FIRST: [AtomicU8; FIRST_BYTES] = [const { AtomicU8::new(0) }; FIRST_BYTES];

#[global_allocator]
static MEMORY: Bump = Bump {
    top: AtomicUsize::new(0),
    end: AtomicUsize::new(0),
    behind: AtomicUsize::new(0),
    last: AtomicUsize::new(0),
    live: AtomicUsize::new(0),
};

/// A rule has one thread: the atomics are plain loads and stores there.
struct Bump {
    /// The next block lies here; 0 before the first use.
    top: AtomicUsize,
    /// End of the memory it lies in: the first, or the one behind all else.
    end: AtomicUsize,
    /// Begin and end of the memory behind all else; 0 before it is needed.
    behind: AtomicUsize,
    last: AtomicUsize,
    /// Blocks in use.
    live: AtomicUsize,
}

impl Bump {
    fn begin(&self) {
        let begin = FIRST.as_ptr() as usize;
        self.top.store(begin, Relaxed);
        self.end.store(begin + FIRST_BYTES, Relaxed);
    }

    /// Where a block fits next, above all that are in use, with its end.
    fn place(&self, layout: Layout) -> Option<(usize, usize)> {
        if self.top.load(Relaxed) == 0 {
            self.begin();
        }
        let place = || {
            let mask = layout.align() - 1;
            let block = self.top.load(Relaxed).checked_add(mask)? & !mask;
            Some((block, block.checked_add(layout.size())?))
        };
        let (block, end) = place()?;
        if end <= self.end.load(Relaxed) {
            return Some((block, end));
        }
        if !self.is_behind() {
            if self.behind.load(Relaxed) == 0 {
                let begin = memory_size(0) * PAGE;
                self.behind.store(begin, Relaxed);
                self.last.store(begin, Relaxed);
            }
            self.top.store(self.behind.load(Relaxed), Relaxed);
            self.end.store(self.last.load(Relaxed), Relaxed);
        }
        let (block, end) = place()?;
        self.reaches(end).then_some((block, end))
    }

    fn is_behind(&self) -> bool {
        let behind = self.behind.load(Relaxed);
        behind != 0 && self.top.load(Relaxed) >= behind
    }

    /// Makes room behind all else up to `end`; the linear memory's own limit is the gateway's business.
    fn reaches(&self, end: usize) -> bool {
        let own = self.end.load(Relaxed);
        if end <= own {
            return true;
        }
        let pages = (end - own).div_ceil(PAGE).max(PAGES_MIN);
        if !self.is_behind() || memory_grow(0, pages) == usize::MAX {
            return false;
        }
        self.end.store(own + pages * PAGE, Relaxed);
        self.last.store(own + pages * PAGE, Relaxed);
        true
    }
}

#[expect(unsafe_code, reason = "an allocator hands out memory; that cannot be said in safe Rust")]
// SAFETY: every block lies in memory of this allocator alone, above all that are in use and aligned as
// asked; `top` goes back only over the last block or when none is in use.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((block, end)) = self.place(layout) else { return null_mut() };
        self.top.store(end, Relaxed);
        self.live.store(self.live.load(Relaxed) + 1, Relaxed);
        block as *mut u8
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let live = self.live.load(Relaxed) - 1;
        self.live.store(live, Relaxed);
        if live == 0 {
            self.begin();
        } else if block as usize + layout.size() == self.top.load(Relaxed) {
            self.top.store(block as usize, Relaxed);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if block as usize + layout.size() == self.top.load(Relaxed)
            && let Some(end) = (block as usize).checked_add(size)
            && self.reaches(end)
        {
            self.top.store(end, Relaxed);
            return block;
        }
        // SAFETY: the caller's promise for `layout` holds for the same alignment and another size.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: both blocks are in use, apart from each other and at least this long.
            unsafe {
                copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}
