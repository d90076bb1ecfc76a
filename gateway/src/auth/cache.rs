//! Callers of tokens verified before, so that a signature is checked once and not per request.

use super::Caller;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// Locks the cache is spread over.
const SHARDS: usize = 16;
/// Tokens kept in each.
const SHARD_CAPACITY: usize = 640;

/// The SHA-256 of a whole token, signature included: the token itself is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

#[derive(Debug)]
struct Known {
    caller: Arc<Caller>,
    /// First second, counted from the Unix epoch, at which the token no longer counts.
    ends_s: u64,
}

/// At most `SHARDS × SHARD_CAPACITY` verified tokens.
#[derive(Debug, Default)]
pub(super) struct TokenCache {
    shards: [Mutex<HashMap<Fingerprint, Known>>; SHARDS],
}

impl TokenCache {
    /// The caller of a token verified before that still counts at `now_s`.
    pub(super) fn find(&self, token: &Fingerprint, now_s: u64) -> Option<Arc<Caller>> {
        let shard = self.shard(token)?.lock();
        shard.get(token).filter(|known| now_s < known.ends_s).map(|known| Arc::clone(&known.caller))
    }

    /// Remembers a verified token until `ends_s`. A full shard first loses what has ended, then
    /// any one token, which costs its next use a signature check.
    pub(super) fn insert(&self, token: Fingerprint, caller: Arc<Caller>, ends_s: u64, now_s: u64) {
        let Some(shard) = self.shard(&token) else { return };
        let mut shard = shard.lock();
        if shard.len() >= SHARD_CAPACITY {
            shard.retain(|_, known| now_s < known.ends_s);
        }
        if shard.len() >= SHARD_CAPACITY
            && let Some(any) = shard.keys().next().copied()
        {
            shard.remove(&any);
        }
        shard.insert(token, Known { caller, ends_s });
    }

    fn shard(&self, token: &Fingerprint) -> Option<&Mutex<HashMap<Fingerprint, Known>>> {
        self.shards.get(usize::from(token.0[0]) % SHARDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;
    use crate::model::OrganizationId;

    fn caller(id: i32) -> Arc<Caller> {
        Arc::new(Caller {
            epoch: None,
            family: None,
            client: None,
            organization: OrganizationId(id),
            scope: Scope::Organization,
            token_id: id.to_string(),
            limited_to: None,
        })
    }

    #[test]
    fn forgets_a_token_when_it_ends() {
        let cache = TokenCache::default();
        let token = Fingerprint::of("a");
        cache.insert(token, caller(1), 100, 10);
        assert_eq!(cache.find(&token, 99), Some(caller(1)));
        assert_eq!(cache.find(&token, 100), None);
        assert_eq!(cache.find(&Fingerprint::of("b"), 10), None);
    }

    #[test]
    fn never_holds_more_than_its_bound() {
        let cache = TokenCache::default();
        for i in 0..30_000 {
            cache.insert(Fingerprint::of(&i.to_string()), caller(i), 100, 10);
        }
        let held: usize = cache.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(held <= SHARDS * SHARD_CAPACITY, "{held}");
        let last = Fingerprint::of("29999");
        assert_eq!(cache.find(&last, 10), Some(caller(29_999)));
    }
}
