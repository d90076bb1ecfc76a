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
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Blocks asked for at once.
const AT_ONCE: usize = 32;
/// Events of amendments are numbered from here, behind those of settlements in the same block.
const AMEND_ORDINAL: u32 = 1 << 31;
/// Events of cancellations are numbered from here, behind all others in the same block.
const CANCEL_ORDINAL: u32 = 3 << 30;

/// What one shard has about a notification.
#[derive(Debug, Default)]
struct Found {
    root: Option<Entry>,
    events: Vec<(EventPlace, OrganizationId, Bytes)>,
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
        let rows = self.range(&key, id.0.as_bytes(), None, usize::MAX).await?;
        Ok(rows.iter().filter_map(|row| Some(rows::read_place(row.get(16..)?)?.0)).collect())
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

    async fn found(
        &self,
        shard: ShardId,
        id: NotificationId,
        after: Option<EventPlace>,
        needs_root: bool,
    ) -> Result<Found, RedisError> {
        let places = self.told_at(shard, id).await?;
        let from = after.map_or(0, |after| after.position);
        let wanted = places.iter().filter(|(position, index)| match *index {
            EVENTS => *position >= from,
            rows::WAITS => false,
            _ => needs_root,
        });
        let blocks = self.blocks(shard, wanted.map(|(position, _)| *position)).await?;
        let mut found = Found::default();
        for (position, index) in places {
            let Some(stored) = blocks.get(&position) else { continue };
            match index {
                EVENTS => events_in(stored, id, &mut found.events),
                rows::WAITS => {}
                _ => {
                    let mut all = entries(stored.payload.clone());
                    let root = all.find(|(at, _, entry)| *at == index && entry.notification == id);
                    found.root = root.map(|(_, _, entry)| entry).or(found.root);
                }
            }
        }
        found.events.retain(|(place, _, _)| Some(*place) > after);
        Ok(found)
    }

    async fn found_in_all(
        &self,
        org: OrganizationId,
        id: NotificationId,
        after: Option<EventPlace>,
        needs_root: bool,
    ) -> Result<Found, RedisError> {
        let homes = self.homes(org).into_iter();
        let found = homes.map(|shard| self.found(shard, id, after, needs_root));
        let mut all = Found::default();
        for found in try_join_all(found).await? {
            all.root = all.root.or(found.root);
            all.events.extend(found.events);
        }
        Ok(all)
    }

    pub(super) async fn timeline(
        &self,
        org: OrganizationId,
        id: NotificationId,
    ) -> Result<Option<Timeline>, RedisError> {
        let Found { root, events } = self.found_in_all(org, id, None, true).await?;
        let is_ours = match &root {
            Some(root) => root.org == org,
            None => events.first().is_some_and(|(_, of, _)| *of == org),
        };
        Ok(is_ours.then(|| Timeline {
            root: root.map(|root| root.payload),
            events: events.into_iter().map(|(_, _, event)| event).collect(),
        }))
    }

    pub(super) async fn root(
        &self,
        org: OrganizationId,
        id: NotificationId,
    ) -> Result<Option<Bytes>, RedisError> {
        let none = Some(EventPlace { position: u64::MAX, ordinal: u32::MAX });
        let root = self.found_in_all(org, id, none, true).await?.root;
        Ok(root.filter(|root| root.org == org).map(|root| root.payload))
    }

    pub(super) async fn events_after(
        &self,
        org: OrganizationId,
        id: NotificationId,
        after: Option<EventPlace>,
        limit: usize,
    ) -> Result<Vec<(EventPlace, Bytes)>, RedisError> {
        let found = self.found_in_all(org, id, after, false).await?;
        let ours = found.events.into_iter().filter(|(_, of, _)| *of == org);
        Ok(ours.map(|(place, _, event)| (place, event)).take(limit).collect())
    }

    pub(super) async fn events_before(
        &self,
        org: OrganizationId,
        id: NotificationId,
        before: Option<EventPlace>,
        limit: usize,
    ) -> Result<Vec<(EventPlace, Bytes)>, RedisError> {
        let found = self.found_in_all(org, id, None, false).await?;
        let is_before = |place: EventPlace| before.is_none_or(|before| place < before);
        let ours =
            found.events.into_iter().rev().filter(|(at, of, _)| *of == org && is_before(*at));
        Ok(ours.map(|(place, _, event)| (place, event)).take(limit).collect())
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
        let positions = places.iter().map(|(_, (position, _))| *position);
        let blocks = self.blocks(shard, positions).await?;
        let root = |(notification, place): (NotificationId, Place)| {
            let stored = blocks.get(&place.0)?;
            let (_, entry) = entry_at(stored, place.1)?;
            Some(ListedRoot { notification, payload: entry.payload })
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

/// Adds the events of a notification in one block, in their order.
fn events_in(
    stored: &Stored,
    id: NotificationId,
    found: &mut Vec<(EventPlace, OrganizationId, Bytes)>,
) {
    let (mut settled, mut amended, mut canceled) = (0, AMEND_ORDINAL, CANCEL_ORDINAL);
    let (mut late, mut last) = (Vec::new(), Vec::new());
    let at = |ordinal| EventPlace { position: stored.position, ordinal };
    for record in Records::new(stored.payload.clone()).flatten() {
        match record {
            Record::Settle(settle) => {
                for event in settle.events {
                    if settle.notification == id {
                        found.push((at(settled), settle.org, event));
                    }
                    settled += 1;
                }
            }
            Record::Amend(amend) => {
                if amend.notification == id {
                    late.push((at(amended), amend.org, amend.event));
                }
                amended += 1;
            }
            Record::Cancel(cancel) => {
                if cancel.notification == id {
                    last.push((at(canceled), cancel.org, cancel.event));
                }
                canceled += 1;
            }
            Record::Entry(_) | Record::Idempotency(_) => {}
        }
    }
    found.append(&mut late);
    found.append(&mut last);
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
