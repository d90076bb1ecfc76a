//! The one strict verifier of JSON Web Tokens, for all dialects.
//!
//! The library's own validation skips absent claims, ignores `nbf` and unknown `crit`, and accepts
//! wrong types, so only its signature check is used; everything else is decided here.

use super::cache::{Fingerprint, TokenCache};
use super::strict::{Members, decode};
use super::{AuthError, Caller, KeyRing, PermissionSet, Scope};
use crate::clock::Clock;
use crate::model::{OrganizationId, UserId};
use jsonwebtoken::crypto;
use serde::Deserialize;
use std::sync::Arc;

/// Longest token looked at; anything larger would only cost time.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Clocks of two machines may differ by this much.
const LEEWAY_S: u64 = 5;
/// Longest subject and token id.
const MAX_NAME_BYTES: usize = 256;
/// Permissions one token may list.
const MAX_PERMISSIONS: usize = 64;

/// Verifies tokens against explicit keys, one issuer and one audience.
///
/// Changed keys need a new verifier: it starts with an empty cache, so a removed key stops
/// counting at once.
#[derive(Debug)]
pub struct TokenVerifier {
    keys: Arc<KeyRing>,
    issuer: String,
    audience: String,
    clock: Arc<dyn Clock>,
    cache: TokenCache,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl TokenVerifier {
    pub fn new(
        keys: Arc<KeyRing>,
        issuer: impl Into<String>,
        audience: impl Into<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (issuer, audience) = (issuer.into(), audience.into());
        Self { keys, issuer, audience, clock, cache: TokenCache::default() }
    }

    /// The caller `token` stands for, now.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] for anything but a current, correctly signed token of ours.
    pub fn verify(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid("longer than 8 KiB"));
        }
        let now_s = self.clock.now().0 / 1_000;
        let fingerprint = Fingerprint::of(token);
        if let Some(caller) = self.cache.find(&fingerprint, now_s) {
            return Ok(caller);
        }
        let claims = self.authenticated_claims(token)?;
        let ends_s = self.check_claims(&claims, now_s)?;
        let caller = Arc::new(caller(&claims)?);
        self.cache.insert(fingerprint, Arc::clone(&caller), ends_s, now_s);
        Ok(caller)
    }

    /// The payload, once the signature over it is proven.
    fn authenticated_claims(&self, token: &str) -> Result<Members, AuthError> {
        let mut segments = token.split('.');
        let segments = (segments.next(), segments.next(), segments.next(), segments.next());
        let (Some(header), Some(payload), Some(signature), None) = segments else {
            return Err(AuthError::Invalid("not three segments"));
        };
        let head = Members::of_segment(header)?;
        // `crit` and `b64` change what is signed, `enc` and `zip` mean it is another kind of
        // token. Key material in a header (jku, jwk, x5u, x5c) is never looked at.
        if ["crit", "b64", "enc", "zip"].iter().any(|name| head.contains(name)) {
            return Err(AuthError::Invalid("unsupported header"));
        }
        let kind = head.optional::<String>("typ")?;
        if kind.is_some_and(|kind| !["JWT", "at+jwt"].iter().any(|k| kind.eq_ignore_ascii_case(k)))
        {
            return Err(AuthError::Invalid("typ"));
        }
        let kid = head.optional::<String>("kid")?;
        let key = self.keys.find(kid.as_deref()).ok_or(AuthError::Invalid("unknown kid"))?;
        if head.required::<String>("alg")? != key.alg {
            return Err(AuthError::Invalid("alg is not the key's"));
        }
        if decode(signature)?.is_empty() {
            return Err(AuthError::Invalid("no signature"));
        }
        let signed = token.as_bytes().get(..header.len() + 1 + payload.len()).unwrap_or_default();
        match crypto::verify(signature, signed, &key.verifying, key.algorithm) {
            Ok(true) => Members::of_segment(payload),
            Ok(false) | Err(_) => Err(AuthError::Invalid("wrong signature")),
        }
    }

    /// Checks who issued the token, for whom, and when. Returns the second it ends.
    fn check_claims(&self, claims: &Members, now_s: u64) -> Result<u64, AuthError> {
        if claims.required::<String>("iss")? != self.issuer {
            return Err(AuthError::Invalid("iss"));
        }
        let is_for_us = match claims.required("aud")? {
            Audience::One(audience) => audience == self.audience,
            // A token that also opens other doors could be replayed here by their owners.
            Audience::Several(all) => !all.is_empty() && all.iter().all(|a| *a == self.audience),
        };
        if !is_for_us {
            return Err(AuthError::Invalid("aud"));
        }
        let latest = now_s.saturating_add(LEEWAY_S);
        let issued: u64 = claims.required("iat")?;
        let expires: u64 = claims.required("exp")?;
        let starts = claims.optional::<u64>("nbf")?.unwrap_or(issued);
        let ends_s = expires.saturating_add(LEEWAY_S);
        if issued > latest || starts > latest {
            return Err(AuthError::Invalid("not valid yet"));
        }
        if now_s >= ends_s || expires <= issued {
            return Err(AuthError::Invalid("expired"));
        }
        Ok(ends_s)
    }
}

/// What the claims say about the caller.
fn caller(claims: &Members) -> Result<Caller, AuthError> {
    let name = |claim: &'static str| {
        let value: String = claims.required(claim)?;
        let fits = (1..=MAX_NAME_BYTES).contains(&value.len());
        if fits { Ok(value) } else { Err(AuthError::Invalid(claim)) }
    };
    let subject = name("sub")?;
    let token_id = name("jti")?;
    let organization = claims.required::<i32>("org")?;
    if organization < 1 {
        return Err(AuthError::Invalid("org"));
    }
    let scope = match claims.required::<String>("scope")?.as_str() {
        "org" => Scope::Organization,
        "user" => Scope::User(subject.parse::<UserId>().map_err(|_| AuthError::Invalid("sub"))?),
        _ => return Err(AuthError::Invalid("scope")),
    };
    let listed = claims.optional::<Vec<String>>("perms")?;
    if listed.as_ref().is_some_and(|names| names.len() > MAX_PERMISSIONS) {
        return Err(AuthError::Invalid("perms"));
    }
    let limited_to = listed.map(|names| PermissionSet::of_names(names.iter().map(String::as_str)));
    let (epoch, family) = (claims.optional("epoch")?, claims.optional("family")?);
    let client = claims.optional("client_id")?;
    let organization = OrganizationId(organization);
    Ok(Caller { organization, scope, token_id, limited_to, epoch, family, client })
}
