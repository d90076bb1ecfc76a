//! Loads rules: each is read, inspected, compiled and started once, or refused.

use crate::model::Millis;
use crate::rules::chain::{Memory, Rule, Words};
use crate::rules::component::{ComponentSummary, inspect, manifest_of};
use crate::rules::engine::Sandbox;
use crate::rules::error::RuleError;
use crate::rules::host::Setting;
use crate::rules::limits::{RULES_MAX, RuleLimits};
use crate::rules::manifest::{SETTING_BYTES_MAX, SETTINGS_MAX, is_name};
use crate::rules::settings::RuleConfig;
use crate::rules::stage::Stage;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

const NAME_BYTES_MAX: usize = 40;
const VERSION_BYTES_MAX: usize = 40;

/// What rules remember, by name: it outlives their versions.
pub(super) type Memories = HashMap<String, Arc<Memory>>;

/// Says whether `component` would be accepted as a rule under the default limits, raised as far as it
/// asks and interpreters need, and what it is made of. Compiles it, so it takes about 0.1 s for 40 kB.
///
/// # Errors
/// The reason why it would be refused.
pub fn check_component(component: &[u8]) -> Result<ComponentSummary, RuleError> {
    let asked = manifest_of(component).map(|manifest| manifest.limits);
    let sandbox = Sandbox::start(RuleLimits::asked_by(&asked.unwrap_or_default()), 1)?;
    let probe = RuleConfig { name: String::from("check"), ..RuleConfig::default() };
    let (summary, _) = prepare(&sandbox, probe, component, Arc::new(Memory::default()))?;
    Ok(summary)
}

/// Loads all of `configs`, in order, or none.
pub(super) fn load(
    sandbox: &Sandbox,
    configs: Vec<RuleConfig>,
    memories: &mut Memories,
) -> Result<Vec<Arc<Rule>>, RuleError> {
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
    let mut load_one = |config: RuleConfig| {
        let (rule, path) = (config.name.clone(), config.path.clone());
        let memory = Arc::clone(memories.entry(rule.clone()).or_default());
        let loaded = load_rule(sandbox, config, memory);
        loaded.map_err(|error| RuleError::InRule { rule, path, source: Box::new(error) })
    };
    configs.into_iter().map(&mut load_one).collect()
}

fn load_rule(
    sandbox: &Sandbox,
    config: RuleConfig,
    memory: Arc<Memory>,
) -> Result<Arc<Rule>, RuleError> {
    let limit = sandbox.limits().component_bytes;
    let component = read_bounded(&config.path, limit).map_err(RuleError::Read)?;
    let (summary, rule) = prepare(sandbox, config, &component, memory)?;
    let (rule_name, version) = (&rule.config.name, &rule.config.version);
    tracing::info!(%rule_name, %version, digest = %summary.digest, "rule loaded");
    Ok(Arc::new(rule))
}

/// Inspects, compiles and starts a component; what `config` leaves open is as its manifest says.
pub(super) fn prepare(
    sandbox: &Sandbox,
    config: RuleConfig,
    component: &[u8],
    memory: Arc<Memory>,
) -> Result<(ComponentSummary, Rule), RuleError> {
    let summary = inspect(component, sandbox.limits().component_bytes)?;
    let config = match &summary.manifest {
        Some(manifest) => config.completed(manifest),
        None => config,
    };
    let limits = Arc::new(sandbox.limits().tightened(&config.caps)?);
    let config = Arc::new(config);
    let compiled = sandbox.compile(component, &summary)?;
    let setting = Setting {
        rule: Arc::clone(&config),
        limits: Arc::clone(&limits),
        state: Arc::default(),
        org: String::new(),
        now: Millis(0),
        items: 1,
        is_recorded: false,
    };
    sandbox.try_start(&compiled, setting)?;
    let (hooks, digest) = (summary.hooks.clone(), summary.digest.clone());
    let (stage, stats, words) = (Stage::Active, Arc::default(), Words::default());
    Ok((summary, Rule { config, compiled, limits, hooks, digest, stage, memory, stats, words }))
}

/// One byte more than `limit` at most, so that the size check after it can tell.
fn read_bounded(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_config(config: &RuleConfig) -> Result<(), RuleError> {
    if !is_name(&config.name) {
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
