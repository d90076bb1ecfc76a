//! Strict JSON: what is accepted means the same to every parser.
//!
//! RFC 8259 lets parsers differ on duplicate names, depth and huge numbers; here all of these
//! are refused, with the limits below, so that no two readers of one body can disagree.

use crate::api::failure::Failure;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Nested arrays and objects.
const DEPTH_MAX: usize = 32;
/// Members of one object.
const MEMBERS_MAX: usize = 1024;
/// Characters of one number.
const NUMBER_MAX: usize = 64;

/// Why a body is not acceptable JSON.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonFault {
    #[error("the body is empty; send a JSON object")]
    Empty,
    #[error("a number has more than {NUMBER_MAX} characters")]
    LongNumber,
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
}

/// Parses a whole body.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, JsonFault> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(JsonFault::Empty);
    }
    check_numbers(bytes)?;
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut parser)?;
    parser.end()?;
    Ok(value)
}

/// Parses a whole body, or says what is wrong with it as with a field without a name.
pub(crate) fn body(bytes: &[u8]) -> Result<Value, Failure> {
    parse(bytes).map_err(|fault| Failure::field("", fault.to_string()))
}

/// Refuses overlong numbers before a parser spends time on them.
pub(crate) fn check_numbers(bytes: &[u8]) -> Result<(), JsonFault> {
    let mut in_string = false;
    let mut escaped = false;
    let mut run = 0;
    for byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E' => {
                run += 1;
                if run > NUMBER_MAX {
                    return Err(JsonFault::LongNumber);
                }
                continue;
            }
            _ => {}
        }
        run = 0;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            if members.len() >= MEMBERS_MAX {
                let text = format_args!("an object has more than {MEMBERS_MAX} members");
                return Err(de::Error::custom(text));
            }
            let value = from.next_value_seed(inner)?;
            if members.insert(name, value).is_some() {
                return Err(de::Error::custom("an object has the same name twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> String {
        parse(body.as_bytes()).expect_err(body).to_string()
    }

    #[test]
    fn keeps_what_is_plain_json() {
        let body = r#"{"b":[1,-2.5,true,null,"\u00e9"],"a":{}}"#;
        assert_eq!(
            parse(body.as_bytes()).expect("plain").to_string(),
            r#"{"b":[1,-2.5,true,null,"é"],"a":{}}"#
        );
    }

    #[test]
    fn refuses_duplicate_names_at_any_depth() {
        assert!(refused(r#"{"a":1,"a":2}"#).contains("twice"));
        assert!(refused(r#"{"a":[{"b":1,"\u0062":2}]}"#).contains("twice"));
    }

    #[test]
    fn refuses_depth_members_and_numbers_beyond_their_limits() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(nested(32).as_bytes()).is_ok());
        assert!(refused(&nested(33)).contains("deeper"));
        assert!(refused(&nested(100_000)).contains("deeper"));
        let members = |n: usize| {
            let all: Vec<_> = (0..n).map(|i| format!("\"{i}\":0")).collect();
            format!("{{{}}}", all.join(","))
        };
        assert!(parse(members(1024).as_bytes()).is_ok());
        assert!(refused(&members(1025)).contains("members"));
        assert!(refused(&"9".repeat(65)).contains("64 characters"));
        assert!(refused("1e400").contains("out of range"));
        assert!(parse(format!("\"{}\"", "9".repeat(500)).as_bytes()).is_ok());
    }

    #[test]
    fn refuses_what_is_not_json() {
        for body in ["", " \n", "{", "{}x", "[1,]", "NaN", "'a'", "\u{feff}{}", "\"\\ud800\""] {
            refused(body);
        }
        assert!(parse(b"\"\xff\"").is_err(), "invalid UTF-8");
    }
}
