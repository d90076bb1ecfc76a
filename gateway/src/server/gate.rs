//! Refusals that need only a request's head and hold for every dialect.

use super::{Refusal, ServerLimits};
use http::request::Parts;
use http::{HeaderValue, Method, Version, header};

/// Methods any dialect uses, as `Allow` names them.
pub(super) const ALLOW: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Checks what `head` says about itself and its body of `declared` bytes.
pub(super) fn check(
    head: &Parts,
    declared: Option<u64>,
    limits: &ServerLimits,
) -> Result<(), Refusal> {
    if !is_served(&head.method) {
        return Err(Refusal::MethodNotAllowed);
    }
    // HTTP/1 sizes were checked on the raw bytes; HTTP/2 shows its sizes only here.
    if head.headers.len() > limits.header_count {
        return Err(Refusal::HeadersTooLarge);
    }
    if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > limits.uri_bytes) {
        return Err(Refusal::UriTooLong);
    }
    check_authority(head)?;
    let encoding = head.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::UnsupportedMediaType);
    }
    if declared.is_some_and(|length| length > limits.max_body) {
        return Err(Refusal::TooLarge);
    }
    Ok(())
}

fn is_served(method: &Method) -> bool {
    const SERVED: [Method; 7] = [
        Method::POST,
        Method::GET,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::HEAD,
        Method::OPTIONS,
    ];
    SERVED.contains(method)
}

/// RFC 9112 section 3.2 and RFC 9113 section 8.3.1: one authority, said once or twice the same.
fn check_authority(head: &Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::BadRequest("more than one Host"));
    }
    if host.is_some_and(|host| !is_authority(host.as_bytes())) {
        return Err(Refusal::BadRequest("Host is malformed"));
    }
    let Some(authority) = head.uri.authority() else {
        let is_optional = head.version < Version::HTTP_11;
        let is_origin_form = head.uri.path().starts_with('/') || head.uri.path() == "*";
        return match host {
            _ if !is_origin_form => Err(Refusal::BadRequest("the request target is malformed")),
            None if !is_optional => Err(Refusal::BadRequest("Host is missing")),
            _ => Ok(()),
        };
    };
    if head.version < Version::HTTP_2 && head.uri.scheme().is_none() {
        return Err(Refusal::BadRequest("the request target is malformed"));
    }
    if !is_authority(authority.as_str().as_bytes()) {
        return Err(Refusal::BadRequest("the authority is malformed"));
    }
    match host {
        Some(host) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(Refusal::BadRequest("Host and request target name different authorities"))
        }
        None if head.version == Version::HTTP_11 => Err(Refusal::BadRequest("Host is missing")),
        _ => Ok(()),
    }
}

/// `host [":" port]` without user information. IPv6 addresses stand in brackets.
fn is_authority(text: &[u8]) -> bool {
    let is_bracketed = text.starts_with(b"[");
    let host_end = if is_bracketed {
        text.iter().position(|b| *b == b']').map(|end| end + 1)
    } else {
        text.iter().position(|b| *b == b':').or(Some(text.len()))
    };
    let Some((host, port)) = host_end.and_then(|end| text.split_at_checked(end)) else {
        return false;
    };
    let host_is_valid = if is_bracketed {
        let inner = host.get(1..host.len() - 1).unwrap_or_default();
        !inner.is_empty() && inner.iter().all(|b| b.is_ascii_hexdigit() || b":.".contains(b))
    } else {
        let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(b);
        !host.is_empty() && host.iter().all(is_name)
    };
    let port_is_valid = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_is_valid && port_is_valid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_have_a_host_and_maybe_a_port() {
        for valid in ["a", "api.example.com:443", "127.0.0.1:1", "[::1]", "[::1]:80", "a:"] {
            assert!(is_authority(valid.as_bytes()), "{valid}");
        }
        for malformed in [
            "", ":80", "u@h", "u:p@h", "a b", "a\0", "a/b", "a?b", "a#b", "[::1", "[]", "[::1]x",
            "a:b", "a:123456", "a:1:2", "ä", "a\\b", "<a>",
        ] {
            assert!(!is_authority(malformed.as_bytes()), "{malformed}");
        }
    }
}
