//! Looking a notification up: its root, its timeline, and the listed roots of an organization.

use super::core::Core;
use super::reply::{self, Stored};
use super::rows::{self, EVENTS};
use crate::journal::record::{Record, Records, entries};
use crate::journal::shard::Place;
use crate::journal::{Entry, EventPlace, ListedRoot, Timeline};
use crate::model::{Millis, NotificationId, OrganizationId, ShardId};
use crate::redis::RedisError;
use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::{Pipeline, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// Blocks asked for at once.
const AT_ONCE: usize = 32;
/// Events of amendments are numbered from here, behind those of settlements in the same block.
const AMEND_ORDINAL: u32 = 1 << 31;
/// Events of cancellations are numbered from here, behind all others in the same block.
const CANCEL_ORDINAL: u32 = 3 << 30;

/// Blocks of which events are taken out before more are read: a block tells of many notifications.
const EVENTS_AT_ONCE: usize = 16;

/// Which events of a notification are wanted, and in which order.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// Those after a place, in their order.
    After(Option<EventPlace>),
    /// Those before a place, newest first.
    Before(Option<EventPlace>),
}

impl Wanted {
    fn holds(self, place: EventPlace) -> bool {
        match self {
            Self::After(after) => Some(place) > after,
            Self::Before(before) => before.is_none_or(|before| place < before),
        }
    }

    fn may_hold(self, position: u64) -> bool {
        match self {
            Self::After(after) => after.is_none_or(|after| position >= after.position),
            Self::Before(before) => before.is_none_or(|before| position <= before.position),
        }
    }
}

impl Core {
    /// Blocks by their positions, as far as they are stored.
    pub(super) async fn blocks(
        &self,
        shard: ShardId,
        positions: impl IntoIterator<Item = u64>,
    ) -> Result<BTreeMap<u64, Stored>, RedisError> {
        let key = self.redis.key(shard, "q");
        let positions: Vec<_> = BTreeSet::from_iter(positions).into_iter().collect();
        let mut found = BTreeMap::new();
        for some in positions.chunks(AT_ONCE) {
            let mut pipe = Pipeline::with_capacity(some.len());
            for position in some {
                let id = format!("{position}-0");
                pipe.cmd("XRANGE").arg(&key).arg(&id).arg(&id);
            }
            for reply in self.redis.pipe(&key, pipe).await? {
                found.extend(
                    Stored::all(reply)?.into_iter().map(|stored| (stored.position, stored)),
                );
            }
        }
        Ok(found)
    }

    /// Rows that say where something about a notification is.
    pub(super) async fn told_at(
        &self,
        shard: ShardId,
        id: NotificationId,
    ) -> Result<Vec<Place>, RedisError> {
        let key = self.redis.key(shard, &format!("w:{}", rows::bucket(id)));
        let mut command = redis::cmd("GET");
        command.arg(&key);
        let bucket = reply::bytes(self.redis.query(&key, command).await?).unwrap_or_default();
        Ok(rows::places_of(id, &bucket))
    }

    /// Members of a sorted set that begin with `prefix`, all of one score: upwards, or downwards
    /// from before `before`.
    pub(super) async fn range(
        &self,
        key: &[u8],
        prefix: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Bytes>, RedisError> {
        let low = [b"[".as_slice(), prefix].concat();
        let past = [b"(".as_slice(), prefix, &[0xff; 33]].concat();
        let mut command =
            redis::cmd(if before.is_some() { "ZREVRANGEBYLEX" } else { "ZRANGEBYLEX" });
        command.arg(key);
        match before {
            Some(before) => command.arg([b"(".as_slice(), before].concat()).arg(low),
            None => command.arg(low).arg(past),
        };
        command.arg("LIMIT").arg(0).arg(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = reply::array(self.redis.query(key, command).await?)?;
        Ok(rows.into_iter().filter_map(reply::bytes).collect())
    }

    /// Shows stored blocks to `each`, in the order of their positions and only some at a time.
    pub(super) async fn each_block(
        &self,
        shard: ShardId,
        positions: impl IntoIterator<Item = u64>,
        mut each: impl FnMut(&Stored),
    ) -> Result<(), RedisError> {
        let positions: Vec<_> = BTreeSet::from_iter(positions).into_iter().collect();
        for some in positions.chunks(AT_ONCE) {
            let blocks = self.blocks(shard, some.iter().copied()).await?;
            blocks.values().for_each(&mut each);
        }
        Ok(())
    }

    /// Events of a notification of `org` among those that `places` tell of, at most `limit`.
    async fn events_at(
        &self,
        (shard, org, id): (ShardId, OrganizationId, NotificationId),
        places: &[Place],
        (wanted, limit): (Wanted, usize),
    ) -> Result<Vec<(EventPlace, Bytes)>, RedisError> {
        let told = places.iter().filter(|(_, index)| *index == EVENTS);
        let told = told.map(|(position, _)| *position).filter(|at| wanted.may_hold(*at));
        let mut positions: Vec<_> = told.collect();
        if matches!(wanted, Wanted::Before(_)) {
            positions.reverse();
        }
        let (mut found, mut rest) = (Vec::new(), positions.as_slice());
        while !rest.is_empty() && found.len() < limit {
            let count = rest.len().min(EVENTS_AT_ONCE).min(limit - found.len());
            let (some, later) = rest.split_at(count);
            rest = later;
            let blocks = self.blocks(shard, some.iter().copied()).await?;
            for stored in some.iter().filter_map(|position| blocks.get(position)) {
                let mut events = events_in(stored, id);
                events.retain(|(place, of, _)| *of == org && wanted.holds(*place));
                if matches!(wanted, Wanted::Before(_)) {
                    events.reverse();
                }
                found.extend(events.into_iter().map(|(place, _, event)| (place, event)));
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Events of a notification, wherever it is, at most `limit`.
    async fn events(
        &self,
        org: OrganizationId,
        id: NotificationId,
        (wanted, limit): (Wanted, usize),
    ) -> Result<Vec<(EventPlace, Bytes)>, RedisError> {
        let homes = self.homes(org).into_iter().map(async |shard| {
            let places = self.told_at(shard, id).await?;
            self.events_at((shard, org, id), &places, (wanted, limit)).await
        });
        let mut found: Vec<_> = try_join_all(homes).await?.into_iter().flatten().collect();
        found.truncate(limit);
        Ok(found)
    }

    /// The payload of the root among `places`.
    async fn root_at(
        &self,
        (shard, org, id): (ShardId, OrganizationId, NotificationId),
        places: &[Place],
    ) -> Result<Option<Bytes>, RedisError> {
        let places = places.iter().filter(|(_, index)| !matches!(*index, EVENTS | rows::WAITS));
        for place in places {
            let blocks = self.blocks(shard, [place.0]).await?;
            let root = blocks.get(&place.0).and_then(|stored| entry_at(stored, place.1));
            let is_ours = |entry: &Entry| entry.notification == id && entry.org == org;
            if let Some((_, root)) = root.filter(|(_, root)| is_ours(root)) {
                return Ok(Some(Bytes::copy_from_slice(&root.payload)));
            }
        }
        Ok(None)
    }

    pub(super) async fn timeline(
        &self,
        org: OrganizationId,
        id: NotificationId,
    ) -> Result<Option<Timeline>, RedisError> {
        let all = (Wanted::After(None), usize::MAX);
        let homes = self.homes(org).into_iter().map(async |shard| {
            let places = self.told_at(shard, id).await?;
            let root = self.root_at((shard, org, id), &places).await?;
            let events = self.events_at((shard, org, id), &places, all).await?;
            Ok::<_, RedisError>((root, events))
        });
        let (mut root, mut events) = (None, Vec::new());
        for (found, told) in try_join_all(homes).await? {
            root = root.or(found);
            events.extend(told.into_iter().map(|(_, event)| event));
        }
        let is_known = root.is_some() || !events.is_empty();
        Ok(is_known.then_some(Timeline { root, events }))
    }

    pub(super) async fn root(
        &self,
        org: OrganizationId,
        id: NotificationId,
    ) -> Result<Option<Bytes>, RedisError> {
        let homes = self.homes(org).into_iter().map(async |shard| {
            let places = self.told_at(shard, id).await?;
            self.root_at((shard, org, id), &places).await
        });
        Ok(try_join_all(homes).await?.into_iter().flatten().next())
    }

    pub(super) async fn events_after(
        &self,
        org: OrganizationId,
        id: NotificationId,
        after: Option<EventPlace>,
        limit: usize,
    ) -> Result<Vec<(EventPlace, Bytes)>, RedisError> {
        self.events(org, id, (Wanted::After(after), limit)).await
    }

    pub(super) async fn events_before(
        &self,
        org: OrganizationId,
        id: NotificationId,
        before: Option<EventPlace>,
        limit: usize,
    ) -> Result<Vec<(EventPlace, Bytes)>, RedisError> {
        self.events(org, id, (Wanted::Before(before), limit)).await
    }

    pub(super) async fn listed(
        &self,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<ListedRoot>, RedisError> {
        let before = before.map_or([0xff; 17].to_vec(), |id| id.0.as_bytes().to_vec());
        let homes = self.homes(org).into_iter();
        let found = homes.map(|shard| self.listed_in(shard, org, &before, limit));
        let mut roots: Vec<_> = try_join_all(found).await?.into_iter().flatten().collect();
        roots.sort_by_key(|root| std::cmp::Reverse(root.notification));
        roots.truncate(limit);
        Ok(roots)
    }

    async fn listed_in(
        &self,
        shard: ShardId,
        org: OrganizationId,
        before: &[u8],
        limit: usize,
    ) -> Result<Vec<ListedRoot>, RedisError> {
        let key = self.redis.key(shard, &format!("l:{}", org.0));
        let rows = self.range(&key, b"", Some(before), limit).await?;
        let places = rows.iter().filter_map(|row| {
            let (id, rest) = row.split_first_chunk::<16>()?;
            Some((NotificationId(Uuid::from_bytes(*id)), rows::read_place(rest)?.0))
        });
        let places: Vec<_> = places.collect();
        let mut by_block: HashMap<u64, Vec<Place>> = HashMap::new();
        for (_, place) in &places {
            by_block.entry(place.0).or_default().push(*place);
        }
        let mut payloads = HashMap::new();
        self.each_block(shard, by_block.keys().copied(), |stored| {
            for place in by_block.get(&stored.position).into_iter().flatten() {
                let entry = entry_at(stored, place.1);
                let payload = entry.map(|(_, entry)| Bytes::copy_from_slice(&entry.payload));
                payloads.extend(payload.map(|payload| (*place, payload)));
            }
        })
        .await?;
        let root = |(notification, place): (NotificationId, Place)| {
            Some(ListedRoot { notification, payload: payloads.remove(&place)? })
        };
        Ok(places.into_iter().filter_map(root).collect())
    }

    /// Where a listed root stands.
    pub(super) async fn listed_place(
        &self,
        shard: ShardId,
        org: OrganizationId,
        id: NotificationId,
    ) -> Result<Option<Place>, RedisError> {
        let key = self.redis.key(shard, &format!("l:{}", org.0));
        let rows = self.range(&key, id.0.as_bytes(), None, 1).await?;
        Ok(rows.first().and_then(|row| Some(rows::read_place(row.get(16..)?)?.0)))
    }

    /// True once somebody canceled a notification in `shard`.
    pub(super) async fn was_canceled(
        &self,
        shard: ShardId,
        id: NotificationId,
    ) -> Result<bool, RedisError> {
        let key = self.redis.key(shard, "x");
        let mut score = redis::cmd("ZSCORE");
        score.arg(&key).arg(id.0.as_bytes().as_slice());
        Ok(self.redis.query(&key, score).await? != Value::Nil)
    }

    pub(super) async fn remembered_at(
        &self,
        shard: ShardId,
        key: [u8; 16],
        now: Millis,
    ) -> Result<crate::journal::Remembered, RedisError> {
        use crate::journal::Remembered;
        let name = [self.redis.key(shard, "k:").as_slice(), &key].concat();
        let mut command = redis::cmd("GET");
        command.arg(&name);
        let Value::BulkString(row) = self.redis.query(&name, command).await? else {
            return Ok(Remembered::No);
        };
        let Some((body, rest)) = row.split_first_chunk::<16>() else { return Ok(Remembered::No) };
        let Some((created, answer)) = rest.split_first_chunk::<8>() else {
            return Ok(Remembered::No);
        };
        let age = now.since(Millis(u64::from_be_bytes(*created)));
        if age > super::options::millis(self.options.keys_ttl) {
            return Ok(Remembered::No);
        }
        Ok(Remembered::Yes { body: *body, answer: Bytes::copy_from_slice(answer) })
    }
}

/// The entry at `index` of a block, with where it lies.
pub(super) fn entry_at(
    stored: &Stored,
    index: u32,
) -> Option<(crate::journal::record::Extent, Entry)> {
    let mut all = entries(stored.payload.clone());
    all.find(|(at, _, _)| *at == index).map(|(_, extent, entry)| (extent, entry))
}

/// The events of a notification in one block, in their order. Copies, since the block is much larger.
fn events_in(stored: &Stored, id: NotificationId) -> Vec<(EventPlace, OrganizationId, Bytes)> {
    let mut found = Vec::new();
    let copy = |event: &Bytes| Bytes::copy_from_slice(event);
    let (mut settled, mut amended, mut canceled) = (0, AMEND_ORDINAL, CANCEL_ORDINAL);
    let (mut late, mut last) = (Vec::new(), Vec::new());
    let at = |ordinal| EventPlace { position: stored.position, ordinal };
    for record in Records::new(stored.payload.clone()).flatten() {
        match record {
            Record::Settle(settle) => {
                for event in settle.events {
                    if settle.notification == id {
                        found.push((at(settled), settle.org, copy(&event)));
                    }
                    settled += 1;
                }
            }
            Record::Amend(amend) => {
                if amend.notification == id {
                    late.push((at(amended), amend.org, copy(&amend.event)));
                }
                amended += 1;
            }
            Record::Cancel(cancel) => {
                if cancel.notification == id {
                    last.push((at(canceled), cancel.org, copy(&cancel.event)));
                }
                canceled += 1;
            }
            Record::Entry(_) | Record::Idempotency(_) => {}
        }
    }
    found.append(&mut late);
    found.append(&mut last);
    found
}

impl Core {
    /// The payloads of change entries that are not done, in the order of the log of each shard.
    pub(super) async fn unfinished_changes(&self) -> Result<Vec<Bytes>, RedisError> {
        let mut payloads = Vec::new();
        for cell in &self.cells {
            let key = self.redis.key(cell.shard, "chg");
            let rows = self.range(&key, b"", None, usize::MAX).await?;
            let places: Vec<_> =
                rows.iter().filter_map(|row| Some(rows::read_place(row)?.0)).collect();
            for some in places.chunks(AT_ONCE) {
                let positions = some.iter().map(|(position, _)| *position);
                let blocks = self.blocks(cell.shard, positions).await?;
                payloads.extend(some.iter().filter_map(|(position, index)| {
                    let (_, entry) = entry_at(blocks.get(position)?, *index)?;
                    Some(entry.payload)
                }));
            }
        }
        Ok(payloads)
    }
}
