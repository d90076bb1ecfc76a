//! Signs tokens for callers this server vouches for.

use super::{KeyRing, PermissionSet, Scope};
use crate::clock::Clock;
use crate::model::OrganizationId;
use jsonwebtoken::{Header, encode};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// What a token says.
#[derive(Clone, Debug)]
pub struct Grant {
    pub organization: OrganizationId,
    pub scope: Scope,
    /// Whom it was issued to: a client id, or a user's id in text.
    pub subject: String,
    /// Rights it is limited to; `None` is no limit.
    pub limited_to: Option<PermissionSet>,
    pub lifetime: Duration,
    pub origin: Origin,
}

/// What a token descends from, so that it can be revoked with it. None of it is required.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The OAuth client it is given to.
    pub client: Option<String>,
    /// The log-in that it and its successors share.
    pub family: Option<String>,
    /// The user's epoch when it is made.
    pub epoch: Option<u32>,
}

/// Why no token was signed.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    #[error("no key can sign: add one with secret_base64 or private_pem to the key file")]
    NoSigningKey,
    #[error("the token could not be signed")]
    Signing(#[source] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    exp: u64,
    iat: u64,
    jti: String,
    scope: &'static str,
    org: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    perms: Option<Vec<&'static str>>,
    // RFC 9068 section 2.2 names this claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u32>,
}

/// Signs with the first key of the ring that can.
#[derive(Clone, Debug)]
pub struct TokenMinter {
    keys: Arc<KeyRing>,
    issuer: String,
    audience: String,
    clock: Arc<dyn Clock>,
}

impl TokenMinter {
    /// Tokens are valid for a verifier with the same keys, issuer and audience.
    ///
    /// # Errors
    /// When no key can sign.
    pub fn new(
        keys: Arc<KeyRing>,
        issuer: impl Into<String>,
        audience: impl Into<String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, MintError> {
        keys.signing().ok_or(MintError::NoSigningKey)?;
        Ok(Self { keys, issuer: issuer.into(), audience: audience.into(), clock })
    }

    /// A signed token for `grant`, with a fresh id, valid from now.
    ///
    /// # Errors
    /// When signing fails.
    pub fn mint(&self, grant: &Grant) -> Result<String, MintError> {
        let (key, signing) = self.keys.signing().ok_or(MintError::NoSigningKey)?;
        let now_s = self.clock.now().0 / 1_000;
        let user = match grant.scope {
            Scope::Organization => None,
            // The verifier takes the user from `sub`, so nothing else may stand there.
            Scope::User(user) => Some(user.to_string()),
        };
        let claims = Claims {
            iss: &self.issuer,
            aud: &self.audience,
            sub: user.as_deref().unwrap_or(&grant.subject),
            exp: now_s.saturating_add(grant.lifetime.as_secs()),
            iat: now_s,
            jti: uuid::Uuid::new_v4().simple().to_string(),
            scope: if user.is_some() { "user" } else { "org" },
            org: grant.organization.0,
            perms: grant.limited_to.map(|set| set.names().collect()),
            client_id: grant.origin.client.as_deref(),
            family: grant.origin.family.as_deref(),
            epoch: grant.origin.epoch,
        };
        let mut header = Header::new(key.algorithm);
        header.kid = Some(key.kid.clone());
        encode(&header, &claims, signing).map_err(MintError::Signing)
    }
}
