//! Spells out the classes of characters in patterns: `\p{L}` as the ranges the code accepts.
//!
//! Readers of JSON Schema disagree about `\p{…}`, and their tables are of different years. Ranges
//! made from the very functions that check names mean the same to all of them.

use serde_json::Value;
use std::sync::OnceLock;
use unicode_normalization::char::is_combining_mark;

type Class = (&'static str, fn(char) -> bool);

/// What stands for a class inside the brackets of a pattern, and what belongs to it.
const CLASSES: [Class; 3] =
    [(r"\p{L}", is_letter), (r"\p{M}", is_combining_mark), (r"\p{N}", char::is_numeric)];

/// `\p{L}`. The standard library's alphabetic also has letter-like numbers, marks and circled
/// letters.
pub(crate) fn is_letter(c: char) -> bool {
    let is_symbol = matches!(c,
        '\u{24b6}'..='\u{24e9}' | '\u{1f130}'..='\u{1f149}'
        | '\u{1f150}'..='\u{1f169}' | '\u{1f170}'..='\u{1f189}');
    c.is_alphabetic() && !c.is_numeric() && !is_symbol && !is_combining_mark(c)
}

/// Replaces the classes in every `pattern` of `document`.
pub(super) fn spell_out(document: &mut Value) {
    match document {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(pattern) if name == "pattern" => replace(pattern),
                    _ => spell_out(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(spell_out),
        _ => {}
    }
}

fn replace(pattern: &mut String) {
    static RANGES: OnceLock<[String; CLASSES.len()]> = OnceLock::new();
    if !CLASSES.iter().any(|(name, _)| pattern.contains(name)) {
        return;
    }
    let ranges = RANGES.get_or_init(|| CLASSES.map(|(_, belongs)| ranges(belongs)));
    for ((name, _), ranges) in CLASSES.iter().zip(ranges) {
        *pattern = pattern.replace(name, ranges);
    }
}

/// `a-zµ…`: the characters that belong, as they stand inside brackets.
fn ranges(belongs: impl Fn(char) -> bool) -> String {
    let mut text = String::new();
    let mut open: Option<(char, char)> = None;
    for character in '\0'..=char::MAX {
        open = match open {
            Some((first, _)) if belongs(character) => Some((first, character)),
            None if belongs(character) => Some((character, character)),
            Some(range) => {
                write_range(&mut text, range);
                None
            }
            None => None,
        };
    }
    text.extend(open.map(|(first, _)| first));
    text
}

fn write_range(text: &mut String, (first, last): (char, char)) {
    text.push(first);
    if last != first {
        text.push('-');
        text.push(last);
    }
}
