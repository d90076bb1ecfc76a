//! The quota of a project: so many messages a minute, whole minutes from the first message on.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const MINUTE: Duration = Duration::from_secs(60);

pub(super) struct Quota {
    per_minute: u32,
    /// When the running minute began, and what was taken in it.
    minute: Mutex<Option<(Instant, u32)>>,
}

impl Quota {
    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute, minute: Mutex::new(None) }
    }

    /// Takes one message; if there is none left, the seconds until there is.
    pub(super) fn take(&self) -> Option<u64> {
        let mut minute = self.minute.lock();
        let now = Instant::now();
        match &mut *minute {
            Some((began, taken)) if now < *began + MINUTE => {
                if *taken < self.per_minute {
                    *taken += 1;
                    return None;
                }
                Some((*began + MINUTE - now).as_secs() + 1)
            }
            over => {
                *over = Some((now, 1));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_the_quota_waits_for_the_end_of_the_minute() {
        let quota = Quota::new(2);
        assert_eq!((quota.take(), quota.take()), (None, None));
        assert!(quota.take().is_some_and(|wait_s| (1..=60).contains(&wait_s)));
    }
}
