//! The sources of settings brought together: one TOML table, overrides by key, and the problems.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Table;

use super::{ConfigError, ConfigSources};

/// Names without this are not settings, though they may be Bugler's.
const ENV_PREFIX: &str = "BUGLER_";
const ENV_SEPARATOR: &str = "__";

/// A value from the environment or `--set`.
pub(super) struct Override {
    pub(super) text: String,
    /// Who says so, for problems.
    pub(super) origin: String,
}

/// Everything the sources say, and what was found wrong while reading it.
pub(super) struct Layers {
    pub(super) table: Table,
    /// By full key, removed as they are read.
    pub(super) overrides: BTreeMap<String, Override>,
    /// Every key there is, in the order read.
    pub(super) known: Vec<String>,
    /// Full keys nobody asked for.
    pub(super) unknown: Vec<String>,
    pub(super) errors: Vec<ConfigError>,
}

impl Layers {
    pub(super) fn gather(sources: ConfigSources) -> Self {
        let mut errors = Vec::new();
        let table = sources.file.map(|file| parse(&file, &mut errors)).unwrap_or_default();
        let mut overrides = BTreeMap::new();
        for (name, text) in sources.env {
            let Some(path) = name.strip_prefix(ENV_PREFIX) else { continue };
            if path.contains(ENV_SEPARATOR) {
                let path = path.to_lowercase().replace(ENV_SEPARATOR, ".");
                overrides.insert(path, Override { text, origin: name });
            }
        }
        for assignment in sources.set {
            match assignment.split_once('=') {
                Some((path, text)) => {
                    let (path, text) = (String::from(path.trim()), String::from(text.trim()));
                    let origin = format!("--set {path}");
                    overrides.insert(path, Override { text, origin });
                }
                None => errors.push(ConfigError {
                    path: format!("--set {assignment}"),
                    problem: String::from("has no value"),
                    hint: Some(String::from("write --set section.key=value")),
                }),
            }
        }
        Self { table, overrides, known: Vec::new(), unknown: Vec::new(), errors }
    }

    pub(super) fn wrong(&mut self, path: &str, problem: impl Into<String>) {
        let path = String::from(path);
        self.errors.push(ConfigError { path, problem: problem.into(), hint: None });
    }

    /// What is left over after every key was read is unknown.
    pub(super) fn finish(mut self) -> Vec<ConfigError> {
        let unread = std::mem::take(&mut self.overrides);
        let unread = unread.into_iter().map(|(path, given)| (path, Some(given.origin)));
        let unknown = self.unknown.into_iter().map(|path| (path, None)).chain(unread);
        for (path, origin) in unknown {
            let hint = nearest(&path, &self.known).map(|key| format!("did you mean {key}?"));
            let problem = match origin {
                Some(origin) => format!("is not a setting, but {origin} sets it"),
                None => String::from("is not a setting"),
            };
            self.errors.push(ConfigError { path, problem, hint });
        }
        self.errors
    }
}

fn parse(file: &Path, errors: &mut Vec<ConfigError>) -> Table {
    let mut wrong = |path: String, problem: String| {
        errors.push(ConfigError { path, problem, hint: None });
        Table::new()
    };
    let name = file.display().to_string();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return wrong(name, format!("cannot be read: {error}")),
    };
    text.parse().unwrap_or_else(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        wrong(format!("{name}:{line}"), error.message().replace('\n', " "))
    })
}

/// The known key `path` was most likely meant to be: same name elsewhere, or a slip of the pen.
fn nearest<'a>(path: &str, known: &'a [String]) -> Option<&'a str> {
    let name = path.rsplit('.').next().unwrap_or(path);
    let elsewhere = known.iter().find(|key| key.rsplit('.').next() == Some(name));
    let close = known
        .iter()
        .map(|key| (edits(path, key), key))
        .filter(|(edits, _)| *edits <= 1 + name.chars().count() / 3)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, key)| key);
    close.or(elsewhere).map(String::as_str)
}

/// Levenshtein distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&to) {
            let cost = diagonal + usize::from(a != *b);
            diagonal = *cell;
            left = cost.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
