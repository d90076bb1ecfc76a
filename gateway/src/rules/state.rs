//! What rules remember: counters and small values, by rule and organization, bounded.

use crate::rules::seen::{Found, Seen};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bounds of counters and values. Keys and bytes are those of one rule, all organizations together.
pub(super) const KEYS_MAX: usize = 100_000;
pub(super) const VALUE_BYTES_MAX_ALL: usize = 16 << 20;
pub(super) const KEY_BYTES_MAX: usize = 128;
pub(super) const VALUE_BYTES_MAX: usize = 4 << 10;
pub(super) const WINDOW_MS_MIN: u32 = 1_000;
pub(super) const WINDOW_MS_MAX: u32 = 30 * 24 * 60 * 60 * 1_000;
/// Counter and kv operations for each item of a batch.
pub(super) const COUNTS_PER_ITEM: u32 = 8;
pub(super) const VALUES_PER_ITEM: u32 = 4;
/// A key and its entry weigh this much beside the value.
const ENTRY_BYTES: usize = 64;
const SWEEP_MS: u64 = 60_000;
/// One token of a bucket.
const TOKEN: u64 = 1_000_000;

/// What a test says was there before: it holds for every window and bucket of that key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Already counted in the window.
    pub counts: BTreeMap<String, u64>,
    /// Tokens already taken from the bucket.
    pub taken: BTreeMap<String, u32>,
    pub kv: BTreeMap<String, Vec<u8>>,
    /// What a gateway's rule found, to the last digit.
    pub seen: Seen,
}

/// Counters and values of one rule.
#[derive(Debug, Default)]
pub(super) struct RuleState {
    kept: Mutex<Kept>,
    before: State,
    is_changed: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    orgs: HashMap<String, Own>,
    keys: usize,
    bytes: usize,
    swept_at: u64,
}

/// What one organization has.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Own {
    pub(super) counters: HashMap<Key, Counter>,
    pub(super) values: HashMap<String, Value>,
}

/// A key has one count for each window it is counted in, and one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) name: String,
    /// 0 for a bucket.
    pub(super) window_ms: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Counter {
    /// Two fixed windows, the one before weighted by how much of it still lies in the sliding one.
    Window { number: u64, now: u64, before: u64 },
    /// Millionths of tokens missing at an instant; full again at `until`.
    Bucket { missing: u64, at: u64, until: u64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Value {
    pub(super) bytes: Vec<u8>,
    pub(super) until: u64,
}

#[derive(Debug)]
enum Change {
    Add { key: Key, by: u32 },
    Take { key: Key, terms: Terms },
    Set { name: String, value: Value },
}

#[derive(Clone, Copy, Debug)]
struct Terms {
    per_window: u32,
    window_ms: u32,
    burst: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Quota,
    KeyLength,
    Window,
    ValueLength,
}

/// What one call changes. Only that call sees it until it is committed; dropped, it never was.
#[derive(Debug)]
pub(super) struct Effects {
    state: Arc<RuleState>,
    org: String,
    now: u64,
    counters: HashMap<Key, Counter>,
    values: HashMap<String, Value>,
    changes: Vec<Change>,
    counts_left: u32,
    values_left: u32,
    new_keys: usize,
    new_bytes: usize,
    /// What this call found, if somebody wants to ask it again.
    seen: Option<Box<Found>>,
}

impl RuleState {
    /// With what was there before for the organization `org`.
    pub(super) fn starting_with(before: State, org: &str) -> Self {
        let state = Self { before, ..Self::default() };
        let own = state.before.seen.own();
        if !(own.counters.is_empty() && own.values.is_empty()) {
            let mut kept = state.kept.lock();
            kept.orgs.insert(org.to_owned(), own);
            kept.count();
        }
        state
    }

    fn counter(&self, org: &str, key: &Key) -> Option<Counter> {
        let kept = self.kept.lock();
        kept.orgs.get(org)?.counters.get(key).copied()
    }

    fn value(&self, org: &str, name: &str, now: u64) -> Option<Vec<u8>> {
        let kept = self.kept.lock();
        let found = kept.orgs.get(org).and_then(|own| own.values.get(name));
        match found {
            Some(value) => (value.until > now).then(|| value.bytes.clone()),
            None => self.before.kv.get(name).cloned(),
        }
    }

    /// What a counter that is not there yet begins with.
    fn first(&self, key: &Key, now: u64) -> Counter {
        if key.window_ms == 0 {
            let taken = self.before.taken.get(&key.name).copied().unwrap_or_default();
            Counter::Bucket { missing: u64::from(taken) * TOKEN, at: now, until: u64::MAX }
        } else {
            let counted = self.before.counts.get(&key.name).copied().unwrap_or_default();
            Counter::Window { number: now / u64::from(key.window_ms), now: counted, before: 0 }
        }
    }

    fn has_room(&self, keys: usize, bytes: usize, now: u64) -> bool {
        let mut kept = self.kept.lock();
        let fits = |kept: &Kept| {
            kept.keys.saturating_add(keys) <= KEYS_MAX
                && kept.bytes.saturating_add(bytes) <= VALUE_BYTES_MAX_ALL
        };
        if !fits(&kept) {
            kept.sweep(now);
        }
        fits(&kept)
    }

    /// All of it as bytes, if it changed since this was asked last.
    pub(super) fn changed(&self) -> Option<Vec<u8>> {
        if !self.is_changed.swap(false, Ordering::AcqRel) {
            return None;
        }
        postcard::to_allocvec(&self.kept.lock().orgs).ok()
    }

    /// Takes over what another process had; false if these are not its bytes.
    pub(super) fn restore(&self, bytes: &[u8]) -> bool {
        let Ok(orgs) = postcard::from_bytes::<HashMap<String, Own>>(bytes) else { return false };
        let mut kept = self.kept.lock();
        kept.orgs = orgs;
        kept.count();
        true
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.kept.lock().keys
    }
}

impl Kept {
    fn sweep(&mut self, now: u64) {
        self.swept_at = now;
        self.orgs.retain(|_, own| {
            own.counters.retain(|key, counter| !counter.is_over(key, now));
            own.values.retain(|_, value| value.until > now);
            !(own.counters.is_empty() && own.values.is_empty())
        });
        self.count();
    }

    fn count(&mut self) {
        let values = self.orgs.values().flat_map(|own| &own.values);
        self.bytes = values.map(|(name, value)| weight(name, value)).sum();
        self.keys = self.orgs.values().map(|own| own.counters.len()).sum();
    }
}

impl Effects {
    pub(super) fn new(state: Arc<RuleState>, org: String, now: u64, items: usize) -> Self {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        Self {
            state,
            org,
            now,
            counters: HashMap::new(),
            values: HashMap::new(),
            changes: Vec::new(),
            counts_left: COUNTS_PER_ITEM.saturating_mul(items),
            values_left: VALUES_PER_ITEM.saturating_mul(items),
            new_keys: 0,
            new_bytes: 0,
            seen: None,
        }
    }

    /// The same, remembering what it finds if `is_wanted`.
    pub(super) fn noting(self, is_wanted: bool) -> Self {
        Self { seen: is_wanted.then(Box::default), ..self }
    }

    /// What was found so far; `None` unless that was to be remembered.
    pub(super) fn seen(&self) -> Option<Box<Seen>> {
        self.seen.as_deref().map(|found| Box::new(Seen::of(found)))
    }

    /// True if nothing was changed.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn add(&mut self, name: &str, by: u32, window_ms: u32) -> Result<u64, Refusal> {
        self.may_count(name, window_ms)?;
        let key = Key { name: name.to_owned(), window_ms };
        let mut counter = self.counter(&key)?;
        let count = counter.add(window_ms, u64::from(by), self.now);
        self.counters.insert(key.clone(), counter);
        self.changes.push(Change::Add { key, by });
        Ok(count)
    }

    pub(super) fn peek(&mut self, name: &str, window_ms: u32) -> Result<u64, Refusal> {
        self.may_count(name, window_ms)?;
        let key = Key { name: name.to_owned(), window_ms };
        let known = self.counters.get(&key).copied();
        let mut counter =
            known.or_else(|| self.found(&key)).unwrap_or_else(|| self.state.first(&key, self.now));
        Ok(counter.add(window_ms, 0, self.now))
    }

    pub(super) fn take(
        &mut self,
        name: &str,
        (per_window, window_ms, burst): (u32, u32, u32),
    ) -> Result<bool, Refusal> {
        self.may_count(name, window_ms)?;
        let key = Key { name: name.to_owned(), window_ms: 0 };
        let terms = Terms { per_window, window_ms, burst };
        let mut counter = self.counter(&key)?;
        let is_taken = counter.take(terms, self.now);
        self.counters.insert(key.clone(), counter);
        if is_taken {
            self.changes.push(Change::Take { key, terms });
        }
        Ok(is_taken)
    }

    pub(super) fn get(&mut self, name: &str) -> Option<Vec<u8>> {
        self.values_left = self.values_left.checked_sub(1)?;
        match self.values.get(name) {
            Some(value) => (value.until > self.now).then(|| value.bytes.clone()),
            None => {
                let found = self.state.value(&self.org, name, self.now)?;
                if let Some(seen) = &mut self.seen {
                    seen.values.entry(name.to_owned()).or_insert_with(|| found.clone());
                }
                Some(found)
            }
        }
    }

    /// The counter as it was before this call.
    fn found(&mut self, key: &Key) -> Option<Counter> {
        let counter = self.state.counter(&self.org, key)?;
        if let Some(seen) = &mut self.seen {
            seen.counters.entry(key.clone()).or_insert(counter);
        }
        Some(counter)
    }

    pub(super) fn set(&mut self, name: &str, bytes: Vec<u8>, ttl_ms: u32) -> Result<(), Refusal> {
        check_key(name)?;
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(Refusal::ValueLength);
        }
        self.values_left = self.values_left.checked_sub(1).ok_or(Refusal::Quota)?;
        let until = self.now.saturating_add(u64::from(ttl_ms.min(WINDOW_MS_MAX)));
        let value = Value { bytes, until };
        self.new_bytes = self.new_bytes.saturating_add(weight(name, &value));
        if !self.state.has_room(0, self.new_bytes, self.now) {
            return Err(Refusal::Quota);
        }
        self.values.insert(name.to_owned(), value.clone());
        self.changes.push(Change::Set { name: name.to_owned(), value });
        Ok(())
    }

    /// Makes the changes everybody's. What others did meanwhile stays: counts add up, and of two
    /// values under one key the later stays.
    pub(super) fn commit(self) {
        if self.changes.is_empty() {
            return;
        }
        let state = Arc::clone(&self.state);
        let mut guard = state.kept.lock();
        let kept = &mut *guard;
        if self.now.saturating_sub(kept.swept_at) > SWEEP_MS {
            kept.sweep(self.now);
        }
        let (mut keys, mut bytes) = (kept.keys, kept.bytes);
        let own = kept.orgs.entry(self.org).or_default();
        for change in self.changes {
            match change {
                Change::Add { key, by } => {
                    let window_ms = key.window_ms;
                    if let Some(counter) = own.counter(&mut keys, key, (&state, self.now)) {
                        counter.add(window_ms, u64::from(by), self.now);
                    }
                }
                Change::Take { key, terms } => {
                    if let Some(counter) = own.counter(&mut keys, key, (&state, self.now)) {
                        counter.force(terms, self.now);
                    }
                }
                Change::Set { name, value } => {
                    let more = weight(&name, &value);
                    let less = own.values.get(&name).map_or(0, |old| weight(&name, old));
                    let after = (bytes + more).saturating_sub(less);
                    if after <= VALUE_BYTES_MAX_ALL {
                        bytes = after;
                        own.values.insert(name, value);
                    }
                }
            }
        }
        (kept.keys, kept.bytes) = (keys, bytes);
        state.is_changed.store(true, Ordering::Release);
    }

    fn may_count(&mut self, name: &str, window_ms: u32) -> Result<(), Refusal> {
        check_key(name)?;
        if !(WINDOW_MS_MIN..=WINDOW_MS_MAX).contains(&window_ms) {
            return Err(Refusal::Window);
        }
        self.counts_left = self.counts_left.checked_sub(1).ok_or(Refusal::Quota)?;
        Ok(())
    }

    /// The counter as this call sees it; a new one needs room.
    fn counter(&mut self, key: &Key) -> Result<Counter, Refusal> {
        if let Some(counter) = self.counters.get(key) {
            return Ok(*counter);
        }
        if let Some(counter) = self.found(key) {
            return Ok(counter);
        }
        self.new_keys += 1;
        if !self.state.has_room(self.new_keys, 0, self.now) {
            return Err(Refusal::Quota);
        }
        Ok(self.state.first(key, self.now))
    }
}

impl Own {
    /// The counter under `key`, made if there is room for it.
    fn counter(
        &mut self,
        keys: &mut usize,
        key: Key,
        (state, now): (&RuleState, u64),
    ) -> Option<&mut Counter> {
        if !self.counters.contains_key(&key) {
            if *keys >= KEYS_MAX {
                return None;
            }
            *keys += 1;
        }
        let first = state.first(&key, now);
        Some(self.counters.entry(key).or_insert(first))
    }
}

impl Counter {
    fn add(&mut self, window_ms: u32, by: u64, at: u64) -> u64 {
        let Self::Window { number, now, before } = self else { return 0 };
        let width = u64::from(window_ms);
        let current = at / width;
        // A clock that went back counts into the window it had come to.
        if current > *number {
            *before = if current - *number == 1 { *now } else { 0 };
            (*number, *now) = (current, 0);
        }
        *now = now.saturating_add(by);
        let left = width - (at % width);
        now.saturating_add(before.saturating_mul(left) / width)
    }

    fn take(&mut self, terms: Terms, at: u64) -> bool {
        self.refill(terms, at);
        let Self::Bucket { missing, .. } = self else { return false };
        let is_left = *missing + TOKEN <= u64::from(terms.burst) * TOKEN;
        if is_left {
            self.force(terms, at);
        }
        is_left
    }

    /// Takes a token that was promised, even if others took the last one meanwhile.
    fn force(&mut self, terms: Terms, now: u64) {
        self.refill(terms, now);
        let Self::Bucket { missing, until, .. } = self else { return };
        *missing = (*missing + TOKEN).min(u64::from(terms.burst.max(1)) * TOKEN);
        let rate = u64::from(terms.per_window).saturating_mul(TOKEN).max(1);
        let full_in = missing.saturating_mul(u64::from(terms.window_ms)) / rate;
        *until = now.saturating_add(full_in.min(u64::from(WINDOW_MS_MAX)) + 1);
    }

    fn refill(&mut self, terms: Terms, now: u64) {
        let Self::Bucket { missing, at, .. } = self else { return };
        let elapsed = u128::from(now.saturating_sub(*at));
        let rate = u128::from(terms.per_window) * u128::from(TOKEN);
        let back = elapsed * rate / u128::from(terms.window_ms.max(1));
        *missing = missing.saturating_sub(u64::try_from(back).unwrap_or(u64::MAX));
        *at = now.max(*at);
    }

    fn is_over(&self, key: &Key, at: u64) -> bool {
        match self {
            Self::Window { number, .. } => {
                let width = u64::from(key.window_ms.max(1));
                (at / width).saturating_sub(*number) > 1
            }
            Self::Bucket { until, .. } => *until <= at,
        }
    }
}

fn check_key(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > KEY_BYTES_MAX { Err(Refusal::KeyLength) } else { Ok(()) }
}

fn weight(name: &str, value: &Value) -> usize {
    name.len() + value.bytes.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u32 = 60_000;

    fn call(state: &Arc<RuleState>, org: &str, now: u64) -> Effects {
        Effects::new(Arc::clone(state), org.into(), now, 1_000_000)
    }

    #[test]
    fn a_call_reads_its_own_writes_and_others_read_them_after_the_commit() {
        let state = Arc::new(RuleState::default());
        let mut one = call(&state, "1", 0);
        assert_eq!((one.add("k", 2, MINUTE), one.peek("k", MINUTE)), (Ok(2), Ok(2)));
        one.set("v", b"x".to_vec(), MINUTE).unwrap();
        assert_eq!(one.get("v"), Some(b"x".to_vec()));
        let mut other = call(&state, "1", 0);
        assert_eq!((other.peek("k", MINUTE), other.get("v")), (Ok(0), None));
        one.commit();
        assert_eq!((other.peek("k", MINUTE), other.get("v")), (Ok(2), Some(b"x".to_vec())));
        let mut stranger = call(&state, "2", 0);
        assert_eq!((stranger.peek("k", MINUTE), stranger.get("v")), (Ok(0), None));
    }

    #[test]
    fn a_call_that_is_dropped_never_was() {
        let state = Arc::new(RuleState::default());
        let mut one = call(&state, "1", 0);
        assert_eq!(one.take("b", (1, MINUTE, 1)), Ok(true));
        assert_eq!(one.take("b", (1, MINUTE, 1)), Ok(false));
        drop(one);
        assert_eq!(call(&state, "1", 0).take("b", (1, MINUTE, 1)), Ok(true));
        assert_eq!(state.keys(), 0);
    }

    #[test]
    fn a_window_slides_and_a_bucket_fills_up() {
        let state = Arc::new(RuleState::default());
        let mut one = call(&state, "1", 0);
        assert_eq!(one.add("k", 60, MINUTE), Ok(60));
        for _ in 0..3 {
            assert_eq!(one.take("b", (2, MINUTE, 3)), Ok(true));
        }
        assert_eq!(one.take("b", (2, MINUTE, 3)), Ok(false));
        one.commit();
        let peek = |at: u64| call(&state, "1", at).peek("k", MINUTE).unwrap();
        assert_eq!([59_999, 60_000, 90_000, 120_000].map(peek), [60, 60, 30, 0]);
        let take = |at: u64| call(&state, "1", at).take("b", (2, MINUTE, 3)).unwrap();
        assert_eq!([29_999, 30_000].map(take), [false, true]);
    }

    #[test]
    fn keys_windows_values_and_operations_are_bounded() {
        let state = Arc::new(RuleState::default());
        let mut one = call(&state, "1", 0);
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        assert_eq!(one.add(&long, 1, MINUTE), Err(Refusal::KeyLength));
        assert_eq!(one.add("", 1, MINUTE), Err(Refusal::KeyLength));
        assert_eq!(one.add("k", 1, 999), Err(Refusal::Window));
        assert_eq!(one.add("k", 1, WINDOW_MS_MAX + 1), Err(Refusal::Window));
        let large = vec![0; VALUE_BYTES_MAX + 1];
        assert_eq!(one.set("v", large, MINUTE), Err(Refusal::ValueLength));
        let mut small = Effects::new(Arc::clone(&state), "1".into(), 0, 1);
        let counted = (0..10).filter(|_| small.add("k", 1, MINUTE).is_ok()).count();
        assert_eq!(counted, 8);
        let set = (0..10).filter(|n| small.set(&n.to_string(), vec![1], MINUTE).is_ok()).count();
        assert_eq!(set, 4);
    }

    #[test]
    fn a_rule_has_room_for_so_many_keys_and_gets_it_back() {
        let state = Arc::new(RuleState::default());
        let mut one = call(&state, "1", 0);
        for n in 0..KEYS_MAX {
            one.add(&n.to_string(), 1, WINDOW_MS_MIN).unwrap();
        }
        assert_eq!(one.add("one more", 1, WINDOW_MS_MIN), Err(Refusal::Quota));
        one.commit();
        assert_eq!(call(&state, "2", 500).add("other", 1, WINDOW_MS_MIN), Err(Refusal::Quota));
        assert_eq!(call(&state, "2", 2_000).add("other", 1, WINDOW_MS_MIN), Ok(1));
        let mut values = call(&state, "1", 0);
        let fits = (0..5_000).filter(|n| {
            let value = vec![0; VALUE_BYTES_MAX];
            values.set(&n.to_string(), value, MINUTE).is_ok()
        });
        assert!((3_900..4_096).contains(&fits.count()));
    }

    #[test]
    fn a_test_may_say_what_was_there_before() {
        let before = State {
            counts: BTreeMap::from([("k".into(), 4)]),
            taken: BTreeMap::from([("b".into(), 2)]),
            kv: BTreeMap::from([("v".into(), b"x".to_vec())]),
            ..State::default()
        };
        let mut one = call(&Arc::new(RuleState::starting_with(before, "1")), "1", 5_000);
        assert_eq!((one.add("k", 1, MINUTE), one.get("v")), (Ok(5), Some(b"x".to_vec())));
        assert_eq!(one.take("b", (1, MINUTE, 3)), Ok(true));
        assert_eq!(one.take("b", (1, MINUTE, 3)), Ok(false));
    }
}
