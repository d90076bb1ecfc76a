//! Rules that come by the API: checked, kept, put in force as one set, the same on every node.

use crate::BoxFuture;
use crate::clock::Clock;
use crate::crash;
use crate::model::OrganizationId;
use crate::rules::component::inspect;
use crate::rules::deployed::{
    Asked, DeployedRule, RuleChange, RuleSet, RuleVersion, SetError, Upload,
};
use crate::rules::error::RuleError;
use crate::rules::gates::{Case, Recent};
use crate::rules::judging::Minutes;
use crate::rules::manifest::{Gates, Manifest};
use crate::rules::probe::Probe;
use crate::rules::shipped::{Builtin, adopted, builtins};
use crate::rules::stage::Stage;
use crate::rules::stats::Counts;
use crate::rules::worker::WasmRules;
use crate::telemetry::metrics::RulesInForce;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex as Turn;

/// How often a node that shares the set with others looks whether it changed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the set and the components are kept.
pub trait Shelf: Send + Sync + std::fmt::Debug {
    /// The set as text; `None` before the first was kept.
    fn read(&self) -> BoxFuture<'_, Result<Option<String>, ShelfError>>;

    /// Keeps the set `after` durably, if the one kept has the revision `before`; false if not.
    fn replace(&self, before: u64, after: String) -> BoxFuture<'_, Result<bool, ShelfError>>;

    /// The component with this digest.
    fn component<'a>(
        &'a self,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, ShelfError>>;

    /// Keeps a component under its digest, durably.
    fn put<'a>(&'a self, digest: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, Result<(), ShelfError>>;

    /// True if other nodes may change the set.
    fn is_shared(&self) -> bool;
}

/// The shelf cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the shelf of rules failed")]
pub struct ShelfError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Why a deploy or a change was refused.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The component is not one that can be a rule.
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error(transparent)]
    Set(#[from] SetError),
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// A kept component or set is not what it was.
    #[error("what is kept of the rules is damaged: {what}")]
    Damaged { what: &'static str },
}

/// What is to be deployed.
#[derive(Debug)]
pub struct Deployment {
    pub component: Vec<u8>,
    /// Whose rule it is; `None`: everybody's.
    pub org: Option<OrganizationId>,
    /// Whose audit trail has what becomes of it by itself.
    pub home: OrganizationId,
    pub stage: Stage,
    pub by: String,
    pub message: String,
    /// Gates over those of the manifest, by their names there.
    pub gates: BTreeMap<String, serde_json::Value>,
    /// Another share of drops and denies is what it is for.
    pub expects_change: bool,
}

/// The rules that were deployed, and the engine that runs them.
#[derive(Debug)]
pub struct Deployments {
    engine: Arc<WasmRules>,
    shelf: Arc<dyn Shelf>,
    probe: Option<Probe>,
    builtins: Vec<Builtin>,
    pub(super) clock: Arc<dyn Clock>,
    set: Mutex<Arc<RuleSet>>,
    pub(super) minutes: Mutex<Minutes>,
    in_force: RulesInForce,
    /// One change at a time on this node; on others, revisions decide.
    turn: Turn<()>,
}

impl Deployments {
    /// Reads what is kept and puts it in force, with the shipped rules called `builtin` before it.
    ///
    /// # Errors
    /// The shelf cannot be read, or holds what cannot be a rule any more; or no such rule is shipped.
    pub async fn open(
        engine: Arc<WasmRules>,
        shelf: Arc<dyn Shelf>,
        probe: Option<Probe>,
        clock: Arc<dyn Clock>,
        builtin: &[String],
    ) -> Result<Arc<Self>, DeployError> {
        let builtins = builtins(builtin, engine.limits().component_bytes)?;
        let (set, minutes) = (Mutex::new(Arc::default()), Mutex::default());
        let (turn, in_force) = (Turn::new(()), RulesInForce::default());
        let opened = Self { engine, shelf, probe, builtins, clock, set, minutes, in_force, turn };
        let opened = Arc::new(opened);
        if !opened.builtins.is_empty() {
            let bare = adopted(RuleSet::default(), &opened.builtins);
            opened.learn(&bare).await?;
            opened.enforce(bare);
        }
        opened.refresh().await?;
        Ok(opened)
    }

    /// The set in force on this node.
    #[must_use]
    pub fn set(&self) -> Arc<RuleSet> {
        Arc::clone(&self.set.lock())
    }

    /// The engine that runs them.
    #[must_use]
    pub fn engine(&self) -> &Arc<WasmRules> {
        &self.engine
    }

    /// Most bytes a component may have.
    #[must_use]
    pub fn component_bytes(&self) -> usize {
        self.engine.limits().component_bytes
    }

    /// What a version did so far at its stage, on this node.
    #[must_use]
    pub fn counts(&self, rule: &DeployedRule, digest: &str, stage: Stage) -> Counts {
        self.engine.counts(rule, digest, stage)
    }

    /// Settings as the manifest of the version in force has them, else of the one that is tried.
    #[must_use]
    pub fn defaults(&self, rule: &DeployedRule) -> BTreeMap<String, String> {
        let first = rule.staged().next();
        first.map(|(digest, _)| self.engine.settings_of(digest)).unwrap_or_default()
    }

    /// What a version that is tried has to show yet before it goes on; empty: nothing.
    #[must_use]
    pub fn missing(&self, rule: &DeployedRule, digest: &str, stage: Stage) -> Vec<String> {
        let gates = self.gates(rule, digest).unwrap_or_default();
        self.case(rule, (digest, stage), (&gates, Recent::default())).missing()
    }

    /// The gates of a version: those of its manifest, and over them those said at its deploy.
    pub(super) fn gates(&self, rule: &DeployedRule, digest: &str) -> Option<Gates> {
        let own = self.engine.deploy_of(digest).gates;
        match rule.version(digest).map(|version| &version.gates) {
            Some(said) if !said.is_empty() => {
                let own = own.unwrap_or_default();
                // They were read once before they were kept.
                Some(own.with(said).unwrap_or(own))
            }
            _ => own,
        }
    }

    pub(super) fn case<'a>(
        &self,
        rule: &DeployedRule,
        (digest, stage): (&str, Stage),
        (gates, recent): (&'a Gates, Recent),
    ) -> Case<'a> {
        let other = rule.active.as_deref().filter(|_| stage != Stage::Active);
        Case {
            stage,
            age_ms: self.clock.now().0.saturating_sub(rule.since(digest, stage)),
            gates,
            expects_change: rule.version(digest).is_some_and(|version| version.expects_change),
            counts: self.counts(rule, digest, stage),
            recent,
            active: other.map(|active| self.counts(rule, active, Stage::Active)),
        }
    }

    /// Checks a component, keeps it and puts it in force at a stage. What was in force stays in force
    /// if it is refused.
    ///
    /// # Errors
    /// The reason, and what to change.
    pub async fn deploy(
        self: &Arc<Self>,
        deployment: Deployment,
    ) -> Result<(Manifest, RuleVersion), DeployError> {
        let Deployment { component, org, home, stage, by, message, gates, expects_change } =
            deployment;
        let most = self.engine.limits().component_bytes;
        let component = Arc::new(component);
        let checked = Arc::clone(&component);
        let (probe, engine) = (self.probe.clone(), Arc::clone(&self.engine));
        let summary = blocking(move || {
            let summary = inspect(&checked, most)?;
            if let Some(probe) = probe {
                probe.check(&checked)?;
            }
            // Bounded by now: the child needed no more for the same work.
            engine.learn(&summary, &checked)?;
            Ok::<_, RuleError>(summary)
        })
        .await??;
        let manifest = summary.manifest.clone().ok_or(RuleError::NoManifest)?;
        self.engine.check_caps(&manifest)?;
        let own = manifest.deploy.gates.unwrap_or_default();
        own.with(&gates).map_err(|text| SetError::GateText(format!("gates: {text}")))?;
        let version = RuleVersion {
            digest: summary.digest.clone(),
            version: manifest.version.clone(),
            bytes: summary.bytes,
            hooks: summary.hooks.clone(),
            gates,
            expects_change,
        };
        let upload = Upload {
            name: manifest.name.clone(),
            org,
            home,
            order: manifest.order,
            required: manifest.required,
            version: version.clone(),
            stage,
        };
        let asked = Asked { at: self.clock.now(), by, message };
        let _turn = self.turn.lock().await;
        let before = self.set();
        let after = RuleSet::clone(&before).with(upload, asked)?;
        crash::point(crash::Stage::Published);
        self.shelf.put(&version.digest, Arc::unwrap_or_clone(component)).await?;
        crash::point(crash::Stage::Published);
        self.keep(&before, after).await?;
        Ok((manifest, version))
    }

    /// A version of a rule with its component: the one with `digest`, else the active one.
    ///
    /// # Errors
    /// There is no such rule or version, or what is kept of it cannot be read.
    pub async fn component(
        &self,
        (org, name): (Option<OrganizationId>, &str),
        digest: Option<String>,
    ) -> Result<(RuleVersion, Vec<u8>), DeployError> {
        let set = self.set();
        let rule = set.rule(org, name).ok_or(SetError::NoRule)?;
        let digest = digest.or_else(|| rule.active.clone());
        let mut versions = rule.versions.iter();
        let version = versions.find(|one| Some(&one.digest) == digest.as_ref());
        let version = version.ok_or(SetError::NotInForce)?.clone();
        let component = self.kept(&version.digest).await?;
        let component = component.ok_or(DeployError::Damaged { what: "a component is missing" })?;
        Ok((version, component))
    }

    /// The component with this digest, shipped or deployed.
    async fn kept(&self, digest: &str) -> Result<Option<Vec<u8>>, ShelfError> {
        let own = self.builtins.iter().find(|one| one.version.digest == digest);
        match own {
            Some(own) => Ok(Some(own.component.to_vec())),
            None => self.shelf.component(digest).await,
        }
    }

    /// Changes one rule of an organization, or of everybody.
    ///
    /// # Errors
    /// The rule is not there, the change makes no sense for it, or somebody else was faster.
    pub async fn change(
        self: &Arc<Self>,
        (org, name): (Option<OrganizationId>, &str),
        change: RuleChange,
        (by, message): (String, String),
    ) -> Result<(), DeployError> {
        let asked = Asked { at: self.clock.now(), by, message };
        let _turn = self.turn.lock().await;
        let before = self.set();
        if let Some(rule) = before.rule(org, name) {
            self.hold_against(rule, &change)?;
        }
        let after = RuleSet::clone(&before).changed((org, name), change, asked)?;
        self.keep(&before, after).await
    }

    /// Gates that a manifest declares keep a version that is tried from going on.
    fn hold_against(&self, rule: &DeployedRule, change: &RuleChange) -> Result<(), SetError> {
        let RuleChange::Promote { to, digest, is_forced: false } = change else { return Ok(()) };
        let digest = rule.promoted(digest.clone())?;
        let is_further = |stage: &Stage| match (stage, to) {
            (Stage::Shadow(_), Stage::Canary(_) | Stage::Active)
            | (Stage::Canary(_), Stage::Active) => true,
            (Stage::Canary(is), Stage::Canary(next)) => next > is,
            _ => false,
        };
        let mut staged = rule.staged();
        let found = staged.find(|(own, stage)| *own == digest && is_further(stage));
        let Some((_, stage)) = found else { return Ok(()) };
        if self.gates(rule, &digest).is_none() {
            return Ok(());
        }
        let missing = self.missing(rule, &digest, stage).join(", ");
        if missing.is_empty() { Ok(()) } else { Err(SetError::Gates { missing }) }
    }

    /// Compiles what the new set needs, keeps it, and puts it in force here at once.
    async fn keep(self: &Arc<Self>, before: &RuleSet, after: RuleSet) -> Result<(), DeployError> {
        self.learn(&after).await?;
        let text = serde_json::to_string(&after)
            .map_err(|_| DeployError::Damaged { what: "the set cannot be written" })?;
        crash::point(crash::Stage::Published);
        if !self.shelf.replace(before.revision, text).await? {
            self.refresh().await?;
            return Err(SetError::Changed.into());
        }
        crash::point(crash::Stage::Published);
        self.enforce(after);
        Ok(())
    }

    /// Puts in force what others kept; nothing happens if it is in force already.
    pub(super) async fn refresh(self: &Arc<Self>) -> Result<(), DeployError> {
        let Some(text) = self.shelf.read().await? else { return Ok(()) };
        let set: RuleSet = serde_json::from_str(&text)
            .map_err(|_| DeployError::Damaged { what: "the set cannot be read" })?;
        if set.revision == self.set.lock().revision {
            return Ok(());
        }
        let set = adopted(set, &self.builtins);
        self.learn(&set).await?;
        self.enforce(set);
        Ok(())
    }

    fn enforce(&self, set: RuleSet) {
        let set = Arc::new(set);
        self.engine.enforce(&set);
        self.in_force.set(set.rules.iter().filter(|rule| !rule.is_paused).flat_map(|rule| {
            rule.staged().map(|(digest, stage)| {
                let version = rule.versions.iter().find(|version| version.digest == digest);
                let version = version.map(|version| version.version.clone()).unwrap_or_default();
                [rule.name.clone(), version, stage.as_str().to_owned()]
            })
        }));
        let revision = set.revision;
        *self.set.lock() = set;
        tracing::info!(revision, "another set of rules is in force");
    }

    /// Has the engine know every component that `set` needs.
    async fn learn(self: &Arc<Self>, set: &RuleSet) -> Result<(), DeployError> {
        for digest in set.digests().filter(|digest| !self.engine.knows(digest)) {
            let component = self.kept(digest).await?;
            let component =
                component.ok_or(DeployError::Damaged { what: "a component is missing" })?;
            let (engine, most) = (Arc::clone(&self.engine), self.engine.limits().component_bytes);
            let digest = digest.to_owned();
            blocking(move || {
                let summary = inspect(&component, most)?;
                if summary.digest != digest {
                    return Err(DeployError::Damaged { what: "a component is not what it was" });
                }
                Ok(engine.learn(&summary, &component)?)
            })
            .await??;
        }
        Ok(())
    }

    /// Looks for what other nodes put in force, until dropped.
    pub async fn follow(self: Arc<Self>) {
        if !self.shelf.is_shared() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let _turn = self.turn.lock().await;
            if let Err(error) = self.refresh().await {
                tracing::error!(error = %crate::telemetry::chain(&error), "the set of rules cannot be read; the one before stays in force");
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DeployError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| DeployError::Damaged { what: "compiling panicked" })
}
