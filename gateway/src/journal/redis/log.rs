//! The log of one shard and what Redis keeps beside it, read while others go on writing.
//!
//! Books, counts and the last position are read at one instant; the log is read up to there. What is
//! read beside them later can only have changed in ways that the position tells.

use super::dump::{DumpError, commits, members};
use super::lane::{backlog, organization};
use super::reply::{self, SUMS, Stored, Sums};
use super::rows;
use super::scripts::SUMMED;
use crate::journal::disk::{LoggedBlock, logged_at};
use crate::journal::shard::Place;
use crate::journal::{Backlog, Books};
use crate::model::{Millis, OrganizationId, ShardId};
use crate::redis::{Call, Redis, RedisError};
use bytes::Bytes;
use redis::Pipeline;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;

/// Blocks that are read at once.
const PAGE: usize = 32;

/// What Redis has counted in one shard, at one position of its log.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// The last block that is counted.
    pub position: u64,
    /// Blocks up to here are gone, but for those that were not finished.
    pub gone: u64,
    /// The shard was built from another store, which had dropped something.
    pub is_built: bool,
    pub books: Books,
    pub pending: u64,
    pub timers: u64,
    pub backlogs: BTreeMap<OrganizationId, Backlog>,
}

/// What Redis finds entries and outcomes by, as it was a little later.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// How many entries that were due are left of each block.
    pub left: HashMap<u64, u64>,
    /// Entries of these blocks that are done.
    pub done: HashSet<Place>,
    pub timers: HashSet<Place>,
    /// Dead letters that this log made.
    pub dead_letters: u64,
    /// Nothing was written since the position of [`Counted`].
    pub is_still: bool,
    /// Nothing was dropped.
    pub is_whole: bool,
}

/// One shard's log.
#[derive(Debug)]
pub struct RedisLog {
    redis: Redis,
    shard: ShardId,
    counted: Counted,
    /// Nothing behind this position is read.
    until: Option<u64>,
    next: u64,
    waiting: VecDeque<Stored>,
    is_all: bool,
}

impl RedisLog {
    /// Reads what is counted; the log is read up to there.
    ///
    /// # Errors
    /// Redis cannot be read.
    pub async fn open(redis: &Redis, shard: ShardId) -> Result<Self, RedisError> {
        let counted = Counted::read(redis, shard).await?;
        let (redis, waiting, until) = (redis.clone(), VecDeque::new(), Some(counted.position));
        Ok(Self { redis, shard, counted, until, next: 0, waiting, is_all: false })
    }

    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    #[must_use]
    pub fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Begins at the first block again; to the present end, or only as far as is counted.
    pub fn rewind(&mut self, to_the_end: bool) {
        self.waiting.clear();
        (self.next, self.is_all) = (0, false);
        self.until = (!to_the_end).then_some(self.counted.position);
    }

    /// The next commit as one block, with the place of each entry, and the positions of its blocks.
    ///
    /// # Errors
    /// Redis cannot be read, or a block is none of this release.
    pub async fn next(&mut self) -> Result<Option<(LoggedBlock, Vec<u64>)>, DumpError> {
        self.fill().await?;
        let mut commit: Vec<Stored> = Vec::new();
        while let Some(stored) = self.waiting.pop_front_if(|stored| {
            commit.last().is_none_or(|last: &Stored| {
                last.mark == stored.mark && last.position + 1 == stored.position
            })
        }) {
            commit.push(stored);
            self.fill().await?;
        }
        let Some(first) = commit.first() else { return Ok(None) };
        let (position, at) = (first.position, Millis(first.committed_at));
        let positions = commit.iter().map(|stored| stored.position).collect();
        let records = commits(self.shard, commit)?;
        let records =
            records.into_iter().filter_map(|(place, record)| logged_at(place, record, at));
        let block = LoggedBlock {
            file: PathBuf::from(format!("shard {}", self.shard.0)),
            byte: 0,
            position,
            at,
            records: records.collect(),
        };
        Ok(Some((block, positions)))
    }

    /// Reads on until something waits.
    async fn fill(&mut self) -> Result<(), RedisError> {
        let key = self.redis.key(self.shard, "q");
        while !self.is_all && self.waiting.is_empty() {
            let mut range = redis::cmd("XRANGE");
            let end = self.until.map_or_else(|| String::from("+"), |until| format!("{until}-0"));
            range.arg(&key).arg(format!("{}-0", self.next)).arg(end).arg("COUNT").arg(PAGE);
            let found = Stored::all(self.redis.query(&key, range).await?)?;
            self.is_all = found.len() < PAGE;
            self.next = found.last().map_or(self.next, |last| last.position + 1);
            self.waiting.extend(found);
        }
        Ok(())
    }

    /// What stands beside the log now.
    ///
    /// # Errors
    /// Redis cannot be read.
    pub async fn beside(&self) -> Result<Beside, RedisError> {
        let key = |name: &str| self.redis.key(self.shard, name);
        let mut pipe = Pipeline::new();
        pipe.cmd("HGETALL").arg(key("left"));
        pipe.cmd("ZRANGE").arg(key("alarm")).arg(0).arg(-1);
        let mut replies = self.redis.pipe(&key("m"), pipe).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let left = super::keeper::pairs(next())?;
        let left = left.filter_map(|(id, left)| Some((reply::number(&id)?, reply::number(&left)?)));
        let left = left.collect();
        let orgs = reply::array(next())?;
        let mut timers = HashSet::new();
        for org in orgs.iter().filter_map(organization) {
            members(&self.redis, &key(&format!("t:{}", org.0)), |row: Bytes, _| {
                timers.extend(rows::read_place(&row).map(|(place, _)| place));
            })
            .await?;
        }
        let mut dead_letters = 0;
        members(&self.redis, &key("da"), |row: Bytes, _| {
            // Those of another store stand before the first block: this log did not make them.
            let is_own = rows::read_place(&row).is_some_and(|((position, _), _)| position > 0);
            dead_letters += u64::from(is_own);
        })
        .await?;
        let mut done = HashSet::new();
        members(&self.redis, &key("done"), |row: Bytes, _| {
            done.extend(rows::read_place(&row).map(|(place, _)| place));
        })
        .await?;
        let now = Counted::read(&self.redis, self.shard).await?;
        Ok(Beside {
            left,
            done,
            timers,
            dead_letters,
            is_still: now.position == self.counted.position,
            is_whole: now.gone == self.counted.gone,
        })
    }

    /// Blocks that have a row among the outcomes of an organization.
    ///
    /// # Errors
    /// Redis cannot be read.
    pub async fn outcomes(&self, org: OrganizationId) -> Result<HashSet<u64>, RedisError> {
        let key = self.redis.key(self.shard, &format!("o:{}", org.0));
        let mut found = HashSet::new();
        members(&self.redis, &key, |row: Bytes, _| {
            let position = row.get(8..).and_then(<[u8]>::first_chunk::<8>);
            found.extend(position.map(|position| u64::from_be_bytes(*position)));
        })
        .await?;
        Ok(found)
    }
}

impl Counted {
    async fn read(redis: &Redis, shard: ShardId) -> Result<Self, RedisError> {
        let call = Call::new(&SUMMED).key(redis.key(shard, "m"));
        let call = SUMS.iter().fold(call, |call, name| call.arg(name.as_bytes()));
        let reply = redis.run_all(vec![call]).await.pop();
        let reply = reply.unwrap_or_else(|| Err(RedisError::unexpected("no reply")))?;
        let mut parts = reply::array(reply)?.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        let numbers = [next(), next(), next()];
        let [position, gone, built] = numbers.map(|part| reply::number(&part).unwrap_or(0));
        let Sums { books, pending, timers, .. } = Sums::of(next())?;
        let backlogs = super::keeper::pairs(next())?;
        let backlogs = backlogs.filter_map(|(org, counts)| {
            Some((organization(&org)?, backlog(&reply::bytes(counts)?)))
        });
        let backlogs = backlogs.collect();
        Ok(Self { position, gone, is_built: built > 0, books, pending, timers, backlogs })
    }

    /// The log is there from its beginning.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.gone == 0 && !self.is_built
    }
}
