//! Slack's pace: one message a second per hook with short bursts, kept before Slack asks for it.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Slack's rule: one message a second per channel …
const INTERVAL: Duration = Duration::from_secs(1);
/// … with bursts of three.
const BURST: u32 = 3;
/// Longest wait inside an attempt; beyond it the delivery goes back to the dispatcher.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Hooks remembered. A hook that is not remembered starts with a full burst.
const HOOKS_MAX: usize = 10_000;

/// When each hook may be used next.
///
/// The instant kept per hook is when its bucket is full again; a message moves it one interval
/// on, and may go as soon as it lies less than a burst ahead.
#[derive(Debug, Default)]
pub(super) struct Pacing(Mutex<HashMap<[u8; 16], Instant>>);

impl Pacing {
    /// Books the next free slot of `hook`. `Ok` is how long to wait for it; `Err` is how long to
    /// stay away if that is more than an attempt may wait.
    pub(super) fn book(&self, hook: [u8; 16], now: Instant) -> Result<Duration, Duration> {
        let mut hooks = self.0.lock();
        if hooks.len() >= HOOKS_MAX {
            hooks.retain(|_, full_at| *full_at > now);
        }
        if hooks.len() >= HOOKS_MAX && !hooks.contains_key(&hook) {
            return Err(INTERVAL);
        }
        let full_at = hooks.entry(hook).or_insert(now);
        let base = (*full_at).max(now);
        let wait = base.duration_since(now).saturating_sub(INTERVAL * (BURST - 1));
        if wait > WAIT_MAX {
            return Err(wait);
        }
        *full_at = base + INTERVAL;
        Ok(wait)
    }

    /// Slack itself asked to stay away from `hook` for `wait`.
    pub(super) fn hold(&self, hook: [u8; 16], wait: Duration, now: Instant) {
        let until = now + wait + INTERVAL * (BURST - 1);
        let mut hooks = self.0.lock();
        if let Some(full_at) = hooks.get_mut(&hook) {
            *full_at = (*full_at).max(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOOK: [u8; 16] = [1; 16];

    fn ms(result: Result<Duration, Duration>) -> Result<u128, u128> {
        result.map(|d| d.as_millis()).map_err(|d| d.as_millis())
    }

    #[test]
    fn three_go_at_once_then_one_a_second_then_back_to_the_dispatcher() {
        let pacing = Pacing::default();
        let now = Instant::now();
        let booked: Vec<_> = (0..8).map(|_| ms(pacing.book(HOOK, now))).collect();
        assert_eq!(
            booked,
            [Ok(0), Ok(0), Ok(0), Ok(1000), Ok(2000), Ok(3000), Err(4000), Err(4000)]
        );
        let later = now + Duration::from_secs(6);
        assert_eq!(ms(pacing.book(HOOK, later)), Ok(0), "a pause fills the bucket again");
    }

    #[test]
    fn one_hook_does_not_slow_another() {
        let pacing = Pacing::default();
        let now = Instant::now();
        for _ in 0..6 {
            pacing.book(HOOK, now).unwrap();
        }
        assert_eq!(ms(pacing.book([2; 16], now)), Ok(0));
    }

    #[test]
    fn a_wait_named_by_slack_holds_for_everybody_on_that_hook() {
        let pacing = Pacing::default();
        let now = Instant::now();
        pacing.book(HOOK, now).unwrap();
        pacing.hold(HOOK, Duration::from_secs(30), now);
        assert_eq!(ms(pacing.book(HOOK, now)), Err(30_000));
        assert_eq!(ms(pacing.book(HOOK, now + Duration::from_secs(30))), Ok(0));
        assert_eq!(ms(pacing.book(HOOK, now + Duration::from_secs(30))), Ok(1000), "no burst");
    }

    #[test]
    fn hooks_at_rest_make_room_and_a_full_table_refuses_new_ones() {
        let pacing = Pacing::default();
        let now = Instant::now();
        for n in 0..HOOKS_MAX {
            pacing.book(u128::try_from(n).unwrap().to_be_bytes(), now).unwrap();
        }
        assert_eq!(ms(pacing.book([0xff; 16], now)), Err(1000));
        assert_eq!(ms(pacing.book([0xff; 16], now + Duration::from_secs(2))), Ok(0));
        assert_eq!(pacing.0.lock().len(), 1);
    }
}
