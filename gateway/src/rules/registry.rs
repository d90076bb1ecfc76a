//! Loads the configured chain: every rule is read, inspected, compiled and started once, or refused.

use crate::model::Millis;
use crate::rules::chain::{Chain, Rule};
use crate::rules::component::{ComponentSummary, inspect};
use crate::rules::engine::Sandbox;
use crate::rules::error::RuleError;
use crate::rules::host::Host;
use crate::rules::limits::{RULES_MAX, RuleLimits};
use crate::rules::settings::RuleConfig;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

const NAME_BYTES_MAX: usize = 40;
const VERSION_BYTES_MAX: usize = 40;
const SETTINGS_MAX: usize = 1024;
const SETTING_BYTES_MAX: usize = 4096;

/// Says whether `component` would be accepted as a rule under the default limits, and what it is
/// made of. Compiles it, so it takes about 0.1 s for 40 kB.
///
/// # Errors
/// The reason why it would be refused.
pub fn check_component(component: &[u8]) -> Result<ComponentSummary, RuleError> {
    let sandbox = Sandbox::start(RuleLimits::default(), 1)?;
    let probe = RuleConfig {
        name: "check".into(),
        version: String::new(),
        path: "".into(),
        on_error: crate::rules::OnError::default(),
        required: false,
        matches: crate::rules::RuleMatch::default(),
        config: std::collections::BTreeMap::new(),
        config_for_org: std::collections::BTreeMap::new(),
    };
    let (summary, _) = prepare(&sandbox, &Arc::new(probe), component)?;
    Ok(summary)
}

/// Loads all of `configs`, in order, or none.
pub(super) fn load(sandbox: &Sandbox, configs: Vec<RuleConfig>) -> Result<Chain, RuleError> {
    if configs.len() > RULES_MAX {
        return Err(RuleError::TooManyRules { count: configs.len() });
    }
    let mut names = HashSet::new();
    for config in &configs {
        check_config(config)?;
        if !names.insert(&config.name) {
            return Err(bad(config, "the chain has another rule of this name"));
        }
    }
    let load_one = |config: RuleConfig| {
        let config = Arc::new(config);
        load_rule(sandbox, &config).map_err(|error| RuleError::InRule {
            rule: config.name.clone(),
            path: config.path.clone(),
            source: Box::new(error),
        })
    };
    Ok(Chain::new(configs.into_iter().map(load_one).collect::<Result<_, _>>()?))
}

fn load_rule(sandbox: &Sandbox, config: &Arc<RuleConfig>) -> Result<Rule, RuleError> {
    let limit = sandbox.limits().component_bytes;
    let component = read_bounded(&config.path, limit).map_err(RuleError::Read)?;
    let (summary, rule) = prepare(sandbox, config, &component)?;
    let (rule_name, version, digest) = (&config.name, &config.version, &summary.digest);
    tracing::info!(%rule_name, %version, %digest, "rule loaded");
    Ok(rule)
}

fn prepare(
    sandbox: &Sandbox,
    config: &Arc<RuleConfig>,
    component: &[u8],
) -> Result<(ComponentSummary, Rule), RuleError> {
    let summary = inspect(component, sandbox.limits().component_bytes)?;
    let compiled = sandbox.compile(component)?;
    let zones = sandbox.zones().clone();
    let limits = (sandbox.limits(), 1);
    let host = Host::new(Arc::clone(config), String::new(), Millis(0), zones, limits);
    sandbox.try_start(&compiled, host)?;
    Ok((summary, Rule { config: Arc::clone(config), compiled }))
}

/// One byte more than `limit` at most, so that the size check after it can tell.
fn read_bounded(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_config(config: &RuleConfig) -> Result<(), RuleError> {
    let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let name = &config.name;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_letter) {
        return Err(bad(config, "its name must be 1 to 40 of a-z, 0-9 and -"));
    }
    if config.version.len() > VERSION_BYTES_MAX || config.version.contains(char::is_control) {
        return Err(bad(config, "its version must be at most 40 printable bytes"));
    }
    let own = config.config_for_org.values().flatten();
    let settings = || config.config.iter().chain(own.clone());
    if settings().count() > SETTINGS_MAX {
        return Err(bad(config, "it has more than 1,024 settings"));
    }
    if settings().any(|(key, value)| key.len() + value.len() > SETTING_BYTES_MAX) {
        return Err(bad(config, "one of its settings is longer than 4,096 bytes"));
    }
    Ok(())
}

fn bad(config: &RuleConfig, problem: &'static str) -> RuleError {
    RuleError::BadSetting { rule: config.name.chars().take(NAME_BYTES_MAX).collect(), problem }
}
