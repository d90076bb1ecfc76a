//! Random credentials: keys, client ids and secrets, refresh and invitation tokens, and their hashes.
//!
//! All have 192 bits or more of chance, so one round of SHA-256 is all the hashing they need.

use crate::model::{Secret, SecretHash};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use std::hint::black_box;

/// What an opaque key begins with; secret scanners find it by that.
const KEY_PREFIX: &str = "bgl_";
/// What a client id begins with, as one dialect documents.
const CLIENT_ID_PREFIX: &str = "oa2-client-id_";
const CLIENT_SECRET_PREFIX: &str = "bgs_";
const REFRESH_PREFIX: &str = "bgr_";
const INVITATION_PREFIX: &str = "bgi_";
/// Bytes of a secret: 43 characters.
const SECRET_BYTES: usize = 32;
/// Bytes of a client id, which is no secret: 32 characters.
const CLIENT_ID_BYTES: usize = 24;
/// Longest text that is looked at as a credential.
pub const CREDENTIAL_MAX: usize = 512;

/// A credential for its owner, shown once, and what is stored of it.
#[derive(Clone, Debug)]
pub struct Fresh {
    pub text: Secret,
    pub hash: SecretHash,
}

/// The hash of a credential, as stored.
#[must_use]
pub fn hash_of(text: &str) -> SecretHash {
    SecretHash(Sha256::digest(text.as_bytes()).into())
}

/// True if `text` is the credential that `stored` is the hash of, in a time that tells nothing.
#[must_use]
pub fn matches(stored: &SecretHash, text: &str) -> bool {
    let other = hash_of(text);
    let differing = stored.0.iter().zip(other.0).fold(0, |bits, (a, b)| bits | black_box(a ^ b));
    black_box(differing) == 0
}

/// An API key: `bgl_` and 43 characters.
#[must_use]
pub fn opaque_key() -> Fresh {
    fresh(KEY_PREFIX)
}

/// A client's secret.
#[must_use]
pub fn client_secret() -> Fresh {
    fresh(CLIENT_SECRET_PREFIX)
}

/// A refresh token.
#[must_use]
pub fn refresh_token() -> Fresh {
    fresh(REFRESH_PREFIX)
}

/// The token in an invitation's link.
#[must_use]
pub fn invitation_token() -> Fresh {
    fresh(INVITATION_PREFIX)
}

/// A client's public name: `oa2-client-id_` and 32 characters.
#[must_use]
pub fn client_id() -> String {
    let name = URL_SAFE_NO_PAD.encode(rand::random::<[u8; CLIENT_ID_BYTES]>());
    format!("{CLIENT_ID_PREFIX}{name}")
}

/// True for what could be an API key and never is a JSON Web Token, which has dots.
#[must_use]
pub fn is_opaque_key(token: &str) -> bool {
    token.starts_with(KEY_PREFIX)
}

fn fresh(prefix: &str) -> Fresh {
    let random = URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>());
    let text = format!("{prefix}{random}");
    Fresh { hash: hash_of(&text), text: Secret::new(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn credentials_have_their_documented_form_and_never_repeat() {
        let mut seen = HashSet::new();
        for _ in 0..1_000 {
            for (fresh, prefix) in [
                (opaque_key(), "bgl_"),
                (client_secret(), "bgs_"),
                (refresh_token(), "bgr_"),
                (invitation_token(), "bgi_"),
            ] {
                let text = fresh.text.reveal();
                let rest = text.strip_prefix(prefix).unwrap();
                assert_eq!(rest.len(), 43, "{text}");
                assert!(rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
                assert!(seen.insert(text.to_owned()));
            }
            let id = client_id();
            assert_eq!(id.strip_prefix("oa2-client-id_").unwrap().len(), 32);
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn only_the_credential_itself_matches_its_hash() {
        let key = opaque_key();
        let text = key.text.reveal();
        assert!(matches(&key.hash, text));
        assert_eq!(key.hash, hash_of(text));
        for other in
            [String::new(), format!("{text} "), text.to_uppercase(), text.replace("bgl_", "")]
        {
            assert!(!matches(&key.hash, &other), "{other}");
        }
        assert!(!format!("{key:?}").contains(text), "a secret does not show");
    }
}
