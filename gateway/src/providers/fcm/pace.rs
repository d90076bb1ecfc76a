//! How fast one project is sent to: a share of its quota, and slowly at first after a pause.
//!
//! Google counts 600,000 messages a minute and project, asks senders to ramp up over a minute, and
//! answers the excess with 429 for the rest of the minute.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// A pause after which the rate starts low again, and how long it then takes to be full.
const RAMP: Duration = Duration::from_secs(60);
/// Where a ramp starts, as a share of the full rate: nothing at all would never move.
const RAMP_FLOOR: f64 = 0.05;
/// What may go out at once after a rest, in seconds of the rate.
const BURST_S: f64 = 0.25;

/// The bucket of one project.
#[derive(Debug)]
pub(super) struct Pace {
    rate: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Messages that may go now; negative while some wait for their turn.
    tokens: f64,
    at: Instant,
    /// When the running ramp began.
    ramp: Instant,
    used: Instant,
}

impl Pace {
    /// `per_second` at full speed; `None` is without bound.
    pub(super) fn new(per_second: Option<u32>, now: Instant) -> Option<Self> {
        let rate = f64::from(per_second?.max(1));
        let state = State { tokens: 0.0, at: now, ramp: now, used: now };
        let pace = Self { rate, state: Mutex::new(state) };
        pace.state.lock().tokens = pace.burst(now, now);
        Some(pace)
    }

    /// Books a place for one message. `Ok` is how long to wait for it; `Err`, if that is more than
    /// `patience`, how long to stay away; nothing is booked then.
    pub(super) fn book(&self, now: Instant, patience: Duration) -> Result<Duration, Duration> {
        let mut state = self.state.lock();
        if now.saturating_duration_since(state.used) >= RAMP {
            state.ramp = now;
            state.tokens = state.tokens.min(self.burst(now, now));
        }
        let rate = self.rate_at(state.ramp, now);
        let since = now.saturating_duration_since(state.at).as_secs_f64();
        state.tokens = (state.tokens + since * rate).min(self.burst(state.ramp, now));
        state.at = now.max(state.at);
        let missing = 1.0 - state.tokens;
        let wait = Duration::from_secs_f64((missing / rate).max(0.0));
        if wait > patience {
            return Err(wait);
        }
        state.tokens -= 1.0;
        state.used = now;
        Ok(wait)
    }

    /// The project was throttled until `until`: after that it is ramped up anew.
    pub(super) fn restart(&self, until: Instant) {
        let mut state = self.state.lock();
        state.ramp = state.ramp.max(until);
        state.tokens = state.tokens.min(self.burst(until, until));
        state.at = state.at.max(until);
        state.used = state.used.max(until);
    }

    fn rate_at(&self, ramp: Instant, now: Instant) -> f64 {
        let part = now.saturating_duration_since(ramp).as_secs_f64() / RAMP.as_secs_f64();
        self.rate * part.clamp(RAMP_FLOOR, 1.0)
    }

    fn burst(&self, ramp: Instant, now: Instant) -> f64 {
        (self.rate_at(ramp, now) * BURST_S).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::ZERO;

    /// Messages that go out within one second from `from`, asking every millisecond.
    fn within_a_second(pace: &Pace, from: Instant) -> usize {
        let mut sent = 0;
        for ms in 0..1000 {
            let now = from + Duration::from_millis(ms);
            while pace.book(now, PATIENCE).is_ok() {
                sent += 1;
            }
        }
        sent
    }

    #[test]
    fn a_project_starts_low_and_is_at_full_rate_after_a_minute() {
        let start = Instant::now();
        let pace = Pace::new(Some(1000), start).unwrap();
        let rates: Vec<_> =
            (0..=61).map(|s| within_a_second(&pace, start + Duration::from_secs(s))).collect();
        assert!((50..=80).contains(&rates[0]), "{rates:?}");
        assert!((480..=540).contains(&rates[30]), "{rates:?}");
        assert!((980..=1020).contains(&rates[61]), "{rates:?}");
        let later = start + Duration::from_secs(200);
        assert!(within_a_second(&pace, later) <= 80, "a pause starts it over");
    }

    #[test]
    fn waits_are_booked_up_to_the_callers_patience_and_no_further() {
        let now = Instant::now();
        let pace = Pace::new(Some(20), now).unwrap();
        let book = |_| pace.book(now, Duration::from_secs(3));
        let whole = |wait: Duration| wait.as_secs();
        let waits: Vec<_> = (0..9).map(book).map(|w| w.map(whole).map_err(whole)).collect();
        assert_eq!(&waits[..4], &[Ok(0), Ok(1), Ok(2), Ok(3)]);
        assert!(waits[4..].iter().all(|wait| *wait == Err(4)), "{waits:?}");
        assert!(Pace::new(None, now).is_none());
    }

    #[test]
    fn a_throttled_project_ramps_up_from_the_end_of_its_pause() {
        let start = Instant::now();
        let pace = Pace::new(Some(1000), start).unwrap();
        let full = start + Duration::from_secs(61);
        for s in 0..61 {
            within_a_second(&pace, start + Duration::from_secs(s));
        }
        let until = full + Duration::from_secs(60);
        pace.restart(until);
        let sent = within_a_second(&pace, until);
        assert!((40..=80).contains(&sent), "{sent}");
    }
}
