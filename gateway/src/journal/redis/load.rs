//! Building the journal of an empty Redis from what another store held.
//!
//! Each block goes through the script that every commit goes through, under the time it was first
//! committed. Requests are numbered: one whose answer was lost is sent again and adds nothing.

use super::options::{RedisJournalOptions, millis};
use super::plan::{Ended, Part, Plan, Terms};
use super::reply::{self, SUMS, Sums};
use super::rows;
use super::scripts::COMMIT;
use crate::clock::Clock;
use crate::journal::dump::{
    DumpedBlock, DumpedCancel, DumpedLetter, JournalFrame, JournalTotals, Origin,
};
use crate::journal::record::{Record, SettleRecord};
use crate::journal::shard::is_timer;
use crate::journal::shard::line::{Class, Spot, Ticket};
use crate::journal::{ClaimId, Entry, IdempotencyRecord};
use crate::model::{Millis, ShardId};
use crate::redis::{Call, Redis, RedisError};
use redis::Pipeline;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// How often a request is sent again whose fate is unknown or that did not happen.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(250);

/// Why a journal could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("a block that came is not what a block should be")]
    Unreadable,
}

/// A journal being built.
#[derive(Debug)]
pub struct RedisLoader {
    redis: Redis,
    options: RedisJournalOptions,
    clock: Arc<dyn Clock>,
    writer: String,
    sequence: u64,
    /// Entries that are not done, and whether a part of them is.
    open: HashMap<Origin, (ShardId, Ticket)>,
    before: BTreeMap<ShardId, crate::journal::Sums>,
    letters: BTreeMap<ShardId, u32>,
}

/// Additions to one shard, and where their entries were, in the order in which these are laid out.
#[derive(Default)]
struct Draft {
    parts: Vec<Part>,
    origins: Vec<(Origin, Entry)>,
    /// Follow-up entries that belong to the next settlement or amendment.
    carried: Vec<Entry>,
}

impl RedisLoader {
    #[must_use]
    pub fn new(redis: &Redis, options: RedisJournalOptions, clock: Arc<dyn Clock>) -> Self {
        Self {
            redis: redis.clone(),
            options,
            clock,
            writer: format!("load{}", uuid::Uuid::new_v4().simple()),
            sequence: 0,
            open: HashMap::new(),
            before: BTreeMap::new(),
            letters: BTreeMap::new(),
        }
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// Redis does not take it, or it is not what it should be.
    pub async fn put(&mut self, frame: JournalFrame) -> Result<(), LoadError> {
        match frame {
            JournalFrame::Block(block) => self.block(&block).await,
            JournalFrame::Before(org, sums) => {
                let shard = ShardId::of(org, self.options.shards);
                self.before.entry(shard).or_default().add(&sums);
                Ok(())
            }
            JournalFrame::Canceled(cancel) => self.canceled(&cancel).await,
            JournalFrame::Letter(letter) => self.letter(letter).await,
        }
    }

    /// Puts the books right; answers what the journal holds.
    ///
    /// # Errors
    /// As for `put`.
    pub async fn finish(mut self) -> Result<JournalTotals, LoadError> {
        for (shard, before) in std::mem::take(&mut self.before) {
            self.add_books(shard, &before).await?;
        }
        let mut totals = JournalTotals::default();
        for shard in (0..self.options.shards).map(ShardId) {
            let (sums, letters) = self.sums(shard).await?;
            let part = sums.books;
            totals.books.accepted += part.accepted;
            totals.books.dead_letters += part.dead_letters;
            totals.books.discarded += part.discarded;
            for (sum, part) in totals.books.finals.iter_mut().zip(part.finals) {
                *sum += part;
            }
            for (sum, part) in totals.books.reopened.iter_mut().zip(part.reopened) {
                *sum += part;
            }
            totals.pending += sums.pending;
            totals.timers += sums.timers;
            totals.letters += letters;
        }
        Ok(totals)
    }

    async fn sums(&self, shard: ShardId) -> Result<(Sums, u64), LoadError> {
        let key = self.redis.key(shard, "m");
        let mut pipe = Pipeline::new();
        let ask = pipe.cmd("HMGET").arg(&key);
        SUMS.iter().for_each(|name| {
            ask.arg(*name);
        });
        pipe.cmd("ZCARD").arg(self.redis.key(shard, "da"));
        let mut replies = self.redis.pipe(&key, pipe).await?.into_iter();
        let sums = Sums::of(replies.next().unwrap_or_default())?;
        Ok((sums, replies.next().as_ref().and_then(reply::number).unwrap_or(0)))
    }

    /// Adds to the books what the log does not tell. Says what they are then, and not by how much
    /// they change: sent twice it is the same.
    async fn add_books(
        &self,
        shard: ShardId,
        before: &crate::journal::Sums,
    ) -> Result<(), LoadError> {
        let key = self.redis.key(shard, "m");
        let (now, letters) = self.sums(shard).await?;
        let mut books = now.books;
        books.add(before);
        let gone = books.dead_letters.saturating_sub(letters);
        let mut pipe = Pipeline::new();
        let set = pipe.cmd("HSET").arg(&key);
        set.arg("accepted").arg(books.accepted).arg("dead").arg(books.dead_letters);
        set.arg("discarded").arg(books.discarded).arg("dead_dropped").arg(gone);
        for (slot, count) in books.finals.iter().enumerate() {
            set.arg(format!("f{slot}")).arg(*count);
        }
        for (slot, count) in books.reopened.iter().enumerate() {
            set.arg(format!("r{slot}")).arg(*count);
        }
        self.plain(&key, pipe).await
    }

    async fn canceled(&self, cancel: &DumpedCancel) -> Result<(), LoadError> {
        let shards = match cancel.org {
            Some(org) => vec![ShardId::of(org, self.options.shards)],
            // Every node heeds those of all shards that it reads.
            None => (0..self.options.shards).map(ShardId).collect(),
        };
        for shard in shards {
            let key = self.redis.key(shard, "x");
            let mut pipe = Pipeline::new();
            let id = cancel.notification.0.as_bytes().as_slice();
            pipe.cmd("ZADD").arg(&key).arg(cancel.at.0).arg(id);
            self.plain(&key, pipe).await?;
        }
        Ok(())
    }

    async fn letter(&mut self, letter: DumpedLetter) -> Result<(), LoadError> {
        let DumpedLetter { delivery, notification, org, at, copy } = letter;
        let shard = ShardId::of(org, self.options.shards);
        let ordinal = self.letters.entry(shard).or_default();
        // Before every block.
        let place = rows::place((0, *ordinal));
        *ordinal += 1;
        let id = delivery.0.as_bytes().as_slice();
        let org_bytes = org.0.to_be_bytes();
        let at = at.0.to_be_bytes();
        let value = [&place[..], notification.0.as_bytes(), &org_bytes, &at, &copy].concat();
        let row = [&place[..], id].concat();
        let key = |name: &str| self.redis.key(shard, name);
        let mut pipe = Pipeline::new();
        pipe.cmd("HSET").arg(key("d")).arg(id).arg(value);
        pipe.cmd("ZADD").arg(key("da")).arg(0).arg(&row);
        pipe.cmd("ZADD").arg(key(&format!("d:{}", org.0))).arg(0).arg(&row);
        self.plain(&key("d"), pipe).await
    }

    /// Sends commands that can be sent twice.
    async fn plain(&self, key: &[u8], pipe: Pipeline) -> Result<(), LoadError> {
        for _ in 1..TRIES {
            match self.redis.pipe(key, pipe.clone()).await {
                Err(error) if error.is_unknown() || error.is_temporary() => {
                    tokio::time::sleep(PAUSE).await;
                }
                sent => return Ok(sent.map(drop)?),
            }
        }
        Ok(self.redis.pipe(key, pipe).await.map(drop)?)
    }

    async fn block(&mut self, block: &DumpedBlock) -> Result<(), LoadError> {
        let mut drafts: BTreeMap<ShardId, Draft> = BTreeMap::new();
        let shards = self.options.shards;
        let mut keys = Vec::new();
        for (place, record) in block.records().ok_or(LoadError::Unreadable)? {
            let of = |org| ShardId::of(org, shards);
            match record {
                Record::Entry(entry) => {
                    let draft = drafts.entry(of(entry.org)).or_default();
                    draft.entry((block.shard(), place), entry);
                }
                Record::Settle(settle) => {
                    let shard = of(settle.org);
                    if let Some(ended) = self.ended(block.shard(), settle) {
                        drafts.entry(shard).or_default().settle(ended);
                    }
                }
                Record::Amend(amend) => {
                    let draft = drafts.entry(of(amend.org)).or_default();
                    let entries = std::mem::take(&mut draft.carried);
                    draft.parts.push(Part { entries, amended: vec![amend], ..Part::default() });
                }
                Record::Cancel(cancel) => {
                    let draft = drafts.entry(of(cancel.org)).or_default();
                    draft.parts.push(Part { cancels: vec![cancel], ..Part::default() });
                }
                Record::Idempotency(record) => keys.push(record),
            }
        }
        self.keys(block, keys, &mut drafts).await?;
        for (shard, draft) in drafts {
            self.commit(shard, draft, block.committed_at()).await?;
        }
        Ok(())
    }

    /// Keys of requests name no organization: they are found in every shard that may be asked.
    async fn keys(
        &self,
        block: &DumpedBlock,
        keys: Vec<IdempotencyRecord>,
        drafts: &mut BTreeMap<ShardId, Draft>,
    ) -> Result<(), LoadError> {
        let (now, ttl) = (self.clock.now(), millis(self.options.keys_ttl));
        let home = drafts.keys().next().copied();
        let home = home.unwrap_or(ShardId(block.shard().0 % self.options.shards.max(1)));
        for record in keys {
            let Some(left) = ttl.checked_sub(now.since(record.created)).filter(|left| *left > 0)
            else {
                continue;
            };
            let created = record.created.0.to_be_bytes();
            let value = [&record.body, created.as_slice(), &record.answer].concat();
            for shard in (0..self.options.shards).map(ShardId).filter(|shard| *shard != home) {
                let key = [self.redis.key(shard, "k:").as_slice(), &record.key].concat();
                let mut pipe = Pipeline::new();
                pipe.cmd("SET").arg(&key).arg(&value).arg("PX").arg(left);
                self.plain(&key, pipe).await?;
            }
            let part = Part { idempotency: vec![record], ..Part::default() };
            drafts.entry(home).or_default().parts.push(part);
        }
        Ok(())
    }

    /// The settlement with the place that its entry has here; `None` if there is nothing in it.
    fn ended(&mut self, shard: ShardId, settle: SettleRecord) -> Option<Ended> {
        let origin = (shard, (settle.position, settle.index));
        let open = self.open.get(&origin).copied();
        if settle.done {
            self.open.remove(&origin);
        }
        if open.is_none() && settle.resolved.is_empty() && settle.events.is_empty() {
            return None;
        }
        let nowhere = Spot { position: 0, index: 0, extent: Default::default() };
        let ticket = open.map_or(Ticket::from_log(nowhere), |(_, ticket)| ticket);
        let Spot { position, index, .. } = ticket.spot;
        let settlement = settle.settlement(ClaimId { position, index, lease: 0 });
        let is_inherited = open.is_none();
        Some(Ended { settlement, ticket, has_parts: true, is_change: false, is_inherited })
    }

    async fn commit(
        &mut self,
        shard: ShardId,
        mut draft: Draft,
        now: Millis,
    ) -> Result<(), LoadError> {
        let rest = std::mem::take(&mut draft.carried);
        if !rest.is_empty() {
            draft.parts.push(Part { entries: rest, ..Part::default() });
        }
        self.sequence += 1;
        let terms = Terms {
            now,
            writer: &self.writer,
            sequence: self.sequence,
            fence: None,
            own: None,
            known: 0,
            known_mark: b"",
            retention_ms: millis(self.options.retention),
            keys_ttl_ms: millis(self.options.keys_ttl),
            tracks: self.options.tracks,
        };
        for part in &mut draft.parts {
            part.is_kept = self.options.tracks;
        }
        let mut parts: Vec<_> = draft.parts.iter_mut().collect();
        let plan = Plan::new(&mut parts, &terms);
        let call = Call::new(&COMMIT).key(self.redis.key(shard, "m")).arg(plan.program.clone());
        let call = plan.blocks.iter().fold(call, |call, block| call.arg(block.payload.clone()));
        let first = self.send(call).await?;
        // Entries that are due lie in the first block in their order, timers in the others.
        let mut spots: [Vec<Spot>; 2] = Default::default();
        for (position, block) in (first..).zip(&plan.blocks) {
            for (index, mark) in (0u32..).zip(&block.marks.entries) {
                let spot = Spot { position, index, extent: mark.extent };
                spots[usize::from(block.is_later)].push(spot);
            }
        }
        let [mut due, mut later] = spots.map(Vec::into_iter);
        for (origin, entry) in draft.origins {
            let is_timer = is_timer(entry.due, now);
            let spot = if is_timer { later.next() } else { due.next() };
            let spot = spot.ok_or(LoadError::Unreadable)?;
            let class = crate::journal::shard::class(entry.kind);
            let ticket = match is_timer {
                true => Ticket { spot, due: entry.due, class },
                false => Ticket { class: Class::First, ..Ticket::from_log(spot) },
            };
            self.open.insert(origin, (shard, ticket));
        }
        Ok(())
    }

    /// Sends until it is known that it happened; answers the position of its first block.
    async fn send(&self, call: Call) -> Result<u64, LoadError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let reply = self.redis.run_all(vec![call.clone()]).await.pop();
            match reply.unwrap_or_else(|| Err(RedisError::unexpected("no reply"))) {
                Ok(reply) => {
                    let first = reply::array(reply)?.into_iter().next();
                    let first = first.as_ref().and_then(reply::number);
                    return Ok(first.ok_or(RedisError::unexpected("a commit has no position"))?);
                }
                Err(error) if tries < TRIES && (error.is_unknown() || error.is_temporary()) => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Draft {
    fn entry(&mut self, origin: Origin, entry: Entry) {
        self.origins.push((origin, entry.clone()));
        if entry.kind.is_follow_up() {
            self.carried.push(entry);
        } else {
            self.parts.push(Part { entries: vec![entry], ..Part::default() });
        }
    }

    fn settle(&mut self, mut ended: Ended) {
        ended.settlement.follow_ups = std::mem::take(&mut self.carried);
        self.parts.push(Part { settles: vec![ended], ..Part::default() });
    }
}
