//! How a client proves itself: Basic authorization (RFC 7617) or parameters (RFC 6749 section 2.3.1).

use crate::api::oauth::ask::Parameters;
use crate::api::oauth::refusal::TokenRefusal;
use crate::api::query::decode;
use crate::auth::CREDENTIAL_MAX;
use crate::model::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Who a client says it is, and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientProof {
    pub(super) id: String,
    pub(super) secret: Secret,
}

/// The one proof of a request.
///
/// # Errors
/// `invalid_client` without a whole proof, `invalid_request` for two that differ.
pub(super) fn proof(
    headers: &HeaderMap,
    parameters: &Parameters,
) -> Result<ClientProof, TokenRefusal> {
    let (id, secret) = (parameters.get("client_id"), parameters.get("client_secret"));
    let found = match basic(headers)? {
        Some(basic) => {
            let is_same = id.is_none_or(|id| id == basic.id)
                && secret.is_none_or(|secret| secret == basic.secret.reveal());
            if !is_same {
                let text = "Two different client credentials were sent.";
                return Err(TokenRefusal::request(text));
            }
            basic
        }
        None => {
            let (id, secret) = id.zip(secret).ok_or_else(TokenRefusal::client)?;
            ClientProof { id: id.to_owned(), secret: Secret::new(secret) }
        }
    };
    let is_bounded =
        found.id.len() <= CREDENTIAL_MAX && found.secret.reveal().len() <= CREDENTIAL_MAX;
    if is_bounded { Ok(found) } else { Err(TokenRefusal::client()) }
}

/// The proof in the Authorization header, if there is one.
fn basic(headers: &HeaderMap) -> Result<Option<ClientProof>, TokenRefusal> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = sent.next() else { return Ok(None) };
    if sent.next().is_some() {
        return Err(TokenRefusal::request("There is more than one Authorization header."));
    }
    read(value.as_bytes()).map(Some).ok_or_else(TokenRefusal::client)
}

fn read(value: &[u8]) -> Option<ClientProof> {
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = STANDARD.decode(encoded.trim_start_matches(' ')).ok()?;
    // RFC 7617 section 2: the id ends at the first colon, the rest may have more.
    let mut halves = pair.splitn(2, |byte| *byte == b':');
    let (id, secret) = (decode(halves.next()?)?, decode(halves.next()?)?);
    let is_whole = !id.is_empty() && !secret.is_empty();
    is_whole.then(|| ClientProof { id, secret: Secret::new(secret) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::oauth::refusal::TokenError;
    use crate::api::query::Query;

    fn of(header: &[&str], parameters: &str) -> Result<ClientProof, TokenRefusal> {
        let mut headers = HeaderMap::new();
        for value in header {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        let query = Query::parse(parameters.as_bytes()).unwrap();
        proof(&headers, &Parameters::new(Query::default(), query))
    }

    fn is(id: &str, secret: &str) -> Result<ClientProof, TokenRefusal> {
        Ok(ClientProof { id: id.to_owned(), secret: Secret::new(secret) })
    }

    fn encoded(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn a_client_proves_itself_in_the_header_or_by_parameters() {
        assert_eq!(of(&[&encoded("id:secret")], ""), is("id", "secret"));
        assert_eq!(of(&[&encoded("id:a:b:")], ""), is("id", "a:b:"));
        assert_eq!(of(&[&encoded("i%20d:s+e%3Ac")], ""), is("i d", "s e:c"));
        assert_eq!(of(&[&encoded("id:secret").replace("Basic", "bAsIC")], ""), is("id", "secret"));
        assert_eq!(of(&[], "client_id=id&client_secret=s"), is("id", "s"));
    }

    #[test]
    fn two_proofs_must_be_the_same() {
        let basic = encoded("id:s");
        for same in ["client_id=id", "client_id=id&client_secret=s", "client_secret=s"] {
            assert_eq!(of(&[&basic], same), is("id", "s"), "{same}");
        }
        for other in ["client_id=other", "client_id=id&client_secret=t", "client_secret=t"] {
            let refused = of(&[&basic], other);
            let is_request =
                matches!(refused, Err(TokenRefusal::Documented(TokenError::InvalidRequest, _)));
            assert!(is_request, "{other}: {refused:?}");
        }
    }

    #[test]
    fn everything_else_is_no_client() {
        let long = encoded(&format!("id:{}", "s".repeat(513)));
        for header in [
            "Bearer abc",
            "Basic",
            "Basic ",
            "Basic !!!",
            "Basic aWQ6cw",
            "Basic aWQ=",
            &long,
            &encoded("id"),
            &encoded(":s"),
            &encoded("id:"),
            &encoded("id:%zz"),
            &encoded("id:%ff"),
        ] {
            assert_eq!(of(&[header], ""), Err(TokenRefusal::client()), "{header}");
        }
        for parameters in ["", "client_id=id", "client_secret=s", "client_id=&client_secret=s"] {
            assert_eq!(of(&[], parameters), Err(TokenRefusal::client()), "{parameters}");
        }
        let basic = encoded("id:s");
        assert!(matches!(
            of(&[&basic, &basic], ""),
            Err(TokenRefusal::Documented(TokenError::InvalidRequest, _))
        ));
    }
}
