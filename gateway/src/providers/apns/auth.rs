//! The provider token APNs wants: an ES256 JWT, renewed well before Apple calls it stale.

use super::shelf::Keep;
use crate::clock::Clock;
use crate::model::{Millis, Secret};
use crate::providers::ProviderError;
use arc_swap::ArcSwap;
use http::HeaderValue;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use std::sync::Arc;

/// Apple refuses tokens older than an hour.
const RENEW_AFTER_MS: u64 = 50 * 60 * 1000;
/// Apple answers `TooManyProviderTokenUpdates` to anything more frequent than every 20 minutes.
const RENEW_MIN_MS: u64 = 20 * 60 * 1000;

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
}

/// A date so far ahead is one of before the clock was set back.
const AHEAD_MS: u64 = 60 * 1000;

/// A token that Apple will call stale within minutes is no use to go back to.
const USABLE_MS: u64 = 55 * 60 * 1000;

/// A signed token as the header value every request carries.
#[derive(Debug)]
pub(super) struct ProviderToken {
    pub(super) header: HeaderValue,
    signed_at: Millis,
    /// The date in it, by the machine's clock.
    dated: Millis,
}

impl ProviderToken {
    /// `None` if `jwt` cannot be one.
    pub(super) fn of(jwt: &str, signed_at: Millis, dated: Millis) -> Option<Self> {
        let mut header = HeaderValue::try_from(format!("bearer {jwt}")).ok()?;
        // Never indexed by HPACK, never shown by Debug.
        header.set_sensitive(true);
        Some(Self { header, signed_at, dated })
    }

    pub(super) fn dated(&self) -> Millis {
        self.dated
    }

    /// Without its scheme.
    pub(super) fn text(&self) -> Option<&str> {
        self.header.to_str().ok()?.strip_prefix("bearer ")
    }
}

/// The one holder of a team's token.
pub(super) struct TokenHolder {
    team_id: String,
    header: Header,
    key: EncodingKey,
    clock: Arc<dyn Clock>,
    current: ArcSwap<ProviderToken>,
    /// Held while signing, so that one caller renews and the others go on with the old token.
    renewing: Mutex<Renewals>,
    keep: Option<Keep>,
}

/// What came of going back to the token before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Another token than the one used is in place already.
    Another,
    WentBack,
    /// There is none to go back to.
    Nothing,
}

#[derive(Debug, Default)]
struct Renewals {
    /// What `current` replaced, or what it was put back for: Apple has seen it, so it may serve again.
    previous: Option<Arc<ProviderToken>>,
    /// Apple asked not to be shown another token before.
    not_before: Millis,
}

impl std::fmt::Debug for TokenHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenHolder").field("team_id", &self.team_id).finish_non_exhaustive()
    }
}

impl TokenHolder {
    /// Signs the first token, which also proves that the key is one for ES256; where an earlier
    /// process left one that still serves, that one is used.
    pub(super) fn new(
        (team_id, key_id, key_pem): (String, String, &Secret),
        keep: Option<Keep>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ProviderError> {
        let fail = |source| ProviderError::Key { field: "key_pem", source };
        let key = EncodingKey::from_ec_pem(key_pem.reveal().as_bytes()).map_err(fail)?;
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(key_id);
        let now = clock.now();
        let signed = sign(&header, &key, &team_id, clock.as_ref()).map_err(fail)?;
        let serves =
            |old: &ProviderToken| old.signed_at <= now && now.since(old.signed_at) < RENEW_AFTER_MS;
        let first = match keep.as_ref().and_then(Keep::load).filter(serves) {
            Some(old) => old,
            None => {
                if let Some(keep) = &keep {
                    keep.store(&signed);
                }
                signed
            }
        };
        let current = ArcSwap::from_pointee(first);
        let renewing = Mutex::default();
        Ok(Self { team_id, header, key, clock, current, renewing, keep })
    }

    /// The token to use now. Renews it when due; concurrent callers never sign twice.
    pub(super) fn current(&self) -> Arc<ProviderToken> {
        let token = self.current.load_full();
        if self.age(&token) < RENEW_AFTER_MS {
            return token;
        }
        if let Some(signing) = self.renewing.try_lock() {
            self.renew(&token, false, signing);
        }
        self.current.load_full()
    }

    /// Called when APNs says that `used` has expired. True if a newer token is in place, so that
    /// a retry makes sense; false if `used` is younger than Apple's minimum, which only a wrong
    /// clock explains.
    pub(super) fn replace_expired(&self, used: &Arc<ProviderToken>) -> bool {
        // Waits for a renewal under way: its token is the answer.
        self.renew(used, true, self.renewing.lock());
        !Arc::ptr_eq(&self.current.load_full(), used)
    }

    /// Called when APNs calls `used` invalid. True if it carries a date that is still to come, since
    /// it was made before the clock was set back, and another one is in its place.
    pub(super) fn replace_misdated(&self, used: &Arc<ProviderToken>) -> bool {
        let mut renewals = self.renewing.lock();
        let wall = self.clock.wall();
        if !Arc::ptr_eq(&self.current.load_full(), used) {
            return true;
        }
        if used.dated <= wall.plus(AHEAD_MS) {
            return false;
        }
        let serves = |old: &Arc<ProviderToken>| {
            old.dated <= wall.plus(AHEAD_MS) && wall.since(old.dated) < USABLE_MS
        };
        if let Some(old) = renewals.previous.take().filter(serves) {
            self.current.store(old);
            return true;
        }
        self.replace(&mut renewals)
    }

    /// Called when APNs says that our token changes too often: the one before `used` is used again
    /// if it still serves, and no other is made for 20 minutes.
    pub(super) fn keep_old(&self, used: &Arc<ProviderToken>) -> Kept {
        let mut renewals = self.renewing.lock();
        let now = self.clock.now();
        renewals.not_before = now.plus(RENEW_MIN_MS);
        if !Arc::ptr_eq(&self.current.load_full(), used) {
            return Kept::Another;
        }
        let old = renewals.previous.take();
        let Some(old) = old.filter(|old| now.since(old.signed_at) < USABLE_MS) else {
            return Kept::Nothing;
        };
        renewals.previous = Some(self.current.swap(old));
        Kept::WentBack
    }

    fn renew(
        &self,
        seen: &Arc<ProviderToken>,
        is_refused: bool,
        mut renewals: MutexGuard<'_, Renewals>,
    ) {
        let now = self.clock.now();
        let replaced = !Arc::ptr_eq(&self.current.load_full(), seen);
        if replaced || self.age(seen) < RENEW_MIN_MS {
            return;
        }
        if now < renewals.not_before {
            // No new one yet. The one that came too soon is younger, and none Apple has not seen.
            let is_over = is_refused || now.since(seen.signed_at) >= USABLE_MS;
            let is_younger = |one: &Arc<ProviderToken>| one.signed_at > seen.signed_at;
            if is_over && renewals.previous.as_ref().is_some_and(is_younger) {
                let young = renewals.previous.take();
                renewals.previous = young.map(|young| self.current.swap(young));
            }
            return;
        }
        self.replace(&mut renewals);
    }

    fn replace(&self, renewals: &mut Renewals) -> bool {
        match sign(&self.header, &self.key, &self.team_id, self.clock.as_ref()) {
            Ok(token) => {
                if let Some(keep) = &self.keep {
                    keep.store(&token);
                }
                renewals.previous = Some(self.current.swap(Arc::new(token)));
                true
            }
            Err(error) => {
                tracing::error!(%error, "cannot sign an APNs provider token");
                false
            }
        }
    }

    /// The older of what we and the date in it say: the clock may have been set meanwhile.
    fn age(&self, token: &ProviderToken) -> u64 {
        self.clock.now().since(token.signed_at).max(self.clock.wall().since(token.dated))
    }
}

fn sign(
    header: &Header,
    key: &EncodingKey,
    team_id: &str,
    clock: &dyn Clock,
) -> Result<ProviderToken, jsonwebtoken::errors::Error> {
    let (now, dated) = (clock.now(), clock.wall());
    let jwt = encode(header, &Claims { iss: team_id, iat: dated.0 / 1000 }, key)?;
    Ok(ProviderToken::of(&jwt, now, dated).expect("base64url and dots are header characters"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;
    use std::time::Duration;

    const MINUTE: Duration = Duration::from_secs(60);

    fn holder(clock: &TestClock) -> TokenHolder {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let clock = Arc::new(clock.clone());
        TokenHolder::new(("TEAM".into(), "KEY".into(), &Secret::new(key)), None, clock).unwrap()
    }

    #[test]
    fn the_token_is_a_strict_es256_jwt_with_kid_iss_and_iat() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let clock = Arc::new(TestClock::at(Millis(1_700_000_000_500)));
        let key = Secret::new(pair.serialize_pem());
        let holder = TokenHolder::new(("TEAM".into(), "KEY".into(), &key), None, clock).unwrap();
        let token = holder.current();
        let jwt = token.header.to_str().unwrap().strip_prefix("bearer ").unwrap();
        let public =
            jsonwebtoken::DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).unwrap();
        let mut strict = jsonwebtoken::Validation::new(Algorithm::ES256);
        strict.set_required_spec_claims::<&str>(&[]);
        strict.validate_exp = false;
        let claims = jsonwebtoken::decode::<serde_json::Value>(jwt, &public, &strict).unwrap();
        assert_eq!(claims.header.kid.as_deref(), Some("KEY"));
        assert_eq!(claims.claims, serde_json::json!({"iss": "TEAM", "iat": 1_700_000_000}));
    }

    #[test]
    fn a_token_is_kept_for_fifty_minutes_and_then_renewed_once() {
        let clock = TestClock::at(Millis(1_700_000_000_000));
        let holder = holder(&clock);
        let first = holder.current();
        clock.advance(49 * MINUTE);
        assert!(Arc::ptr_eq(&first, &holder.current()));
        clock.advance(MINUTE);
        let second = holder.current();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &holder.current()));
    }

    #[test]
    fn an_expired_answer_never_makes_more_than_one_token_in_twenty_minutes() {
        let clock = TestClock::at(Millis(1_700_000_000_000));
        let holder = holder(&clock);
        let first = holder.current();
        clock.advance(19 * MINUTE);
        assert!(!holder.replace_expired(&first), "too young to replace");
        clock.advance(MINUTE);
        assert!(holder.replace_expired(&first));
        let second = holder.current();
        assert!(holder.replace_expired(&first), "late answers see the newer token");
        assert!(Arc::ptr_eq(&second, &holder.current()), "and do not make another");
        assert!(!holder.replace_expired(&second));
    }

    #[test]
    fn a_token_that_came_too_soon_gives_way_to_the_one_before_it() {
        let clock = TestClock::at(Millis(1_700_000_000_000));
        let holder = holder(&clock);
        let first = holder.current();
        clock.advance(50 * MINUTE);
        let second = holder.current();
        assert_eq!(holder.keep_old(&second), Kept::WentBack);
        assert_eq!(holder.keep_old(&second), Kept::Another, "the answer to one sent before");
        let now = || Arc::clone(&holder.current.load());
        assert!(Arc::ptr_eq(&first, &now()), "old, but Apple still takes it");
        clock.advance(10 * MINUTE);
        assert!(Arc::ptr_eq(&second, &holder.current()), "an hour old; the other was seen before");
        clock.advance(9 * MINUTE);
        assert!(Arc::ptr_eq(&second, &holder.current()), "no new one before 20 minutes are over");
        assert_eq!(holder.keep_old(&second), Kept::Nothing, "the one before is over an hour old");
        clock.advance(31 * MINUTE);
        let third = holder.current();
        assert!(!Arc::ptr_eq(&third, &second) && !Arc::ptr_eq(&third, &first));
    }

    #[test]
    fn ten_restarts_and_two_apps_of_one_key_make_one_token() {
        let home = tempfile::tempdir().unwrap();
        let clock = TestClock::at(Millis(1_700_000_000_000));
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let key = Secret::new(rcgen::KeyPair::generate().unwrap().serialize_pem());
        let started = |key_id: &str| {
            let shelf = super::super::TokenShelf::kept_in(home.path().to_owned());
            let holder = |_| shelf.holder("TEAM", key_id, &key, &shared).unwrap();
            let [a, b] = [0, 1].map(holder);
            assert!(Arc::ptr_eq(&a, &b));
            a.current().header.clone()
        };
        let first = started("KEY");
        for _ in 0..10 {
            clock.advance(4 * MINUTE);
            assert_eq!(started("KEY"), first);
        }
        assert_ne!(started("OTHER"), first, "a token is of one key");
        clock.advance(10 * MINUTE);
        assert_ne!(started("KEY"), first, "and is renewed in time");
    }

    #[test]
    fn a_key_of_another_kind_is_refused_without_showing_it() {
        let clock: Arc<dyn Clock> = Arc::new(TestClock::at(Millis(0)));
        let pem = Secret::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
        let error = TokenHolder::new(("T".into(), "K".into(), &pem), None, clock).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("c2VjcmV0"));
    }
}
