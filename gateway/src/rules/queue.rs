//! What waits for the threads that run rules: bounded, and each job wakes one of them.
//!
//! A channel whose receiver is shared under a lock wakes two threads for a job: one to take it, and one to
//! wait in its place.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt;
use tokio::sync::Semaphore;

/// Jobs in the order they came. Callers wait for room, threads for jobs.
pub(super) struct Queue<J> {
    room: Semaphore,
    jobs: Mutex<Jobs<J>>,
    came: Condvar,
}

struct Jobs<J> {
    waiting: VecDeque<J>,
    is_over: bool,
}

impl<J> Queue<J> {
    /// `most` jobs may wait.
    pub(super) fn new(most: usize) -> Self {
        let jobs = Jobs { waiting: VecDeque::new(), is_over: false };
        let room = Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS));
        Self { room, jobs: Mutex::new(jobs), came: Condvar::new() }
    }

    /// Waits for room; drops `job` if nobody will take it any more.
    pub(super) async fn put(&self, job: J) {
        let Ok(room) = self.room.acquire().await else { return };
        room.forget();
        self.jobs.lock().waiting.push_back(job);
        self.came.notify_one();
    }

    /// Waits for a job; what `joins` it comes with it. `None`: there will be no more.
    pub(super) fn take(&self, mut join: impl FnMut(&mut J, J) -> Option<J>) -> Option<J> {
        let mut jobs = self.jobs.lock();
        self.came.wait_while(&mut jobs, |jobs| jobs.waiting.is_empty() && !jobs.is_over);
        let mut first = jobs.waiting.pop_front()?;
        let before = jobs.waiting.len();
        // What cannot join keeps its place.
        for _ in 0..before {
            if let Some(job) = jobs.waiting.pop_front()
                && let Some(other) = join(&mut first, job)
            {
                jobs.waiting.push_back(other);
            }
        }
        let taken = 1 + before - jobs.waiting.len();
        drop(jobs);
        self.room.add_permits(taken);
        Some(first)
    }

    /// What is there by now is still taken.
    pub(super) fn end(&self) {
        self.room.close();
        self.jobs.lock().is_over = true;
        self.came.notify_all();
    }
}

impl<J> fmt::Debug for Queue<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("room", &self.room).finish_non_exhaustive()
    }
}
