//! Bearer tokens: from the gateway's own command, and wrong ones signed with its key.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::now_ms;

/// The key a gateway made for itself.
#[derive(Clone)]
pub(crate) struct Signer {
    kid: String,
    secret: Vec<u8>,
}

impl Signer {
    /// Reads `keys.json` of a data directory.
    pub(crate) fn of(keys_file: &Path) -> Self {
        let text = std::fs::read(keys_file).expect("the gateway made a key file");
        let file: Value = serde_json::from_slice(&text).expect("JSON");
        let key = &file["keys"][0];
        let secret = STANDARD.decode(key["secret_base64"].as_str().expect("a secret"));
        let kid = key["kid"].as_str().expect("a key id").to_owned();
        Self { kid, secret: secret.expect("base64") }
    }

    /// A right token of organization 101 that `change` makes wrong.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut Header, &mut Value)) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.kid.clone());
        let mut claims = self.claims();
        change(&mut header, &mut claims);
        let key = EncodingKey::from_secret(&self.secret);
        encode(&header, &claims, &key).expect("claims that can be signed")
    }

    fn claims(&self) -> Value {
        let now = now_ms() / 1000;
        json!({
            "iss": "https://bugler.local", "aud": "bugler", "sub": "organization:101",
            "iat": now - 10, "exp": now + 600, "jti": "made-by-a-test", "scope": "org", "org": 101,
        })
    }

    /// Signed by nobody.
    pub(crate) fn unsigned(&self, alg: &str) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "typ": "JWT", "alg": alg, "kid": self.kid });
        format!("{}.{}.", part(&header), part(&self.claims()))
    }

    /// Right in all but the secret.
    pub(crate) fn forged(&self) -> String {
        let forger = Self { kid: self.kid.clone(), secret: vec![b'x'; 32] };
        forger.changed(|_, _| {})
    }
}
