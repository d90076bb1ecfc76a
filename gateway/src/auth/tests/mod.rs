//! Tokens and key files, as an attacker or a hasty operator would write them.

mod keys;
mod passwords;
mod tokens;

use super::*;
use crate::clock::TestClock;
use crate::model::{Millis, OrganizationId, UserId};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use std::sync::Arc;
use std::time::Duration;

const ISSUER: &str = "https://bugler.test";
const AUDIENCE: &str = "bugler";
const NOW_S: u64 = 1_800_000_000;
const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

fn hs256_entry(kid: &str) -> String {
    let secret = STANDARD.encode(SECRET);
    format!(r#"{{"kid":"{kid}","alg":"HS256","secret_base64":"{secret}"}}"#)
}

fn pem_entry(kid: &str, alg: &str, pair: &KeyPair) -> String {
    serde_json::json!({
        "kid": kid, "alg": alg,
        "public_pem": pair.public_key_pem(), "private_pem": pair.serialize_pem(),
    })
    .to_string()
}

fn ring(entries: &[String]) -> Arc<KeyRing> {
    Arc::new(KeyRing::parse(&format!(r#"{{"keys":[{}]}}"#, entries.join(","))).unwrap())
}

fn rsa() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

/// A verifier and its clock, which stands at `NOW_S`.
fn verifier(keys: Arc<KeyRing>) -> (TokenVerifier, TestClock) {
    let clock = TestClock::at(Millis(NOW_S * 1_000));
    (TokenVerifier::new(keys, ISSUER, AUDIENCE, Arc::new(clock.clone())), clock)
}

fn segment(json: &str) -> String {
    URL_SAFE_NO_PAD.encode(json)
}

/// A token with any header and payload, correctly signed with the shared secret.
fn signed(header: &str, payload: &str) -> String {
    sign_segments(&segment(header), &segment(payload))
}

fn sign_segments(header: &str, payload: &str) -> String {
    let message = format!("{header}.{payload}");
    let key = EncodingKey::from_secret(SECRET);
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT","kid":"a"}"#;

/// The claims of a valid organization token, with some replaced (`Some`) or left out (`None`).
fn claims(changes: &[(&str, Option<&str>)]) -> String {
    let exp = (NOW_S + 60).to_string();
    let iat = NOW_S.to_string();
    let mut members = vec![
        ("iss", format!("\"{ISSUER}\"")),
        ("aud", format!("\"{AUDIENCE}\"")),
        ("sub", String::from("\"client-1\"")),
        ("exp", exp),
        ("iat", iat),
        ("jti", String::from("\"t-1\"")),
        ("scope", String::from("\"org\"")),
        ("org", String::from("101")),
    ];
    for (name, value) in changes {
        members.retain(|(n, _)| n != name);
        if let Some(value) = value {
            members.push((name, (*value).to_owned()));
        }
    }
    let members: Vec<_> = members.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
    format!("{{{}}}", members.join(","))
}
