//! Runs the chain on threads of its own: guest code never sits on the reactor.

use crate::BoxFuture;
use crate::model::{Millis, OrganizationId};
use crate::rules::chain::Chain;
use crate::rules::engine::Sandbox;
use crate::rules::error::RuleError;
use crate::rules::limits::RuleLimits;
use crate::rules::registry;
use crate::rules::settings::{RuleConfig, RuleSettings};
use crate::rules::{NoRules, RouteItem, Routed, RuleEngine, Verdict};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use tokio::sync::{mpsc, oneshot};

/// Deepest guest recursion plus the host's own frames, with room to spare.
const STACK_BYTES: usize = 2 << 20;

/// The rule engine on wasmtime. Dropping it ends its threads once their batches are answered.
#[derive(Debug)]
pub struct WasmRules {
    sandbox: Arc<Sandbox>,
    chain: ArcSwap<Chain>,
    jobs: mpsc::Sender<Job>,
}

/// Items of one organization, asked together.
struct Job {
    chain: Arc<Chain>,
    now: Millis,
    items: Vec<RouteItem>,
    reply: oneshot::Sender<Vec<Routed>>,
}

impl WasmRules {
    /// Loads the chain and starts the threads.
    ///
    /// # Errors
    /// A rule was refused, and which and why; or the engine or a thread could not start.
    pub fn start(settings: RuleSettings) -> Result<Arc<Self>, RuleError> {
        let threads = settings.threads.max(1);
        let sandbox = Arc::new(Sandbox::start(settings.limits, threads)?);
        let chain = registry::load(&sandbox, settings.rules)?;
        let (jobs, queue) = mpsc::channel(settings.queue.max(1));
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let (sandbox, queue) = (Arc::clone(&sandbox), Arc::clone(&queue));
            thread::Builder::new()
                .name(format!("rules-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || work(&sandbox, &queue))
                .map_err(RuleError::Thread)?;
        }
        Ok(Arc::new(Self { sandbox, chain: ArcSwap::from_pointee(chain), jobs }))
    }

    /// Puts another chain in force. Each batch is judged by exactly one chain: those under way
    /// finish with theirs. Compiles on the calling thread.
    ///
    /// # Errors
    /// A rule was refused; the chain before stays in force.
    pub fn replace(&self, rules: Vec<RuleConfig>) -> Result<(), RuleError> {
        let chain = registry::load(&self.sandbox, rules)?;
        self.chain.store(Arc::new(chain));
        Ok(())
    }

    async fn ask(&self, now: Millis, items: Vec<RouteItem>) -> Vec<Routed> {
        let chain = self.chain.load_full();
        if chain.is_empty() {
            return NoRules.route(now, items).await;
        }
        let count = items.len();
        let mut waiting = Vec::new();
        for group in split(items, self.sandbox.limits()) {
            let (reply, answer) = oneshot::channel();
            let job = Job { chain: Arc::clone(&chain), now, items: group.items, reply };
            // A job that could not be queued drops its reply, which is what the loop below sees.
            if self.jobs.send(job).await.is_err() {
                tracing::error!("no thread is left to run rules");
            }
            waiting.push((group.positions, answer));
        }
        let mut routed: Vec<Option<Routed>> = Vec::new();
        routed.resize_with(count, || None);
        for (positions, answer) in waiting {
            let answers = answer.await.unwrap_or_default();
            for (position, answer) in positions.into_iter().zip(answers) {
                if let Some(slot) = routed.get_mut(position) {
                    *slot = Some(answer);
                }
            }
        }
        routed.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }
}

impl RuleEngine for WasmRules {
    fn route(&self, now: Millis, items: Vec<RouteItem>) -> BoxFuture<'_, Vec<Routed>> {
        Box::pin(self.ask(now, items))
    }
}

/// The engine itself broke, not a rule: without a judgement nothing goes out.
fn unanswered() -> Routed {
    let verdict = Verdict::Failed { rule: String::from("engine"), kind: "engine" };
    Routed { verdict, decisions: Vec::new() }
}

fn work(sandbox: &Sandbox, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // Whoever holds the lock waits for the next job; the others wait for the lock.
        let Some(job) = queue.lock().blocking_recv() else { return };
        let route = || job.chain.route(sandbox, job.now, &job.items);
        match panic::catch_unwind(AssertUnwindSafe(route)) {
            // Nobody listens any more if the caller was cancelled.
            Ok(routed) => drop(job.reply.send(routed)),
            Err(_) => tracing::error!("the rule engine panicked; the batch is not sent"),
        }
    }
}

#[derive(Default)]
struct Group {
    positions: Vec<usize>,
    items: Vec<RouteItem>,
    bytes: usize,
}

/// Items of different organizations never share an instance, so they never share a group.
fn split(items: Vec<RouteItem>, limits: &RuleLimits) -> Vec<Group> {
    let mut open: HashMap<(OrganizationId, String), Group> = HashMap::new();
    let mut full = Vec::new();
    for (position, item) in items.into_iter().enumerate() {
        let key = (item.notification.org, item.recipient.org.clone());
        let group = open.entry(key).or_default();
        let bytes = text_bytes(&item, group.items.last());
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
