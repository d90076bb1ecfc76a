//! Reads typed fields out of strict JSON, collecting every fault with its path.
//!
//! Lengths count Unicode scalar values, in every dialect.

use crate::api::failure::{Failure, FieldFault};
use serde_json::{Map, Value};

/// The members of one object, by path.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    members: &'a Map<String, Value>,
    prefix: String,
}

/// Every fault found so far in one request.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FieldFault>);

impl Faults {
    pub(crate) fn add(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.0.push(FieldFault { path: path.into(), problem: problem.into() });
    }

    /// True if a fault of the member at `path`, or of something inside it, was found.
    pub(crate) fn concern(&self, path: &str) -> bool {
        let is_inside = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        self.0.iter().any(|fault| fault.path.strip_prefix(path).is_some_and(is_inside))
    }

    /// `Ok` if nothing was wrong.
    pub(crate) fn into_result(self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure::invalid(self.0)) }
    }
}

impl<'a> Fields<'a> {
    /// The members of a body, which must be an object.
    pub(crate) fn of_body(body: &'a Value) -> Result<Self, Failure> {
        match body {
            Value::Object(members) => Ok(Self { members, prefix: String::new() }),
            _ => Err(Failure::field("", "the body must be a JSON object")),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// The member, if it is there and not null.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    /// True if the member is there, null or not.
    #[must_use]
    pub(crate) fn is_sent(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Faults those of `names` that are there and null, where null is no way to leave them out.
    pub(crate) fn refuse_null(&self, names: &[&str], faults: &mut Faults) {
        for name in names.iter().filter(|name| self.members.get(**name).is_some_and(Value::is_null))
        {
            faults.add(self.path(name), "must not be null");
        }
    }

    /// Faults every member that is not in `known`: the schema is closed.
    pub(crate) fn only(&self, known: &[&str], faults: &mut Faults) {
        for name in self.members.keys().filter(|name| !known.contains(&name.as_str())) {
            let name: String = name.chars().take(64).collect();
            faults.add(self.path(&name), "is not a known field");
        }
    }

    pub(crate) fn object(&self, name: &str, faults: &mut Faults) -> Option<Fields<'a>> {
        match self.get(name)? {
            Value::Object(members) => Some(Fields { members, prefix: self.path(name) }),
            _ => {
                faults.add(self.path(name), "must be an object");
                None
            }
        }
    }

    /// A string of at most `max` characters without control characters other than line breaks.
    pub(crate) fn text(&self, name: &str, max: usize, faults: &mut Faults) -> Option<&'a str> {
        let value = self.get(name)?;
        let Value::String(text) = value else {
            faults.add(self.path(name), "must be a string");
            return None;
        };
        match text_problem(text, max) {
            None => Some(text),
            Some(problem) => {
                faults.add(self.path(name), problem);
                None
            }
        }
    }

    pub(crate) fn required_text(
        &self,
        name: &str,
        max: usize,
        faults: &mut Faults,
    ) -> Option<&'a str> {
        if self.get(name).is_none() {
            faults.add(self.path(name), "is required");
        }
        self.text(name, max, faults)
    }

    /// A whole number in the range of `T`.
    pub(crate) fn integer<T: TryFrom<i64>>(&self, name: &str, faults: &mut Faults) -> Option<T> {
        let value = self.get(name)?;
        let number = whole(value).and_then(|n| T::try_from(n).ok());
        if number.is_none() {
            faults.add(self.path(name), "must be an integer in range");
        }
        number
    }

    pub(crate) fn required_integer<T: TryFrom<i64>>(
        &self,
        name: &str,
        faults: &mut Faults,
    ) -> Option<T> {
        if self.get(name).is_none() {
            faults.add(self.path(name), "is required");
        }
        self.integer(name, faults)
    }

    /// An array of at most `max_items` strings of at most `max` characters.
    pub(crate) fn texts(
        &self,
        name: &str,
        max_items: usize,
        max: usize,
        faults: &mut Faults,
    ) -> Option<Vec<&'a str>> {
        let Value::Array(items) = self.get(name)? else {
            faults.add(self.path(name), "must be an array of strings");
            return None;
        };
        if items.len() > max_items {
            faults.add(self.path(name), format!("has more than {max_items} items"));
            return None;
        }
        let mut texts = Vec::with_capacity(items.len());
        for (number, item) in items.iter().enumerate() {
            let problem = match item {
                Value::String(text) => match text_problem(text, max) {
                    None => {
                        texts.push(text.as_str());
                        continue;
                    }
                    Some(problem) => problem,
                },
                _ => String::from("must be a string"),
            };
            faults.add(format!("{}[{number}]", self.path(name)), problem);
        }
        Some(texts)
    }
}

/// The whole number a value is, however it is written: to JSON Schema `7`, `7.0` and `7e0` are one
/// integer. `None` beyond 10^14 unless it is written without fraction and exponent, since it may be
/// another number then than the caller wrote.
#[must_use]
pub(crate) fn whole(value: &Value) -> Option<i64> {
    const EXACT: f64 = 1e14;
    value.as_i64().or_else(|| {
        let number = value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < EXACT)?;
        format!("{number:.0}").parse().ok()
    })
}

/// What is wrong with a text, if anything.
#[must_use]
pub(crate) fn text_problem(text: &str, max: usize) -> Option<String> {
    // A scalar value takes at least one byte, so short texts need no counting.
    if text.len() > max && text.chars().count() > max {
        return Some(format!("has more than {max} characters"));
    }
    let is_refused = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    text.chars().any(is_refused).then(|| String::from("has a control character"))
}

/// True for what the gateway accepts as an e-mail address: a practical subset of RFC 5321.
#[must_use]
pub(crate) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_atom = |c: char| c.is_alphanumeric() || "!#$%&'*+/=?^_`{|}~.-".contains(c);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    (1..=64).contains(&local.len())
        && domain.len() <= 255
        && local.chars().all(is_atom)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && domain.contains('.')
        && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_scalar_values_and_refuses_controls() {
        assert_eq!(text_problem("ééé", 3), None);
        assert!(text_problem("éééé", 3).is_some());
        assert_eq!(text_problem("a\nb\tc", 10), None);
        assert!(text_problem("a\0b", 10).is_some());
        assert!(text_problem("a\u{9b}b", 10).is_some());
    }

    #[test]
    fn one_number_is_one_number_however_it_is_written() {
        for (text, number) in [
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("-7e1", Some(-70)),
            ("-0.0", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("99999999999999.0", Some(99_999_999_999_999)),
            ("1e14", None),
            ("9223372036854775808", None),
            ("7.5", None),
            ("1e300", None),
            ("\"7\"", None),
        ] {
            let value = serde_json::from_str(text).expect("JSON");
            assert_eq!(whole(&value), number, "{text}");
        }
    }

    #[test]
    fn collects_every_fault_with_its_path() {
        let body =
            json!({"a": 1, "b": {"c": "long", "x": 0}, "d": ["ok", 2], "n": 4_294_967_296_u64});
        let mut faults = Faults::default();
        let fields = Fields::of_body(&body).expect("an object");
        fields.text("a", 10, &mut faults);
        let inner = fields.object("b", &mut faults).expect("an object");
        inner.text("c", 3, &mut faults);
        inner.only(&["c"], &mut faults);
        fields.texts("d", 5, 5, &mut faults);
        fields.integer::<i32>("n", &mut faults);
        fields.required_text("gone", 5, &mut faults);
        let failure = faults.into_result().expect_err("faults");
        let paths: Vec<_> = failure.fields.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["a", "b.c", "b.x", "d[1]", "n", "gone"]);
    }

    #[test]
    fn knows_an_address_from_other_text() {
        for good in
            ["a@b.co", "john.doe+tag@example.com", "o'neil@mail.example.org", "zoë@example.de"]
        {
            assert!(is_email(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "a@b",
            "@b.co",
            "a@",
            "a b@c.de",
            "a@b..de",
            ".a@b.de",
            "a@-b.de",
            "a@b.de\r\n",
            "a@@b.de",
        ] {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
