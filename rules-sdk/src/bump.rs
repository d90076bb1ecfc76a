//! The memory of a rule: handed out upwards, and all free again once nothing of it is in use.
//!
//! A batch is lifted, answered and freed as a whole, so that a list of free blocks would only cost.

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32::{memory_grow, memory_size};
use std::ptr::{copy_nonoverlapping, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const PAGE: usize = 1 << 16;
/// Growing costs a call out of the rule.
const PAGES_MIN: usize = 2;

#[global_allocator]
static MEMORY: Bump = Bump {
    start: AtomicUsize::new(0),
    top: AtomicUsize::new(0),
    end: AtomicUsize::new(0),
    live: AtomicUsize::new(0),
};

/// A rule has one thread: the atomics are plain loads and stores there.
struct Bump {
    /// Where its memory begins; 0 before the first use.
    start: AtomicUsize,
    top: AtomicUsize,
    end: AtomicUsize,
    /// Blocks in use.
    live: AtomicUsize,
}

impl Bump {
    /// Makes room up to `top`; the linear memory's own limit is the gateway's business.
    fn reach(&self, top: usize) -> bool {
        let end = self.end.load(Relaxed);
        if top <= end {
            return true;
        }
        let pages = (top - end).div_ceil(PAGE).max(PAGES_MIN);
        if memory_grow(0, pages) == usize::MAX {
            return false;
        }
        self.end.store(end + pages * PAGE, Relaxed);
        true
    }

    /// What lies behind the module's own data belongs to this allocator from the first use on.
    fn begin(&self) -> usize {
        let begin = memory_size(0) * PAGE;
        self.start.store(begin, Relaxed);
        self.end.store(begin, Relaxed);
        begin
    }
}

#[expect(unsafe_code, reason = "an allocator hands out memory; that cannot be said in safe Rust")]
// SAFETY: every block lies in pages grown for this allocator, above all that are in use and aligned as
// asked; `top` goes back only over the last block or when none is in use.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let top = self.top.load(Relaxed);
        let top = if top == 0 { self.begin() } else { top };
        let mask = layout.align() - 1;
        let Some(block) = top.checked_add(mask).map(|top| top & !mask) else { return null_mut() };
        let Some(end) = block.checked_add(layout.size()) else { return null_mut() };
        if !self.reach(end) {
            return null_mut();
        }
        self.top.store(end, Relaxed);
        self.live.store(self.live.load(Relaxed) + 1, Relaxed);
        block as *mut u8
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let live = self.live.load(Relaxed) - 1;
        self.live.store(live, Relaxed);
        if live == 0 {
            self.top.store(self.start.load(Relaxed), Relaxed);
        } else if block as usize + layout.size() == self.top.load(Relaxed) {
            self.top.store(block as usize, Relaxed);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if block as usize + layout.size() == self.top.load(Relaxed)
            && let Some(end) = (block as usize).checked_add(size)
        {
            if !self.reach(end) {
                return null_mut();
            }
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
