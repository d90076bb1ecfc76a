//! Changes to a payload: JSON pointers (RFC 6901), what each edit does, and what bounds them.

use crate::rules::limits::Breach;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Edits of one answer.
pub(super) const EDITS_MAX: usize = 256;
const POINTER_BYTES_MAX: usize = 512;
const POINTER_DEPTH_MAX: usize = 16;
/// Members of a payload up to which it is cheap to see that no name comes twice.
const MEMBERS_COMPARED_MAX: usize = 32;

/// Sets what `pointer` names, or removes it where there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// RFC 6901. The empty pointer names the whole payload, which cannot be removed.
    pub pointer: String,
    /// JSON text.
    pub value: Option<String>,
}

/// `payload` after `edits`, in their order.
pub(super) fn apply(payload: &str, edits: &[Edit]) -> Result<String, Breach> {
    if edits.len() > EDITS_MAX {
        return Err(Breach::output("a patch has at most 256 edits"));
    }
    if let Some(after) = with_texts(payload, edits) {
        return Ok(after);
    }
    let mut whole: Value = serde_json::from_str(payload)
        .map_err(|_| Breach::output("the payload to patch is no JSON"))?;
    for edit in edits {
        let value = edit.value.as_deref().map(parse).transpose()?;
        let tokens = tokens(&edit.pointer)?;
        match (tokens.split_last(), value) {
            (None, Some(value)) => whole = value,
            (None, None) => return Err(Breach::output("the whole payload cannot be removed")),
            (Some((last, path)), value) => change(walk(&mut whole, path)?, last, value)?,
        }
    }
    Ok(whole.to_string())
}

/// `payload` after edits that set its own members to texts, or remove them: what nearly all do. It is not
/// taken apart for that; `None` for all other edits.
fn with_texts(payload: &str, edits: &[Edit]) -> Option<String> {
    let mut members = serde_json::from_str::<Members<'_>>(payload).ok()?.0;
    for Edit { pointer, value } in edits {
        let name = pointer.strip_prefix('/').filter(|name| !name.contains(['/', '~']))?;
        let place = members.iter().position(|(own, _)| own == name);
        let Some(json) = value else {
            members.remove(place?);
            continue;
        };
        let text: String = serde_json::from_str(json).ok()?;
        let text = Cow::Owned(serde_json::to_string(&text).ok()?);
        match place.and_then(|at| members.get_mut(at)) {
            Some((_, before)) => *before = text,
            None => members.push((name.to_owned(), text)),
        }
    }
    let mut after = String::with_capacity(payload.len());
    for (at, (name, json)) in members.iter().enumerate() {
        after.push(if at == 0 { '{' } else { ',' });
        after += &serde_json::to_string(name).ok()?;
        after.push(':');
        after += json;
    }
    after += if members.is_empty() { "{}" } else { "}" };
    Some(after)
}

/// The members of an object in their order, each name once, with their JSON as it stands there.
struct Members<'a>(Vec<(String, Cow<'a, str>)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Members<'de>, A::Error> {
        let mut members: Vec<(String, Cow<'de, str>)> = Vec::new();
        while let Some((name, json)) = from.next_entry::<String, &RawValue>()? {
            let is_known = members.iter().any(|(own, _)| *own == name);
            if is_known || members.len() >= MEMBERS_COMPARED_MAX {
                return Err(A::Error::custom("not told apart"));
            }
            members.push((name, Cow::Borrowed(json.get())));
        }
        Ok(Members(members))
    }
}

fn parse(json: &str) -> Result<Value, Breach> {
    serde_json::from_str(json).map_err(|_| Breach::output("an edit's value-json is no JSON"))
}

/// The pointer's reference tokens, unescaped.
fn tokens(pointer: &str) -> Result<Vec<String>, Breach> {
    if pointer.len() > POINTER_BYTES_MAX {
        return Err(Breach::output("a pointer has at most 512 bytes"));
    }
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        return Err(Breach::output("a pointer is empty or begins with /"));
    };
    let tokens: Vec<_> = rest.split('/').map(unescape).collect::<Result<_, _>>()?;
    if tokens.len() > POINTER_DEPTH_MAX {
        return Err(Breach::output("a pointer is at most 16 deep"));
    }
    Ok(tokens)
}

fn unescape(token: &str) -> Result<String, Breach> {
    let mut plain = String::with_capacity(token.len());
    let mut rest = token.chars();
    while let Some(character) = rest.next() {
        plain.push(match (character, character == '~') {
            (other, false) => other,
            (_, true) => match rest.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => {
                    return Err(Breach::output(
                        "in a pointer ~ is written ~0, and / is written ~1",
                    ));
                }
            },
        });
    }
    Ok(plain)
}

fn walk<'a>(whole: &'a mut Value, path: &[String]) -> Result<&'a mut Value, Breach> {
    let mut here = whole;
    for token in path {
        let below = match here {
            Value::Object(members) => members.get_mut(token),
            Value::Array(values) => index(token).and_then(|at| values.get_mut(at)),
            _ => None,
        };
        here = below.ok_or_else(nothing)?;
    }
    Ok(here)
}

fn change(parent: &mut Value, last: &str, value: Option<Value>) -> Result<(), Breach> {
    match (parent, value) {
        (Value::Object(members), Some(value)) => drop(members.insert(last.to_owned(), value)),
        (Value::Object(members), None) => drop(members.shift_remove(last).ok_or_else(nothing)?),
        (Value::Array(values), Some(value)) if last == "-" => values.push(value),
        (Value::Array(values), value) => {
            let at = index(last).filter(|at| *at < values.len()).ok_or_else(nothing)?;
            match (values.get_mut(at), value) {
                (Some(place), Some(value)) => *place = value,
                _ => drop(values.remove(at)),
            }
        }
        _ => return Err(nothing()),
    }
    Ok(())
}

/// An array index as RFC 6901 writes it: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let is_plain = token == "0" || !token.starts_with('0');
    let is_digits = !token.is_empty() && token.bytes().all(|b| b.is_ascii_digit());
    (is_plain && is_digits).then(|| token.parse().ok()).flatten()
}

fn nothing() -> Breach {
    Breach::output("a pointer names nothing in the payload")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(payload: &str, edits: &[(&str, Option<&str>)]) -> Result<String, Breach> {
        let edit = |(pointer, value): &(&str, Option<&str>)| Edit {
            pointer: (*pointer).to_owned(),
            value: value.map(str::to_owned),
        };
        apply(payload, &edits.iter().map(edit).collect::<Vec<_>>())
    }

    #[test]
    fn edits_run_in_order_and_keep_the_order_of_members() {
        let edits = [
            ("/title", Some("\"b\"")),
            ("/data/list/0", None),
            ("/data/list/-", Some("3")),
            ("/data/a~1b", Some("true")),
            ("/data/m~0n", None),
            ("/new", Some("{}")),
        ];
        let payload = r#"{"title":"a","data":{"list":[1,2],"a/b":1,"m~n":0}}"#;
        let expected = r#"{"title":"b","data":{"list":[2,3],"a/b":true},"new":{}}"#;
        assert_eq!(edited(payload, &edits).unwrap(), expected);
        assert_eq!(edited("{}", &[("", Some("[1]"))]).unwrap(), "[1]");
        assert_eq!(edited(r#"{"":1}"#, &[("/", Some("2"))]).unwrap(), r#"{"":2}"#);
    }

    #[test]
    fn texts_of_members_are_changed_without_touching_the_others() {
        let payload = r#"{"title":"a","data":{"n": 1.0},"body":"b"}"#;
        let edits = [("/body", Some("\"\\u00e9\"")), ("/title", None), ("/new", Some("\"x\""))];
        let expected = r#"{"data":{"n": 1.0},"body":"é","new":"x"}"#;
        assert_eq!(edited(payload, &edits).unwrap(), expected);
        assert_eq!(edited(r#"{"a":1}"#, &[("/a", None)]).unwrap(), "{}");
        assert_eq!(edited(r#"{"a":1,"a":2}"#, &[("/a", Some("\"x\""))]).unwrap(), r#"{"a":"x"}"#);
        for bad in [("/a", Some("\"\\ud800\"")), ("/b", None), ("/a", Some("\"x\" y"))] {
            assert!(edited(r#"{"a":1}"#, &[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_names_nothing_or_is_no_pointer_is_refused() {
        let deep = "/a".repeat(17);
        for (pointer, value) in [
            ("", None),
            ("title", Some("1")),
            ("/a~2", Some("1")),
            ("/a~", Some("1")),
            ("/none", None),
            ("/none/below", Some("1")),
            ("/list/2", Some("1")),
            ("/list/01", Some("1")),
            ("/list/-1", None),
            ("/list/-", None),
            ("/text/x", Some("1")),
            ("/list/0", Some("{")),
            (&deep, Some("1")),
        ] {
            let answer = edited(r#"{"list":[1,2],"text":"t"}"#, &[(pointer, value)]);
            assert!(answer.is_err(), "{pointer}: {answer:?}");
        }
        let many = vec![("/text", Some("1")); EDITS_MAX + 1];
        assert!(edited(r#"{"text":"t"}"#, &many).is_err());
    }
}
