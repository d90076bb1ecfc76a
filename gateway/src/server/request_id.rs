//! The id of one request: the caller's if it is harmless, a fresh one otherwise.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const BUGLER_REQUEST_ID: HeaderName = HeaderName::from_static("bugler-request-id");

/// Longest id taken over from a caller.
const MAX_LEN: usize = 128;

/// 1 to 128 characters of `[A-Za-z0-9._-]`, so it is safe in headers, logs and JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's `X-Request-Id` if there is exactly one and it is well formed.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut sent = headers.get_all(X_REQUEST_ID).iter();
        match (sent.next(), sent.next()) {
            (Some(id), None) if is_harmless(id.as_bytes()) => Self(id.clone()),
            _ => Self::mint(),
        }
    }

    /// A random id.
    #[must_use]
    pub fn mint() -> Self {
        let mut text = [0; uuid::fmt::Simple::LENGTH];
        let text = Uuid::new_v4().simple().encode_lower(&mut text);
        let value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(text.as_bytes()));
        Self(value.expect("hexadecimal digits are a valid header value"))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// As a header value; sharing it costs no copy.
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}

fn is_harmless(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(lines: &[&'static str]) -> RequestId {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_REQUEST_ID, HeaderValue::from_static(line));
        }
        RequestId::of(&headers)
    }

    #[test]
    fn takes_over_harmless_ids_only() {
        assert_eq!(id_of(&["Order-7.a_b"]).as_str(), "Order-7.a_b");
        let long: &'static str = "x".repeat(129).leak();
        for refused in [&["<script>"][..], &["a b"], &[""], &["a", "a"], &[long], &[]] {
            let id = id_of(refused);
            assert_eq!(id.as_str().len(), 32, "{refused:?}");
            assert!(!refused.contains(&id.as_str()));
        }
    }

    #[test]
    fn minted_ids_differ() {
        assert_ne!(RequestId::mint(), RequestId::mint());
    }
}
