//! The form of a case file.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

/// Cases that share a gateway, and what they have in common.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) path: String,
    #[serde(default = "organization")]
    pub(super) token: String,
    /// Body of cases that have none of their own.
    #[serde(default)]
    pub(super) body: String,
    /// Empty sends no `Content-Type`.
    #[serde(default = "json")]
    pub(super) content_type: String,
    pub(super) case: Vec<Case>,
}

/// One request and its answer; with `each`, one for each value of `<<each>>`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    #[serde(default = "post")]
    pub(super) method: String,
    #[serde(default)]
    pub(super) path: Option<String>,
    /// Who calls: a word of `Tokens`.
    #[serde(default)]
    pub(super) token: Option<String>,
    #[serde(default)]
    pub(super) headers: Vec<[String; 2]>,
    #[serde(default)]
    pub(super) content_type: Option<String>,
    #[serde(default)]
    pub(super) body: Option<String>,
    /// A body that TOML cannot hold.
    #[serde(default)]
    pub(super) body_hex: Option<String>,
    #[serde(default)]
    pub(super) each: Vec<String>,
    pub(super) status: u16,
    /// JSON pattern of the answer's body; empty text is an empty body.
    #[serde(default)]
    pub(super) answer: Option<String>,
    /// The only fields that are named as wrong.
    #[serde(default)]
    pub(super) wrong: Option<Vec<String>>,
    /// False for a POST that accepts no notification.
    #[serde(default = "yes")]
    pub(super) is_notification: bool,
    #[serde(default)]
    pub(super) answer_headers: BTreeMap<String, String>,
    /// Names for members of the answer, by JSON pointer: `<<name>>` in later cases of the file.
    #[serde(default)]
    pub(super) keep: BTreeMap<String, String>,
    /// Asked again until the answer is right: what it tells of happens in the background.
    #[serde(default)]
    pub(super) eventually: bool,
}

fn organization() -> String {
    String::from("organization")
}

fn post() -> String {
    String::from("POST")
}

fn json() -> String {
    String::from("application/json")
}

fn yes() -> bool {
    true
}

impl Case {
    /// Whether the request is to be stored as a notification.
    pub(super) fn is_stored(&self) -> bool {
        self.is_notification && self.changes_records() && self.method == "POST"
    }

    /// Whether the request leaves something in the journal.
    pub(super) fn changes_records(&self) -> bool {
        (200..300).contains(&self.status) && self.method != "GET"
    }

    /// The case with what earlier answers held.
    pub(super) fn with(mut self, kept: &HashMap<String, String>) -> Self {
        for (name, value) in kept {
            let put = |text: &mut String| *text = text.replace(&format!("<<{name}>>"), value);
            [&mut self.path, &mut self.body, &mut self.answer].into_iter().flatten().for_each(put);
        }
        self
    }

    /// The case for each of its values.
    pub(super) fn spread(&self) -> Vec<Self> {
        if self.each.is_empty() {
            return vec![self.clone()];
        }
        let with = |value: &String| {
            let put = |text: &String| text.replace("<<each>>", value);
            let mut case = self.clone();
            case.name = format!("{} [{value}]", self.name);
            case.path = self.path.as_ref().map(put);
            case.body = self.body.as_ref().map(put);
            case.answer = self.answer.as_ref().map(put);
            case.method = put(&self.method);
            case.content_type = self.content_type.as_ref().map(put);
            case.token = self.token.as_ref().map(put);
            for [_, text] in &mut case.headers {
                *text = put(text);
            }
            case
        };
        self.each.iter().map(with).collect()
    }
}

/// The case file, checked for what every file must have.
pub(super) fn read(text: &str) -> File {
    let file: File = toml::from_str(text).expect("a case file in its form");
    assert!(!file.case.is_empty(), "a case file has cases");
    for case in &file.case {
        let uses_each = format!("{case:?}").contains("<<each>>");
        assert_eq!(uses_each, !case.each.is_empty(), "{}", case.name);
    }
    file
}
