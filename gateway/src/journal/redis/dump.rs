//! Reading the journal of all shards out, to carry it to another store, while nobody writes.
//!
//! Shards are merged by the time of their commits. What one script added is one block again, with
//! the timers in front of the settlement that left them behind, as they stand on disk.

use super::reply::{self, SUMS, Stored, Sums};
use super::rows;
use crate::journal::dump::{
    DumpedBlock, DumpedCancel, DumpedLetter, JournalFrame, JournalTotals, Placed, Tally, ended,
    put_over, rest_of,
};
use crate::journal::record::{AmendRecord, Record, Records};
use crate::journal::shard::{Place, is_timer};
use crate::journal::{Entry, Resolution};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId, ShardId};
use crate::redis::{Redis, RedisError};
use bytes::Bytes;
use redis::{Pipeline, Value};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

/// Blocks of a shard that are read at once.
const PAGE: usize = 32;
/// Members of a sorted set that are read at once.
const ROWS: usize = 1_000;

/// Why a journal on Redis could not be read out.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("block {position} of shard {shard} holds what is no record of this release")]
    Unreadable { shard: ShardId, position: u64 },
    #[error(
        "shard {shard} counts {counted} entries as pending, and its log has {found}: repair it \
         with a backup"
    )]
    Unbalanced { shard: ShardId, counted: u64, found: u64 },
    #[error("the books of the journal do not add up")]
    Books,
    /// Nobody takes what is read.
    #[error("reading out the journal was stopped")]
    Stopped,
}

/// What is known of a shard beside its log.
#[derive(Debug)]
struct Beside {
    shard: ShardId,
    /// Blocks up to here are gone, but for those that were not finished.
    gone: u64,
    sums: Sums,
    left: HashSet<u64>,
    done: HashSet<Place>,
    due: HashMap<Place, Millis>,
    partial: HashMap<Place, Vec<DeliveryId>>,
    /// Changes of records, which are not carried.
    changes: u64,
}

/// The journal of a Redis on which nobody works.
#[derive(Debug)]
pub struct RedisDump {
    redis: Redis,
    shards: Vec<Beside>,
}

impl RedisDump {
    /// Reads what is known beside the log.
    ///
    /// # Errors
    /// Redis cannot be read.
    pub async fn open(redis: &Redis, shards: u16) -> Result<Self, DumpError> {
        let mut found = Vec::new();
        for shard in (0..shards).map(ShardId) {
            found.push(Beside::read(redis, shard).await?);
        }
        Ok(Self { redis: redis.clone(), shards: found })
    }

    /// True if the log of every shard is there from its beginning.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.shards.iter().all(|beside| beside.gone == 0)
    }

    /// Reads everything out; answers what it comes to.
    ///
    /// # Errors
    /// Redis cannot be read, or what it holds does not add up.
    pub async fn run(
        self,
        frames: &Sender<JournalFrame>,
    ) -> Result<(JournalTotals, Tally), DumpError> {
        let mut out = Out { frames, tally: Tally::default() };
        let mut streams = Vec::new();
        for beside in &self.shards {
            streams.push(Stream::open(&self.redis, beside).await?);
        }
        // By the time of the next block of each; there are few shards.
        while let Some(next) = earliest(&streams) {
            let Some(stream) = streams.get_mut(next) else { break };
            if let Some(block) = stream.take(&self.redis).await? {
                out.put(JournalFrame::Block(block)).await?;
            }
        }
        let mut total = crate::journal::Sums::default();
        for beside in &self.shards {
            let (org, part) = out.tally.of_shard(beside.shard);
            let before = rest_of(&beside.sums.books, &part);
            total.add(&before);
            total.add(&part);
            if before != crate::journal::Sums::default() {
                out.put(JournalFrame::Before(org, before)).await?;
            }
        }
        for beside in &self.shards {
            self.canceled(beside, &mut out).await?;
        }
        for beside in &self.shards {
            self.letters(beside, &mut out).await?;
        }
        for beside in &self.shards {
            let found = out.tally.pending_of(beside.shard);
            let counted = beside.sums.pending.saturating_sub(beside.changes);
            if found != counted {
                return Err(DumpError::Unbalanced { shard: beside.shard, counted, found });
            }
        }
        let totals = out.tally.totals().ok_or(DumpError::Books)?;
        let is_even = total.books().is_some_and(|books| books == totals.books);
        if is_even { Ok((totals, out.tally)) } else { Err(DumpError::Books) }
    }

    async fn canceled(&self, beside: &Beside, out: &mut Out<'_>) -> Result<(), DumpError> {
        let key = self.redis.key(beside.shard, "x");
        let mut ids = Vec::new();
        members(&self.redis, &key, |id, at| ids.push((id, at))).await?;
        for (id, at) in ids {
            let Ok(id) = Uuid::from_slice(&id) else { continue };
            let notification = NotificationId(id);
            if !out.tally.has_canceled(notification) {
                let cancel = DumpedCancel { notification, org: None, at: Millis(at) };
                out.put(JournalFrame::Canceled(cancel)).await?;
            }
        }
        Ok(())
    }

    async fn letters(&self, beside: &Beside, out: &mut Out<'_>) -> Result<(), DumpError> {
        let (ages, letters) =
            (self.redis.key(beside.shard, "da"), self.redis.key(beside.shard, "d"));
        let mut names = Vec::new();
        members(&self.redis, &ages, |row, _| names.push(row)).await?;
        for some in names.chunks(64) {
            let mut ask = redis::cmd("HMGET");
            ask.arg(&letters);
            let deliveries = || some.iter().filter_map(|row| row.get(12..));
            deliveries().for_each(|delivery| {
                ask.arg(delivery);
            });
            let found = reply::array(self.redis.query(&letters, ask).await?)?;
            for (delivery, value) in deliveries().zip(found) {
                let letter = reply::bytes(value).and_then(|value| letter(delivery, &value));
                if let Some(letter) = letter {
                    out.put(JournalFrame::Letter(letter)).await?;
                }
            }
        }
        Ok(())
    }
}

/// A dead letter as stored: place 12, notification 16, organization 4, at 8, copy.
fn letter(delivery: &[u8], value: &[u8]) -> Option<DumpedLetter> {
    let (notification, rest) = value.get(12..)?.split_first_chunk::<16>()?;
    let (org, rest) = rest.split_first_chunk::<4>()?;
    let (at, copy) = rest.split_first_chunk::<8>()?;
    Some(DumpedLetter {
        delivery: DeliveryId(Uuid::from_slice(delivery).ok()?),
        notification: NotificationId(Uuid::from_bytes(*notification)),
        org: OrganizationId(i32::from_be_bytes(*org)),
        at: Millis(u64::from_be_bytes(*at)),
        copy: copy.to_vec(),
    })
}

struct Out<'a> {
    frames: &'a Sender<JournalFrame>,
    tally: Tally,
}

impl Out<'_> {
    async fn put(&mut self, frame: JournalFrame) -> Result<(), DumpError> {
        self.tally.add(&frame);
        self.frames.send(frame).await.map_err(|_| DumpError::Stopped)
    }
}

/// Visits every member of a sorted set with its score.
pub(super) async fn members(
    redis: &Redis,
    key: &[u8],
    mut visit: impl FnMut(Bytes, u64),
) -> Result<(), RedisError> {
    for from in (0..).step_by(ROWS) {
        let mut ask = redis::cmd("ZRANGE");
        ask.arg(key).arg(from).arg(from + ROWS - 1).arg("WITHSCORES");
        let found = reply::array(redis.query(key, ask).await?)?;
        let count = found.len();
        let mut values = found.into_iter();
        while let (Some(member), Some(score)) = (values.next(), values.next()) {
            if let Some(member) = reply::bytes(member) {
                visit(member, whole(score));
            }
        }
        if count < 2 * ROWS {
            break;
        }
    }
    Ok(())
}

/// A score, which is a whole number below 2^53 that may be written with an exponent.
fn whole(score: Value) -> u64 {
    let text = reply::bytes(score).unwrap_or_default();
    let text = std::str::from_utf8(&text).unwrap_or_default();
    text.parse().unwrap_or_else(|_| {
        let score = text.parse::<f64>().unwrap_or(0.0);
        #[expect(clippy::cast_possible_truncation, reason = "instants are below 2^53")]
        #[expect(clippy::cast_sign_loss, reason = "instants are not negative")]
        let score = score as u64;
        score
    })
}

impl Beside {
    async fn read(redis: &Redis, shard: ShardId) -> Result<Self, DumpError> {
        let key = redis.key(shard, "m");
        let mut pipe = Pipeline::new();
        let sums = pipe.cmd("HMGET").arg(&key);
        SUMS.iter().for_each(|name| {
            sums.arg(*name);
        });
        pipe.cmd("HGET").arg(&key).arg("gone");
        pipe.cmd("HKEYS").arg(redis.key(shard, "left"));
        pipe.cmd("ZRANGE").arg(redis.key(shard, "alarm")).arg(0).arg(-1);
        pipe.cmd("ZCARD").arg(redis.key(shard, "chg"));
        let mut replies = redis.pipe(&key, pipe).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let (sums, gone) = (Sums::of(next())?, reply::number(&next()).unwrap_or(0));
        let left = reply::array(next())?.into_iter().filter_map(|id| reply::number(&id)).collect();
        let orgs = reply::array(next())?;
        let changes = reply::number(&next()).unwrap_or(0);
        let mut beside = Self {
            shard,
            gone,
            sums,
            left,
            done: HashSet::new(),
            due: HashMap::new(),
            partial: HashMap::new(),
            changes,
        };
        let (done, due, partial) = (&mut beside.done, &mut beside.due, &mut beside.partial);
        members(redis, &redis.key(shard, "done"), |row, _| {
            done.extend(rows::read_place(&row).map(|(place, _)| place));
        })
        .await?;
        for org in orgs.iter().filter_map(super::lane::organization) {
            members(redis, &redis.key(shard, &format!("t:{}", org.0)), |row, at| {
                due.extend(rows::read_place(&row).map(|(place, _)| (place, Millis(at))));
            })
            .await?;
        }
        members(redis, &redis.key(shard, "part"), |row, _| {
            if let Some((place, delivery)) = rows::read_place(&row)
                && let Some(delivery) = delivery.first_chunk::<16>()
            {
                let delivery = DeliveryId(Uuid::from_bytes(*delivery));
                partial.entry(place).or_default().push(delivery);
            }
        })
        .await?;
        Ok(beside)
    }

    fn is_open(&self, place: Place, is_timer: bool) -> bool {
        if is_timer {
            self.due.contains_key(&place)
        } else {
            self.left.contains(&place.0) && !self.done.contains(&place)
        }
    }

    /// One entry as it is carried.
    fn entry(
        &self,
        place: Place,
        mut entry: Entry,
        at: Millis,
        (records, ends): (&mut Vec<Placed>, &mut Vec<Placed>),
    ) {
        let is_timer = is_timer(entry.due, at);
        let is_open = self.is_open(place, is_timer);
        // Further on the settlements are there, too.
        if place.0 <= self.gone {
            if !is_open {
                put_over(place, entry, records, ends);
                return;
            }
            if let Some(partial) = self.partial.get(&place) {
                let record = ended(place, &entry, partial.clone(), false);
                ends.push((Place::default(), record));
            }
        }
        if is_timer && is_open {
            entry.due = self.due.get(&place).copied().unwrap_or(entry.due);
        }
        records.push((place, Record::Entry(entry)));
    }

    /// The blocks of one commit as one.
    fn block(&self, commit: Vec<Stored>) -> Result<Option<DumpedBlock>, DumpError> {
        let at = Millis(commit.first().map_or(0, |stored| stored.committed_at));
        let (mut first, mut later, mut ends) = (Vec::new(), VecDeque::new(), Vec::new());
        for (number, stored) in commit.into_iter().enumerate() {
            let position = stored.position;
            let mut index = 0;
            let mut found = Vec::new();
            for record in Records::new(stored.payload) {
                let unreadable = DumpError::Unreadable { shard: self.shard, position };
                match record.ok_or(unreadable)? {
                    Record::Entry(entry) => {
                        let place = (position, index);
                        index += 1;
                        self.entry(place, entry, at, (&mut found, &mut ends));
                    }
                    other => found.push((Place::default(), other)),
                }
            }
            if number == 0 {
                first = found;
            } else {
                later.extend(found);
            }
        }
        let mut records = together(first, later);
        records.append(&mut ends);
        Ok(DumpedBlock::of((self.shard, at), records))
    }
}

/// The records of one commit, each entry with its place.
pub(super) fn commits(shard: ShardId, commit: Vec<Stored>) -> Result<Vec<Placed>, DumpError> {
    let (mut first, mut later) = (Vec::new(), VecDeque::new());
    for (number, stored) in commit.into_iter().enumerate() {
        let (position, mut index) = (stored.position, 0);
        let mut found = Vec::new();
        for record in Records::new(stored.payload) {
            let record = record.ok_or(DumpError::Unreadable { shard, position })?;
            let is_entry = matches!(record, Record::Entry(_));
            found.push((if is_entry { (position, index) } else { Place::default() }, record));
            index += u32::from(is_entry);
        }
        if number == 0 {
            first = found;
        } else {
            later.extend(found);
        }
    }
    Ok(together(first, later))
}

/// Puts timers that a settlement left behind in front of it, as they came in its order; and those that
/// carry on what is sent again in front of that.
fn together(first: Vec<Placed>, mut later: VecDeque<Placed>) -> Vec<Placed> {
    let mut moved: BTreeMap<NotificationId, usize> = BTreeMap::new();
    for (_, record) in &first {
        if let Record::Settle(settle) = record {
            *moved.entry(settle.notification).or_default() += moves(settle);
        }
    }
    let mut records = Vec::with_capacity(first.len() + later.len());
    for (place, record) in first {
        if let Record::Settle(settle) = &record {
            let left = moved.entry(settle.notification).or_default();
            let own = moves(settle);
            *left -= own.min(*left);
            // Whoever is the last one has the rest: one timer may carry several deliveries.
            let mut wanted = if *left == 0 { usize::MAX } else { own };
            let mut others = VecDeque::new();
            while let Some((at, timer)) = later.pop_front() {
                let is_own = matches!(&timer, Record::Entry(entry)
                    if entry.notification == settle.notification && entry.kind.is_follow_up());
                if is_own && wanted > 0 {
                    wanted -= 1;
                    records.push((at, timer));
                } else {
                    others.push_back((at, timer));
                }
            }
            later = others;
        }
        if let Record::Amend(amend) = &record
            && !records.last().is_some_and(|(_, last)| carries(last, amend))
            && let Some(at) = later.iter().position(|(_, timer)| carries(timer, amend))
        {
            records.extend(later.remove(at));
        }
        records.push((place, record));
    }
    records.extend(later);
    records
}

/// True for what a delivery that is sent again goes on with.
fn carries(record: &Record, amend: &AmendRecord) -> bool {
    matches!(record, Record::Entry(entry)
        if amend.is_reopened && entry.notification == amend.notification && entry.kind.is_follow_up())
}

fn moves(settle: &crate::journal::record::SettleRecord) -> usize {
    settle.resolved.iter().filter(|(_, resolution)| *resolution == Resolution::Moved).count()
}

/// One shard's log, read from its beginning.
struct Stream<'a> {
    beside: &'a Beside,
    key: Vec<u8>,
    next: u64,
    waiting: VecDeque<Stored>,
    is_all: bool,
}

fn earliest(streams: &[Stream<'_>]) -> Option<usize> {
    let times = streams.iter().enumerate().filter_map(|(number, stream)| {
        stream.waiting.front().map(|stored| (stored.committed_at, number))
    });
    times.min().map(|(_, number)| number)
}

impl<'a> Stream<'a> {
    async fn open(redis: &Redis, beside: &'a Beside) -> Result<Self, DumpError> {
        let key = redis.key(beside.shard, "q");
        let mut stream = Self { beside, key, next: 0, waiting: VecDeque::new(), is_all: false };
        stream.fill(redis).await?;
        Ok(stream)
    }

    /// Reads on until the whole of the next commit is there.
    async fn fill(&mut self, redis: &Redis) -> Result<(), DumpError> {
        while !self.is_all && self.waiting.iter().all(|stored| self.is_of_first(stored)) {
            let mut range = redis::cmd("XRANGE");
            range.arg(&self.key).arg(format!("{}-0", self.next)).arg("+").arg("COUNT").arg(PAGE);
            let found = Stored::all(redis.query(&self.key, range).await?)?;
            self.is_all = found.len() < PAGE;
            self.next = found.last().map_or(self.next, |last| last.position + 1);
            self.waiting.extend(found);
        }
        Ok(())
    }

    fn is_of_first(&self, stored: &Stored) -> bool {
        self.waiting.front().is_none_or(|first| first.mark == stored.mark)
    }

    async fn take(&mut self, redis: &Redis) -> Result<Option<DumpedBlock>, DumpError> {
        let mut commit: Vec<Stored> = Vec::new();
        let is_same = |commit: &[Stored], stored: &Stored| {
            commit
                .last()
                .is_none_or(|last| last.mark == stored.mark && last.position + 1 == stored.position)
        };
        while let Some(stored) = self.waiting.pop_front_if(|stored| is_same(&commit, stored)) {
            commit.push(stored);
        }
        self.fill(redis).await?;
        self.beside.block(commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::EntryKind;
    use crate::model::FinalState;

    #[test]
    fn what_carries_a_delivery_on_that_is_sent_again_later_stands_before_its_amendment() {
        let amendment = |id: u128| {
            Record::Amend(AmendRecord {
                delivery: DeliveryId(Uuid::from_u128(id)),
                notification: NotificationId(Uuid::from_u128(id)),
                org: OrganizationId(101),
                from: FinalState::Dead,
                is_reopened: true,
                event: Bytes::new(),
            })
        };
        let timer = |id: u128| {
            Record::Entry(Entry {
                notification: NotificationId(Uuid::from_u128(id)),
                org: OrganizationId(101),
                kind: EntryKind::FollowUp,
                due: Millis(9),
                payload: Bytes::new(),
            })
        };
        let nowhere = Place::default();
        let first = vec![(nowhere, amendment(1)), (nowhere, amendment(2))];
        let later = VecDeque::from([((8, 0), timer(2)), ((8, 1), timer(1))]);
        let places = together(first, later).into_iter().map(|(place, _)| place);
        assert_eq!(places.collect::<Vec<_>>(), [(8, 1), nowhere, (8, 0), nowhere]);
    }
}
