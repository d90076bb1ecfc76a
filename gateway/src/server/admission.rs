//! Global admission: one permit for each request being worked on, taken before any work.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The permits of one listener.
#[derive(Debug)]
pub(super) struct Admission {
    permits: Arc<Semaphore>,
    limit: usize,
}

impl Admission {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(limit)), limit }
    }

    /// A permit to hold until the request is answered, or `None` when the server is full.
    pub(super) fn try_admit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Requests admitted and not yet answered.
    pub(super) fn inflight(&self) -> usize {
        self.limit.saturating_sub(self.permits.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_at_the_limit_and_admits_again_after_an_answer() {
        let admission = Admission::new(1);
        let permit = admission.try_admit().unwrap();
        assert!(admission.try_admit().is_none());
        assert_eq!(admission.inflight(), 1);
        drop(permit);
        assert!(admission.try_admit().is_some());
    }
}
