//! Reads a token request: the grant and its parameters, from the form body or the query.

use crate::api::oauth::client::{ClientProof, proof};
use crate::api::oauth::refusal::{TokenError, TokenRefusal};
use crate::api::query::Query;
use crate::auth::CREDENTIAL_MAX;
use crate::model::Secret;
use http::HeaderMap;

/// Longest user name.
const LOGIN_MAX: usize = 320;
/// Longest scope: names of permissions.
const SCOPE_MAX: usize = 2_000;

/// What a client asks a token for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    Client,
    /// `password` may be nobody's; its length is judged where it is checked.
    User {
        email: String,
        password: Secret,
    },
    Refresh(Secret),
}

/// A token request with all its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenAsk {
    pub(super) grant: Grant,
    pub(super) client: ClientProof,
    /// What the token is to be limited to, unchecked.
    pub(super) scope: Option<String>,
}

/// Parameters by name; those of the body win.
#[derive(Debug)]
pub(super) struct Parameters {
    body: Query,
    query: Query,
}

impl Parameters {
    pub(super) fn new(body: Query, query: Query) -> Self {
        Self { body, query }
    }

    /// A value; one without text counts as absent (RFC 6749 section 3.1).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let of = |query: &'_ Query| query.get(name).is_some_and(|value| !value.is_empty());
        if of(&self.body) { self.body.get(name) } else { self.query.get(name) }
            .filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, TokenRefusal> {
        let missing = || TokenRefusal::request(format!("The parameter {name} is required."));
        self.get(name).ok_or_else(missing)
    }
}

impl TokenAsk {
    pub(super) fn parse(
        headers: &HeaderMap,
        parameters: &Parameters,
    ) -> Result<Self, TokenRefusal> {
        let grant = match parameters.required("grant_type")? {
            "client_credentials" => Grant::Client,
            "refresh_token" => {
                let token = parameters.required("refresh_token")?;
                if token.len() > CREDENTIAL_MAX {
                    return Err(TokenRefusal::grant("Refresh token is invalid or expired."));
                }
                Grant::Refresh(Secret::new(token))
            }
            "user_credentials" => user(parameters)?,
            _ => {
                let text = String::from("Grant type is not supported.");
                return Err(TokenRefusal::Documented(TokenError::UnsupportedGrantType, text));
            }
        };
        let scope = parameters.get("scope").map(str::to_owned);
        if scope.as_ref().is_some_and(|scope| scope.len() > SCOPE_MAX) {
            return Err(TokenRefusal::request("The parameter scope is too long."));
        }
        Ok(Self { grant, client: proof(headers, parameters)?, scope })
    }
}

fn user(parameters: &Parameters) -> Result<Grant, TokenRefusal> {
    let (username, email) = (parameters.get("username"), parameters.get("email"));
    let login = match (username, email) {
        (Some(username), Some(email)) if username != email => {
            let text = "The parameters username and email name two users.";
            return Err(TokenRefusal::request(text));
        }
        (Some(login), _) | (None, Some(login)) => login,
        (None, None) => parameters.required("username")?,
    };
    if login.chars().count() > LOGIN_MAX {
        return Err(TokenRefusal::request("The parameter username is too long."));
    }
    let password = Secret::new(parameters.required("password")?);
    Ok(Grant::User { email: login.to_lowercase(), password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use http::header::AUTHORIZATION;

    fn ask(basic: Option<&str>, body: &str, query: &str) -> Result<TokenAsk, TokenRefusal> {
        let mut headers = HeaderMap::new();
        if let Some(basic) = basic {
            let value = format!("Basic {}", STANDARD.encode(basic));
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        let parse = |text: &str| Query::parse(text.as_bytes()).unwrap();
        TokenAsk::parse(&headers, &Parameters::new(parse(body), parse(query)))
    }

    fn error(asked: Result<TokenAsk, TokenRefusal>) -> &'static str {
        match asked {
            Err(TokenRefusal::Documented(error, _)) => error.as_str(),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn parameters_come_from_body_or_query_and_the_body_wins() {
        let basic = Some("id:secret");
        for (body, query) in [
            ("", "grant_type=client_credentials"),
            ("grant_type=client_credentials", ""),
            ("grant_type=client_credentials", "grant_type=refresh_token"),
            ("grant_type=", "grant_type=client_credentials"),
        ] {
            assert_eq!(ask(basic, body, query).unwrap().grant, Grant::Client, "{body} {query}");
        }
        let asked = ask(basic, "refresh_token=b", "grant_type=refresh_token&refresh_token=q");
        assert_eq!(asked.unwrap().grant, Grant::Refresh(Secret::new("b")));
    }

    #[test]
    fn a_user_is_named_once_by_username_or_email() {
        let expected = Grant::User { email: "jo@x.de".into(), password: Secret::new("p w+") };
        for login in ["username=Jo@X.de", "email=jo@x.de", "username=jo@x.de&email=jo@x.de"] {
            let body = format!("grant_type=user_credentials&{login}&password=p+w%2B");
            assert_eq!(ask(Some("i:s"), &body, "").unwrap().grant, expected, "{login}");
        }
        for bad in [
            "username=a@x.de&email=b@x.de&password=p",
            "password=p",
            "username=a@x.de",
            "username=&password=p",
            "username=a@x.de&password=",
        ] {
            let body = format!("grant_type=user_credentials&{bad}");
            assert_eq!(error(ask(Some("i:s"), &body, "")), "invalid_request", "{bad}");
        }
    }

    #[test]
    fn an_unknown_or_absent_grant_is_named() {
        assert_eq!(error(ask(Some("i:s"), "", "")), "invalid_request");
        assert_eq!(error(ask(Some("i:s"), "grant_type=refresh_token", "")), "invalid_request");
        for grant in ["password", "authorization_code", "CLIENT_CREDENTIALS", "client_credentials+"]
        {
            let body = format!("grant_type={grant}");
            assert_eq!(error(ask(Some("i:s"), &body, "")), "unsupported_grant_type", "{grant}");
        }
        let body = format!("grant_type=refresh_token&refresh_token={}", "r".repeat(513));
        assert_eq!(error(ask(Some("i:s"), &body, "")), "invalid_grant");
    }
}
