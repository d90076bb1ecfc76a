//! One walk over all keys that either reads them into the settings or shows the settings.
//!
//! `keys` names every key once; whatever must know all keys (reading, unknown keys, showing,
//! the documentation test) makes that walk.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::{Table, Value};

use super::ConfigError;
use super::layers::Layers;
use super::value::Setting;
use crate::model::Secret;

/// Largest credential file worth reading.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// A position in the tree of keys.
pub(super) struct Walk<'a> {
    /// Full key of this section; empty at the top.
    path: String,
    mode: Mode<'a>,
}

enum Mode<'a> {
    Read { table: Table, names: Vec<&'static str>, layers: &'a mut Layers },
    Show { table: &'a mut Table },
}

impl<'a> Walk<'a> {
    pub(super) fn reading(layers: &'a mut Layers) -> Self {
        let table = std::mem::take(&mut layers.table);
        Self { path: String::new(), mode: Mode::Read { table, names: Vec::new(), layers } }
    }

    pub(super) fn showing(table: &'a mut Table) -> Self {
        Self { path: String::new(), mode: Mode::Show { table } }
    }

    /// The setting `key`; if absent, `field` keeps its default.
    pub(super) fn value<T: Setting>(&mut self, key: &'static str, field: &mut T) {
        self.checked(key, field, |_| None);
    }

    /// As `value`, within `range`.
    pub(super) fn ranged<T: Setting + PartialOrd>(
        &mut self,
        key: &'static str,
        field: &mut T,
        range: RangeInclusive<T>,
    ) {
        self.checked(key, field, |value| {
            let (min, max) = (range.start().to_toml()?, range.end().to_toml()?);
            (!range.contains(value)).then(|| format!("must be from {min} to {max}"))
        });
    }

    /// As `value`, unless `problem_of` names a problem.
    pub(super) fn checked<T: Setting>(
        &mut self,
        key: &'static str,
        field: &mut T,
        problem_of: impl FnOnce(&T) -> Option<String>,
    ) {
        let path = join(&self.path, key);
        match &mut self.mode {
            Mode::Show { table } => {
                if let Some(value) = field.to_toml() {
                    table.insert(String::from(key), value);
                }
            }
            Mode::Read { table, names, layers } => {
                names.push(key);
                layers.known.push(path.clone());
                let (given, origin) = match (layers.overrides.remove(&path), table.get(key)) {
                    (Some(given), _) => (T::from_text(&given.text), Some(given.origin)),
                    (None, Some(value)) => (T::from_toml(value), None),
                    (None, None) => return,
                };
                let problem = match given {
                    None => Some(format!("must be {}", T::FORM)),
                    Some(value) => problem_of(&value).or_else(|| {
                        *field = value;
                        None
                    }),
                };
                if let Some(problem) = problem {
                    let hint = origin.map(|origin| format!("set by {origin}"));
                    layers.errors.push(ConfigError { path, problem, hint });
                }
            }
        }
    }

    /// A secret given inline as `key` or in the file `file_key`, which is read now.
    pub(super) fn secret(
        &mut self,
        (key, file_key): (&'static str, &'static str),
        secret: &mut Option<Secret>,
        file: &mut Option<PathBuf>,
    ) {
        self.optional_secret((key, file_key), secret, file);
        let path = join(&self.path, file_key);
        let Mode::Read { layers, .. } = &mut self.mode else { return };
        if secret.is_none() && layers.errors.iter().all(|error| error.path != path) {
            layers.wrong(&path, format!("is required, or {key} inline"));
        }
    }

    /// As `secret`, for one that need not be given.
    pub(super) fn optional_secret(
        &mut self,
        (key, file_key): (&'static str, &'static str),
        secret: &mut Option<Secret>,
        file: &mut Option<PathBuf>,
    ) {
        if let Mode::Show { table } = &mut self.mode {
            if file.is_none() && secret.is_some() {
                table.insert(String::from(key), Value::String(String::from("***")));
            }
            return self.value(file_key, file);
        }
        let mut inline = String::new();
        self.value(key, &mut inline);
        self.value(file_key, file);
        let path = join(&self.path, file_key);
        let Mode::Read { layers, .. } = &mut self.mode else { return };
        match (inline.is_empty(), file.as_ref()) {
            (false, Some(_)) => layers.wrong(&path, format!("set this or {key}, not both")),
            (false, None) => *secret = Some(Secret::new(inline)),
            (true, None) => {}
            (true, Some(file)) => match read_secret(file) {
                Ok(text) => *secret = Some(Secret::new(text)),
                Err(error) => {
                    layers.wrong(&path, format!("{} cannot be read: {error}", file.display()));
                }
            },
        }
    }

    /// The section `key`, whose keys `read` names.
    pub(super) fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Walk<'_>)) {
        let path = join(&self.path, key);
        match &mut self.mode {
            Mode::Show { table } => {
                let mut section = Table::new();
                read(&mut Walk { path, mode: Mode::Show { table: &mut section } });
                table.insert(String::from(key), Value::Table(section));
            }
            Mode::Read { table, names, layers } => {
                names.push(key);
                layers.known.push(path.clone());
                let table = take_table(table.remove(key), &path, layers);
                descend(path, table, layers, read);
            }
        }
    }

    /// The section `key`, which stands for nothing if no source names it.
    pub(super) fn optional<T: Default>(
        &mut self,
        key: &'static str,
        one: &mut Option<T>,
        read: fn(&mut T, &mut Walk<'_>),
    ) {
        let path = join(&self.path, key);
        let is_there = match &mut self.mode {
            Mode::Show { .. } => one.is_some(),
            Mode::Read { table, names, layers } => {
                names.push(key);
                let prefix = format!("{path}.");
                table.contains_key(key)
                    || layers.overrides.keys().any(|key| key.starts_with(&prefix))
            }
        };
        if is_there {
            let one = one.get_or_insert_default();
            self.section(key, |walk| read(one, walk));
        }
    }

    /// Sections `key.<name>` under names of the user's choice.
    pub(super) fn named<T: Default>(
        &mut self,
        key: &'static str,
        all: &mut BTreeMap<String, T>,
        read: fn(&mut T, &mut Walk<'_>),
    ) {
        let path = join(&self.path, key);
        match &mut self.mode {
            Mode::Show { table } => {
                let mut sections = Table::new();
                for (name, one) in all {
                    let (mut section, path) = (Table::new(), join(&path, name));
                    read(one, &mut Walk { path, mode: Mode::Show { table: &mut section } });
                    sections.insert(name.clone(), Value::Table(section));
                }
                table.insert(String::from(key), Value::Table(sections));
            }
            Mode::Read { table, names, layers } => {
                names.push(key);
                let mut sections = take_table(table.remove(key), &path, layers);
                let prefix = format!("{path}.");
                let overridden = layers.overrides.keys().filter_map(|key| {
                    let (name, _) = key.strip_prefix(&prefix)?.split_once('.')?;
                    Some(String::from(name))
                });
                let found: BTreeSet<String> = sections.keys().cloned().chain(overridden).collect();
                for name in found {
                    let path = join(&path, &name);
                    let section = take_table(sections.remove(&name), &path, layers);
                    let one = all.entry(name).or_default();
                    descend(path, section, layers, |walk| read(one, walk));
                }
            }
        }
    }

    /// Sections `[[key]]` in the order written.
    pub(super) fn list<T: Default>(
        &mut self,
        key: &'static str,
        all: &mut Vec<T>,
        read: fn(&mut T, &mut Walk<'_>),
    ) {
        let path = join(&self.path, key);
        match &mut self.mode {
            Mode::Show { table } => {
                let show = |one| {
                    let (mut section, path) = (Table::new(), path.clone());
                    read(one, &mut Walk { path, mode: Mode::Show { table: &mut section } });
                    Value::Table(section)
                };
                let sections: Vec<Value> = all.iter_mut().map(show).collect();
                table.insert(String::from(key), Value::Array(sections));
            }
            Mode::Read { table, names, layers } => {
                names.push(key);
                let sections = match table.remove(key) {
                    None => return,
                    Some(Value::Array(sections)) => sections,
                    Some(_) => {
                        return layers.wrong(&path, "must be sections in [[double brackets]]");
                    }
                };
                for (index, section) in sections.into_iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    let section = take_table(Some(section), &path, layers);
                    let mut one = T::default();
                    descend(path, section, layers, |walk| read(&mut one, walk));
                    all.push(one);
                }
            }
        }
    }
}

/// Reads one section, then notes its keys that `read` did not name.
fn descend(path: String, table: Table, layers: &mut Layers, read: impl FnOnce(&mut Walk<'_>)) {
    let mode = Mode::Read { table, names: Vec::new(), layers };
    let mut walk = Walk { path, mode };
    read(&mut walk);
    walk.note_unknown();
}

impl Walk<'_> {
    /// Notes the keys of this section that were not named. Sections do it when they end; the
    /// top does it itself.
    pub(super) fn note_unknown(&mut self) {
        if let Mode::Read { table, names, layers } = &mut self.mode {
            let unknown = table.keys().filter(|key| !names.contains(&key.as_str()));
            layers.unknown.extend(unknown.map(|key| join(&self.path, key)));
        }
    }
}

fn take_table(value: Option<Value>, path: &str, layers: &mut Layers) -> Table {
    match value {
        None => Table::new(),
        Some(Value::Table(table)) => table,
        Some(_) => {
            layers.wrong(path, "must be a section");
            Table::new()
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { String::from(key) } else { format!("{path}.{key}") }
}

fn read_secret(file: &std::path::Path) -> Result<String, std::io::Error> {
    if std::fs::metadata(file)?.len() > SECRET_BYTES_MAX {
        return Err(std::io::Error::other("larger than 64 KiB"));
    }
    std::fs::read_to_string(file)
}
