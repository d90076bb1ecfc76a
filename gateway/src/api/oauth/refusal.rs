//! Why the token endpoint gave no token: RFC 6749 section 5.2 with the documented status 400.

use crate::api::failure::{Failure, FailureClass};
use crate::auth::PasswordError;
use crate::intake::ChangeError;
use crate::store::StoreError;

/// The documented error codes; `unauthorized_client` is none of them, for clients have every grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenError {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    UnsupportedGrantType,
}

impl TokenError {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnsupportedGrantType => "unsupported_grant_type",
        }
    }
}

/// A refused token request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenRefusal {
    /// One of the documented errors, with a sentence for the caller.
    Documented(TokenError, String),
    /// What every dialect shares: limits, overload, failures of the gateway.
    Other(Failure),
}

impl TokenRefusal {
    pub(super) fn request(description: impl Into<String>) -> Self {
        Self::Documented(TokenError::InvalidRequest, description.into())
    }

    /// One sentence for every way a client is not the one it says, so that none is told apart.
    pub(super) fn client() -> Self {
        let text = "Client ID is not found or password is wrong.";
        Self::Documented(TokenError::InvalidClient, String::from(text))
    }

    pub(super) fn grant(description: &str) -> Self {
        Self::Documented(TokenError::InvalidGrant, String::from(description))
    }
}

impl From<Failure> for TokenRefusal {
    fn from(failure: Failure) -> Self {
        match failure.class {
            FailureClass::Invalid => Self::request(failure.detail),
            _ => Self::Other(failure),
        }
    }
}

impl From<StoreError> for TokenRefusal {
    fn from(error: StoreError) -> Self {
        Failure::from(error).into()
    }
}

impl From<ChangeError> for TokenRefusal {
    fn from(error: ChangeError) -> Self {
        Failure::from(error).into()
    }
}

impl From<PasswordError> for TokenRefusal {
    fn from(error: PasswordError) -> Self {
        Failure::from(error).into()
    }
}
