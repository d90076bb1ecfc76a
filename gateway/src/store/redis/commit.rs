//! Commits over one shard or several: prepared everywhere, decided in one, done everywhere.
//!
//! ```text
//!  other shards      prepare: lock, compare, keep the writes beside ──► ok
//!  deciding shard                                  compare, write, journal, mark ◄── the commit
//!  other shards      finish: make the writes, unlock                    ◄── whoever comes first
//! ```
//!
//! Whoever finds a lock asks the deciding shard: decided there, it is done here; not decided and
//! old, it is ended there, and nothing of it happens. One shard needs one script. What was decided
//! stays on a list until every shard has it: the sweep ends what a crash left.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tokio::time::Instant;

use super::plan::{Part, Plan};
use super::scripts::{COMMIT, DONE, FINISH, RESOLVE};
use super::wire::{CommitId, Holder, Wire, array, bytes, may_pass, number, pairs};
use crate::model::{Millis, ShardId};
use crate::redis::{Call, RedisError};

/// How long a step is asked for again whose answer is not known.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a commit ended.
#[derive(Debug)]
pub(super) enum Ended {
    Made,
    /// What was read is not so any more, or somebody else is at it: read again. Nothing was made.
    Changed,
}

/// What the deciding shard's journal takes in the same script: additions of several parts each.
pub(super) type Appended = Vec<Vec<Bytes>>;

/// What a step of a commit answered.
enum Answer {
    Done,
    Changed,
    Locked(Holder, Duration),
}

impl Wire {
    /// Makes what `plan` says, all of it or nothing.
    ///
    /// # Errors
    /// Nothing was made, or, after one that `is_unknown`, it may have been.
    pub(super) async fn commit(
        &self,
        plan: &Plan,
        decider: ShardId,
        appended: &Appended,
    ) -> Result<Ended, RedisError> {
        let id: CommitId = *uuid::Uuid::new_v4().as_bytes();
        let others = || plan.parts.iter().filter(|(shard, _)| **shard != decider);
        let shards: Vec<ShardId> = others().map(|(shard, _)| *shard).collect();
        if !shards.is_empty() {
            let decided_by = decider.0.to_be_bytes();
            let calls = others()
                .map(|(shard, part)| self.call(b"p", id, (*shard, part), &decided_by, &Vec::new()));
            match self.prepare(calls.collect(), &shards).await {
                Ok(true) => {}
                stopped => {
                    self.finish(id, &shards, b"a").await;
                    return stopped.map(|_| Ended::Changed);
                }
            }
        }
        let all: Vec<u8> = shards.iter().flat_map(|shard| shard.0.to_be_bytes()).collect();
        let nothing = Part::default();
        let part = plan.parts.get(&decider).unwrap_or(&nothing);
        let call = self.call(b"c", id, (decider, part), &all, appended);
        match self.decide(call, (id, decider)).await {
            Ok(Answer::Done) => {
                if !shards.is_empty() {
                    self.complete(id, decider, &shards).await;
                }
                Ok(Ended::Made)
            }
            Ok(_) => {
                self.finish(id, &shards, b"a").await;
                Ok(Ended::Changed)
            }
            // Whoever meets its locks finds out how it ended.
            Err(unknown) if unknown.is_unknown() => Err(unknown),
            Err(error) => {
                self.finish(id, &shards, b"a").await;
                Err(error)
            }
        }
    }

    fn call(
        &self,
        mode: &'static [u8],
        id: CommitId,
        (shard, part): (ShardId, &Part),
        others: &[u8],
        appended: &Appended,
    ) -> Call {
        let Part { locks, checks, ops } = part;
        // The first key is the journal's, the last one the records'.
        let mut call = Call::new(&COMMIT).key(self.redis.key(shard, "m")).key(self.base(shard));
        call = call.arg(mode).arg(id.to_vec()).arg(others.to_vec());
        call = call.number(locks.len() as u64).number(checks.len() as u64).number(ops.len() as u64);
        for lock in locks {
            call = call.arg(lock.clone());
        }
        for part in checks.iter().chain(ops).flatten() {
            call = call.arg(part.clone());
        }
        for parts in appended {
            call = parts
                .iter()
                .fold(call.number(parts.len() as u64), |call, part| call.arg(part.clone()));
        }
        call
    }

    /// True once every shard has prepared.
    async fn prepare(&self, mut calls: Vec<Call>, shards: &[ShardId]) -> Result<bool, RedisError> {
        let (mut shards, started) = (shards.to_vec(), Instant::now());
        for tries in 0.. {
            let replies = self.steps(calls.clone()).await;
            let (mut again, mut again_in) = (Vec::new(), Vec::new());
            let mut is_good = true;
            for ((call, shard), reply) in calls.into_iter().zip(shards).zip(replies) {
                match reply {
                    Ok(reply) => match answer(reply)? {
                        Answer::Done => {}
                        Answer::Changed => is_good = false,
                        Answer::Locked(holder, age) => {
                            self.resolve(shard, holder, age).await.map_err(certain)?;
                            is_good = false;
                        }
                    },
                    Err(error) if started.elapsed() < PATIENCE && may_pass(&error) => {
                        again.push(call);
                        again_in.push(shard);
                    }
                    Err(error) => return Err(certain(error)),
                }
            }
            if !is_good || again.is_empty() {
                return Ok(is_good);
            }
            pause(tries).await;
            (calls, shards) = (again, again_in);
        }
        Ok(false)
    }

    async fn decide(
        &self,
        call: Call,
        (id, decider): (CommitId, ShardId),
    ) -> Result<Answer, RedisError> {
        let (mut unknown, started) = (None, Instant::now());
        for tries in 0.. {
            let reply = self.steps(vec![call.clone()]).await.pop();
            match reply.unwrap_or_else(|| Err(RedisError::unexpected("no reply"))) {
                Ok(reply) => {
                    let answer = answer(reply)?;
                    if let Some(unknown) = unknown.filter(|_| !matches!(answer, Answer::Done)) {
                        // An earlier request may still arrive: after this it is too late.
                        return self.end(id, decider).await.ok_or(unknown);
                    }
                    if let Answer::Locked(holder, age) = answer {
                        self.resolve(decider, holder, age).await.map_err(certain)?;
                    }
                    return Ok(answer);
                }
                // The same commit is made once, however often it is asked for.
                Err(error) if error.is_unknown() => unknown = Some(error),
                Err(error) if error.is_temporary() && unknown.is_some() => {}
                Err(error) => return Err(unknown.unwrap_or(error)),
            }
            if started.elapsed() >= PATIENCE {
                break;
            }
            pause(tries).await;
        }
        Err(unknown.unwrap_or(RedisError::Busy))
    }

    /// Ends a commit of ours where it is decided, unless it was made; `None` if that is not known.
    async fn end(&self, id: CommitId, decider: ShardId) -> Option<Answer> {
        let reply = self.redis.run(&RESOLVE, &[&self.base(decider)], &[&id, b"1"]).await.ok()?;
        match bytes(&reply)?.first()? {
            b'c' => Some(Answer::Done),
            _ => Some(Answer::Changed),
        }
    }

    /// Makes in `shards` what was decided, and lets go of how, once all have it.
    async fn complete(&self, id: CommitId, decider: ShardId, shards: &[ShardId]) {
        if self.finish(id, shards, b"c").await {
            let done = Call::new(&DONE).key(self.base(decider)).arg(id.to_vec());
            drop(self.steps(vec![done]).await);
        }
    }

    /// Does what was prepared, or forgets it; true if every shard did.
    async fn finish(&self, id: CommitId, shards: &[ShardId], ended: &'static [u8]) -> bool {
        let calls = shards
            .iter()
            .map(|shard| Call::new(&FINISH).key(self.base(*shard)).arg(id.to_vec()).arg(ended));
        let replies = self.steps(calls.collect()).await;
        replies.iter().all(Result::is_ok)
    }

    /// Ends or finishes every commit that nobody goes on with; answers how many locks it looked at.
    ///
    /// # Errors
    /// Some shards could not be asked: the others are swept.
    pub(super) async fn sweep(&self) -> Result<usize, RedisError> {
        let (mut seen, mut failed) = (0, None);
        for shard in (0..self.shards).map(ShardId) {
            match self.sweep_shard(shard).await {
                Ok(locks) => seen += locks,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(seen), Err)
    }

    async fn sweep_shard(&self, shard: ShardId) -> Result<usize, RedisError> {
        let key = |name: &[u8]| [&self.base(shard), name].concat();
        let mut ask = redis::Pipeline::new();
        ask.cmd("TIME").cmd("HVALS").arg(key(b"locks")).cmd("HGETALL").arg(key(b"open"));
        let mut replies = self.redis.pipe(&self.base(shard), ask).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil);
        // The locks carry the time of this server, not of this process.
        let now = now(&next());
        let mut holders: Vec<Holder> =
            array(next())?.iter().filter_map(|value| Holder::parse(bytes(value)?)).collect();
        let seen = holders.len();
        holders.sort_unstable();
        holders.dedup();
        for holder in holders {
            self.resolve(shard, holder, holder.age(now)).await?;
        }
        for (id, others) in pairs(next())? {
            let others = others.chunks_exact(2).filter_map(|shard| shard.try_into().ok());
            let others: Vec<_> = others.map(|shard| ShardId(u16::from_be_bytes(shard))).collect();
            if let Ok(id) = id.try_into() {
                self.complete(id, shard, &others).await;
            }
        }
        Ok(seen)
    }
}

/// The answer of `TIME`: seconds and microseconds.
fn now(time: &Value) -> Millis {
    let Value::Array(parts) = time else { return Millis(0) };
    let mut parts = parts.iter().map(|part| number(part).unwrap_or_default());
    let (seconds, micros) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    Millis(seconds.saturating_mul(1_000) + micros / 1_000)
}

/// What was only prepared has not happened, whatever was answered.
fn certain(error: RedisError) -> RedisError {
    if error.is_unknown() {
        return RedisError::Unreachable { node: String::from("a shard"), what: error.to_string() };
    }
    error
}

async fn pause(tries: u32) {
    tokio::time::sleep(Duration::from_millis(20 << tries.min(6))).await;
}

fn answer(reply: Value) -> Result<Answer, RedisError> {
    let unexpected = || RedisError::unexpected("a commit of records without its answer");
    let mut parts = array(reply)?.into_iter();
    let kind = parts.next().ok_or_else(unexpected)?;
    match bytes(&kind).and_then(<[u8]>::first) {
        Some(b'p' | b'c') => Ok(Answer::Done),
        Some(b's') => Ok(Answer::Changed),
        Some(b'm') => {
            let marker = parts.next().ok_or_else(unexpected)?;
            let is_made = bytes(&marker).and_then(<[u8]>::first) == Some(&b'c');
            Ok(if is_made { Answer::Done } else { Answer::Changed })
        }
        Some(b'l') => {
            let (holder, now) = (parts.next().ok_or_else(unexpected)?, parts.next());
            let holder = bytes(&holder).and_then(Holder::parse).ok_or_else(unexpected)?;
            let age = now.as_ref().and_then(number).map(|now| holder.age(Millis(now)));
            Ok(Answer::Locked(holder, age.unwrap_or_default()))
        }
        _ => Err(unexpected()),
    }
}
