//! Reads the fields of JSON objects by name and collects every problem with its path.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::Problem;

/// Longest text field, in bytes: longer than any name, address, token or URL a dialect allows.
const TEXT_BYTES_MAX: usize = 4096;

/// One JSON object being read. Ask for every known field, then `finish`.
pub(super) struct Fields<'a> {
    path: String,
    object: &'a Map<String, Value>,
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Fields<'a> {
    /// The object in `value`; `path` is empty for the document itself.
    pub(super) fn of(
        value: &'a Value,
        path: String,
        problems: &'a mut Vec<Problem>,
    ) -> Option<Self> {
        match value.as_object() {
            Some(object) => Some(Self { path, object, known: Vec::new(), problems }),
            None => {
                let path = if path.is_empty() { String::from("document") } else { path };
                let problem = String::from("must be an object");
                problems.push(Problem { path, problem });
                None
            }
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// What `read` makes of the field; `None` if it is absent, null or wrong.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(key);
        let value = self.object.get(key).filter(|value| !value.is_null())?;
        read(value).map_err(|problem| self.wrong(key, problem)).ok()
    }

    /// As `optional`, but absence is a problem too.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if self.object.get(key).is_none_or(Value::is_null) {
            self.known.push(key);
            self.wrong(key, "is required");
            return None;
        }
        self.optional(key, read)
    }

    /// Reads each object of the list `key`; an absent list is empty. Wrong elements are left out.
    pub(super) fn each<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Fields<'_>) -> Option<T>,
    ) -> Vec<T> {
        let (object, prefix) = (self.object, join(&self.path, key));
        if self.optional(key, list).is_none() {
            return Vec::new();
        }
        let elements = object.get(key).and_then(Value::as_array);
        let mut all = Vec::new();
        for (index, element) in elements.into_iter().flatten().enumerate() {
            let path = format!("{prefix}[{index}]");
            if let Some(mut fields) = Fields::of(element, path, self.problems) {
                all.extend(read(&mut fields));
                fields.finish();
            }
        }
        all
    }

    /// Notes what is wrong with the field `key`.
    pub(super) fn wrong(&mut self, key: &str, problem: impl Into<String>) {
        self.problems.push(Problem { path: join(&self.path, key), problem: problem.into() });
    }

    /// Notes every field that nobody asked for.
    pub(super) fn finish(mut self) {
        for key in self.object.keys() {
            if !self.known.contains(&key.as_str()) {
                // A key may be as long as the document: show enough to find it.
                let shown: String = key.chars().take(64).collect();
                let problem = format!("is not a field here; known are {}", self.known.join(", "));
                self.wrong(&shown, problem);
            }
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { String::from(key) } else { format!("{path}.{key}") }
}

pub(super) fn list(value: &Value) -> Result<(), String> {
    if value.is_array() { Ok(()) } else { Err(String::from("must be a list")) }
}

pub(super) fn text(value: &Value) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a string")?;
    if text.is_empty() {
        return Err(String::from("must not be empty"));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("is longer than {TEXT_BYTES_MAX} bytes"));
    }
    Ok(String::from(text))
}

pub(super) fn texts(value: &Value) -> Result<Vec<String>, String> {
    let elements = value.as_array().ok_or("must be a list of strings")?;
    elements.iter().map(text).collect::<Result<_, _>>().map_err(|e| format!("an element {e}"))
}

pub(super) fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| String::from("must be true or false"))
}

/// A whole number from 1 up to the largest of `T`.
pub(super) fn positive<T: TryFrom<i64>>(value: &Value) -> Result<T, String> {
    let number = value.as_i64().filter(|number| *number > 0);
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
        format!("must be a whole number from 1 to {}", u64::MAX >> (65 - size_of::<T>() * 8))
    })
}

/// Text that parses as `T`; `problem` says what it must look like.
pub(super) fn parsed<T: FromStr>(
    problem: &'static str,
) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| text(value)?.parse().map_err(|_| String::from(problem))
}

/// One word out of `words`.
pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl FnOnce(&Value) -> Result<T, String> {
    |value| {
        let given = value.as_str().unwrap_or_default();
        let found = words.iter().find(|(word, _)| *word == given);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("must be one of {}", known.join(", "))
        })
    }
}

/// An object of strings, in the order written.
pub(super) fn pairs(value: &Value) -> Result<Vec<(String, String)>, String> {
    let object = value.as_object().ok_or("must be an object of strings")?;
    let pair = |(key, value): (&String, &Value)| {
        let value = value.as_str().ok_or("must be an object of strings")?;
        Ok((key.clone(), String::from(value)))
    };
    object.iter().map(pair).collect()
}
