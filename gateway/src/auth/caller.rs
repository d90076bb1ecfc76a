//! The authenticated identity behind a request, and where its token is found.

use super::{AuthError, PermissionSet};
use crate::model::{OrganizationId, UserId};
use http::{HeaderMap, header};

/// For whom a token speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The organization itself: a backend with client credentials.
    Organization,
    /// One of its users.
    User(UserId),
}

/// An authenticated identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub organization: OrganizationId,
    pub scope: Scope,
    /// The token's `jti`: names the credential in the audit trail.
    pub token_id: String,
    /// Rights the token is limited to; `None` is no limit. It never grants what the scope or the
    /// user's role does not.
    pub limited_to: Option<PermissionSet>,
    /// The user's epoch when the token was made; `None` for tokens without one.
    pub epoch: Option<u32>,
    /// The log-in the token descends from; revoked as one.
    pub family: Option<String>,
    /// The OAuth client it was given to; its tokens end with it.
    pub client: Option<String>,
}

impl Caller {
    /// `organization:101` or `user:7`: how records name who did something.
    #[must_use]
    pub fn name(&self) -> String {
        match self.scope {
            Scope::Organization => format!("organization:{}", self.organization),
            Scope::User(user) => format!("user:{user}"),
        }
    }
}

/// The bearer token of a request. The scheme is compared without regard to case (RFC 9110
/// section 11.1; one dialect writes `BEARER`).
///
/// # Errors
/// `Missing` without an Authorization header; `Invalid` for another scheme, an empty or spaced
/// token, or more than one header.
pub fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let value = sent.next().ok_or(AuthError::Missing)?;
    if sent.next().is_some() {
        return Err(AuthError::Invalid("more than one Authorization header"));
    }
    let text = value.to_str().map_err(|_| AuthError::Invalid("not visible ASCII"))?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::Invalid("no token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::Invalid("not the Bearer scheme"));
    }
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(AuthError::Invalid("not one token"));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_scheme_has_no_case() {
        for scheme in ["Bearer t", "BEARER t", "bearer t"] {
            assert_eq!(bearer(&of(&[scheme])), Ok("t"), "{scheme}");
        }
    }

    #[test]
    fn no_header_is_missing_and_everything_else_is_invalid() {
        assert_eq!(bearer(&of(&[])), Err(AuthError::Missing));
        for values in [
            &["Basic dTpw"][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer  t"],
            &["Bearer\tt"],
            &["Bearer t t"],
            &["Bearer t\t"],
            &["t"],
            &[""],
            &["Bearer t", "Bearer t"],
            &["Bearer t", "Basic u"],
        ] {
            assert!(matches!(bearer(&of(values)), Err(AuthError::Invalid(_))), "{values:?}");
        }
    }
}
