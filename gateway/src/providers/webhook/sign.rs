//! Standard Webhooks signatures: HMAC-SHA256 over id, timestamp and body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use sha2::Sha256;

/// What a secret starts with in text form.
const SECRET_PREFIX: &str = "whsec_";
/// What a signature starts with: the first, and those after it.
const VERSION: &str = "v1,";
const FURTHER: &str = " v1,";
/// A separator, a version, and 32 bytes in base64.
const SIGNATURE_CHARS: usize = 48;
/// Standard Webhooks asks for 24 to 64 bytes.
const KEY_BYTES_MIN: usize = 24;

/// The key that signs, and the one before it while that is still good.
pub(super) type Keys = [Option<Vec<u8>>; 2];

/// The secret cannot sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook secret is whsec_ and at least 24 bytes in base64")]
pub struct SecretError;

/// The key behind `secret`.
pub(super) fn key(secret: &str) -> Result<Vec<u8>, SecretError> {
    let text = secret.strip_prefix(SECRET_PREFIX).unwrap_or(secret);
    let key = STANDARD.decode(text).map_err(|_| SecretError)?;
    if key.len() < KEY_BYTES_MIN { Err(SecretError) } else { Ok(key) }
}

/// The `webhook-signature` for `body` sent as `id` at `timestamp` (Unix seconds): one by each of
/// `keys`, since a receiver may still have the one before.
pub(super) fn sign(keys: &Keys, id: &str, timestamp: u64, body: &[u8]) -> HeaderValue {
    let timestamp = timestamp.to_string();
    let mut all = String::with_capacity(SIGNATURE_CHARS);
    for key in keys.iter().flatten() {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        all.push_str(if all.is_empty() { VERSION } else { FURTHER });
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut all);
    }
    HeaderValue::try_from(all).expect("base64 is made of header characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_published_example_gets_the_published_signature() {
        let signature = sign(
            &[Some(key(SECRET).unwrap()), None],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_stock_verifier_takes_ours_and_refuses_it_altered() {
        let stock = standardwebhooks::Webhook::new(SECRET).unwrap();
        let now = jiff::Timestamp::now().as_second();
        let body = br#"{"action":"buildCreated"}"#;
        let keys = [Some(key(SECRET).unwrap()), None];
        let signature = sign(&keys, "msg_1", u64::try_from(now).unwrap(), body);
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", HeaderValue::from_static("msg_1"));
        headers.insert("webhook-timestamp", HeaderValue::from(now));
        headers.insert("webhook-signature", signature);
        stock.verify(body, &headers).unwrap();
        assert!(stock.verify(br#"{"action":"buildDeleted"}"#, &headers).is_err());
        headers.insert("webhook-id", HeaderValue::from_static("msg_2"));
        assert!(stock.verify(body, &headers).is_err());
    }

    #[test]
    fn secrets_that_cannot_sign_are_refused() {
        for bad in ["", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", "MfKQ9r8G"] {
            assert_eq!(key(bad), Err(SecretError), "{bad}");
        }
        assert_eq!(key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), key(SECRET));
    }
}
