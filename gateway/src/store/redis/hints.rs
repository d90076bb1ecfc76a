//! Where rows were found the last time: saves asking the directory, and is never believed unseen.
//!
//! A hint is used only together with the record it leads to: a record that does not say the same
//! sends the reader to the directory. So a hint can be old, and no answer is.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::{Organization, OrganizationId, UserId};
use crate::store::{OrganizationRef, UserRef};

/// Hints of one kind before the older half is dropped.
const HINTS_MAX: usize = 1 << 16;
/// Organizations kept decoded, at a kilobyte each.
const DECODED_MAX: usize = 1 << 12;

#[derive(Debug, Default)]
pub(super) struct Hints {
    pub(super) homes: Kept<UserId, OrganizationId>,
    pub(super) users: Kept<UserRef, UserId>,
    pub(super) organizations: Kept<OrganizationRef, OrganizationId>,
    /// What was stored, and what that says.
    pub(super) decoded: Kept<OrganizationId, (Arc<[u8]>, Arc<Organization>), DECODED_MAX>,
}

/// A bounded map that forgets what was not asked for lately.
#[derive(Debug)]
pub(super) struct Kept<K, V, const MAX: usize = HINTS_MAX>(Mutex<(HashMap<K, V>, HashMap<K, V>)>);

impl<K, V, const MAX: usize> Default for Kept<K, V, MAX> {
    fn default() -> Self {
        Self(Mutex::new((HashMap::new(), HashMap::new())))
    }
}

impl<K: Hash + Eq + Clone, V: Clone, const MAX: usize> Kept<K, V, MAX> {
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let mut kept = self.0.lock();
        let (recent, older) = &mut *kept;
        if let Some(value) = recent.get(key) {
            return Some(value.clone());
        }
        let (key, value) = older.remove_entry(key)?;
        recent.insert(key, value.clone());
        Some(value)
    }

    pub(super) fn keep(&self, key: &K, value: V) {
        let mut kept = self.0.lock();
        if kept.0.len() >= MAX / 2 {
            kept.1 = std::mem::take(&mut kept.0);
        }
        kept.0.insert(key.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_stay_bounded_and_those_in_use_survive() {
        let kept: Kept<i32, i32> = Kept::default();
        kept.keep(&-1, 7);
        for key in 0..300_000 {
            kept.keep(&key, key);
            assert_eq!(kept.get(&-1), Some(7));
        }
        let both = kept.0.lock();
        assert!(both.0.len() + both.1.len() <= HINTS_MAX + 1);
    }
}
