//! Words that very many records share.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A short text that is copied often and changed never: one of the program's own, or shared by all who
/// have it.
#[derive(Clone)]
pub struct Word(Text);

#[derive(Clone)]
enum Text {
    Own(&'static str),
    Shared(Arc<str>),
}

impl Word {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Own(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl Default for Word {
    fn default() -> Self {
        Self::from("")
    }
}

impl From<&'static str> for Word {
    fn from(text: &'static str) -> Self {
        Self(Text::Own(text))
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self(Text::Shared(text.into()))
    }
}

impl Deref for Word {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Word {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Word {}

impl PartialEq<str> for Word {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Word {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Word {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_its_text_wherever_that_lies() {
        let (own, shared) = (Word::from("route"), Word::from(String::from("route")));
        assert_eq!((&own, own.as_str()), (&shared, "route"));
        assert_ne!(own, Word::default());
        let json = serde_json::to_string(&[&own, &shared]).unwrap();
        assert_eq!(json, r#"["route","route"]"#);
        assert_eq!(serde_json::from_str::<[Word; 2]>(&json).unwrap(), [own.clone(), shared]);
        assert_eq!(postcard::to_allocvec(&own).unwrap(), postcard::to_allocvec("route").unwrap());
    }
}
