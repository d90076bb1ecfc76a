//! What this app learned of device tokens: which are proven, and which are wrong here.
//!
//! APNs answers a wrong token by letting its connection carry one stream only until the next good
//! answer. Tokens that may be wrong therefore travel on connections of their own.

use crate::model::Millis;
use parking_lot::Mutex;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tokens remembered per generation; two generations are kept.
const REMEMBERED_MAX: usize = 50_000;
/// Older tokens have been used before: were they wrong, they would be gone.
const YOUNG_MS: u64 = 24 * 3600 * 1000;

/// Tokens by fingerprint; the tokens themselves are not kept.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    hasher: RandomState,
    state: Mutex<State>,
    /// A push was taken: environment and topic are right.
    place_proven: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Young tokens that took a push.
    proven: [HashSet<u64>; 2],
    /// Tokens that were called wrong, and when.
    wrong: [HashMap<u64, Millis>; 2],
}

/// What is known of a token before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Proven,
    /// May be wrong: keep it off the main connections.
    Suspect,
    /// Was called wrong, and the app has not told it to us again since.
    Wrong,
}

impl Tokens {
    pub(super) fn standing(&self, token: &str, registered_at: Millis, now: Millis) -> Standing {
        let print = self.hasher.hash_one(token);
        let state = self.state.lock();
        let wrong = state.wrong.iter().find_map(|known| known.get(&print));
        match wrong {
            Some(at) if *at >= registered_at => Standing::Wrong,
            Some(_) => Standing::Suspect,
            None if now.since(registered_at) >= YOUNG_MS => Standing::Proven,
            None if state.proven.iter().any(|known| known.contains(&print)) => Standing::Proven,
            None => Standing::Suspect,
        }
    }

    /// A push to `token` was taken.
    pub(super) fn proved(&self, token: &str, standing: Standing) {
        self.place_proven.store(true, Ordering::Relaxed);
        if standing == Standing::Proven {
            return;
        }
        let mut state = self.state.lock();
        let print = self.hasher.hash_one(token);
        for known in &mut state.wrong {
            known.remove(&print);
        }
        if state.proven[0].len() >= REMEMBERED_MAX {
            state.proven[1] = std::mem::take(&mut state.proven[0]);
        }
        state.proven[0].insert(print);
    }

    /// `token` was called wrong. True if it surely is: others were taken here, so environment and
    /// topic are right. Else it is only marked, because the fault may be ours.
    pub(super) fn called_wrong(&self, token: &str, now: Millis) -> bool {
        let print = self.hasher.hash_one(token);
        let mut state = self.state.lock();
        if state.wrong[0].len() >= REMEMBERED_MAX {
            state.wrong[1] = std::mem::take(&mut state.wrong[0]);
        }
        state.wrong[0].insert(print, now);
        self.place_proven.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = YOUNG_MS;

    #[test]
    fn young_tokens_are_suspect_until_they_take_a_push_and_old_ones_are_not() {
        let tokens = Tokens::default();
        assert_eq!(tokens.standing("a", Millis(DAY), Millis(DAY)), Standing::Suspect);
        assert_eq!(tokens.standing("a", Millis(0), Millis(DAY)), Standing::Proven);
        tokens.proved("a", Standing::Suspect);
        assert_eq!(tokens.standing("a", Millis(DAY), Millis(DAY)), Standing::Proven);
        assert_eq!(tokens.standing("b", Millis(DAY), Millis(DAY)), Standing::Suspect);
    }

    #[test]
    fn a_wrong_token_is_certain_only_where_others_were_taken_and_registering_again_gives_a_chance()
    {
        let tokens = Tokens::default();
        assert!(!tokens.called_wrong("a", Millis(5)), "the fault may be ours");
        assert_eq!(tokens.standing("a", Millis(1), Millis(DAY * 9)), Standing::Wrong);
        assert_eq!(tokens.standing("a", Millis(6), Millis(DAY * 9)), Standing::Suspect);
        tokens.proved("a", Standing::Suspect);
        assert_eq!(tokens.standing("a", Millis(1), Millis(DAY * 9)), Standing::Proven);
        assert!(tokens.called_wrong("b", Millis(9)));
    }

    #[test]
    fn memory_is_bounded() {
        let tokens = Tokens::default();
        for n in 0..3 * REMEMBERED_MAX {
            tokens.proved(&n.to_string(), Standing::Suspect);
            tokens.called_wrong(&n.to_string(), Millis(1));
        }
        let state = tokens.state.lock();
        assert!(state.proven.iter().map(HashSet::len).sum::<usize>() <= 2 * REMEMBERED_MAX);
        assert!(state.wrong.iter().map(HashMap::len).sum::<usize>() <= 2 * REMEMBERED_MAX);
    }
}
