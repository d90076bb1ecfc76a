//! Who is calling and what it may do: tokens, callers, permissions.
//!
//! One verifier serves all dialects. A token is only ever read from the Authorization header; a
//! credential anywhere else does not exist.

mod cache;
mod caller;
mod guessable;
mod keys;
mod mint;
mod password;
mod permission;
mod rights;
mod secret;
mod strict;
mod token;

#[cfg(test)]
mod tests;

pub use caller::{Caller, Scope, bearer};
pub use keys::{KeyError, KeyRing};
pub use mint::{Grant, MintError, Origin, TokenMinter};
pub use password::{
    NewPassword, PASSWORD_MAX, PASSWORD_MIN, PasswordError, PasswordPool, PasswordProblem,
};
pub use permission::{Permission, PermissionSet};
pub use rights::Rights;
pub use secret::{
    CREDENTIAL_MAX, Fresh, client_id, client_secret, hash_of, invitation_token, is_opaque_key,
    matches, opaque_key, refresh_token,
};
pub use token::TokenVerifier;

/// Why a caller is not known. Dialects tell the two apart, callers learn nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no credential at all.
    #[error("a bearer token is required")]
    Missing,
    /// There is one, and it does not count. The reason is for logs; it holds nothing of the token.
    #[error("the bearer token is not valid: {0}")]
    Invalid(&'static str),
}
