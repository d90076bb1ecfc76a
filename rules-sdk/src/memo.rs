//! What a rule asks again and again within one batch, asked once: settings, the time and time zones.
//!
//! A question to the gateway costs more than most rules' own work on an item, and settings and clocks
//! stand still for a batch.

use crate::bindings::bugler::rules::clock::{LocalTime, TzError};
use crate::bindings::bugler::rules::counters::CounterError;
use crate::bindings::bugler::rules::kv::KvError;
use crate::bindings::bugler::rules::log::Level;
use crate::{Host, TimeOfDay};
use std::cell::{Cell, RefCell};

/// Answers of a kind that are remembered, and looked through for each question.
const REMEMBERED_MAX: usize = 16;

/// A gateway of which nothing is asked twice that cannot change.
pub(crate) struct Memo<H> {
    host: H,
    now: Cell<Option<u64>>,
    settings: Known<(String, String), Option<String>>,
    local: Known<(u64, String), Result<LocalTime, TzError>>,
    next_local: Known<(u64, String, TimeOfDay), Result<u64, TzError>>,
}

/// The first few questions with their answers.
struct Known<Q, A>(RefCell<Vec<(Q, A)>>);

impl<Q, A: Clone> Known<Q, A> {
    fn get(&self, is_it: impl Fn(&Q) -> bool, ask: impl FnOnce() -> (Q, A)) -> A {
        let mut known = self.0.borrow_mut();
        if let Some((_, answer)) = known.iter().find(|(question, _)| is_it(question)) {
            return answer.clone();
        }
        let (question, answer) = ask();
        if known.len() < REMEMBERED_MAX {
            known.push((question, answer.clone()));
        }
        answer
    }
}

impl<H: Host> Memo<H> {
    pub(crate) fn of(host: H) -> Self {
        let now = Cell::new(None);
        let (settings, local) = (Known(RefCell::default()), Known(RefCell::default()));
        Self { host, now, settings, local, next_local: Known(RefCell::default()) }
    }
}

impl<H: Host> Host for Memo<H> {
    fn now(&self) -> u64 {
        let now = self.now.get().unwrap_or_else(|| self.host.now());
        self.now.set(Some(now));
        now
    }

    fn local(&self, at: u64, tz: &str) -> Result<LocalTime, TzError> {
        let ask = || ((at, tz.to_owned()), self.host.local(at, tz));
        self.local.get(|(then, zone)| *then == at && zone == tz, ask)
    }

    fn next_local(&self, after: u64, tz: &str, at: TimeOfDay) -> Result<u64, TzError> {
        let ask = || ((after, tz.to_owned(), at), self.host.next_local(after, tz, at));
        self.next_local.get(|(then, zone, time)| *then == after && zone == tz && *time == at, ask)
    }

    fn config_for(&self, org_id: &str, key: &str) -> Option<String> {
        let ask = || ((org_id.to_owned(), key.to_owned()), self.host.config_for(org_id, key));
        self.settings.get(|(org, name)| name == key && org == org_id, ask)
    }

    fn log(&self, level: Level, message: &str) {
        self.host.log(level, message);
    }

    fn count(&self, key: &str, by: u32, window_ms: u32) -> Result<u64, CounterError> {
        self.host.count(key, by, window_ms)
    }

    fn peek(&self, key: &str, window_ms: u32) -> Result<u64, CounterError> {
        self.host.peek(key, window_ms)
    }

    fn take(
        &self,
        key: &str,
        per_window: u32,
        window_ms: u32,
        burst: u32,
    ) -> Result<bool, CounterError> {
        self.host.take(key, per_window, window_ms, burst)
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.host.get(key)
    }

    fn set(&self, key: &str, value: &[u8], ttl_ms: u32) -> Result<(), KvError> {
        self.host.set(key, value, ttl_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    /// Counts what reaches it.
    struct Asked(FakeHost, Cell<usize>);

    impl Asked {
        fn note(&self) -> &FakeHost {
            self.1.set(self.1.get() + 1);
            &self.0
        }
    }

    impl Host for Asked {
        fn now(&self) -> u64 {
            self.note().now()
        }

        fn local(&self, at: u64, tz: &str) -> Result<LocalTime, TzError> {
            self.note().local(at, tz)
        }

        fn next_local(&self, after: u64, tz: &str, at: TimeOfDay) -> Result<u64, TzError> {
            self.note().next_local(after, tz, at)
        }

        fn config_for(&self, org_id: &str, key: &str) -> Option<String> {
            self.note().config_for(org_id, key)
        }

        fn log(&self, level: Level, message: &str) {
            self.note().log(level, message);
        }

        fn count(&self, key: &str, by: u32, window_ms: u32) -> Result<u64, CounterError> {
            self.note().count(key, by, window_ms)
        }

        fn peek(&self, key: &str, window_ms: u32) -> Result<u64, CounterError> {
            self.note().peek(key, window_ms)
        }

        fn take(
            &self,
            key: &str,
            per_window: u32,
            window_ms: u32,
            burst: u32,
        ) -> Result<bool, CounterError> {
            self.note().take(key, per_window, window_ms, burst)
        }

        fn get(&self, key: &str) -> Option<Vec<u8>> {
            self.note().get(key)
        }

        fn set(&self, key: &str, value: &[u8], ttl_ms: u32) -> Result<(), KvError> {
            self.note().set(key, value, ttl_ms)
        }
    }

    fn memo(settings: &[(&str, &str)]) -> Memo<Asked> {
        Memo::of(Asked(FakeHost::at("12:00", settings), Cell::new(0)))
    }

    #[test]
    fn what_stands_still_is_asked_once_and_told_apart_by_all_that_was_asked() {
        let memo = memo(&[("max", "5"), ("per", "1h")]);
        let noon = memo.now();
        let at = |text: &str| text.parse::<TimeOfDay>().unwrap();
        for _ in 0..3 {
            assert_eq!(memo.now(), noon);
            assert_eq!(memo.config_for("1", "max").as_deref(), Some("5"));
            assert_eq!(memo.config_for("1", "per").as_deref(), Some("1h"));
            assert_eq!(memo.config_for("1", "none"), None);
            assert_eq!(memo.local(noon, "UTC").unwrap().hour, 12);
            assert_eq!(memo.local(0, "UTC").unwrap().hour, 0);
            assert!(memo.local(noon, "Mars").is_err());
            assert_eq!(memo.next_local(noon, "UTC", at("13:00")), Ok(noon + 3_600_000));
            assert_eq!(memo.next_local(noon, "UTC", at("14:00")), Ok(noon + 7_200_000));
        }
        assert_eq!(memo.host.1.get(), 9);
    }

    #[test]
    fn counting_is_never_remembered() {
        let memo = memo(&[]);
        assert_eq!(memo.count("a", 1, 1_000), Ok(1));
        assert_eq!(memo.count("a", 1, 1_000), Ok(2));
        assert_eq!(memo.take("b", 1, 1_000, 1), Ok(true));
        assert_eq!(memo.take("b", 1, 1_000, 1), Ok(false));
        assert_eq!(memo.set("c", b"1", 1_000), Ok(()));
        assert_eq!(memo.get("c").as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn more_than_is_remembered_is_asked_again_and_answered_the_same() {
        let memo = memo(&[]);
        for _ in 0..2 {
            (0..REMEMBERED_MAX + 5)
                .for_each(|n| assert_eq!(memo.config_for("1", &n.to_string()), None));
        }
        assert_eq!(memo.host.1.get(), REMEMBERED_MAX + 10);
    }
}
