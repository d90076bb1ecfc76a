//! Runs the chain on threads of its own: guest code never sits on the reactor.

use crate::BoxFuture;
use crate::model::{Millis, OrganizationId};
use crate::rules::chain::Chain;
use crate::rules::engine::Sandbox;
use crate::rules::error::RuleError;
use crate::rules::hooks::{AuthorizeItem, Hook, TransformItem};
use crate::rules::limits::RuleLimits;
use crate::rules::registry::{self, Memories};
use crate::rules::settings::{RuleConfig, RuleSettings};
use crate::rules::{
    Authorized, NoRules, RouteItem, Routed, RuleEngine, Shown, Transformed, Verdict,
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use tokio::sync::{mpsc, oneshot};

/// Deepest guest recursion plus the host's own frames, with room to spare.
const STACK_BYTES: usize = 2 << 20;
/// What the engine says when it is not a rule that broke.
const ENGINE: &str = "engine";

/// The rule engine on wasmtime. Dropping it ends its threads once their batches are answered.
#[derive(Debug)]
pub struct WasmRules {
    sandbox: Arc<Sandbox>,
    chain: ArcSwap<Chain>,
    memories: Mutex<Memories>,
    jobs: mpsc::Sender<Job>,
    /// Requests do not wait behind batches of the dispatcher: somebody waits for them.
    requests: mpsc::Sender<Job>,
}

/// Items of one organization, asked together.
struct Job {
    chain: Arc<Chain>,
    now: Millis,
    asked: Asked,
}

enum Asked {
    Authorize(Vec<AuthorizeItem>, oneshot::Sender<Vec<Authorized>>),
    Route(Vec<RouteItem>, oneshot::Sender<Vec<Routed>>),
    Transform(Vec<TransformItem>, oneshot::Sender<Vec<Transformed>>),
}

impl WasmRules {
    /// Loads the chain and starts the threads.
    ///
    /// # Errors
    /// A rule was refused, and which and why; or the engine or a thread could not start.
    pub fn start(settings: RuleSettings) -> Result<Arc<Self>, RuleError> {
        let threads = settings.threads.max(1);
        let sandbox = Arc::new(Sandbox::start(settings.limits, 2 * threads)?);
        let mut memories = Memories::new();
        let chain = registry::load(&sandbox, settings.rules, &mut memories)?;
        let start = |name: &str| {
            let (jobs, queue) = mpsc::channel(settings.queue.max(1));
            let queue = Arc::new(Mutex::new(queue));
            for number in 0..threads {
                let (sandbox, queue) = (Arc::clone(&sandbox), Arc::clone(&queue));
                thread::Builder::new()
                    .name(format!("{name}-{number}"))
                    .stack_size(STACK_BYTES)
                    .spawn(move || work(&sandbox, &queue))
                    .map_err(RuleError::Thread)?;
            }
            Ok::<_, RuleError>(jobs)
        };
        let (jobs, requests) = (start("rules")?, start("rules-asked")?);
        let chain = ArcSwap::from_pointee(chain);
        Ok(Arc::new(Self { sandbox, chain, memories: Mutex::new(memories), jobs, requests }))
    }

    /// Puts another chain in force. Each batch is judged by exactly one chain: those under way
    /// finish with theirs. Compiles on the calling thread.
    ///
    /// # Errors
    /// A rule was refused; the chain before stays in force.
    pub fn replace(&self, rules: Vec<RuleConfig>) -> Result<(), RuleError> {
        let chain = registry::load(&self.sandbox, rules, &mut self.memories.lock())?;
        self.chain.store(Arc::new(chain));
        Ok(())
    }

    /// Has each group answered by one thread, and puts the answers in the order of the items.
    async fn ask<I, A>(
        &self,
        queue: &mpsc::Sender<Job>,
        (chain, now): (Arc<Chain>, Millis),
        (count, groups): (usize, Vec<Group<I>>),
        asked: fn(Vec<I>, oneshot::Sender<Vec<A>>) -> Asked,
    ) -> Vec<Option<A>> {
        let mut waiting = Vec::new();
        for group in groups {
            let (reply, answer) = oneshot::channel();
            let job = Job { chain: Arc::clone(&chain), now, asked: asked(group.items, reply) };
            // A job that could not be queued drops its reply, which is what the loop below sees.
            if queue.send(job).await.is_err() {
                tracing::error!("no thread is left to run rules");
            }
            waiting.push((group.positions, answer));
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
        if !chain.has(Hook::Route) {
            return NoRules.route(now, items);
        }
        Box::pin(async move {
            let key = |item: &RouteItem| (item.notification.org, item.recipient.org.clone());
            let count = items.len();
            let groups = split(items, self.sandbox.limits(), key, text_bytes);
            let answers = self.ask(&self.jobs, (chain, now), (count, groups), Asked::Route).await;
            // The engine itself broke, not a rule: without a judgement nothing goes out.
            let unanswered = || Routed {
                verdict: Verdict::Failed { rule: String::from(ENGINE), kind: ENGINE },
                decisions: Vec::new(),
            };
            answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
        })
    }

    fn has(&self, hook: Hook, _org: OrganizationId) -> bool {
        self.chain.load().has(hook)
    }

    fn authorize(&self, now: Millis, items: Vec<AuthorizeItem>) -> BoxFuture<'_, Vec<Authorized>> {
        let chain = self.chain.load_full();
        if !chain.has(Hook::Authorize) {
            return NoRules.authorize(now, items);
        }
        Box::pin(async move {
            let count = items.len();
            let weigh = |_: &AuthorizeItem, _: Option<&AuthorizeItem>| 0;
            let groups = split(items, self.sandbox.limits(), |item| item.org, weigh);
            let answers =
                self.ask(&self.requests, (chain, now), (count, groups), Asked::Authorize).await;
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
        if !chain.has(Hook::Transform) {
            return NoRules.transform(now, items);
        }
        Box::pin(async move {
            let key = |item: &TransformItem| (item.notification.org, item.recipient.org.clone());
            let weigh = |item: &TransformItem, _: Option<&TransformItem>| item.payload.len();
            let count = items.len();
            let groups = split(items, self.sandbox.limits(), key, weigh);
            let answers =
                self.ask(&self.jobs, (chain, now), (count, groups), Asked::Transform).await;
            let unanswered = || Transformed {
                shown: Shown::Failed { rule: String::from(ENGINE), kind: ENGINE },
                decisions: Vec::new(),
            };
            answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
        })
    }
}

fn work(sandbox: &Sandbox, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // Whoever holds the lock waits for the next job; the others wait for the lock.
        let Some(job) = queue.lock().blocking_recv() else { return };
        if panic::catch_unwind(AssertUnwindSafe(|| job.run(sandbox))).is_err() {
            tracing::error!("the rule engine panicked; the batch is not sent");
        }
    }
}

impl Job {
    fn run(self, sandbox: &Sandbox) {
        let Self { chain, now, asked } = self;
        // Nobody listens any more if the caller was cancelled.
        match asked {
            Asked::Authorize(items, reply) => {
                drop(reply.send(chain.authorize(sandbox, now, &items)));
            }
            Asked::Route(items, reply) => drop(reply.send(chain.route(sandbox, now, &items))),
            Asked::Transform(items, reply) => {
                drop(reply.send(chain.transform(sandbox, now, &items)));
            }
        }
    }
}

struct Group<I> {
    positions: Vec<usize>,
    items: Vec<I>,
    bytes: usize,
}

impl<I> Default for Group<I> {
    fn default() -> Self {
        Self { positions: Vec::new(), items: Vec::new(), bytes: 0 }
    }
}

/// Items of different organizations never share an instance, so they never share a group.
fn split<I, K: Hash + Eq>(
    items: Vec<I>,
    limits: &RuleLimits,
    key: impl Fn(&I) -> K,
    weigh: impl Fn(&I, Option<&I>) -> usize,
) -> Vec<Group<I>> {
    let mut open: HashMap<K, Group<I>> = HashMap::new();
    let mut full = Vec::new();
    for (position, item) in items.into_iter().enumerate() {
        let group = open.entry(key(&item)).or_default();
        let bytes = weigh(&item, group.items.last());
        let is_full = group.items.len() >= limits.batch_items
            || group.bytes.saturating_add(bytes) > limits.batch_bytes;
        if is_full && !group.items.is_empty() {
            full.push(std::mem::take(group));
        }
        group.positions.push(position);
        group.items.push(item);
        group.bytes = group.bytes.saturating_add(bytes);
    }
    full.extend(open.into_values());
    full
}

/// Roughly what an item weighs; a notification counts once for a run of recipients.
fn text_bytes(item: &RouteItem, before: Option<&RouteItem>) -> usize {
    let (notification, recipient) = (&item.notification, &item.recipient);
    let content = &notification.content;
    let is_shared = before.is_some_and(|b| Arc::ptr_eq(&b.notification, notification));
    let text = content.title.len() + content.body.len() + content.data.len();
    let prefs = recipient.prefs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let targets = recipient.targets.iter().map(|t| t.handle.len() + t.app.len()).sum::<usize>();
    let roles = recipient.roles.iter().map(String::len).sum::<usize>();
    prefs + targets + roles + if is_shared { 0 } else { text }
}
