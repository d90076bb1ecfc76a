//! What proves and vouches for callers: passwords, the token signer, and the count of failed tries.

use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::api::shared::{Head, idempotency_key};
use crate::api::tries::Tries;
use crate::auth::{Grant, NewPassword, PasswordError, PasswordProblem, TokenMinter};
use crate::intake::RequestKey;
use crate::model::{Millis, OrganizationId, Secret};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Wrong passwords a minute and user.
const LOGIN_FAILURES: u32 = 20;
/// Unknown invitations a minute and address.
const INVITATION_FAILURES: u32 = 20;

/// Clocks may differ, and tokens of `bugler token` are none of ours to forget early.
const LEEWAY: Duration = Duration::from_secs(60);

/// Settings of the token endpoint.
#[derive(Clone, Copy, Debug)]
pub struct IdentitySettings {
    /// How long access and refresh tokens are valid.
    pub token_ttl: Duration,
    /// Wrong secrets a minute and client; 0 is no limit.
    pub client_failures: u32,
}

/// Shared by all operations that make or check credentials.
#[derive(Debug)]
pub struct Identity {
    /// `None` where the keys can only verify: then tokens come from elsewhere.
    minter: Option<TokenMinter>,
    pub(crate) settings: IdentitySettings,
    pub(crate) clients: Tries,
    pub(crate) logins: Tries,
    pub(crate) invitations: Tries,
}

impl Identity {
    #[must_use]
    pub fn new(minter: Option<TokenMinter>, settings: IdentitySettings) -> Self {
        Self {
            minter,
            settings,
            clients: Tries::new(settings.client_failures),
            logins: Tries::new(LOGIN_FAILURES),
            invitations: Tries::new(INVITATION_FAILURES),
        }
    }

    /// When no token made until now can count any more.
    pub(crate) fn forgotten_at(&self, now: Millis) -> Millis {
        let ttl = self.settings.token_ttl + LEEWAY;
        now.plus(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
    }

    /// A signed token.
    pub(crate) fn mint(&self, grant: &Grant) -> Result<String, Failure> {
        let unable = |text: &str| Failure::new(FailureClass::Internal, text);
        let minter = self.minter.as_ref().ok_or_else(|| unable("no key here can sign tokens"))?;
        minter.mint(grant).map_err(|error| {
            tracing::error!(error = %crate::telemetry::chain(&error), "a token could not be signed");
            unable("the token could not be signed")
        })
    }
}

impl Shared {
    /// Checks a password for the user with this e-mail address and hashes it.
    pub(crate) async fn hash_password(
        &self,
        field: &str,
        password: &str,
        email: &str,
    ) -> Result<Secret, Failure> {
        let checked = NewPassword::check(password, email);
        let checked = checked.map_err(|problem| password_fault(field, problem))?;
        Ok(self.passwords.hash(checked).await?)
    }
}

impl Shared {
    /// The idempotency key of a request with a password in its body. Keys are stored with a hash of
    /// the body, and a quick one would let whoever reads the disk try passwords against it.
    pub(crate) async fn slow_key(
        &self,
        head: &Head,
        org: OrganizationId,
        body: &[u8],
    ) -> Result<Option<RequestKey>, Failure> {
        let Some(key) = idempotency_key(head.headers())? else { return Ok(None) };
        let (salt, digest) = (Sha256::digest(key.as_bytes()), Sha256::digest(body));
        let stretched = self.passwords.stretch(digest.into(), salt.into()).await?;
        head.key(org, &stretched)
    }
}

/// What is wrong with the password in the field `field`.
pub(crate) fn password_fault(field: &str, problem: PasswordProblem) -> Failure {
    Failure::field(field, problem.to_string())
}

impl From<PasswordError> for Failure {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::new(FailureClass::Throttled, error.to_string()),
            PasswordError::Stored | PasswordError::Hash => {
                tracing::error!(%error, "a password could not be checked");
                Self::new(FailureClass::Internal, "the password could not be checked")
            }
        }
    }
}
