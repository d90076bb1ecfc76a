//! Runs the chain on threads of its own: guest code never sits on the reactor.

use crate::BoxFuture;
use crate::model::{Millis, OrganizationId};
use crate::rules::chain::{Chain, DEPLOYED_FROM, Memory, Rule, Words};
use crate::rules::compiled::CodeCache;
use crate::rules::component::ComponentSummary;
use crate::rules::deployed::{DeployedRule, RuleSet, Stage};
use crate::rules::engine::Sandbox;
use crate::rules::error::RuleError;
use crate::rules::groups::{Group, split, text_bytes};
use crate::rules::hooks::{AuthorizeItem, Hook, TransformItem};
use crate::rules::keeping::Keeper;
use crate::rules::limits::RuleLimits;
use crate::rules::manifest::{Deploy, Manifest};
use crate::rules::queue::Queue;
use crate::rules::recorder::Recorder;
use crate::rules::registry::{self, Memories};
use crate::rules::requests::{Replies, Request, answer};
use crate::rules::settings::{RuleConfig, RuleSettings};
use crate::rules::shadow::Watched;
use crate::rules::slot::Slot;
use crate::rules::stats::{Counts, Stats};
use crate::rules::{
    Authorized, NoRules, RouteItem, Routed, RuleEngine, Shown, Transformed, Verdict,
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Deepest guest recursion plus the host's own frames, with room to spare.
const STACK_BYTES: usize = 2 << 20;
/// What the engine says when it is not a rule that broke.
const ENGINE: &str = "engine";
/// Batches that wait to be shown to shadows; what comes while they wait is not shown.
const SHADOWED_MAX: usize = 8;
/// Requests that may wait for a thread at least: those that wait together are asked together.
const REQUESTS_MIN: usize = 64;
/// A process that is killed forgets what was counted since.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// The rule engine on wasmtime. Dropping it ends its threads once their batches are answered.
#[derive(Debug)]
pub struct WasmRules {
    sandbox: Arc<Sandbox>,
    chain: ArcSwap<Chain>,
    kept: Mutex<Kept>,
    keeper: Option<Keeper>,
    jobs: Arc<Queue<Job>>,
    /// Requests do not wait behind batches of the dispatcher: somebody waits for them.
    requests: Arc<Queue<Request>>,
}

/// What chains are made of.
#[derive(Debug, Default)]
struct Kept {
    memories: Memories,
    /// The rules of one's own configuration.
    fixed: Vec<Arc<Rule>>,
    /// Components that were deployed, by digest.
    library: HashMap<String, Learned>,
    /// By rule, version and stage.
    stats: HashMap<String, Arc<Stats>>,
    set: Arc<RuleSet>,
    /// Keys whose memory was looked for on disk.
    recalled: HashSet<String>,
}

#[derive(Debug)]
struct Learned {
    manifest: Manifest,
    rule: Rule,
}

/// Items of one organization, asked together.
struct Job {
    chain: Arc<Chain>,
    now: Millis,
    asked: Asked,
    /// Roughly, as batches are measured.
    bytes: usize,
}

enum Asked {
    Route(Vec<RouteItem>, Replies<Routed>),
    Transform(Vec<TransformItem>, Replies<Transformed>),
}

impl WasmRules {
    /// Loads the chain and starts the threads.
    ///
    /// # Errors
    /// A rule was refused, and which and why; or the engine or a thread could not start.
    pub fn start(settings: RuleSettings) -> Result<Arc<Self>, RuleError> {
        let threads = settings.threads.max(1);
        let code = settings.code.map(|(dir, key)| Arc::new(CodeCache::new(dir, &key)));
        let sandbox = Sandbox::start_with(settings.limits, 2 * threads + 1, code)?;
        let sandbox = Arc::new(sandbox.recording(settings.recorder));
        let mut kept = Kept::default();
        kept.fixed = registry::load(&sandbox, settings.rules, &mut kept.memories)?;
        let (watched, watching) = mpsc::channel(SHADOWED_MAX);
        let own = Arc::clone(&sandbox);
        thread("rules-shadow", move || watch(&own, watching))?;
        let jobs = Arc::new(Queue::new(settings.queue));
        let requests = Arc::new(Queue::new(settings.queue.max(REQUESTS_MIN)));
        for number in 0..threads {
            let (own, queue, shadows) = (Arc::clone(&sandbox), Arc::clone(&jobs), watched.clone());
            thread(&format!("rules-{number}"), move || work(&own, &queue, &shadows))?;
            let (own, queue) = (Arc::clone(&sandbox), Arc::clone(&requests));
            let shadows = watched.clone();
            thread(&format!("rules-asked-{number}"), move || allow(&own, &queue, &shadows))?;
        }
        let keeper = settings.state_dir.map(Keeper::new);
        kept.recall(keeper.as_ref());
        let chain = ArcSwap::from_pointee(Chain::fixed(&kept.fixed));
        let kept = Mutex::new(kept);
        let rules = Arc::new(Self { sandbox, chain, kept, keeper, jobs, requests });
        if rules.keeper.is_some() {
            let own = Arc::downgrade(&rules);
            thread("rules-keeper", move || keep(&own))?;
        }
        Ok(rules)
    }

    /// Writes what rules counted and kept since the last time; otherwise done once a second.
    pub fn keep(&self) {
        let Some(keeper) = &self.keeper else { return };
        let states: Vec<_> = {
            let kept = self.kept.lock();
            let is_kept = |key: &str| !key.starts_with(SHADOW);
            let memories = kept.memories.iter().filter(|(key, _)| is_kept(key));
            memories.map(|(key, memory)| (key.clone(), Arc::clone(&memory.state))).collect()
        };
        keeper.keep(&states);
    }

    /// Puts other rules of one's own configuration in force. Each batch is judged by exactly one chain:
    /// those under way finish with theirs. Compiles on the calling thread.
    ///
    /// # Errors
    /// A rule was refused; the chain before stays in force.
    pub fn replace(&self, rules: Vec<RuleConfig>) -> Result<(), RuleError> {
        let mut kept = self.kept.lock();
        kept.fixed = registry::load(&self.sandbox, rules, &mut kept.memories)?;
        kept.recall(self.keeper.as_ref());
        self.chain.store(Arc::new(kept.chain(self.limits())));
        Ok(())
    }

    /// The ceilings of every rule.
    #[must_use]
    pub fn limits(&self) -> &RuleLimits {
        self.sandbox.limits()
    }

    /// Where decisions and log lines are kept.
    #[must_use]
    pub fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.sandbox.recorder()
    }

    /// True if a rule called `name` judges something of `org`.
    #[must_use]
    pub fn has_rule(&self, org: OrganizationId, name: &str) -> bool {
        self.chain.load().has_rule(org, name)
    }

    /// True if a component was compiled here before.
    pub(super) fn knows(&self, digest: &str) -> bool {
        self.kept.lock().library.contains_key(digest)
    }

    /// Compiles a component, so that a set may name it. Compiles on the calling thread.
    pub(super) fn learn(
        &self,
        summary: &ComponentSummary,
        component: &[u8],
    ) -> Result<(), RuleError> {
        if self.knows(&summary.digest) {
            return Ok(());
        }
        let manifest = summary.manifest.clone().ok_or(RuleError::NoManifest)?;
        let config = RuleConfig::of(&manifest);
        let memory = Arc::new(Memory::default());
        let (summary, rule) = registry::prepare(&self.sandbox, config, component, memory)?;
        self.kept.lock().library.insert(summary.digest, Learned { manifest, rule });
        Ok(())
    }

    /// Refuses limits in a manifest that are looser than the gateway's.
    pub(super) fn check_caps(&self, manifest: &Manifest) -> Result<(), RuleError> {
        self.limits().tightened(&manifest.limits).map(drop)
    }

    /// Puts a set in force whose components are all known: one pointer is exchanged.
    pub(super) fn enforce(&self, set: &Arc<RuleSet>) {
        let mut kept = self.kept.lock();
        kept.set = Arc::clone(set);
        kept.forget();
        let chain = kept.chain(self.limits());
        kept.recall(self.keeper.as_ref());
        self.chain.store(Arc::new(chain));
    }

    /// What a version did so far at this stage, on this node.
    pub(super) fn counts(&self, of: &DeployedRule, digest: &str, stage: Stage) -> Counts {
        let kept = self.kept.lock();
        let stats = kept.stats.get(&stats_key(of, digest, stage));
        stats.map(|stats| stats.counts()).unwrap_or_default()
    }

    /// The settings in the manifest of a component that is in force.
    pub(super) fn settings_of(&self, digest: &str) -> BTreeMap<String, String> {
        let kept = self.kept.lock();
        let learned = kept.library.get(digest);
        learned.map(|learned| learned.manifest.config.clone()).unwrap_or_default()
    }

    /// What the manifest of a component that is in force says of its deploys.
    pub(super) fn deploy_of(&self, digest: &str) -> Deploy {
        let kept = self.kept.lock();
        kept.library.get(digest).map(|learned| learned.manifest.deploy).unwrap_or_default()
    }

    /// Has each group answered by one thread, and puts the answers in the order of the items.
    async fn ask<I, A, J>(
        &self,
        queue: &Queue<J>,
        (count, groups): (usize, Vec<Group<I>>),
        job: impl Fn(Group<I>, Replies<A>) -> J,
    ) -> Vec<Option<A>> {
        let mut waiting = Vec::new();
        for group in groups {
            let (reply, answer) = oneshot::channel();
            let positions = group.positions.clone();
            let count = positions.len();
            // A job that nobody takes drops its reply, which is what the loop below sees.
            queue.put(job(group, vec![(count, reply)])).await;
            waiting.push((positions, answer));
        }
        let mut answers: Vec<Option<A>> = Vec::new();
        answers.resize_with(count, || None);
        for (positions, answer) in waiting {
            for (position, answer) in positions.into_iter().zip(answer.await.unwrap_or_default()) {
                if let Some(slot) = answers.get_mut(position) {
                    *slot = Some(answer);
                }
            }
        }
        answers
    }
}

impl RuleEngine for WasmRules {
    fn route(&self, now: Millis, items: Vec<RouteItem>) -> BoxFuture<'_, Vec<Routed>> {
        let chain = self.chain.load_full();
        if !items.iter().any(|item| chain.has(Hook::Route, item.notification.org)) {
            return NoRules.route(now, items);
        }
        Box::pin(async move {
            let count = items.len();
            let groups = split(items, self.sandbox.limits(), RouteItem::owner, text_bytes);
            let job = |group: Group<_>, replies| {
                let (bytes, asked) = (group.bytes, Asked::Route(group.items, replies));
                Job { chain: Arc::clone(&chain), now, asked, bytes }
            };
            let answers = self.ask(&self.jobs, (count, groups), job).await;
            // The engine itself broke, not a rule: without a judgement nothing goes out.
            let unanswered = || Routed {
                verdict: Verdict::Failed { rule: String::from(ENGINE), kind: ENGINE },
                decisions: Vec::new(),
            };
            answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
        })
    }

    fn has(&self, hook: Hook, org: OrganizationId) -> bool {
        self.chain.load().has(hook, org)
    }

    fn routes(&self, org: OrganizationId) -> bool {
        self.has(Hook::Route, org)
    }

    fn authorize(&self, now: Millis, items: Vec<AuthorizeItem>) -> BoxFuture<'_, Vec<Authorized>> {
        let chain = self.chain.load_full();
        Box::pin(async move {
            let count = items.len();
            let weigh = |_: &AuthorizeItem, _: Option<&AuthorizeItem>| 0;
            let groups = split(items, self.sandbox.limits(), AuthorizeItem::owner, weigh);
            let job = |group: Group<_>, replies| {
                let items = group.items;
                Request { chain: Arc::clone(&chain), now, items, replies }
            };
            let answers = self.ask(&self.requests, (count, groups), job).await;
            let unanswered = || Authorized {
                is_allowed: false,
                denied: Some((String::from(ENGINE), String::from(ENGINE))),
                decisions: Vec::new(),
            };
            answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
        })
    }

    fn transform(&self, now: Millis, items: Vec<TransformItem>) -> BoxFuture<'_, Vec<Transformed>> {
        let chain = self.chain.load_full();
        Box::pin(async move {
            let weigh = |item: &TransformItem, _: Option<&TransformItem>| item.payload.len();
            let count = items.len();
            let groups = split(items, self.sandbox.limits(), TransformItem::owner, weigh);
            let job = |group: Group<_>, replies| {
                let (bytes, asked) = (group.bytes, Asked::Transform(group.items, replies));
                Job { chain: Arc::clone(&chain), now, asked, bytes }
            };
            let answers = self.ask(&self.jobs, (count, groups), job).await;
            let unanswered = || Transformed {
                shown: Shown::Failed { rule: String::from(ENGINE), kind: ENGINE },
                decisions: Vec::new(),
            };
            answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
        })
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), RuleError> {
    let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    builder.spawn(work).map(drop).map_err(RuleError::Thread)
}

fn work(sandbox: &Sandbox, queue: &Queue<Job>, watched: &mpsc::Sender<Watched>) {
    while let Some(job) = queue.take(|first, other| first.join(other, sandbox.limits())) {
        if panic::catch_unwind(AssertUnwindSafe(|| job.run(sandbox, watched))).is_err() {
            tracing::error!("the rule engine panicked; the batch is not sent");
        }
    }
}

/// The same for requests.
fn allow(sandbox: &Sandbox, queue: &Queue<Request>, shadows: &mpsc::Sender<Watched>) {
    while let Some(request) = queue.take(Request::join) {
        let Request { chain, now, items, replies } = request;
        let judge = AssertUnwindSafe(|| {
            let (answers, watched) = chain.authorize(sandbox, now, &items);
            answer(replies, answers);
            show(watched, shadows);
        });
        if panic::catch_unwind(judge).is_err() {
            tracing::error!("the rule engine panicked; the requests are refused");
        }
    }
}

/// Keeps what rules remember for as long as there are any. Writing takes one part in fifty of the time.
fn keep(rules: &Weak<WasmRules>) {
    let mut pause = KEEP_EVERY;
    loop {
        thread::sleep(pause);
        let Some(rules) = rules.upgrade() else { return };
        let begun = Instant::now();
        rules.keep();
        pause = KEEP_EVERY.max(begun.elapsed().saturating_mul(50));
    }
}

impl Drop for WasmRules {
    fn drop(&mut self) {
        self.jobs.end();
        self.requests.end();
        self.keep();
    }
}

/// Shows batches to shadows, one after the other.
fn watch(sandbox: &Sandbox, mut watching: mpsc::Receiver<Watched>) {
    while let Some(watched) = watching.blocking_recv() {
        if panic::catch_unwind(AssertUnwindSafe(|| watched.run(sandbox))).is_err() {
            tracing::error!("the rule engine panicked while a shadow was asked");
        }
    }
}

impl Job {
    fn run(self, sandbox: &Sandbox, shadows: &mpsc::Sender<Watched>) {
        let Self { chain, now, asked, .. } = self;
        match asked {
            Asked::Route(items, replies) => {
                let (routed, watched) = chain.route(sandbox, now, &items);
                answer(replies, routed);
                show(watched, shadows);
            }
            Asked::Transform(items, replies) => {
                let (shown, watched) = chain.transform(sandbox, now, &items);
                answer(replies, shown);
                show(watched, shadows);
            }
        }
    }

    /// Takes `other` along if the two are one batch of one owner under the same rules, or gives it back.
    fn join(&mut self, other: Self, limits: &RuleLimits) -> Option<Self> {
        let bytes = self.bytes.saturating_add(other.bytes);
        if !Arc::ptr_eq(&self.chain, &other.chain) || bytes > limits.batch_bytes {
            return Some(other);
        }
        let fits = |own: usize, more: usize| own + more <= limits.batch_items;
        match (&mut self.asked, other.asked) {
            (Asked::Route(items, replies), Asked::Route(more, asking))
                if fits(items.len(), more.len())
                    && items.first().map(RouteItem::owner)
                        == more.first().map(RouteItem::owner) =>
            {
                items.extend(more);
                replies.extend(asking);
            }
            (Asked::Transform(items, replies), Asked::Transform(more, asking))
                if fits(items.len(), more.len())
                    && items.first().map(TransformItem::owner)
                        == more.first().map(TransformItem::owner) =>
            {
                items.extend(more);
                replies.extend(asking);
            }
            (_, asked) => return Some(Self { asked, ..other }),
        }
        self.now = self.now.max(other.now);
        self.bytes = bytes;
        None
    }
}

/// What shadows have no time for is counted and forgotten.
fn show(watched: Vec<Watched>, shadows: &mpsc::Sender<Watched>) {
    for one in watched {
        let (stats, count) = (Arc::clone(&one.rule.stats), one.len());
        if shadows.try_send(one).is_err() {
            stats.shed(count);
        }
    }
}

impl Kept {
    /// The chain of the configuration's rules and of those that were deployed.
    fn chain(&mut self, limits: &RuleLimits) -> Chain {
        let mut chain = Chain::fixed(&self.fixed);
        let set = Arc::clone(&self.set);
        for rule in set.rules.iter().filter(|rule| !rule.is_paused) {
            let mut version = |digest: &str, stage| self.version(rule, digest, stage, limits);
            let slot = Slot {
                order: (rank(rule), rule.name.clone()),
                active: rule.active.as_deref().and_then(|digest| version(digest, Stage::Active)),
                canary: rule.canary.as_ref().and_then(|(digest, share)| {
                    Some((version(digest, Stage::Canary(*share))?, *share))
                }),
                shadow: rule.shadow.as_ref().and_then(|(digest, share)| {
                    Some((version(digest, Stage::Shadow(*share))?, *share))
                }),
            };
            chain.put(rule.org.map(OrganizationId), slot);
        }
        chain
    }

    fn version(
        &mut self,
        of: &DeployedRule,
        digest: &str,
        stage: Stage,
        limits: &RuleLimits,
    ) -> Option<Arc<Rule>> {
        let learned = self.library.get(digest)?;
        // What a shadow counts and keeps is nobody else's.
        let key = match (stage, of.org) {
            (Stage::Shadow(_), _) => shadow_key(digest),
            (_, Some(org)) => format!("{org}/{}", of.name),
            (_, None) => format!("*/{}", of.name),
        };
        let memory = Arc::clone(self.memories.entry(key).or_default());
        let stats = self.stats.entry(stats_key(of, digest, stage)).or_default();
        let stats = Arc::clone(stats);
        let mut config = RuleConfig::of(&learned.manifest);
        let own = of.settings.iter().map(|(org, own)| (org.to_string(), own.clone()));
        config.config_for_org = own.collect();
        Some(Arc::new(Rule {
            config: Arc::new(config),
            compiled: learned.rule.compiled.clone(),
            limits: Arc::new(limits.capped(&learned.manifest.limits)),
            hooks: learned.rule.hooks.clone(),
            digest: digest.to_owned(),
            stage,
            memory,
            stats,
            words: Words::default(),
        }))
    }

    /// Gives new memories what an earlier process had.
    fn recall(&mut self, keeper: Option<&Keeper>) {
        let Some(keeper) = keeper else { return };
        for (key, memory) in &self.memories {
            if !key.starts_with(SHADOW) && self.recalled.insert(key.clone()) {
                keeper.recall(key, &memory.state);
            }
        }
    }

    /// Drops what no roll back can bring back.
    fn forget(&mut self) {
        let rules = &self.set.rules;
        let versions = |digest: &String| {
            rules.iter().any(|rule| rule.versions.iter().any(|one| one.digest == *digest))
        };
        self.library.retain(|digest, _| versions(digest));
        let of = rules.iter().flat_map(|rule| {
            let staged = rule.staged();
            staged.map(|(digest, stage)| stats_key(rule, digest, stage)).collect::<Vec<_>>()
        });
        let of: HashSet<String> = of.collect();
        self.stats.retain(|key, _| of.contains(key));
        self.memories.retain(|key, _| {
            key.strip_prefix(SHADOW).is_none_or(|digest| {
                rules.iter().any(|rule| rule.shadow.as_ref().is_some_and(|(own, _)| own == digest))
            })
        });
    }
}

fn rank(rule: &DeployedRule) -> u64 {
    let order = u64::from(rule.order);
    if rule.shipped.is_some() { order } else { DEPLOYED_FROM + order }
}

/// A version that is given another share of the same stage goes on counting.
fn stats_key(of: &DeployedRule, digest: &str, stage: Stage) -> String {
    let org = of.org.map_or_else(|| String::from("*"), |org| org.to_string());
    format!("{org}/{}/{digest}/{}", of.name, stage.as_str())
}

const SHADOW: &str = "shadow:";

fn shadow_key(digest: &str) -> String {
    format!("{SHADOW}{digest}")
}
