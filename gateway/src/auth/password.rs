//! Passwords: what may be one, and hashing and checking them in a pool that cannot be flooded.

use super::guessable::is_guessable;
use crate::model::Secret;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use unicode_normalization::UnicodeNormalization;

/// Fewest characters (Unicode scalar values) of a password: NIST SP 800-63B.
pub const PASSWORD_MIN: usize = 8;
/// Most characters, as one dialect documents.
pub const PASSWORD_MAX: usize = 200;
/// Most bytes of so many characters; checked first, because it costs nothing.
const BYTES_MAX: usize = PASSWORD_MAX * 4;
/// OWASP's first recommendation for Argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Stored hashes that ask for more than this are refused: they came from elsewhere.
const STORED_MEMORY_MAX_KIB: u32 = 64 * 1024;
const STORED_PASSES_MAX: u32 = 10;
/// Passwords hashed at once: each takes a core and 19 MiB for some 40 ms.
const SLOTS: usize = 2;
/// Callers that may wait for a slot.
const WAITING_MAX: usize = 32;
/// A hash that no known password has, at the cost of a real one.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$Ym9keSBvZiBub3RoaW5nIQ\
                       $3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8";

/// Why a text cannot become a password. The texts are for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordProblem {
    #[error("must have at least {PASSWORD_MIN} characters")]
    TooShort,
    #[error("must have at most {PASSWORD_MAX} characters")]
    TooLong,
    #[error("must not have the character U+0000")]
    Nul,
    #[error("is one of the passwords that are tried first; choose another")]
    Guessable,
    #[error("must not be the e-mail address")]
    Email,
}

/// Why a password was neither hashed nor checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Every slot and every place in the queue is taken.
    #[error("too many passwords are being checked; ask again in a second")]
    Busy,
    #[error("the stored password hash cannot be read")]
    Stored,
    #[error("the password could not be hashed")]
    Hash,
}

/// A password that may be set: normalized, never cut. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct NewPassword(String);

impl fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewPassword(***)")
    }
}

impl NewPassword {
    /// Checks `text` for the user with this e-mail address.
    ///
    /// # Errors
    /// The first rule it breaks; nothing is trimmed or cut to make it fit.
    pub fn check(text: &str, email: &str) -> Result<Self, PasswordProblem> {
        let password = normalized(text)?;
        if password.chars().count() < PASSWORD_MIN {
            return Err(PasswordProblem::TooShort);
        }
        if password.to_lowercase() == email.to_lowercase() {
            return Err(PasswordProblem::Email);
        }
        if is_guessable(&password) {
            return Err(PasswordProblem::Guessable);
        }
        Ok(Self(password))
    }
}

/// The one form in which keyboards' different spellings of a text are equal.
fn normalized(text: &str) -> Result<String, PasswordProblem> {
    // Before anything that takes time in proportion to the text.
    if text.len() > BYTES_MAX || text.chars().count() > PASSWORD_MAX {
        return Err(PasswordProblem::TooLong);
    }
    if text.contains('\0') {
        return Err(PasswordProblem::Nul);
    }
    Ok(text.nfkc().collect())
}

/// Hashes and checks passwords, a few at a time, away from the threads that serve.
#[derive(Clone, Debug)]
pub struct PasswordPool {
    slots: Arc<Semaphore>,
    /// Everybody inside: hashing or waiting for it.
    places: Arc<Semaphore>,
}

impl Default for PasswordPool {
    fn default() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(SLOTS)),
            places: Arc::new(Semaphore::new(SLOTS + WAITING_MAX)),
        }
    }
}

impl PasswordPool {
    /// The PHC string to store for `password`, with a fresh salt.
    ///
    /// # Errors
    /// `Busy` at once, when too many wait.
    pub async fn hash(&self, password: NewPassword) -> Result<Secret, PasswordError> {
        self.run(move || {
            let hash: PasswordHash =
                hasher()?.hash_password(password.0.as_bytes()).map_err(|_| PasswordError::Hash)?;
            Ok(Secret::new(hash.to_string()))
        })
        .await
    }

    /// True if `text` is the password that `stored` was made from. Without a stored hash the
    /// answer is no and takes as long, so that time does not tell who exists.
    ///
    /// # Errors
    /// `Busy` at once, when too many wait; `Stored` for a hash that is none of ours.
    pub async fn verify(&self, text: &str, stored: Option<&Secret>) -> Result<bool, PasswordError> {
        // What cannot be anybody's password says nothing about anybody.
        let Ok(password) = normalized(text) else { return Ok(false) };
        let exists = stored.is_some();
        let stored = stored.map_or(NOBODYS, Secret::reveal).to_owned();
        let matches = self.run(move || {
            let stored = PasswordHash::new(&stored).map_err(|_| PasswordError::Stored)?;
            let params = Params::try_from(&stored).map_err(|_| PasswordError::Stored)?;
            let is_ours = stored.algorithm == Algorithm::Argon2id.ident()
                && params.m_cost() <= STORED_MEMORY_MAX_KIB
                && params.t_cost() <= STORED_PASSES_MAX;
            if !is_ours {
                return Err(PasswordError::Stored);
            }
            Ok(hasher()?.verify_password(password.as_bytes(), &stored).is_ok())
        });
        Ok(matches.await? && exists)
    }

    /// 32 bytes that follow from `digest` and `salt` and are as dear to guess back as a password:
    /// for what must be recognized again and would otherwise lie on disk under a quick hash.
    ///
    /// # Errors
    /// `Busy` at once, when too many wait.
    pub async fn stretch(
        &self,
        digest: [u8; 32],
        salt: [u8; 32],
    ) -> Result<[u8; 32], PasswordError> {
        self.run(move || {
            let mut stretched = [0; 32];
            let hashed = hasher()?.hash_password_into(&digest, &salt, &mut stretched);
            hashed.map(|()| stretched).map_err(|_| PasswordError::Hash)
        })
        .await
    }

    /// Runs `work` in a slot. A caller that goes away does not free it before the work ends.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place =
            Arc::clone(&self.places).try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let slot =
            Arc::clone(&self.slots).acquire_owned().await.map_err(|_| PasswordError::Busy)?;
        let held: (OwnedSemaphorePermit, OwnedSemaphorePermit) = (place, slot);
        let running = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(held);
            result
        });
        running.await.map_err(|_| PasswordError::Hash)?
    }
}

fn hasher() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| PasswordError::Hash)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}
