//! `rule.toml`: what a rule says of itself, parsed here and carried in the component.

use crate::rules::hooks::Hook;
use crate::rules::settings::{OnError, RuleMatch};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The custom section of a component that holds the text of its manifest.
pub(super) const SECTION: &str = "bugler-rule";
pub(super) const MANIFEST_BYTES_MAX: usize = 64 << 10;
const NAME_BYTES_MAX: usize = 40;
const VERSION_BYTES_MAX: usize = 40;
const TEXT_BYTES_MAX: usize = 256;
const PATTERNS_MAX: usize = 256;
const GATE_BYTES_MAX: usize = 24;
pub(super) const SETTINGS_MAX: usize = 1024;
pub(super) const SETTING_BYTES_MAX: usize = 4096;

/// What is wrong with a manifest, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("rule.toml is longer than 65,536 bytes")]
    TooLong,
    #[error("rule.toml cannot be read: {0}")]
    Syntax(String),
    #[error("rule.toml: {key} {problem}")]
    Bad { key: String, problem: &'static str },
}

/// A rule's manifest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// 1 to 40 of a-z, 0-9 and `-`.
    pub name: String,
    /// Semantic version, for people; the digest is the identity.
    pub version: String,
    /// What the component is to export; empty leaves it to the component.
    pub hooks: Vec<Hook>,
    /// Where it stands among rules, lowest first; of two, the one whose name sorts first.
    pub order: u32,
    pub description: String,
    pub owner: String,
    /// An item this rule could not judge must not pass, whatever `on_error` says.
    pub required: bool,
    /// Its `allow` lifts a deny of the built-in check.
    pub may_grant: bool,
    /// Unset: `closed` for authorize, `default-plan` for route, `open` for transform.
    pub on_error: Option<OnError>,
    pub matches: RuleMatch,
    /// What the rule reads through `config`, as text.
    pub config: BTreeMap<String, String>,
    pub limits: Caps,
    pub deploy: Deploy,
    pub build: Option<Build>,
}

/// What a rule allows itself at most. Looser than the gateway's own limits is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Caps {
    pub fuel_per_item: Option<u64>,
    /// Bytes of the component, or text like `24MiB`.
    #[serde(deserialize_with = "bytes")]
    pub component: Option<usize>,
    /// Bytes, or text like `4MiB`.
    #[serde(deserialize_with = "bytes")]
    pub memory: Option<usize>,
    /// Text like `20ms`.
    #[serde(deserialize_with = "millis")]
    pub deadline: Option<Duration>,
}

/// How a new version comes into force.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deploy {
    pub sticky: Sticky,
    pub promote: Promote,
    /// Where a version goes from shadow by itself, in hundredths of a percent; text like `5%`.
    #[serde(deserialize_with = "stage_share")]
    pub canary: u16,
    /// Left out: the usual ones, and a person may promote without them.
    pub gates: Option<Gates>,
}

impl Default for Deploy {
    fn default() -> Self {
        Self { sticky: Sticky::default(), promote: Promote::default(), canary: 500, gates: None }
    }
}

/// Who takes a version from shadow to canary, and from there to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Promote {
    #[default]
    Person,
    /// Its gates, once they are met.
    Auto,
}

/// Who always meets the same version while two are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sticky {
    #[default]
    Org,
    Recipient,
}

/// What a version has to show while it is tried, and before it goes a stage further.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    pub min_items: u64,
    /// At its stage.
    pub min_minutes: u64,
    /// Share of answers that differ from the active version's; text like `1%`.
    #[serde(deserialize_with = "share")]
    pub max_diff: f64,
    pub max_errors: u64,
    /// Times the active version's; text like `1.5x`.
    #[serde(deserialize_with = "factor")]
    pub max_fuel_p99: f64,
    #[serde(deserialize_with = "factor")]
    pub max_time_p99: f64,
    /// Share of drops; text like `5%`.
    #[serde(deserialize_with = "share")]
    pub max_drop_rate: f64,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            min_items: 10_000,
            min_minutes: 10,
            max_diff: 1.0,
            max_errors: 0,
            max_fuel_p99: 1.5,
            max_time_p99: 1.5,
            max_drop_rate: 1.0,
        }
    }
}

impl Gates {
    /// These with what is `said` in place of them: numbers, or text as in `rule.toml`.
    ///
    /// # Errors
    /// There is no gate of that name, or it is no number of its kind.
    pub fn with(self, said: &BTreeMap<String, Value>) -> Result<Self, String> {
        let mut whole = serde_json::to_value(self).map_err(|error| error.to_string())?;
        for (name, value) in said {
            let is_long = value.as_str().is_some_and(|text| text.len() > GATE_BYTES_MAX);
            if is_long || whole.get(name).is_none() {
                let known = "min_items, min_minutes, max_diff, max_errors, max_fuel_p99, max_time_p99 and max_drop_rate";
                return Err(format!("gates are {known}, each a short number"));
            }
            whole[name.as_str()] = value.clone();
        }
        serde_json::from_value(whole).map_err(|error| error.to_string())
    }
}

/// How a rule in another language is built.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    pub command: String,
    /// What the command leaves behind, relative to the manifest; a core module is wrapped.
    #[serde(default)]
    pub artifact: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    rule: Head,
    #[serde(default, rename = "match")]
    matches: RuleMatch,
    #[serde(default)]
    config: BTreeMap<String, toml::Value>,
    #[serde(default)]
    limits: Caps,
    #[serde(default)]
    deploy: Deploy,
    #[serde(default)]
    build: Option<Build>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    name: String,
    version: String,
    #[serde(default)]
    hooks: Vec<Hook>,
    #[serde(default = "middle")]
    order: u32,
    #[serde(default)]
    description: String,
    #[serde(default)]
    owner: String,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    may_grant: bool,
    #[serde(default)]
    on_error: Option<OnError>,
}

fn middle() -> u32 {
    500
}

impl Manifest {
    /// Reads the text of a `rule.toml`.
    ///
    /// # Errors
    /// It is no such text, with the place; or a value is out of bounds.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong);
        }
        let document: Document = toml::from_str(text)
            .map_err(|error| ManifestError::Syntax(error.to_string().trim_end().to_owned()))?;
        let Document { rule, matches, config, limits, deploy, build } = document;
        let mut settings = BTreeMap::new();
        for (key, value) in config {
            let text = setting(&key, value)?;
            settings.insert(key, text);
        }
        let manifest = Self {
            name: rule.name,
            version: rule.version,
            hooks: rule.hooks,
            order: rule.order,
            description: rule.description,
            owner: rule.owner,
            required: rule.required,
            may_grant: rule.may_grant,
            on_error: rule.on_error,
            matches,
            config: settings,
            limits,
            deploy,
            build,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if !is_name(&self.name) {
            return Err(bad("rule.name", "must be 1 to 40 of a-z, 0-9 and -"));
        }
        if !is_version(&self.version) {
            return Err(bad("rule.version", "must be a semantic version like 1.0.3"));
        }
        for (key, text) in [("rule.description", &self.description), ("rule.owner", &self.owner)] {
            if text.len() > TEXT_BYTES_MAX || text.contains(char::is_control) {
                return Err(bad(key, "must be at most 256 printable bytes"));
            }
        }
        let patterns = self.matches.events.len() + self.matches.attributes.len();
        if patterns + self.matches.orgs.len() > PATTERNS_MAX {
            return Err(bad("match", "has more than 256 patterns"));
        }
        if self.may_grant && !(self.hooks.is_empty() || self.hooks.contains(&Hook::Authorize)) {
            return Err(bad("rule.may_grant", "is for rules with the hook authorize"));
        }
        check_settings(&self.config)
    }
}

/// Bounds, and no secrets: whoever may read a rule reads its settings.
pub(super) fn check_settings(config: &BTreeMap<String, String>) -> Result<(), ManifestError> {
    if config.len() > SETTINGS_MAX {
        return Err(bad("config", "has more than 1,024 settings"));
    }
    for (key, value) in config {
        let key_path = format!("config.{key}");
        if key.len() + value.len() > SETTING_BYTES_MAX {
            return Err(bad(&key_path, "is longer than 4,096 bytes"));
        }
        if looks_secret(key, value) {
            return Err(bad(
                &key_path,
                "looks like a secret; rules need none, and settings can be read by others",
            ));
        }
    }
    Ok(())
}

fn looks_secret(key: &str, value: &str) -> bool {
    const WORDS: [&str; 6] = ["password", "passwd", "secret", "api_key", "apikey", "private_key"];
    const STARTS: [&str; 6] = ["xoxb-", "xoxp-", "sk_live_", "ghp_", "AKIA", "whsec_"];
    let key = key.to_ascii_lowercase();
    WORDS.iter().any(|word| key.contains(word))
        || STARTS.iter().any(|start| value.starts_with(start))
        || value.contains("-----BEGIN")
        || value.contains("hooks.slack.com/services/")
}

pub(super) fn is_name(name: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_letter)
}

/// `MAJOR.MINOR.PATCH`, then a pre-release after `-` and build data after `+`, if any.
fn is_version(version: &str) -> bool {
    let (rest, build) = version.split_once('+').unwrap_or((version, "0"));
    let (core, pre) = rest.split_once('-').unwrap_or((rest, "0"));
    let is_number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let is_word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    version.len() <= VERSION_BYTES_MAX
        && core.split('.').count() == 3
        && core.split('.').all(is_number)
        && pre.split('.').all(is_word)
        && build.split('.').all(is_word)
}

fn setting(key: &str, value: toml::Value) -> Result<String, ManifestError> {
    match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(truth) => Ok(truth.to_string()),
        _ => Err(bad(&format!("config.{key}"), "must be text, a number, true or false")),
    }
}

fn bad(key: &str, problem: &'static str) -> ManifestError {
    ManifestError::Bad { key: key.chars().take(80).collect(), problem }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Whole(u64),
    Number(f64),
    Text(String),
}

impl Quantity {
    /// The number, after taking one of `units` off the end.
    fn read(&self, units: &[(&str, f64)]) -> Option<f64> {
        let number = match self {
            Self::Whole(whole) => return Some(f64::from(u32::try_from(*whole).ok()?)),
            Self::Number(number) => return Some(*number),
            Self::Text(text) => text.trim(),
        };
        let (number, unit) = units
            .iter()
            .find_map(|(unit, factor)| Some((number.strip_suffix(unit)?, *factor)))
            .unwrap_or((number, 1.0));
        Some(number.trim().parse::<f64>().ok()? * unit)
    }
}

fn quantity<'de, D: Deserializer<'de>>(
    from: D,
    units: &[(&str, f64)],
    expected: &str,
) -> Result<f64, D::Error> {
    let read = Quantity::deserialize(from)?.read(units);
    read.filter(|number| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| serde::de::Error::custom(format!("expected {expected}")))
}

fn whole(number: f64) -> Option<u32> {
    (number.fract() == 0.0).then(|| format!("{number:.0}").parse().ok()).flatten()
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    let units = [("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)];
    let expected = "a size like \"4MiB\"";
    let bytes = quantity(from, &units, expected)?;
    let whole = whole(bytes).and_then(|bytes| usize::try_from(bytes).ok());
    whole.map(Some).ok_or_else(|| serde::de::Error::custom(format!("expected {expected}")))
}

fn millis<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let expected = "a time like \"20ms\"";
    let ms = quantity(from, &[("ms", 1.0), ("s", 1000.0)], expected)?;
    let whole = whole(ms).map(|ms| Duration::from_millis(u64::from(ms)));
    whole.map(Some).ok_or_else(|| serde::de::Error::custom(format!("expected {expected}")))
}

fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    quantity(from, &[("%", 0.01)], "a share like \"1%\"")
}

fn stage_share<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    let expected = "a share like \"5%\", more than nothing and at most all";
    let hundredths = quantity(from, &[("%", 100.0)], expected)?;
    let whole = whole(hundredths.round()).and_then(|whole| u16::try_from(whole).ok());
    whole
        .filter(|share| (1..=10_000).contains(share))
        .ok_or_else(|| serde::de::Error::custom(format!("expected {expected}")))
}

fn factor<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    quantity(from, &[("x", 1.0)], "a factor like \"1.5x\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Priority, ProviderName};

    const WHOLE: &str = r#"
        [rule]
        name = "quiet-hours"
        version = "1.0.3"
        hooks = ["route"]
        order = 300
        description = "Hold at night"
        owner = "team-mobile@example.com"
        on_error = "closed"
        [match]
        events = ["*", "!security.*"]
        orgs = [101]
        priorities = ["low", "normal"]
        recipients = ["user"]
        channels = ["apns", "fcm"]
        attributes = ["device.id"]
        [config]
        from = "22:00"
        max = 5
        strict = true
        [limits]
        fuel_per_item = 200_000
        memory = "4MiB"
        deadline = "20ms"
        [deploy]
        sticky = "recipient"
        promote = "auto"
        canary = "2.5%"
        gates = { min_items = 100, max_diff = "1%", max_fuel_p99 = "1.5x" }
        [build]
        command = "make"
        artifact = "out.wasm"
    "#;

    #[test]
    fn reads_all_a_rule_says_of_itself() {
        let manifest = Manifest::parse(WHOLE).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.order), ("quiet-hours", 300));
        assert_eq!(manifest.hooks, [Hook::Route]);
        assert_eq!(manifest.on_error, Some(OnError::Closed));
        assert_eq!(manifest.matches.orgs, [101]);
        assert_eq!(manifest.matches.channels, [ProviderName::Apns, ProviderName::Fcm]);
        assert_eq!(manifest.matches.priorities, [Priority::Low, Priority::Normal]);
        let config: Vec<_> = manifest.config.values().map(String::as_str).collect();
        assert_eq!(config, ["22:00", "5", "true"]);
        assert_eq!(manifest.limits.memory, Some(4 << 20));
        assert_eq!(manifest.limits.deadline, Some(Duration::from_millis(20)));
        assert_eq!(manifest.deploy.sticky, Sticky::Recipient);
        assert_eq!((manifest.deploy.promote, manifest.deploy.canary), (Promote::Auto, 250));
        let gates = manifest.deploy.gates.unwrap();
        assert!((gates.max_diff - 0.01).abs() < 1e-9 && (gates.max_fuel_p99 - 1.5).abs() < 1e-9);
        assert_eq!((gates.min_items, gates.max_errors), (100, 0));
    }

    #[test]
    fn the_least_is_a_name_and_a_version() {
        let least = "[rule]\nname = \"a\"\nversion = \"0.1.0\"";
        let manifest = Manifest::parse(least).unwrap();
        assert_eq!((manifest.order, manifest.on_error, manifest.required), (500, None, false));
        assert_eq!(manifest.matches, RuleMatch::default());
        assert_eq!((manifest.deploy.promote, manifest.deploy.canary), (Promote::Person, 500));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (part, other, word) in [
            ("\"quiet-hours\"", "\"Quiet\"", "rule.name"),
            ("\"1.0.3\"", "\"1.0\"", "rule.version"),
            ("\"1.0.3\"", "\"01.0.3\"", "rule.version"),
            ("[\"route\"]", "[\"router\"]", "unknown variant `router`"),
            ("order = 300", "ordre = 300", "unknown field `ordre`"),
            ("max = 5", "max = [5]", "config.max"),
            ("max = 5", "api_key = \"x\"", "config.api_key looks like a secret"),
            ("\"4MiB\"", "\"4 apples\"", "a size like"),
            ("\"20ms\"", "\"soon\"", "a time like"),
            ("\"1%\"", "\"-1%\"", "a share like"),
            ("\"2.5%\"", "\"0%\"", "more than nothing"),
            ("\"2.5%\"", "\"101%\"", "at most all"),
            ("\"auto\"", "\"soon\"", "unknown variant `soon`"),
            ("[build]", "[bild]", "bild"),
        ] {
            let error = Manifest::parse(&WHOLE.replace(part, other)).unwrap_err().to_string();
            assert!(error.contains(word), "{other}: {error}");
        }
        assert!(matches!(Manifest::parse(&" ".repeat(70_000)), Err(ManifestError::TooLong)));
    }

    #[test]
    fn what_is_said_of_gates_at_a_deploy_goes_before_the_manifest() {
        let own = Gates { max_diff: 0.01, max_errors: 3, ..Gates::default() };
        let said = |name: &str, value: Value| own.with(&BTreeMap::from([(name.into(), value)]));
        let expected = Gates { max_diff: 0.02, ..own };
        assert_eq!(said("max_diff", "2%".into()), Ok(expected));
        assert_eq!(said("min_items", 5.into()), Ok(Gates { min_items: 5, ..own }));
        assert_eq!(own.with(&BTreeMap::new()), Ok(own));
        for (name, value) in [("max_diff", "much"), ("least", "1%"), ("max_time_p99", "-1x")] {
            assert!(said(name, value.into()).is_err(), "{name}");
        }
        assert!(said("min_items", "9".repeat(30).into()).is_err());
    }
}
