//! Bounded in-process copies of the records every notification reads.
//!
//! A value is never served once the `apply` that replaced it has answered. A reader notes the
//! generation before its read transaction begins and may fill the cache only while it is
//! unchanged; the writer raises it after each commit and then removes what the commit touched.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::model::{
    Device, Millis, Organization, OrganizationId, Role, RoleId, Subscription, User, UserId,
};
use crate::store::changes::Touched;
use crate::store::{OrganizationRef, UserRef};

const LANES: usize = 16;
/// Entries of one cache lane before its older half is dropped.
const LANE_ENTRIES_MAX: usize = 4096;

/// The state of all caches at one moment, noted before a read transaction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation(u64);

/// One cache per kind of hot read.
#[derive(Debug, Default)]
pub(super) struct Caches {
    generation: AtomicU64,
    pub(super) organizations: Cache<OrganizationRef, Organization>,
    pub(super) roles: Cache<(OrganizationId, RoleId), Role>,
    pub(super) users: Cache<UserRef, User>,
    pub(super) devices: Cache<UserId, Vec<Device>>,
    pub(super) subscriptions: Cache<OrganizationId, Vec<Subscription>>,
    /// Every id in force, not a cache: a token is refused for what is here.
    pub(super) revoked: RwLock<HashMap<String, Millis>>,
}

impl Caches {
    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    /// Forgets what a commit touched: call after the commit and before its applies answer.
    pub(super) fn forget(&self, touched: &Touched) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        if !touched.organizations.is_empty() {
            self.organizations.clear();
        }
        touched.roles.iter().for_each(|role| self.roles.remove(role));
        touched.users.iter().for_each(|user| self.users.remove(user));
        touched.devices.iter().for_each(|user| self.devices.remove(user));
        touched.subscriptions.iter().for_each(|org| self.subscriptions.remove(org));
        if !touched.revoked.is_empty() || !touched.unrevoked.is_empty() {
            let mut revoked = self.revoked.write();
            touched.unrevoked.iter().for_each(|id| {
                revoked.remove(id);
            });
            revoked.extend(touched.revoked.iter().cloned());
        }
    }

    /// Stores `value` in `cache` unless a commit came between `noted` and now.
    pub(super) fn fill<K: Hash + Eq, V>(
        &self,
        cache: &Cache<K, V>,
        noted: Generation,
        key: K,
        value: Arc<V>,
    ) {
        let mut lane = cache.lane(&key).lock();
        // Under the lane's lock: a writer that raised the generation later will wait for the
        // lock and remove this entry again.
        if self.generation() == noted {
            lane.insert(key, value);
        }
    }
}

/// A hash map in lanes, bounded by dropping the half that was not read lately.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    hasher: RandomState,
    lanes: [Mutex<Lane<K, V>>; LANES],
}

#[derive(Debug)]
struct Lane<K, V> {
    recent: HashMap<K, Arc<V>>,
    older: HashMap<K, Arc<V>>,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<Arc<V>> {
        let mut lane = self.lane(key).lock();
        if let Some(value) = lane.recent.get(key) {
            return Some(Arc::clone(value));
        }
        let (key, value) = lane.older.remove_entry(key)?;
        lane.insert(key, Arc::clone(&value));
        Some(value)
    }

    fn remove(&self, key: &K) {
        let mut lane = self.lane(key).lock();
        lane.recent.remove(key);
        lane.older.remove(key);
    }

    fn clear(&self) {
        for lane in &self.lanes {
            *lane.lock() = Lane::default();
        }
    }

    fn lane(&self, key: &K) -> &Mutex<Lane<K, V>> {
        let hash = self.hasher.hash_one(key).to_le_bytes();
        &self.lanes[usize::from(hash[0]) % LANES]
    }
}

impl<K: Hash + Eq, V> Lane<K, V> {
    fn insert(&mut self, key: K, value: Arc<V>) {
        if self.recent.len() >= LANE_ENTRIES_MAX / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key, value);
    }
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            lanes: std::array::from_fn(|_| Mutex::new(Lane::default())),
        }
    }
}

impl<K, V> Default for Lane<K, V> {
    fn default() -> Self {
        Self { recent: HashMap::new(), older: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_value_read_before_a_commit_is_not_kept_after_it() {
        let caches = Caches::default();
        let noted = caches.generation();
        caches.forget(&Touched::default());
        caches.fill(&caches.devices, noted, UserId(1), Arc::new(Vec::new()));
        assert!(caches.devices.get(&UserId(1)).is_none());
        caches.fill(&caches.devices, caches.generation(), UserId(1), Arc::new(Vec::new()));
        assert!(caches.devices.get(&UserId(1)).is_some());
    }

    #[test]
    fn entries_stay_bounded_and_those_in_use_survive() {
        let caches = Caches::default();
        let fill = |user| {
            caches.fill(&caches.devices, caches.generation(), UserId(user), Arc::new(Vec::new()));
        };
        fill(-1);
        for user in 0..200_000 {
            fill(user);
            assert!(caches.devices.get(&UserId(-1)).is_some());
        }
        let held = |lane: &Mutex<Lane<_, _>>| {
            let lane = lane.lock();
            lane.recent.len() + lane.older.len()
        };
        let held: usize = caches.devices.lanes.iter().map(held).sum();
        assert!(held <= LANES * LANE_ENTRIES_MAX, "{held} entries");
    }

    #[test]
    fn forgetting_one_user_keeps_the_others() {
        let caches = Caches::default();
        for user in 1..=2 {
            caches.fill(&caches.devices, caches.generation(), UserId(user), Arc::new(Vec::new()));
        }
        caches.forget(&Touched { devices: vec![UserId(1)], ..Touched::default() });
        assert!(caches.devices.get(&UserId(1)).is_none());
        assert!(caches.devices.get(&UserId(2)).is_some());
        assert!(caches.users.get(&UserRef::Uuid(Uuid::nil())).is_none());
    }
}
