//! The outbox of class D3: what this process accepted, on its own disk, until Redis has settled it.
//!
//! ```text
//!  append ──► Redis ──► kept here, synced ──► answered
//!                            │ every so often: is it there, and what is left of it?
//!            ended: forgotten │ left: asked again later │ not there: Redis lost it, added again
//! ```
//!
//! It is an embedded journal of its own, so it recovers, and refuses a second process, as that does.

use super::core::Core;
use super::options::millis;
use super::plan::Part;
use super::reply;
use super::rows;
use super::scripts::KNOWN;
use crate::journal::disk::{DiskJournal, LogView, Logged, ViewError};
use crate::journal::{
    Append, Claim, ClaimId, Commit, Entry, EntryKind, IdempotencyRecord, Journal, JournalError,
    Settlement, Unlimited,
};
use crate::model::{Millis, NotificationId, OrganizationId, ShardId};
use crate::redis::{Call, Mark, Redis, RedisError};
use crate::telemetry::metrics;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(500);
/// Claims wait no longer than this for something to come.
const GLANCE: Duration = Duration::from_millis(5);
/// Notifications that are asked about from memory; others wait on the disk.
const HELD_MAX: usize = 8_192;
const ASKED_AT_ONCE: usize = 512;
/// What is not settled by then waits on the disk, and is asked about less often.
const SOON_MS: u64 = 5_000;
const LATER_MS: u64 = 15_000;
/// What is planned is asked about once before it is due, and at least this often.
const PLANNED_MS: u64 = 3_600_000;
const LOCAL: ShardId = ShardId(0);

/// How an outbox is kept.
#[derive(Clone, Copy, Debug)]
pub struct OutboxOptions {
    /// Bytes of notifications that are not settled; beyond it new ones are refused.
    pub bytes_max: u64,
    /// What is older is settled or over, whatever Redis says: its log does not reach as far back.
    pub retention: Duration,
}

/// What is kept of a notification.
#[derive(Debug, Serialize, Deserialize)]
struct Item {
    is_listed: bool,
    due: Millis,
    accepted_at: Millis,
    payload: Vec<u8>,
    keys: Vec<Key>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Key {
    key: [u8; 16],
    body: [u8; 16],
    created: Millis,
    answer: Vec<u8>,
}

/// A notification that is asked about.
#[derive(Debug)]
struct Held {
    claim: Claim,
    since: Millis,
}

#[derive(Debug)]
pub(super) struct Outbox {
    local: DiskJournal,
    options: OutboxOptions,
}

impl Outbox {
    pub(super) fn new(local: DiskJournal, options: OutboxOptions) -> Self {
        Self { local, options }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.local.is_healthy()
    }

    pub(super) async fn close(&self) {
        self.local.close().await;
    }

    /// Adds to Redis, then keeps: what Redis refused is nowhere, and what it may have is kept.
    pub(super) fn append(
        self: &Arc<Self>,
        core: &Core,
        shard: ShardId,
        append: Append,
    ) -> Result<Commit, JournalError> {
        let bytes: usize = append.entries.iter().map(|entry| entry.payload.len()).sum();
        let waiting = self.local.backlog(LOCAL).bytes.saturating_add(bytes as u64);
        if waiting > self.options.bytes_max || self.local.shortage().is_some() {
            return Err(JournalError::Full);
        }
        let Append { entries, idempotency } = append;
        let (kept, keys) = (entries.clone(), idempotency.clone());
        let part = Part { entries, idempotency, is_kept: true, ..Part::default() };
        let added = core.submit(shard, part, false)?;
        let (outbox, now) = (Arc::clone(self), core.clock.now());
        Ok(Box::pin(async move {
            match added.await {
                // If it did not happen after all, it is found missing.
                Ok(()) | Err(JournalError::Unknown) => outbox.keep(&kept, &keys, now).await,
                refused => refused,
            }
        }))
    }

    /// Keeps notifications; resolves when they are on the disk.
    pub(super) async fn keep(
        &self,
        entries: &[Entry],
        keys: &[IdempotencyRecord],
        now: Millis,
    ) -> Result<(), JournalError> {
        let mut keys = keys.iter().map(Key::of).collect();
        let roots = entries.iter().filter(|entry| entry.kind.is_root());
        let kept = roots.map(|entry| {
            let item = Item {
                is_listed: entry.kind == EntryKind::Listed,
                due: entry.due,
                accepted_at: now,
                payload: entry.payload.to_vec(),
                keys: std::mem::take(&mut keys),
            };
            let payload = Bytes::from(postcard::to_allocvec(&item).unwrap_or_default());
            Entry { kind: EntryKind::Root, due: now, payload, ..entry.clone() }
        });
        let entries: Vec<_> = kept.collect();
        if entries.is_empty() {
            return Ok(());
        }
        // Redis has it and this disk may not: nobody knows what survives.
        let kept = self.local.append(LOCAL, Append { entries, idempotency: Vec::new() });
        kept.map_err(|_| JournalError::Unknown)?.await.map_err(|_| JournalError::Unknown)
    }

    /// Asks what became of everything, until the journal is closed.
    pub(super) async fn run(self: Arc<Self>, core: Arc<Core>) {
        let mut held = Vec::new();
        while !core.closing.load(Ordering::Acquire) {
            tokio::time::sleep(EVERY).await;
            self.claim(&mut held, core.clock.now()).await;
            metrics::outbox(u32::try_from(self.local.backlog(LOCAL).pending).unwrap_or(u32::MAX));
            if let Err(error) = self.ask(&core, &mut held).await {
                tracing::debug!(%error, "redis could not be asked what became of notifications");
            }
        }
    }

    async fn claim(&self, held: &mut Vec<Held>, now: Millis) {
        let leases: Vec<ClaimId> = held.iter().map(|held| held.claim.id).collect();
        self.local.renew(LOCAL, &leases);
        while held.len() < HELD_MAX {
            let claim = self.local.claim(LOCAL, HELD_MAX - held.len(), &Unlimited);
            let Ok(Ok(claims)) = tokio::time::timeout(GLANCE, claim).await else { return };
            held.extend(claims.into_iter().map(|claim| Held { claim, since: now }));
        }
    }

    async fn ask(&self, core: &Arc<Core>, held: &mut Vec<Held>) -> Result<(), RedisError> {
        if held.is_empty() {
            return Ok(());
        }
        // An emptied Redis has no records either: first it is restored.
        match core.redis.found().await? {
            Some((Mark::Ready, shards)) if shards == core.options.shards => {}
            _ => return Ok(()),
        }
        let mut by_shard: BTreeMap<ShardId, Vec<Held>> = BTreeMap::new();
        for one in held.drain(..) {
            by_shard.entry(home(core, one.claim.org)).or_default().push(one);
        }
        let mut failed = Ok(());
        for (shard, mut some) in by_shard {
            while !some.is_empty() {
                let chunk: Vec<_> = some.drain(..some.len().min(ASKED_AT_ONCE)).collect();
                match known(core, shard, &chunk).await {
                    Ok(found) => held.extend(self.judge(core, shard, chunk, &found).await),
                    Err(error) => {
                        held.extend(chunk);
                        failed = Err(error);
                    }
                }
            }
        }
        failed
    }

    /// Does what follows from each answer; answers what is asked about again soon.
    async fn judge(
        &self,
        core: &Arc<Core>,
        shard: ShardId,
        asked: Vec<Held>,
        found: &[u8],
    ) -> Vec<Held> {
        let now = core.clock.now();
        let (mut soon, mut settled, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for (held, state) in asked.into_iter().zip(found) {
            let Ok(item) = postcard::from_bytes::<Item>(&held.claim.payload) else {
                tracing::error!(id = %held.claim.notification, "an outbox entry is unreadable");
                settled.push(settlement(&held.claim, None));
                continue;
            };
            let is_over = item.is_over(self.options.retention, now);
            match state {
                b'e' => settled.push(settlement(&held.claim, None)),
                _ if is_over => settled.push(settlement(&held.claim, None)),
                b'l' => missing.push((held, item)),
                _ if now.since(held.since) < SOON_MS => soon.push(held),
                _ => settled.push(settlement(&held.claim, Some(next(&item, now)))),
            }
        }
        soon.extend(self.add_again(core, shard, missing).await);
        if !settled.is_empty() {
            let settled = self.local.settle(LOCAL, settled);
            let written = async { settled?.await }.await;
            // Its lease runs out, and it is asked about again.
            if let Err(error) = written {
                tracing::debug!(%error, "the outbox could not forget what is settled");
            }
        }
        soon
    }

    async fn add_again(
        &self,
        core: &Arc<Core>,
        shard: ShardId,
        missing: Vec<(Held, Item)>,
    ) -> Vec<Held> {
        let mut soon = Vec::with_capacity(missing.len());
        let mut under_way = Vec::new();
        for (held, item) in missing {
            let kind = if item.is_listed { EntryKind::Listed } else { EntryKind::Root };
            let entry = Entry {
                notification: held.claim.notification,
                org: held.claim.org,
                kind,
                due: item.due,
                payload: Bytes::from(item.payload),
            };
            let idempotency = item.keys.into_iter().map(Key::record).collect();
            let (entries, is_kept, is_again) = (vec![entry], true, true);
            let part = Part { entries, idempotency, is_kept, is_again, ..Part::default() };
            under_way.extend(core.submit(shard, part, false).ok());
            soon.push(held);
        }
        let added = futures_util::future::join_all(under_way).await;
        let count = added.iter().filter(|added| added.is_ok()).count();
        if count > 0 {
            tracing::warn!(
                shard = shard.0,
                count,
                "redis had lost notifications; they are added again"
            );
            metrics::outbox_repeated(count as u64);
        }
        soon
    }
}

/// When a notification is asked about next.
fn next(item: &Item, now: Millis) -> Millis {
    let ahead = item.due.since(now);
    let wait = if ahead > 2 * LATER_MS { (ahead - LATER_MS).min(PLANNED_MS) } else { LATER_MS };
    now.plus(wait)
}

/// Ends a claim, or has it come again at a time.
fn settlement(claim: &Claim, again: Option<Millis>) -> Settlement {
    let follow_ups = again.map(|due| Entry {
        notification: claim.notification,
        org: claim.org,
        kind: EntryKind::FollowUp,
        due,
        payload: claim.payload.clone(),
    });
    Settlement {
        claim: claim.id,
        notification: claim.notification,
        org: claim.org,
        resolved: Vec::new(),
        events: Vec::new(),
        follow_ups: follow_ups.into_iter().collect(),
        dead: Vec::new(),
        done: true,
    }
}

fn home(core: &Core, org: OrganizationId) -> ShardId {
    ShardId::of(org, core.options.shards)
}

/// What Redis knows of each: `p`, `e` or `l`, see the script.
async fn known(core: &Core, shard: ShardId, asked: &[Held]) -> Result<Vec<u8>, RedisError> {
    let ids: Vec<_> = asked.iter().map(|held| held.claim.notification).collect();
    let (last, found) = states(&core.redis, shard, &ids).await?;
    if let Some(cell) = core.cell(shard) {
        let (is_loaded, end) = {
            let state = cell.state.lock();
            (state.is_loaded, state.shard.applied_end)
        };
        if is_loaded && last + 1 < end {
            // Before anything takes the places of what was claimed from it.
            cell.unload("its log is shorter than it was");
            return Err(RedisError::Busy);
        }
    }
    Ok(found)
}

/// The position of the last block of a shard, and what is known of notifications: see the script.
async fn states(
    redis: &Redis,
    shard: ShardId,
    ids: &[NotificationId],
) -> Result<(u64, Vec<u8>), RedisError> {
    let mut call = Call::new(&KNOWN).key(redis.key(shard, "m"));
    for id in ids {
        call = call.arg(rows::bucket(*id).to_string()).arg(id.0.as_bytes().to_vec());
    }
    let reply = redis.run_all(vec![call]).await.pop();
    let found = reply::array(reply.unwrap_or_else(|| Err(RedisError::unexpected("no reply")))?)?;
    let mut found = found.into_iter();
    let last = found.next().as_ref().and_then(reply::number).unwrap_or(0);
    let found: Vec<u8> = found.filter_map(|one| reply::bytes(one)?.first().copied()).collect();
    if found.len() == ids.len() {
        Ok((last, found))
    } else {
        Err(RedisError::unexpected("what is known of notifications"))
    }
}

/// Why it is not known what an outbox that nobody uses keeps.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("reading an outbox panicked")]
    Task(#[from] tokio::task::JoinError),
}

/// How many notifications the outbox in `dir`, which no process uses, keeps and Redis has lost:
/// whoever takes Redis for all there is forgets them.
///
/// # Errors
/// A process uses it, or it or Redis cannot be read.
pub async fn lost_of(
    dir: PathBuf,
    redis: &Redis,
    shards: u16,
    (retention, now): (Duration, Millis),
) -> Result<u64, OutboxError> {
    let kept = tokio::task::spawn_blocking(move || kept_in(&dir)).await??;
    let mut by_shard: BTreeMap<ShardId, Vec<NotificationId>> = BTreeMap::new();
    for (id, org, item) in kept {
        if !item.is_over(retention, now) {
            by_shard.entry(ShardId::of(org, shards)).or_default().push(id);
        }
    }
    let mut lost = 0;
    for (shard, ids) in by_shard {
        for some in ids.chunks(ASKED_AT_ONCE) {
            let (_, found) = states(redis, shard, some).await?;
            lost += found.iter().filter(|state| **state == b'l').count() as u64;
        }
    }
    Ok(lost)
}

/// What an outbox has not forgotten yet.
fn kept_in(dir: &Path) -> Result<Vec<(NotificationId, OrganizationId, Item)>, ViewError> {
    let view = LogView::open(dir)?;
    let mut open = HashMap::new();
    view.scan(&mut |block| {
        for record in block.records {
            match record {
                Logged::Entry(entry, _, place) => {
                    if let Ok(mut item) = postcard::from_bytes::<Item>(&entry.payload) {
                        item.payload = Vec::new();
                        open.insert(place, (entry.notification, entry.org, item));
                    }
                }
                Logged::Settlement(ended) if ended.done => {
                    open.remove(&ended.entry);
                }
                _ => {}
            }
        }
    })?;
    // By what is not in the log any more.
    for place in view.facts()?.into_iter().flat_map(|facts| facts.settled) {
        open.remove(&place);
    }
    Ok(open.into_values().collect())
}

impl Item {
    /// It is settled or over, whatever Redis says.
    fn is_over(&self, retention: Duration, now: Millis) -> bool {
        now.since(self.accepted_at) > millis(retention) && self.due < now
    }
}

impl Key {
    fn of(record: &IdempotencyRecord) -> Self {
        let IdempotencyRecord { key, body, created, answer } = record;
        Self { key: *key, body: *body, created: *created, answer: answer.to_vec() }
    }

    fn record(self) -> IdempotencyRecord {
        let Self { key, body, created, answer } = self;
        IdempotencyRecord { key, body, created, answer: Bytes::from(answer) }
    }
}
