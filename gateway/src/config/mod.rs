//! Settings: built-in defaults, then `bugler.toml`, then the environment, then `--set`.
//!
//! Only this module reads settings from files and the environment. Loading collects every
//! problem before it gives up, each with the key it belongs to. `config/default.toml` is the
//! reference: it is compiled in, and a test holds it equal to [`Config::default`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

mod check;
mod keys;
mod layers;
mod read;
mod redis;
mod sections;
mod value;

#[cfg(test)]
mod tests;

pub use self::keys::SHIPPED_RULES;
pub use self::redis::RedisSettings;
pub use self::sections::*;
pub use self::value::{
    Backend, ByteSize, Durability, Fsync, LogFormat, OnError, Rate, RelaySecurity, Role, WebPage,
};

use self::layers::Layers;
use self::read::Walk;

/// The commented reference, as `bugler config init` writes it.
pub const REFERENCE: &str = include_str!("../../config/default.toml");

/// Where settings come from, weakest first.
#[derive(Clone, Debug, Default)]
pub struct ConfigSources {
    /// `bugler.toml`; `None` starts from the defaults alone.
    pub file: Option<PathBuf>,
    /// The environment: `BUGLER_SECTION__KEY` sets `section.key`. Names without `__` are not
    /// settings and are left alone.
    pub env: Vec<(String, String)>,
    /// `section.key=value`, as given to `--set`; of two for one key the later counts.
    pub set: Vec<String>,
}

/// One setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, as `server.listen`, or the file.
    pub path: String,
    pub problem: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// Everything wrong with the settings, one line each. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, error)| {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{error}")
        })
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads and checks the settings from all `sources`.
    ///
    /// Blocks on the files the settings name: credentials are read here, once.
    ///
    /// # Errors
    /// Every unknown key, wrong value, missing file and broken rule between settings.
    pub fn load(sources: ConfigSources) -> Result<Self, ConfigErrors> {
        let mut config = Self::default();
        let mut layers = Layers::gather(sources);
        keys::config(&mut config, &mut Walk::reading(&mut layers));
        let mut errors = layers.finish();
        check::config(&config, &mut errors);
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// The settings in force as TOML, secrets masked.
    #[must_use]
    pub fn effective_toml(&self) -> String {
        let mut config = self.clone();
        let mut table = toml::Table::new();
        keys::config(&mut config, &mut Walk::showing(&mut table));
        table.to_string()
    }

    /// Keys, or sections whose secrets alone differ, in which `other` says something else.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (left, right) = (self.flat(), other.flat());
        let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        let differing = keys.into_iter().filter(|key| left.get(*key) != right.get(*key));
        let mut found: Vec<String> = differing.cloned().collect();
        // Secrets are shown by nobody, so their sections are compared whole.
        let mut secret = |section: String, differs: bool| {
            if differs && !found.iter().any(|key| key.starts_with(&section)) {
                found.push(section);
            }
        };
        let (mine, theirs) = (&self.providers, &other.providers);
        for (app, apns) in &mine.apns {
            secret(format!("providers.apns.{app}"), theirs.apns.get(app) != Some(apns));
        }
        for (app, fcm) in &mine.fcm {
            secret(format!("providers.fcm.{app}"), theirs.fcm.get(app) != Some(fcm));
        }
        secret(String::from("providers.slack_app"), mine.slack_app != theirs.slack_app);
        secret(String::from("providers.email"), mine.email != theirs.email);
        secret(String::from("store.redis"), self.store.redis != other.store.redis);
        found
    }

    /// Every key with its value as text, secrets masked.
    fn flat(&self) -> BTreeMap<String, String> {
        let mut flat = BTreeMap::new();
        let mut rest: Vec<(String, toml::Value)> =
            self.effective_toml().parse::<toml::Table>().unwrap_or_default().into_iter().collect();
        while let Some((path, value)) = rest.pop() {
            match value {
                toml::Value::Table(table) => {
                    rest.extend(
                        table.into_iter().map(|(key, value)| (format!("{path}.{key}"), value)),
                    );
                }
                value => {
                    flat.insert(path, value.to_string());
                }
            }
        }
        flat
    }

    /// The file of record keys: `store.vault_file`, or `vault.json` in the data directory.
    #[must_use]
    pub fn vault_path(&self) -> PathBuf {
        self.store.vault_file.clone().unwrap_or_else(|| self.store.dir.join("vault.json"))
    }

    /// The file of token signing keys: `auth.keys_file`, or `keys.json` in the data directory.
    #[must_use]
    pub fn keys_path(&self) -> PathBuf {
        self.auth.keys_file.clone().unwrap_or_else(|| self.store.dir.join("keys.json"))
    }
}

/// The process's environment as [`ConfigSources`] takes it; values that are not UTF-8 are left out.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let pairs = std::env::vars_os();
    pairs
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
