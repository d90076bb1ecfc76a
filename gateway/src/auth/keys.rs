//! The keys tokens are verified and signed with, read from one private file.
//!
//! The file is JSON: `{"keys": [{"kid", "alg", "secret_base64" | "public_pem" [+ "private_pem"]}]}`.
//! A key's algorithm is fixed here and never taken from a token. The first key that can sign does.

use crate::private::{self, PrivateError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// RFC 7518 section 3.2: a key as long as the hash at least.
const MIN_SECRET_BYTES: usize = 32;
const MIN_RSA_BITS: usize = 2_048;
/// An uncompressed point of P-256.
const P256_POINT_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;

/// Why the key file cannot be used. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key file {path} cannot be read or written")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key file {path} can be read by others: run `chmod 600 {path}`")]
    Readable { path: PathBuf },
    #[error("the key file is not valid JSON of the documented shape")]
    Json(#[source] serde_json::Error),
    #[error("the key file holds no key")]
    Empty,
    #[error("two keys are called `{kid}`: each kid must be unique")]
    Repeated { kid: String },
    #[error("key `{kid}`: {problem}")]
    Key { kid: String, problem: &'static str },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kid: String,
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_pem: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    private_pem: Option<String>,
}

/// One checked key. `Debug` shows no material: the library redacts it.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    /// The algorithm as headers spell it.
    pub(super) alg: &'static str,
    pub(super) verifying: DecodingKey,
    pub(super) signing: Option<EncodingKey>,
}

/// All keys, at least one.
#[derive(Clone, Debug)]
pub struct KeyRing(Vec<Key>);

impl KeyRing {
    /// Reads the key file at `path`; if there is none, creates it with one random HS256 key,
    /// readable by its owner only.
    ///
    /// # Errors
    /// See [`KeyError`]; nothing weak or ambiguous is accepted.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let text = private::read_or_create(path, first).map_err(|error| match error {
            PrivateError::Io(source) => KeyError::Io { path: path.to_owned(), source },
            PrivateError::Readable => KeyError::Readable { path: path.to_owned() },
        })?;
        Self::parse(&text)
    }

    /// Reads the contents of a key file.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn parse(json: &str) -> Result<Self, KeyError> {
        // Another crate may have enabled a second backend, and then the library panics on first
        // use unless one was chosen; a second choice of the same is refused and harmless.
        let _chosen = crypto::aws_lc::DEFAULT_PROVIDER.install_default().is_ok();
        let file: File = serde_json::from_str(json).map_err(KeyError::Json)?;
        let mut keys: Vec<Key> = Vec::with_capacity(file.keys.len());
        for entry in file.keys {
            let kid = entry.kid.clone();
            if keys.iter().any(|key| key.kid == kid) {
                return Err(KeyError::Repeated { kid });
            }
            keys.push(check(entry).map_err(|problem| KeyError::Key { kid, problem })?);
        }
        if keys.is_empty() { Err(KeyError::Empty) } else { Ok(Self(keys)) }
    }

    /// The key a header names: exactly `kid`, or the only key when it names none.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match (kid, self.0.as_slice()) {
            (Some(kid), keys) => keys.iter().find(|key| key.kid == kid),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// The first key that can sign.
    pub(super) fn signing(&self) -> Option<(&Key, &EncodingKey)> {
        self.0.iter().find_map(|key| Some((key, key.signing.as_ref()?)))
    }
}

fn first() -> io::Result<String> {
    let entry = Entry {
        kid: uuid::Uuid::new_v4().simple().to_string(),
        alg: String::from("HS256"),
        secret_base64: Some(STANDARD.encode(rand::random::<[u8; MIN_SECRET_BYTES]>())),
        public_pem: None,
        private_pem: None,
    };
    Ok(serde_json::to_string_pretty(&File { keys: vec![entry] })?)
}

fn check(entry: Entry) -> Result<Key, &'static str> {
    if entry.kid.is_empty() || entry.kid.len() > 128 {
        return Err("a kid has 1 to 128 characters");
    }
    let (algorithm, alg) = match entry.alg.as_str() {
        "HS256" => (Algorithm::HS256, "HS256"),
        "RS256" => (Algorithm::RS256, "RS256"),
        "ES256" => (Algorithm::ES256, "ES256"),
        "EdDSA" => (Algorithm::EdDSA, "EdDSA"),
        _ => return Err("alg must be HS256, RS256, ES256 or EdDSA"),
    };
    let (verifying, signing) = if algorithm == Algorithm::HS256 {
        check_secret(&entry)?
    } else {
        check_pem(&entry, algorithm)?
    };
    let key = Key { kid: entry.kid, algorithm, alg, verifying, signing };
    if let Some(signing) = &key.signing {
        let probe = b"probe";
        let is_pair = crypto::sign(probe, signing, algorithm)
            .and_then(|signature| crypto::verify(&signature, probe, &key.verifying, algorithm));
        if !is_pair.unwrap_or(false) {
            return Err("the private key does not belong to the public key");
        }
    }
    Ok(key)
}

fn check_secret(entry: &Entry) -> Result<(DecodingKey, Option<EncodingKey>), &'static str> {
    if entry.public_pem.is_some() || entry.private_pem.is_some() {
        return Err("HS256 takes secret_base64 only");
    }
    let text = entry.secret_base64.as_deref().ok_or("HS256 needs secret_base64")?;
    let secret = STANDARD.decode(text).map_err(|_| "secret_base64 is not standard base64")?;
    if secret.len() < MIN_SECRET_BYTES {
        return Err(
            "the secret is too short: use 32 random bytes, as `openssl rand -base64 32` makes",
        );
    }
    // A public key is no secret: whoever knows it could sign.
    if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err("the secret is a PEM file: use its own algorithm with public_pem");
    }
    Ok((DecodingKey::from_secret(&secret), Some(EncodingKey::from_secret(&secret))))
}

fn check_pem(
    entry: &Entry,
    algorithm: Algorithm,
) -> Result<(DecodingKey, Option<EncodingKey>), &'static str> {
    if entry.secret_base64.is_some() {
        return Err("secret_base64 is for HS256 only");
    }
    let public = entry.public_pem.as_deref().ok_or("public_pem is missing")?.as_bytes();
    let verifying = match algorithm {
        Algorithm::RS256 => DecodingKey::from_rsa_pem(public),
        Algorithm::ES256 => DecodingKey::from_ec_pem(public),
        _ => DecodingKey::from_ed_pem(public),
    }
    .map_err(|_| "public_pem is not a public key of this algorithm")?;
    let bytes = verifying.try_get_as_bytes().map_err(|_| "public_pem cannot be used")?;
    match algorithm {
        Algorithm::RS256 if rsa_bits(bytes).is_none_or(|bits| bits < MIN_RSA_BITS) => {
            return Err("public_pem must be an RSA public key of at least 2048 bits");
        }
        Algorithm::ES256 if bytes.len() != P256_POINT_BYTES => {
            return Err("public_pem must be on the curve P-256");
        }
        Algorithm::EdDSA if bytes.len() != ED25519_BYTES => {
            return Err("public_pem must be an Ed25519 key");
        }
        _ => {}
    }
    let signing = entry.private_pem.as_deref().map(|pem| match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
        Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
        _ => EncodingKey::from_ed_pem(pem.as_bytes()),
    });
    let signing = signing.transpose().map_err(|_| "private_pem is not a PKCS#8 private key")?;
    Ok((verifying, signing))
}

/// Bits of the modulus of a DER `RSAPublicKey`: a sequence that starts with the modulus.
fn rsa_bits(der: &[u8]) -> Option<usize> {
    let (_, sequence) = der_value(der, 0x30)?;
    let (length, modulus) = der_value(sequence, 0x02)?;
    let modulus = modulus.get(..length)?;
    let leading = modulus.iter().take_while(|b| **b == 0).count();
    Some((length - leading) * 8)
}

/// The length and start of the value of a DER element with this tag.
fn der_value(der: &[u8], tag: u8) -> Option<(usize, &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    if *length < 0x80 {
        return Some((usize::from(*length), rest));
    }
    let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
    if digits.len() > 4 {
        return None;
    }
    Some((digits.iter().fold(0, |n, d| n << 8 | usize::from(*d)), rest))
}
