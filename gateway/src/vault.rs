//! Secrets of records as they are stored: sealed, so that who reads the disk has none of them.
//!
//! AES-256-GCM with a random nonce, bound to organization and record: a sealed secret that is moved
//! to another record does not open. The key lies in a file of its own, so that records, journal and
//! their backups can be kept apart from it: `{"keys": [{"id": 1, "aes256_base64": "…"}]}`. The
//! first key seals, all of them open.

use crate::model::{
    Endpoint, OrganizationId, Sealed, Secret, Subscription, SubscriptionId, Target,
};
use crate::private::{self, PrivateError};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 4;

/// Why the file of keys cannot be used. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the file of record keys {} cannot be used; it must be its owner's alone", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: PrivateError,
    },
    #[error("the file of record keys {} is not JSON of the documented shape", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the file of record keys {}: {problem}", path.display())]
    Key { path: PathBuf, problem: &'static str },
}

/// A sealed secret that no key here opens: it was sealed with another, or for another record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored secret cannot be opened with the record keys at hand")]
pub struct SealError;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: u32,
    aes256_base64: String,
}

/// The keys, at least one.
pub struct Vault {
    keys: Vec<(u32, LessSafeKey)>,
    /// Keys for other purposes come from the first.
    root: hkdf::Prk,
}

/// So many bytes of key.
struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|(id, _)| id).collect();
        f.debug_tuple("Vault").field(&ids).finish()
    }
}

/// The record a secret belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub OrganizationId, pub SubscriptionId);

impl Owner {
    fn aad(self) -> Aad<[u8; 16]> {
        let Self(org, subscription) = self;
        let mut bytes = [0; 16];
        let all = org.0.to_be_bytes().into_iter().chain(subscription.0);
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        Aad::from(bytes)
    }
}

impl Vault {
    /// Reads the file at `path`; if there is none, makes it with one random key.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub fn load_or_create(path: &Path) -> Result<Self, VaultError> {
        let text = private::read_or_create(path, first)
            .map_err(|source| VaultError::File { path: path.to_owned(), source })?;
        let file: File = serde_json::from_str(&text)
            .map_err(|source| VaultError::Json { path: path.to_owned(), source })?;
        Self::of(file).map_err(|problem| VaultError::Key { path: path.to_owned(), problem })
    }

    /// The same wherever it is made.
    #[cfg(test)]
    pub(crate) fn fixed() -> Self {
        let entry = Entry { id: 1, aes256_base64: STANDARD.encode([7; KEY_BYTES]) };
        Self::of(File { keys: vec![entry] }).expect("one key of AES-256")
    }

    fn of(file: File) -> Result<Self, &'static str> {
        let mut keys: Vec<(u32, LessSafeKey)> = Vec::new();
        let mut root = None;
        for Entry { id, aes256_base64 } in file.keys {
            let bytes = STANDARD.decode(aes256_base64).unwrap_or_default();
            if bytes.len() != KEY_BYTES {
                return Err("aes256_base64 must be 32 bytes, as `openssl rand -base64 32` makes");
            }
            if keys.iter().any(|(known, _)| *known == id) {
                return Err("two keys have the same id");
            }
            let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| "a key is not usable")?;
            keys.push((id, LessSafeKey::new(key)));
            root.get_or_insert_with(|| hkdf::Salt::new(HKDF_SHA256, &[]).extract(&bytes));
        }
        root.map(|root| Self { keys, root }).ok_or("it holds no key")
    }

    /// A key for something else than records, the same as long as the first key is.
    #[must_use]
    pub fn subkey(&self, purpose: &str) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        let info = [purpose.as_bytes()];
        let derived = self.root.expand(&info, Length).and_then(|okm| okm.fill(&mut key));
        derived.expect("HKDF gives 32 bytes for any purpose");
        key
    }

    /// `secret` as a record of `owner` may keep it.
    #[must_use]
    pub fn seal(&self, owner: Owner, secret: &Secret) -> Sealed {
        let (id, key) = self.keys.first().expect("a vault has at least one key");
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut text = secret.reveal().as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::from(&nonce), owner.aad(), &mut text)
            .expect("AES-GCM seals anything shorter than 64 GiB");
        let mut sealed = id.to_be_bytes().to_vec();
        sealed.extend(nonce);
        sealed.extend(text);
        Sealed::of(sealed)
    }

    /// What was sealed for `owner`.
    pub fn open(&self, owner: Owner, sealed: &Sealed) -> Result<Secret, SealError> {
        let (id, rest) = sealed.bytes().split_first_chunk::<ID_BYTES>().ok_or(SealError)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError)?;
        let id = u32::from_be_bytes(*id);
        let (_, key) = self.keys.iter().find(|(known, _)| *known == id).ok_or(SealError)?;
        let mut text = text.to_vec();
        let opened = key.open_in_place(Nonce::from(nonce), owner.aad(), &mut text);
        let opened = std::str::from_utf8(opened.map_err(|_| SealError)?).map_err(|_| SealError)?;
        Ok(Secret::new(opened))
    }

    /// Where deliveries to `subscription` go, with what it takes. A secret that does not open is
    /// empty, which its provider holds deliveries for.
    #[must_use]
    pub fn target(&self, subscription: &Subscription) -> Target {
        let (id, policy) = (subscription.id, subscription.policy);
        let open = |sealed: &Sealed| {
            self.open(Owner(subscription.org, id), sealed).unwrap_or_else(|error| {
                tracing::error!(subscription.id = %id, %error, "deliveries to it are held");
                Secret::new("")
            })
        };
        match &subscription.endpoint {
            Endpoint::Slack { url, .. } => {
                Target::Slack { subscription: id, url: open(url), policy }
            }
            Endpoint::Webhook { url, secret, retired } => Target::Webhook {
                subscription: id,
                url: url.clone(),
                secret: open(secret),
                retired: retired.as_ref().map(|old| (open(&old.secret), old.until)),
                policy,
            },
        }
    }
}

fn first() -> std::io::Result<String> {
    let aes256_base64 = STANDARD.encode(rand::random::<[u8; KEY_BYTES]>());
    Ok(serde_json::to_string_pretty(&File { keys: vec![Entry { id: 1, aes256_base64 }] })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectId;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    const OWNER: Owner = Owner(OrganizationId(101), ObjectId([7; 12]));

    fn vault(keys: &[(u32, u8)]) -> Vault {
        let key = |(id, byte): &(u32, u8)| json!({"id": id, "aes256_base64": STANDARD.encode([*byte; 32])});
        let keys: Vec<_> = keys.iter().map(key).collect();
        Vault::of(serde_json::from_value(json!({ "keys": keys })).unwrap()).unwrap()
    }

    #[test]
    fn a_sealed_secret_shows_nothing_opens_for_its_record_only_and_never_looks_the_same() {
        let (vault, secret) = (vault(&[(1, 1)]), Secret::new("whsec_canary"));
        let sealed = vault.seal(OWNER, &secret);
        assert!(!sealed.bytes().windows(6).any(|part| part == b"canary"));
        assert_eq!(vault.open(OWNER, &sealed), Ok(secret.clone()));
        assert_ne!(vault.seal(OWNER, &secret), sealed);
        for other in [Owner(OrganizationId(102), OWNER.1), Owner(OWNER.0, ObjectId([8; 12]))] {
            assert_eq!(vault.open(other, &sealed), Err(SealError));
        }
        for at in 0..sealed.bytes().len() {
            let mut bytes = sealed.bytes().to_vec();
            bytes[at] ^= 1;
            assert_eq!(vault.open(OWNER, &Sealed::of(bytes)), Err(SealError), "byte {at}");
        }
        for short in [&[][..], &sealed.bytes()[..20]] {
            assert_eq!(vault.open(OWNER, &Sealed::of(short.to_vec())), Err(SealError));
        }
    }

    #[test]
    fn the_first_key_seals_and_older_ones_still_open() {
        let (old, both, new) = (vault(&[(1, 1)]), vault(&[(2, 2), (1, 1)]), vault(&[(2, 2)]));
        let secret = Secret::new("x");
        assert_eq!(both.open(OWNER, &old.seal(OWNER, &secret)), Ok(secret.clone()));
        let sealed = both.seal(OWNER, &secret);
        assert_eq!(new.open(OWNER, &sealed), Ok(secret));
        assert_eq!(old.open(OWNER, &sealed), Err(SealError));
    }

    #[test]
    fn keys_for_other_purposes_come_from_the_first_and_differ() {
        let (one, other) = (vault(&[(1, 1), (2, 2)]), vault(&[(2, 2)]));
        assert_eq!(one.subkey("a"), vault(&[(1, 1)]).subkey("a"));
        assert_ne!(one.subkey("a"), one.subkey("b"));
        assert_ne!(one.subkey("a"), other.subkey("a"));
        assert_ne!(one.subkey("a"), [1; KEY_BYTES]);
    }

    #[test]
    fn the_file_is_made_once_for_its_owner_only_and_a_bad_one_is_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("vault.json");
        let sealed = Vault::load_or_create(&path).unwrap().seal(OWNER, &Secret::new("x"));
        let again = Vault::load_or_create(&path).unwrap();
        assert_eq!(again.open(OWNER, &sealed), Ok(Secret::new("x")));
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        mode(0o640);
        assert!(matches!(Vault::load_or_create(&path), Err(VaultError::File { .. })));
        mode(0o600);
        let short = json!({"keys": [{"id": 1, "aes256_base64": "c2hvcnQ="}]}).to_string();
        let twice = STANDARD.encode([1; 32]);
        let entry = json!({"id": 1, "aes256_base64": twice});
        let twice = json!({"keys": [entry.clone(), entry]}).to_string();
        for bad in ["{}", r#"{"keys": []}"#, &short, &twice] {
            std::fs::write(&path, bad).unwrap();
            let error = Vault::load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("vault.json"), "{error}");
        }
    }
}
