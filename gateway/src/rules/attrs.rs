//! A notification's custom data as rules see it: the scalars of a JSON object under dotted names.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::{self, Write};

const ATTRS_MAX: usize = 64;
const DEPTH_MAX: usize = 8;
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 1024;
/// Members of one object up to which it is cheap to see that no name comes twice.
const MEMBERS_COMPARED_MAX: usize = 64;

/// The scalars of a JSON object under dotted names, in its order. Null, what is too long or too
/// deep, and all after the first 64 are left out: a rule gets a whole value or none.
pub(super) fn attrs(json: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    put_attrs(json, &mut found);
    found
}

/// The same, one by one into what keeps them.
pub(super) fn put_attrs(json: &str, to: &mut impl Attrs) {
    let mut path = String::new();
    let plain = Plain { path: &mut path, depth: 0, found: 0, to };
    let mut read = serde_json::Deserializer::from_str(json);
    if json.starts_with('{') && plain.deserialize(&mut read).and_then(|_| read.end()).is_ok() {
        return;
    }
    to.clear();
    let mut found = Vec::new();
    if let Ok(value @ Value::Object(_)) = serde_json::from_str(json) {
        flatten(String::new(), &value, 0, &mut found);
    }
    found.iter().for_each(|(key, value)| to.put(key, value));
}

/// What keeps names and values.
pub(super) trait Attrs {
    fn put(&mut self, key: &str, value: &str);

    /// All before was a mistake.
    fn clear(&mut self);
}

impl Attrs for Vec<(String, String)> {
    fn put(&mut self, key: &str, value: &str) {
        self.push((key.to_owned(), value.to_owned()));
    }

    fn clear(&mut self) {
        self.truncate(0);
    }
}

/// What nearly all custom data is: within the bounds, and no name twice. It is read without a tree of it;
/// anything else is an error here, and read with one.
struct Plain<'a, T> {
    path: &'a mut String,
    depth: usize,
    /// How many there are already.
    found: usize,
    to: &'a mut T,
}

/// A member's name, unescaped.
struct Name;

impl<T: Attrs> Plain<'_, T> {
    fn below(&mut self) -> Plain<'_, T> {
        Plain { path: self.path, depth: self.depth + 1, found: self.found, to: self.to }
    }

    fn put<E: Error>(self, text: &str) -> Result<usize, E> {
        if self.found >= ATTRS_MAX {
            return Err(E::custom("too many"));
        }
        if text.len() > VALUE_BYTES_MAX {
            return Ok(self.found);
        }
        self.to.put(self.path, text);
        Ok(self.found + 1)
    }

    fn name<E: Error>(&mut self, name: impl fmt::Display) -> Result<(), E> {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        write!(self.path, "{name}").map_err(E::custom)?;
        if self.path.len() > KEY_BYTES_MAX { Err(E::custom("too long")) } else { Ok(()) }
    }
}

impl<'de, T: Attrs> DeserializeSeed<'de> for Plain<'_, T> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<usize, D::Error> {
        if self.depth > DEPTH_MAX {
            return Err(D::Error::custom("too deep"));
        }
        from.deserialize_any(self)
    }
}

/// Answers how many there are then.
impl<'de, T: Attrs> Visitor<'de> for Plain<'_, T> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("custom data")
    }

    fn visit_unit<E: Error>(self) -> Result<usize, E> {
        Ok(self.found)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<usize, E> {
        self.put(if truth { "true" } else { "false" })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<usize, E> {
        self.put(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<usize, E> {
        self.put(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<usize, E> {
        self.put(&Value::from(number).to_string())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<usize, E> {
        self.put(text)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<usize, A::Error> {
        let own = self.path.len();
        let mut names: Vec<Cow<'de, str>> = Vec::new();
        while let Some(name) = members.next_key_seed(Name)? {
            // Of two members of one name the last counts, at the place of the first.
            if name.is_empty() || names.len() >= MEMBERS_COMPARED_MAX || names.contains(&name) {
                return Err(A::Error::custom("not told apart"));
            }
            self.name(&name)?;
            names.push(name);
            self.found = members.next_value_seed(self.below())?;
            self.path.truncate(own);
        }
        Ok(self.found)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut values: A) -> Result<usize, A::Error> {
        let own = self.path.len();
        for index in 0..ATTRS_MAX {
            self.name(index)?;
            let found = values.next_element_seed(self.below())?;
            self.path.truncate(own);
            match found {
                Some(found) => self.found = found,
                None => return Ok(self.found),
            }
        }
        Err(A::Error::custom("too many"))
    }
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

fn flatten(key: String, value: &Value, depth: usize, found: &mut Vec<(String, String)>) {
    if depth > DEPTH_MAX || key.len() > KEY_BYTES_MAX || found.len() >= ATTRS_MAX {
        return;
    }
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    let text = match value {
        Value::Object(members) => {
            return members.iter().for_each(|(k, v)| flatten(below(k), v, depth + 1, found));
        }
        Value::Array(values) => {
            let values = values.iter().take(ATTRS_MAX).enumerate();
            return values.for_each(|(n, v)| flatten(below(&n.to_string()), v, depth + 1, found));
        }
        Value::Null => return,
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
    };
    if text.len() <= VALUE_BYTES_MAX {
        found.push((key, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_tree(json: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if let Ok(value @ Value::Object(_)) = serde_json::from_str(json) {
            flatten(String::new(), &value, 0, &mut found);
        }
        found
    }

    #[test]
    fn flattens_custom_data_in_its_own_order() {
        let pairs = attrs(r#"{"z":1,"a":{"b":true,"c":null},"list":["x",{"y":2.5}]}"#);
        let expected = [("z", "1"), ("a.b", "true"), ("list.0", "x"), ("list.1.y", "2.5")];
        assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn leaves_out_what_is_too_much() {
        let wide: String = (0..1000).map(|n| format!(r#""k{n}":{n},"#)).collect();
        assert_eq!(attrs(&format!("{{{wide}\"last\":1}}")).len(), ATTRS_MAX);
        let deep = format!("{}1{}", r#"{"a":"#.repeat(50), "}".repeat(50));
        assert_eq!(attrs(&deep), []);
        assert_eq!(attrs(&format!(r#"{{"long":"{}"}}"#, "x".repeat(2000))), []);
        assert_eq!(attrs(""), []);
        assert_eq!(attrs("[1]"), []);
    }

    #[test]
    fn the_short_way_finds_what_the_long_one_finds() {
        let list = format!(r#"{{"l":[{}]}}"#, "1,".repeat(70) + "1");
        let long_name = format!(r#"{{"{}":{{"b":1}},"c":2}}"#, "n".repeat(127));
        let deep = format!("{}1{}", r#"{"b":2,"a":"#.repeat(12), "}".repeat(12));
        let full = format!(
            "{{{}\"k\":[]}}",
            (0..64).map(|n| format!("\"k{n}\":{n},")).collect::<String>()
        );
        for json in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"x":1},"b":3,"a":2}"#,
            r#"{"a.b":1,"a":{"b":2}}"#,
            r#"{"":{"b":1},"":2}"#,
            r#"{"":1,"x":{"":2}}"#,
            r#"{"n":[-1,1e3,18446744073709551615,0.10,1e400]}"#,
            r#"{"n":[-1,1e3,18446744073709551615,0.10,-0.0,[],{}]}"#,
            r#"{"t":"\u00e9\n\"","s":"\ud800"}"#,
            r#"{"t\u00e9":"\u00e9\n\""}"#,
            r#"{"a":1} x"#,
            r#" {"a":1} "#,
            "{\"a\":1",
            "1",
            &list,
            &long_name,
            &deep,
            &full,
        ] {
            assert_eq!(attrs(json), by_tree(json), "{json}");
        }
    }
}
