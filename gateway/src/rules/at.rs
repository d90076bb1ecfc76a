//! Instants as people and files write them to rules: RFC 3339.

use crate::model::Millis;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The text is no instant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time like 2026-03-29T01:30:00Z")]
pub struct AtError(String);

/// An instant; RFC 3339 in files, milliseconds since the Unix epoch are read, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(pub Millis);

impl Serialize for At {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0.to_rfc3339())
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Millis(u64),
            Words(String),
        }
        match Text::deserialize(from)? {
            Text::Millis(ms) => Ok(Self(Millis(ms))),
            Text::Words(words) => words.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl std::str::FromStr for At {
    type Err = AtError;

    fn from_str(text: &str) -> Result<Self, AtError> {
        let parsed = text.parse::<jiff::Timestamp>().ok();
        let ms = parsed.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        ms.map(|ms| Self(Millis(ms))).ok_or_else(|| AtError(text.to_owned()))
    }
}
