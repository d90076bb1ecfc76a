//! The strings of a JSON text and where they stand: enough for rules that change what is shown.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

const DEPTH_MAX: usize = 64;

/// One string value; names of members are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// RFC 6901 pointer to it.
    pub pointer: String,
    /// What it says, unescaped.
    pub value: String,
    /// Its place in the JSON text, quotes included.
    pub place: Range<usize>,
}

/// The text is not JSON, or nests deeper than 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadJson;

/// All string values of `json`, in their order.
///
/// # Errors
/// It is no JSON; numbers and words are not looked at closely.
pub fn texts(json: &str) -> Result<Vec<Text>, BadJson> {
    let all = texts_where(json, |_, _| Some(()))?;
    Ok(all.into_iter().map(|(text, ())| text).collect())
}

/// The string values of `json` for which `look` has something, given their pointer and what they say;
/// nothing is copied of the others.
///
/// # Errors
/// It is no JSON; numbers and words are not looked at closely.
pub fn texts_where<T>(
    json: &str,
    look: impl FnMut(&str, &str) -> Option<T>,
) -> Result<Vec<(Text, T)>, BadJson> {
    let mut walk = Walk { json, at: 0, pointer: String::new(), look, found: Vec::new() };
    walk.value(0)?;
    walk.blank();
    if walk.at == json.len() { Ok(walk.found) } else { Err(BadJson) }
}

/// `text` as a JSON string, quotes included.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    let is_special = |byte: u8| matches!(byte, b'"' | b'\\') || byte.is_ascii_control();
    let mut rest = text;
    while let Some(plain) = rest.bytes().position(is_special) {
        // All of these are characters of one byte.
        let (before, after) = rest.split_at(plain);
        json.push_str(before);
        match after.bytes().next() {
            Some(b'"') => json.push_str("\\\""),
            Some(b'\\') => json.push_str("\\\\"),
            Some(b'\n') => json.push_str("\\n"),
            control => drop(write!(json, "\\u{:04x}", control.unwrap_or_default())),
        }
        rest = after.get(1..).unwrap_or_default();
    }
    json.push_str(rest);
    json.push('"');
    json
}

struct Walk<'a, F, T> {
    json: &'a str,
    at: usize,
    pointer: String,
    look: F,
    found: Vec<(Text, T)>,
}

impl<'a, F: FnMut(&str, &str) -> Option<T>, T> Walk<'a, F, T> {
    fn value(&mut self, depth: usize) -> Result<(), BadJson> {
        if depth > DEPTH_MAX {
            return Err(BadJson);
        }
        self.blank();
        match self.peek().ok_or(BadJson)? {
            b'{' => self.members(depth),
            b'[' => self.elements(depth),
            b'"' => {
                let start = self.at;
                let value = self.string()?;
                if let Some(found) = (self.look)(&self.pointer, &value) {
                    let (pointer, value) = (self.pointer.clone(), value.into_owned());
                    self.found.push((Text { pointer, value, place: start..self.at }, found));
                }
                Ok(())
            }
            _ => self.word(),
        }
    }

    fn members(&mut self, depth: usize) -> Result<(), BadJson> {
        self.at += 1;
        let own = self.pointer.len();
        self.blank();
        if self.takes(b'}') {
            return Ok(());
        }
        loop {
            self.blank();
            let name = self.string()?;
            self.pointer.push('/');
            if name.bytes().any(|byte| matches!(byte, b'~' | b'/')) {
                self.pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
            } else {
                self.pointer.push_str(&name);
            }
            self.blank();
            if !self.takes(b':') {
                return Err(BadJson);
            }
            self.value(depth + 1)?;
            self.pointer.truncate(own);
            self.blank();
            match (self.takes(b','), self.takes(b'}')) {
                (true, _) => {}
                (false, true) => return Ok(()),
                (false, false) => return Err(BadJson),
            }
        }
    }

    fn elements(&mut self, depth: usize) -> Result<(), BadJson> {
        self.at += 1;
        let own = self.pointer.len();
        self.blank();
        if self.takes(b']') {
            return Ok(());
        }
        for index in 0usize.. {
            write!(self.pointer, "/{index}").ok();
            self.value(depth + 1)?;
            self.pointer.truncate(own);
            self.blank();
            if self.takes(b']') {
                return Ok(());
            }
            if !self.takes(b',') {
                return Err(BadJson);
            }
        }
        Err(BadJson)
    }

    fn string(&mut self) -> Result<Cow<'a, str>, BadJson> {
        if !self.takes(b'"') {
            return Err(BadJson);
        }
        let json = self.json;
        let mut text = Cow::Borrowed("");
        loop {
            let rest = json.get(self.at..).ok_or(BadJson)?;
            let is_mark = |byte| matches!(byte, b'"' | b'\\');
            let plain = rest.bytes().position(is_mark).ok_or(BadJson)?;
            // Nothing is copied of a text without escapes.
            text += rest.get(..plain).unwrap_or_default();
            self.at += plain + 1;
            if rest.as_bytes().get(plain) == Some(&b'"') {
                return Ok(text);
            }
            text.to_mut().push(self.escaped()?);
        }
    }

    fn escaped(&mut self) -> Result<char, BadJson> {
        let byte = self.peek().ok_or(BadJson)?;
        self.at += 1;
        Ok(match byte {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'"' | b'\\' | b'/' => char::from(byte),
            b'u' => self.unicode()?,
            _ => return Err(BadJson),
        })
    }

    /// A character by its number, of which large ones have two; half of one is the replacement character.
    fn unicode(&mut self) -> Result<char, BadJson> {
        let high = self.unit()?;
        if !(0xd800..0xdc00).contains(&high) {
            return Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let before = self.at;
        if self.takes(b'\\') && self.takes(b'u') {
            let low = self.unit()?;
            if (0xdc00..0xe000).contains(&low) {
                let number = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(number).ok_or(BadJson);
            }
        }
        self.at = before;
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn unit(&mut self) -> Result<u32, BadJson> {
        let digits = self.json.get(self.at..self.at + 4).ok_or(BadJson)?;
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(|_| BadJson)
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> Result<(), BadJson> {
        let start = self.at;
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        while self.peek().is_some_and(is_part) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(BadJson) }
    }

    fn blank(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn takes(&mut self, wanted: u8) -> bool {
        let is_there = self.peek() == Some(wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> Vec<(String, String)> {
        texts(json).unwrap().into_iter().map(|text| (text.pointer, text.value)).collect()
    }

    fn pair(pointer: &str, value: &str) -> (String, String) {
        (pointer.into(), value.into())
    }

    #[test]
    fn finds_every_string_value_and_its_pointer() {
        let json = r#" {"a":"x","b":{"c/d~e":["y",1,null,"z"],"f":true},"g":[],"h":{}} "#;
        let expected = [pair("/a", "x"), pair("/b/c~1d~0e/0", "y"), pair("/b/c~1d~0e/3", "z")];
        assert_eq!(found(json), expected);
        assert_eq!(found("\"alone\""), [pair("", "alone")]);
    }

    #[test]
    fn reads_escapes_and_writes_them_again() {
        let json = r#"["\u00e9\ud83d\ude00\n\"\\\/","\ud800x"]"#;
        assert_eq!(found(json), [pair("/0", "é😀\n\"\\/"), pair("/1", "\u{fffd}x")]);
        for text in ["", "plain é", "a\"b\\c\nd\u{1}"] {
            assert_eq!(found(&quoted(text)), [pair("", text)]);
        }
    }

    #[test]
    fn says_where_a_string_stands() {
        let json = r#"{"a": "x"}"#;
        let place = texts(json).unwrap().remove(0).place;
        assert_eq!(json.get(place), Some("\"x\""));
    }

    #[test]
    fn refuses_what_is_no_json() {
        for bad in ["", "{", "[1", "{\"a\"}", "\"x", "{\"a\":}", "[1]]", "\"\\q\"", "\"\\u12\""] {
            assert_eq!(texts(bad), Err(BadJson), "{bad}");
        }
        assert_eq!(texts(&"[".repeat(1000)), Err(BadJson));
    }
}
