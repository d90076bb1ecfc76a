//! The provider token of APNs: an ES256 JWT, checked strictly and remembered while it is good.

use std::collections::HashMap;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde::Deserialize;

use super::Refusal;
use crate::twins::credentials::Credentials;

/// Apple: tokens older than one hour are expired.
const AGE_S_MAX: u64 = 3600;
/// How far the signer's clock may be ahead.
const AHEAD_S_MAX: u64 = 60;
const REMEMBERED_MAX: usize = 256;

const MISSING: Refusal = (403, "MissingProviderToken");
const INVALID: Refusal = (403, "InvalidProviderToken");
const EXPIRED: Refusal = (403, "ExpiredProviderToken");
const TOO_MANY_UPDATES: Refusal = (429, "TooManyProviderTokenUpdates");

pub(crate) struct TokenCheck {
    key: DecodingKey,
    key_id: String,
    team_id: String,
    /// Apple: a key may bring a new token no more often than every 20 minutes.
    update_s_min: Option<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Verified tokens and when they were issued.
    verified: HashMap<String, u64>,
    newest: Option<(String, u64)>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    iat: u64,
}

impl TokenCheck {
    /// # Errors
    /// The public key of the credentials is not a P-256 key.
    pub(crate) fn new(
        credentials: &Credentials,
        update_min: Option<Duration>,
    ) -> Result<Self, jsonwebtoken::errors::Error> {
        Ok(Self {
            key: DecodingKey::from_ec_pem(credentials.apns_public_pem.as_bytes())?,
            key_id: credentials.apns_key_id.clone(),
            team_id: credentials.apns_team_id.clone(),
            update_s_min: update_min.map(|least| least.as_secs()),
            state: Mutex::default(),
        })
    }

    /// Checks the `authorization` header at the time `now_s`.
    pub(crate) fn check(&self, header: Option<&str>, now_s: u64) -> Result<(), Refusal> {
        let header = header.ok_or(MISSING)?;
        let (scheme, token) = header.split_once(' ').ok_or(INVALID)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(INVALID);
        }
        let mut state = self.state.lock();
        let issued_s = match state.verified.get(token) {
            Some(issued_s) => *issued_s,
            None => self.verify(token)?,
        };
        if issued_s > now_s + AHEAD_S_MAX {
            return Err(INVALID);
        }
        if issued_s + AGE_S_MAX < now_s {
            return Err(EXPIRED);
        }
        if state.verified.len() >= REMEMBERED_MAX {
            state.verified.clear();
        }
        state.verified.insert(token.to_owned(), issued_s);
        self.check_update(&mut state, token, now_s)
    }

    fn verify(&self, token: &str) -> Result<u64, Refusal> {
        let header = decode_header(token).map_err(|_| INVALID)?;
        if header.kid.as_deref() != Some(self.key_id.as_str()) {
            return Err(INVALID);
        }
        let mut validation = Validation::new(Algorithm::ES256);
        // Apple's tokens carry no `exp`; their age counts from `iat`.
        validation.validate_exp = false;
        validation.set_required_spec_claims::<&str>(&[]);
        let claims = decode::<Claims>(token, &self.key, &validation).map_err(|_| INVALID)?.claims;
        if claims.iss == self.team_id { Ok(claims.iat) } else { Err(INVALID) }
    }

    fn check_update(&self, state: &mut State, token: &str, now_s: u64) -> Result<(), Refusal> {
        let Some(update_s_min) = self.update_s_min else { return Ok(()) };
        match &state.newest {
            Some((newest, _)) if newest == token => Ok(()),
            Some((_, since_s)) if now_s < since_s + update_s_min => Err(TOO_MANY_UPDATES),
            _ => {
                state.newest = Some((token.to_owned(), now_s));
                Ok(())
            }
        }
    }
}
