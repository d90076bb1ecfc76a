//! Reads and steps of commits as calls of scripts, and what becomes of locks that are found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::gather::Gather;
use super::overlay::Cell;
use super::places::{Form, Place, form, version_key};
use super::scripts::{FINISH, READ, RESOLVE};
use crate::model::{Millis, OrganizationId, ShardId};
use crate::redis::{Call, Redis, RedisError};
use crate::store::changes::tables::{Table, successor};

/// Reads in one call; more go into a further one.
pub(super) const READS_AT_ONCE: usize = 8_000;
/// How often a read looks again because of locks that were just resolved.
const TRIES_MAX: u32 = 8;
/// How long a read is tried while Redis is away: then its caller is told.
const PATIENCE: Duration = Duration::from_secs(2);
/// Commits that nobody went on with for so long are ended by whoever meets them.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// Names one commit.
pub(super) type CommitId = [u8; 16];

/// One read of a cell or of a stretch of members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ask {
    place: Place,
    lock: Vec<u8>,
    code: &'static str,
    key: Vec<u8>,
    args: [Vec<u8>; 3],
}

fn text(number: usize) -> Vec<u8> {
    // Redis takes a negative limit for none.
    i64::try_from(number).map_or_else(|_| b"-1".to_vec(), |number| number.to_string().into_bytes())
}

/// A bound of a range of members: `mark` is `[` or `(`.
fn bound(mark: u8, key: &[u8]) -> Vec<u8> {
    [&[mark], key].concat()
}

fn below(prefix: &[u8]) -> Vec<u8> {
    successor(prefix).map_or_else(|| b"+".to_vec(), |end| bound(b'(', &end))
}

impl Ask {
    fn new(
        place: Place,
        table: Table,
        field: &[u8],
        code: &'static str,
        args: [Vec<u8>; 3],
    ) -> Self {
        Self { place, lock: place.lock(table, field), code, key: place.key(table), args }
    }

    pub(super) fn shard(&self, shards: u16) -> ShardId {
        self.place.shard(shards)
    }

    pub(super) fn cell(cell: &Cell) -> Self {
        let Cell { place, table, field } = cell;
        let args = [field.clone(), Vec::new(), Vec::new()];
        let code = if form(*table) == Form::Index { "s" } else { "g" };
        let mut key = place.key(*table);
        if form(*table) == Form::Sorted {
            key.push(b'=');
        }
        Self { place: *place, lock: place.lock(*table, field), code, key, args }
    }

    /// Whether a field of a hash is there.
    pub(super) fn is_there(place: Place, table: Table, field: &[u8]) -> Self {
        Self::new(place, table, field, "x", [field.to_vec(), Vec::new(), Vec::new()])
    }

    /// The first `limit` members that start with the cell's field, with the values they have.
    pub(super) fn first(cell: &Cell, limit: usize) -> Self {
        let with_values = form(cell.table) == Form::Sorted;
        Self::members((cell.place, cell.table), &cell.field, None, limit, with_values)
    }

    pub(super) fn last(cell: &Cell) -> Self {
        let args = [below(&cell.field), bound(b'[', &cell.field), text(1)];
        Self::new(cell.place, cell.table, &cell.field, "r", args)
    }

    /// Members from `from` on, with their values if `with_values`.
    pub(super) fn members(
        (place, table): (Place, Table),
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        with_values: bool,
    ) -> Self {
        let from = after.map_or_else(|| bound(b'[', prefix), |after| bound(b'(', after));
        let args = [from, below(prefix), text(limit)];
        Self::new(place, table, prefix, if with_values { "e" } else { "k" }, args)
    }

    /// Rows that start with `prefix` and lie before `before`, the last one first.
    pub(super) fn rows_back(
        (place, table): (Place, Table),
        prefix: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Self {
        let from = before.map_or_else(|| below(prefix), |before| bound(b'(', before));
        let args = [from, bound(b'[', prefix), text(limit)];
        Self::new(place, table, prefix, "f", args)
    }

    /// Members by their rank.
    pub(super) fn ranks(place: Place, table: Table, offset: u64, limit: usize) -> Self {
        let last = offset.saturating_add(limit as u64).saturating_sub(1);
        let last = i64::try_from(last).unwrap_or(-1);
        let first = i64::try_from(offset).unwrap_or(i64::MAX);
        let args = [first.to_string().into_bytes(), last.to_string().into_bytes(), Vec::new()];
        Self::new(place, table, &[], "i", args)
    }

    pub(super) fn version(org: OrganizationId) -> Self {
        let place = Place::Org(org);
        let lock = place.lock(Table::Meta, &[]);
        Self { place, lock, code: "v", key: version_key(org), args: Default::default() }
    }

    pub(super) fn everything(place: Place, table: Table) -> Self {
        Self::new(place, table, &[], "a", Default::default())
    }

    /// Entries of a stream of the shard after `after`.
    pub(super) fn stream(place: Place, key: &str, after: &str, limit: usize) -> Self {
        let args = [format!("({after}").into_bytes(), b"+".to_vec(), text(limit)];
        Self { place, lock: Vec::new(), code: "m", key: key.as_bytes().to_vec(), args }
    }
}

/// The records' way to Redis.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) redis: Redis,
    pub(super) shards: u16,
    pub(super) stale_after: Duration,
    pub(super) gather: Gather,
    /// Steps of commits until they stop for good, as in a crash.
    #[cfg(test)]
    pub(super) steps_left: std::sync::Arc<std::sync::atomic::AtomicI64>,
    /// What was sent last and is still on its way, once this is set.
    #[cfg(test)]
    pub(super) late: super::tests::Late,
}

/// A lock somebody holds: by which commit, and where that is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) id: CommitId,
    decided_by: ShardId,
    /// By the clock of the server that has the lock.
    since: Millis,
}

impl Holder {
    /// Without end if the clock went back since: nobody can say how old it is, and a commit that
    /// still goes on is made again.
    pub(super) fn age(&self, now: Millis) -> Duration {
        now.0.checked_sub(self.since.0).map_or(Duration::MAX, Duration::from_millis)
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let (shard, since) = rest.split_first_chunk::<2>()?;
        let since = Millis(std::str::from_utf8(since).ok()?.parse().ok()?);
        Some(Self { id: *id, decided_by: ShardId(u16::from_be_bytes(*shard)), since })
    }
}

impl Wire {
    pub(super) fn new(redis: Redis, shards: u16) -> Self {
        Self {
            redis,
            shards,
            stale_after: STALE_AFTER,
            gather: Gather::new(shards),
            #[cfg(test)]
            steps_left: std::sync::Arc::new(i64::MAX.into()),
            #[cfg(test)]
            late: super::tests::Late::default(),
        }
    }

    /// Takes steps of a commit.
    pub(super) async fn steps(&self, calls: Vec<Call>) -> Vec<Result<Value, RedisError>> {
        #[cfg(test)]
        {
            use std::sync::atomic::Ordering;
            if let Some(late) = self.late.keep(&calls) {
                return late;
            }
            if self.steps_left.load(Ordering::SeqCst) < i64::MAX {
                let mut replies = Vec::new();
                for call in calls {
                    replies.push(if self.steps_left.fetch_sub(1, Ordering::SeqCst) > 0 {
                        self.redis.run_all(vec![call]).await.remove(0)
                    } else {
                        Err(RedisError::unexpected("the process has crashed"))
                    });
                }
                return replies;
            }
        }
        self.redis.run_all(calls).await
    }

    pub(super) fn base(&self, shard: ShardId) -> Vec<u8> {
        self.redis.key(shard, "r:")
    }

    /// Reads, in one round trip unless something is locked; answers in the order of `asks`.
    ///
    /// Each shard answers as of one moment. What a commit decided elsewhere is there, whether it
    /// was done here before or not.
    pub(super) async fn read(&self, asks: &[Ask]) -> Result<Vec<Value>, RedisError> {
        match self.read_shared(asks).await {
            Some(found) => Ok(found),
            None => self.read_alone(asks).await,
        }
    }

    async fn read_alone(&self, asks: &[Ask]) -> Result<Vec<Value>, RedisError> {
        let mut groups: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for (number, ask) in asks.iter().enumerate() {
            groups.entry(ask.place.shard(self.shards)).or_default().push(number);
        }
        let mut groups: Vec<(ShardId, Vec<usize>)> = groups
            .into_iter()
            .flat_map(|(shard, numbers)| {
                let parts: Vec<_> = numbers.chunks(READS_AT_ONCE).map(<[usize]>::to_vec).collect();
                parts.into_iter().map(move |part| (shard, part))
            })
            .collect();
        let mut found: Vec<Value> = vec![Value::Nil; asks.len()];
        let started = Instant::now();
        for tries in 0.. {
            let calls = groups.iter().map(|(shard, numbers)| {
                self.read_call(*shard, numbers.iter().filter_map(|number| asks.get(*number)))
            });
            let replies = self.redis.run_all(calls.collect()).await;
            let (mut again, mut locked) = (Vec::new(), Vec::new());
            let mut locks = BTreeSet::new();
            for ((shard, numbers), reply) in groups.into_iter().zip(replies) {
                let reply = match reply {
                    Ok(reply) => reply,
                    Err(error) if started.elapsed() < PATIENCE && may_pass(&error) => {
                        again.push((shard, numbers));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let (held, values) = split(reply)?;
                if !held.is_empty() {
                    locks.extend(held.into_iter().map(|(holder, age)| (shard, holder, age)));
                    locked.push((shard, numbers.clone()));
                }
                for (number, value) in numbers.into_iter().zip(values) {
                    if let Some(slot) = found.get_mut(number) {
                        *slot = value;
                    }
                }
            }
            let mut has_moved = false;
            for (shard, holder, age) in locks {
                // Not decided before we asked: what was read is how it is.
                has_moved |= self.resolve(shard, holder, age).await?;
            }
            if has_moved {
                again.extend(locked);
            }
            if again.is_empty() {
                return Ok(found);
            }
            if tries >= TRIES_MAX && started.elapsed() >= PATIENCE {
                return Err(RedisError::Busy);
            }
            if tries > 0 {
                tokio::time::sleep(Duration::from_millis(10 << tries.min(6))).await;
            }
            groups = again;
        }
        Ok(found)
    }

    pub(super) fn read_call<'a>(
        &self,
        shard: ShardId,
        asks: impl Iterator<Item = &'a Ask> + Clone,
    ) -> Call {
        let locks: BTreeSet<&[u8]> = asks.clone().map(|ask| ask.lock.as_slice()).collect();
        let mut call = Call::new(&READ).key(self.base(shard)).number(locks.len() as u64);
        for lock in locks {
            call = call.arg(lock.to_vec());
        }
        for ask in asks {
            call = call.arg(ask.code.as_bytes().to_vec()).arg(ask.key.clone());
            for arg in &ask.args {
                call = call.arg(arg.clone());
            }
        }
        call
    }

    /// Asks how the commit that holds a lock in `shard` ended, and does here what follows from it.
    /// Answers whether anything did: not while it may still go on.
    pub(super) async fn resolve(
        &self,
        shard: ShardId,
        holder: Holder,
        age: Duration,
    ) -> Result<bool, RedisError> {
        let base = self.base(holder.decided_by);
        let is_stale: &'static [u8] = if age >= self.stale_after { b"1" } else { b"0" };
        let call = Call::new(&RESOLVE).key(base).arg(holder.id.to_vec()).arg(is_stale);
        let reply = self.steps(vec![call]).await.pop();
        let reply = reply.unwrap_or_else(|| Err(RedisError::unexpected("no reply")))?;
        let ended: &[u8] = match bytes(&reply).and_then(<[u8]>::first) {
            Some(b'c') => b"c",
            Some(b'a') => b"a",
            _ => return Ok(false),
        };
        self.redis.run(&FINISH, &[&self.base(shard)], &[&holder.id, ended]).await?;
        Ok(true)
    }
}

/// True if asking again may help, and asking twice does no harm.
pub(super) fn may_pass(error: &RedisError) -> bool {
    error.is_temporary() || error.is_unknown()
}

pub(super) type Held = Vec<(Holder, Duration)>;

/// The locks that are held, and what was read.
pub(super) fn split(reply: Value) -> Result<(Held, Vec<Value>), RedisError> {
    let mut parts = array(reply)?.into_iter();
    let (Some(held), Some(values)) = (parts.next(), parts.next()) else {
        return Err(RedisError::unexpected("a read of records without its parts"));
    };
    let held = array(held)?;
    let mut locks = Held::new();
    for pair in held.chunks_exact(2) {
        let [holder, age] = pair else { continue };
        let holder = bytes(holder).and_then(Holder::parse);
        let holder = holder.ok_or(RedisError::unexpected("a lock of records"))?;
        // Negative if the server's clock went back: see `Holder::age`.
        let age = number(age).map_or(Duration::MAX, Duration::from_millis);
        if locks.iter().all(|(other, _)| *other != holder) {
            locks.push((holder, age));
        }
    }
    Ok((locks, array(values)?))
}

pub(super) fn array(value: Value) -> Result<Vec<Value>, RedisError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(RedisError::unexpected("no list of records")),
    }
}

pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// The bytes of a reply; `None` for an absent row.
pub(super) fn into_bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => std::str::from_utf8(bytes(other)?).ok()?.parse().ok(),
    }
}

/// Members of a reply.
pub(super) fn members(value: Value) -> Result<Vec<Vec<u8>>, RedisError> {
    Ok(array(value)?.into_iter().filter_map(into_bytes).collect())
}

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// Keys and values of a reply.
pub(super) fn pairs(value: Value) -> Result<Vec<Pair>, RedisError> {
    let mut found = Vec::new();
    let mut values = array(value)?.into_iter();
    while let (Some(key), Some(value)) = (values.next(), values.next()) {
        if let (Some(key), Some(value)) = (into_bytes(key), into_bytes(value)) {
            found.push((key, value));
        }
    }
    Ok(found)
}
