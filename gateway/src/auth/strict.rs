//! Strict reading of the JSON inside a token: no member twice, no type but the expected one.
//!
//! Two readers that pick different copies of a repeated claim see two different tokens; JSON
//! leaves that open (RFC 8259 section 4), RFC 7519 section 4 lets us refuse it.

use super::AuthError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Members a header or payload may have.
const MAX_MEMBERS: usize = 64;

/// A JSON object whose values are not yet interpreted.
#[derive(Debug)]
pub(super) struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// Decodes a token's segment: canonical unpadded base64url of one JSON object.
    pub(super) fn of_segment(segment: &str) -> Result<Self, AuthError> {
        let json = decode(segment)?;
        serde_json::from_slice(&json).map_err(|_| AuthError::Invalid("not a strict JSON object"))
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// The member `name` as a `T`, `None` when it is absent.
    pub(super) fn optional<T: DeserializeOwned>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, AuthError> {
        // Naming the claim, never its value.
        self.raw(name)
            .map(|raw| serde_json::from_str(raw.get()).map_err(|_| AuthError::Invalid(name)))
            .transpose()
    }

    /// The member `name` as a `T`.
    pub(super) fn required<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, AuthError> {
        self.optional(name)?.ok_or(AuthError::Invalid(name))
    }

    fn raw(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }
}

/// Decodes canonical unpadded base64url: exactly one spelling for each byte string.
pub(super) fn decode(segment: &str) -> Result<Vec<u8>, AuthError> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| AuthError::Invalid("not canonical base64url"))
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;

        impl<'de> Visitor<'de> for Unique {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object without repeated members")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    if members.len() == MAX_MEMBERS || members.iter().any(|(n, _)| *n == name) {
                        return Err(A::Error::custom("repeated or too many members"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Unique)
    }
}
