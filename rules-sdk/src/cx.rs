//! What a rule may ask the gateway: its settings, the frozen clock, time zones, counters, values, the log.

use crate::bindings::bugler::rules::clock::{LocalTime, TzError};
use crate::bindings::bugler::rules::counters::CounterError;
use crate::bindings::bugler::rules::kv::KvError;
use crate::bindings::bugler::rules::log::Level;
use std::str::FromStr;

/// The gateway's side of a rule's questions; [`crate::testing::FakeHost`] stands in for it in tests.
pub trait Host {
    fn now(&self) -> u64;
    fn local(&self, at: u64, tz: &str) -> Result<LocalTime, TzError>;
    fn next_local(&self, after: u64, tz: &str, at: TimeOfDay) -> Result<u64, TzError>;
    fn config_for(&self, org_id: &str, key: &str) -> Option<String>;
    fn log(&self, level: Level, message: &str);
    fn count(&self, key: &str, by: u32, window_ms: u32) -> Result<u64, CounterError>;
    fn peek(&self, key: &str, window_ms: u32) -> Result<u64, CounterError>;
    fn take(
        &self,
        key: &str,
        per_window: u32,
        window_ms: u32,
        burst: u32,
    ) -> Result<bool, CounterError>;
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    fn set(&self, key: &str, value: &[u8], ttl_ms: u32) -> Result<(), KvError>;
}

/// The context of one item: the gateway, seen from the item's organization.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    host: &'a dyn Host,
    org_id: &'a str,
}

/// A setting that is present but cannot be read as what the rule needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSetting;

impl<'a> Cx<'a> {
    /// The context of an item of organization `org_id`.
    #[must_use]
    pub fn new(host: &'a dyn Host, org_id: &'a str) -> Self {
        Self { host, org_id }
    }

    /// Milliseconds since the Unix epoch; the same for the whole batch.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.host.now()
    }

    /// Wall clock in `tz` now.
    ///
    /// # Errors
    /// `tz` is not an IANA name the gateway knows.
    pub fn local(&self, tz: &str) -> Result<LocalTime, TzError> {
        self.host.local(self.host.now(), tz)
    }

    /// Next instant at which wall clocks in `tz` read `at`, daylight saving included.
    ///
    /// # Errors
    /// `tz` is not an IANA name the gateway knows.
    pub fn next_local(&self, tz: &str, at: TimeOfDay) -> Result<u64, TzError> {
        self.host.next_local(self.host.now(), tz, at)
    }

    /// The rule's setting `key`: the organization's own value, else the rule's.
    #[must_use]
    pub fn config(&self, key: &str) -> Option<String> {
        self.host.config_for(self.org_id, key)
    }

    /// The setting `key` as a `T`, or `default` if it is absent.
    ///
    /// # Errors
    /// The setting is present and is no `T`; the log names the key.
    pub fn setting<T: FromStr>(&self, key: &str, default: T) -> Result<T, BadSetting> {
        let Some(text) = self.config(key) else { return Ok(default) };
        text.trim().parse().map_err(|_| {
            self.log(Level::Warn, &format!("setting {key} cannot be read"));
            BadSetting
        })
    }

    /// The setting `key` in milliseconds, or `default`; written `500ms`, `30s`, `15m`, `12h` or `7d`.
    ///
    /// # Errors
    /// The setting is present and is no such time, or longer than 49 days; the log names the key.
    pub fn millis(&self, key: &str, default: u32) -> Result<u32, BadSetting> {
        self.setting(key, Span(default)).map(|span| span.0)
    }

    pub fn log(&self, level: Level, message: &str) {
        self.host.log(level, message);
    }

    /// The rule's counters for the item's organization.
    #[must_use]
    pub fn counters(&self) -> Counters<'a> {
        Counters { host: self.host }
    }

    /// The rule's own small values for the item's organization.
    #[must_use]
    pub fn kv(&self) -> Kv<'a> {
        Kv { host: self.host }
    }
}

/// Counters, kept by the gateway. Keys have 1 to 128 bytes, windows 1 second to 30 days; 8 operations
/// for each item of the batch.
#[derive(Clone, Copy)]
pub struct Counters<'a> {
    host: &'a dyn Host,
}

impl Counters<'_> {
    /// The count in the window of `window_ms` that ends now, after adding `by`.
    ///
    /// # Errors
    /// A quota is used up, or key or window are out of bounds.
    pub fn add(&self, key: &str, by: u32, window_ms: u32) -> Result<u64, CounterError> {
        self.host.count(key, by, window_ms)
    }

    /// The count in the window of `window_ms` that ends now.
    ///
    /// # Errors
    /// A quota is used up, or key or window are out of bounds.
    pub fn peek(&self, key: &str, window_ms: u32) -> Result<u64, CounterError> {
        self.host.peek(key, window_ms)
    }

    /// Takes a token from the bucket `key`, which holds at most `burst` and gets `per_window` new ones
    /// each `window_ms`; true if there was one.
    ///
    /// # Errors
    /// A quota is used up, or key or window are out of bounds.
    pub fn take(
        &self,
        key: &str,
        per_window: u32,
        window_ms: u32,
        burst: u32,
    ) -> Result<bool, CounterError> {
        self.host.take(key, per_window, window_ms, burst)
    }
}

/// Small values, kept by the gateway. Keys have 1 to 128 bytes, values at most 4 KiB; 4 operations for
/// each item of the batch.
#[derive(Clone, Copy)]
pub struct Kv<'a> {
    host: &'a dyn Host,
}

impl Kv<'_> {
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.host.get(key)
    }

    /// Keeps `value` for `ttl_ms`, at most 30 days.
    ///
    /// # Errors
    /// A quota is used up, or key or value are too long.
    pub fn set(&self, key: &str, value: &[u8], ttl_ms: u32) -> Result<(), KvError> {
        self.host.set(key, value, ttl_ms)
    }
}

impl std::fmt::Debug for Cx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cx").field("org_id", &self.org_id).finish_non_exhaustive()
    }
}

/// A wall-clock reading, written `HH:MM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay {
    hour: u8,
    minute: u8,
}

impl TimeOfDay {
    /// `None` unless `hour` < 24 and `minute` < 60.
    #[must_use]
    pub const fn new(hour: u8, minute: u8) -> Option<Self> {
        if hour < 24 && minute < 60 { Some(Self { hour, minute }) } else { None }
    }

    #[must_use]
    pub fn hour(self) -> u8 {
        self.hour
    }

    #[must_use]
    pub fn minute(self) -> u8 {
        self.minute
    }

    /// True in the window that begins at `from` and ends before `to`, over midnight if need be.
    /// A window of no length is never.
    #[must_use]
    pub fn is_within(self, from: Self, to: Self) -> bool {
        if from <= to { from <= self && self < to } else { from <= self || self < to }
    }
}

impl FromStr for TimeOfDay {
    type Err = BadSetting;
    fn from_str(text: &str) -> Result<Self, BadSetting> {
        let (hour, minute) = text.split_once(':').ok_or(BadSetting)?;
        let number = |digits: &str| match digits.len() {
            1 | 2 if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        };
        let parsed = number(hour).zip(number(minute)).and_then(|(h, m)| Self::new(h, m));
        parsed.ok_or(BadSetting)
    }
}

/// Milliseconds, written with a unit.
struct Span(u32);

impl FromStr for Span {
    type Err = BadSetting;
    fn from_str(text: &str) -> Result<Self, BadSetting> {
        const UNITS: [(&str, u32); 5] =
            [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        let cut = |(unit, ms): &(&str, u32)| Some((text.strip_suffix(unit)?, *ms));
        let (number, unit) = UNITS.iter().find_map(cut).ok_or(BadSetting)?;
        let number: u32 = number.trim().parse().map_err(|_| BadSetting)?;
        number.checked_mul(unit).map(Self).ok_or(BadSetting)
    }
}

impl LocalTime {
    /// The reading without date and seconds.
    #[must_use]
    pub fn time_of_day(&self) -> TimeOfDay {
        TimeOfDay { hour: self.hour, minute: self.minute }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> TimeOfDay {
        text.parse().unwrap()
    }

    #[test]
    fn reads_hours_and_minutes_and_nothing_else() {
        assert_eq!(TimeOfDay::from_str("7:05"), Ok(TimeOfDay { hour: 7, minute: 5 }));
        assert_eq!(TimeOfDay::from_str("23:59"), Ok(TimeOfDay { hour: 23, minute: 59 }));
        for bad in ["24:00", "12:60", "12", "", ":", "+1:00", "1:0x", "001:00", "-1:00"] {
            assert_eq!(TimeOfDay::from_str(bad), Err(BadSetting), "{bad}");
        }
    }

    #[test]
    fn reads_a_time_with_its_unit() {
        let ms = |text: &str| Span::from_str(text).map(|span| span.0);
        for (text, expected) in
            [("500ms", 500), ("30s", 30_000), ("15 m", 900_000), ("1d", 86_400_000)]
        {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        for bad in ["", "30", "s", "-1s", "1.5h", "50d"] {
            assert_eq!(ms(bad), Err(BadSetting), "{bad}");
        }
    }

    #[test]
    fn a_window_may_span_midnight() {
        let (from, to) = (at("22:00"), at("07:00"));
        assert!(at("22:00").is_within(from, to));
        assert!(at("00:00").is_within(from, to));
        assert!(at("06:59").is_within(from, to));
        assert!(!at("07:00").is_within(from, to));
        assert!(!at("21:59").is_within(from, to));
        assert!(at("12:00").is_within(at("12:00"), at("13:00")));
        assert!(!at("12:00").is_within(at("12:00"), at("12:00")));
    }
}
