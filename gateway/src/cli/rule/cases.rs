//! Test files: `[defaults]`, `[[case]]`, `[[table]]` and `[chain]`, merged into one input and one expectation each.

use crate::cli::rule::chained::{Chain, ChainText};
use crate::cli::rule::expect::Expect;
use crate::cli::rule::{read, write};
use crate::cli::{CliError, Exit};
use crate::rules::input::Input;
use crate::rules::record::DecisionRecord;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// One case, ready to be asked.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) line: usize,
    pub(super) input: Input,
    pub(super) expect: Expect,
    /// What was recorded of it, in place of an expectation.
    pub(super) golden: Option<Box<DecisionRecord>>,
}

/// The cases of a folder.
#[derive(Debug, Default)]
pub(super) struct Cases {
    /// Of the rule alone.
    pub(super) own: Vec<Case>,
    pub(super) chains: Vec<Chain>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    defaults: Value,
    #[serde(default)]
    case: Vec<Value>,
    #[serde(default)]
    table: Vec<Table>,
    #[serde(default)]
    chain: Option<ChainText>,
}

/// One row is one case; a column is a path like `recipient.tz`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// The cases of the rule alone.
pub(super) fn own(dir: &Path) -> Result<Vec<Case>, CliError> {
    Ok(all(dir)?.own)
}

/// All cases of the folder `tests` in `dir`, by file name and place.
pub(super) fn all(dir: &Path) -> Result<Cases, CliError> {
    let folder = dir.join("tests");
    let entries = std::fs::read_dir(&folder).map_err(|error| {
        CliError::new(Exit::NotFound, format!("cannot read {}: {error}", folder.display()))
    })?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut all = Cases::default();
    for file in files {
        let (own, chain) = of_file(&file)?;
        all.own.extend(own);
        all.chains.extend(chain);
    }
    Ok(all)
}

/// Writes a file of lines anew.
pub(super) fn write_lines(file: &Path, lines: &[String]) -> Result<(), CliError> {
    let mut text = lines.join("\n");
    text.push('\n');
    write(file, text.as_bytes())
}

fn of_file(file: &Path) -> Result<(Vec<Case>, Option<Chain>), CliError> {
    let text = String::from_utf8_lossy(&read(file)?).into_owned();
    let wrong = |what: String| CliError::new(Exit::Failed, format!("{}: {what}", file.display()));
    let parsed: toml::Value = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let value = plain(serde_json::to_value(parsed).map_err(|error| CliError::failed(&error))?);
    let document: Document =
        serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
    let whole = |name: String, own: &[Value]| {
        let mut whole = document.defaults.clone();
        own.iter().for_each(|part| merge(&mut whole, part));
        let case = case(file, line(&text, &name), name.clone(), whole);
        case.map_err(|error| wrong(format!("case {name:?}: {error}")))
    };
    let named = |one: &Value| {
        let name = one["name"].as_str().unwrap_or("a case without a name").to_owned();
        whole(name, std::slice::from_ref(one))
    };
    let mut cases = document.case.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    for table in &document.table {
        for row in &table.rows {
            if row.len() != table.columns.len() {
                let text = "has a row that is not as long as its columns";
                return Err(wrong(format!("table {:?} {text}", table.name)));
            }
            let cells: Result<Vec<_>, _> = table.columns.iter().zip(row).map(cell).collect();
            let words: Vec<_> = row.iter().map(word).collect();
            let name = format!("{}: {}", table.name, words.join(" "));
            cases.push(whole(name, &cells.map_err(wrong)?)?);
        }
    }
    let Some(chain) = &document.chain else { return Ok((cases, None)) };
    let chained = chain.case.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    Ok((cases, Some(Chain::of(chain, file, chained)?)))
}

fn case(
    file: &Path,
    line: usize,
    name: String,
    mut whole: Value,
) -> Result<Case, serde_json::Error> {
    let mut expect = Value::Object(Map::new());
    if let Some(members) = whole.as_object_mut() {
        members.remove("name");
        expect = members.remove("expect").unwrap_or(expect);
    }
    let whole = if whole.is_null() { Value::Object(Map::new()) } else { whole };
    let (input, expect) = (serde_json::from_value(whole)?, serde_json::from_value(expect)?);
    Ok(Case { name, file: file.to_owned(), line, input, expect, golden: None })
}

/// `recipient.tz` and a value as `{"recipient":{"tz":value}}`.
fn cell((column, value): (&String, &Value)) -> Result<Value, String> {
    at_path(column, value.clone()).ok_or_else(|| format!("column {column:?} is no path"))
}

/// `value` at a path as TOML writes keys: `config."route.*"`.
pub(super) fn at_path(path: &str, value: Value) -> Option<Value> {
    let table: toml::Table = toml::from_str(&format!("{path} = 0")).ok()?;
    let mut keys = Vec::new();
    let mut inner = &toml::Value::Table(table);
    while let Some((key, below)) = inner.as_table().and_then(|table| table.iter().next()) {
        keys.push(key.clone());
        inner = below;
    }
    let wrapped = |value, key| Value::Object(Map::from_iter([(key, value)]));
    Some(keys.into_iter().rev().fold(value, wrapped))
}

/// Objects are merged, everything else is replaced.
pub(super) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// TOML's own times become text.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            if let Some(time) = members.get("$__toml_private_datetime") {
                return time.clone();
            }
            Value::Object(members.into_iter().map(|(key, value)| (key, plain(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        other => other,
    }
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The line in which a case or table says its name; the first if it cannot be told.
fn line(text: &str, name: &str) -> usize {
    let own = name.split_once(": ").map_or(name, |(table, _)| table);
    let says = |line: &str, name: &str| {
        line.trim_start().starts_with("name") && line.contains(&format!("{name:?}"))
    };
    let found = |name: &str| text.lines().position(|line| says(line, name));
    found(name).or_else(|| found(own)).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_is_written_as_in_toml() {
        assert_eq!(at_path("a.b", json!(1)), Some(json!({"a": {"b": 1}})));
        let quoted = at_path("config.\"route.*\"", json!("x"));
        assert_eq!(quoted, Some(json!({"config": {"route.*": "x"}})));
        assert_eq!(at_path("a b", json!(1)), None);
    }

    #[test]
    fn a_case_overrides_single_members_of_the_defaults() {
        let mut base = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge(&mut base, &json!({"a": {"c": [3]}, "e": 2}));
        assert_eq!(base, json!({"a": {"b": 1, "c": [3]}, "d": 1, "e": 2}));
    }

    #[test]
    fn every_row_of_a_table_is_a_case_and_knows_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[defaults]\nrecipient.tz = \"UTC\"\n[[case]]\nname = \"one\"\nnow = 2026-01-01T00:00:00Z\n\
                    [[table]]\nname = \"t\"\ncolumns = [\"recipient.tz\", \"expect.code\"]\nrows = [[\"A\", \"x\"], [\"B\", \"y\"]]\n";
        std::fs::write(file.path(), text).unwrap();
        let (cases, _) = of_file(file.path()).unwrap();
        let seen: Vec<_> = cases
            .iter()
            .map(|case| {
                (case.name.as_str(), case.line, case.input.recipient.tz.as_deref().unwrap())
            })
            .collect();
        assert_eq!(seen, [("one", 4, "UTC"), ("t: A x", 7, "A"), ("t: B y", 7, "B")]);
        assert_eq!(cases[0].input.now().to_rfc3339(), "2026-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_word_that_means_nothing_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[[case]]\nname = \"one\"\nrecipent.tz = \"UTC\"\n").unwrap();
        let error = of_file(file.path()).unwrap_err();
        assert!(error.text.contains("recipent"), "{}", error.text);
    }
}
