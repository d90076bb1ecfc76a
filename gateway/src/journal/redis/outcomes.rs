//! Deliveries that ended, by organization and time, and dead letters.

use super::core::Core;
use super::reply::{self, Stored};
use crate::journal::record::{Record, Records};
use crate::journal::{
    DeadLetter, DeadPage, DeadPlace, DeadRow, Resolution, Settled, SettledBlock, SettledPage,
    SettledPlace, SettledQuery,
};
use crate::model::{DeliveryId, Millis, NotificationId, OrganizationId, ShardId};
use crate::redis::RedisError;
use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::Value;
use std::collections::HashMap;
use uuid::Uuid;

/// Rows looked at for one page, whatever they hold.
const ROWS_MAX: usize = 8_192;
const ROWS_AT_ONCE: usize = 512;
const BLOCKS_AT_ONCE: usize = 4;
/// A page ends behind the blocks with which its events take this much.
const PAGE_BYTES: usize = 4 << 20;

fn outcome_row(place: SettledPlace) -> Vec<u8> {
    [place.at.0.to_be_bytes(), place.position.to_be_bytes()].concat()
}

fn dead_row(place: DeadPlace) -> Vec<u8> {
    [place.position.to_be_bytes().as_slice(), &place.ordinal.to_be_bytes()].concat()
}

fn read_outcome(row: &[u8]) -> Option<(SettledPlace, u8)> {
    let (at, rest) = row.split_first_chunk::<8>()?;
    let (position, bits) = rest.split_first_chunk::<8>()?;
    let at = Millis(u64::from_be_bytes(*at));
    Some((SettledPlace { at, position: u64::from_be_bytes(*position) }, *bits.first()?))
}

impl Core {
    pub(super) async fn settled(
        &self,
        query: &SettledQuery,
        limit: usize,
    ) -> Result<SettledPage, RedisError> {
        let mut page = SettledPage::default();
        for shard in self.homes(query.org) {
            let (places, next) = self.outcomes(shard, query, limit).await?;
            let (blocks, rest) = self.ended(shard, query, &places).await?;
            page.next = page.next.max(rest.or(next));
            page.blocks.extend(blocks);
        }
        // Only without a home can there be more than one shard's: what is left out comes next.
        page.blocks.sort_by_key(|block| std::cmp::Reverse(block.place));
        if page.blocks.len() > limit {
            page.next = page.blocks.get(limit).map(|block| block.place);
            page.blocks.truncate(limit);
        }
        let next = page.next;
        page.blocks.retain(|block| next.is_none_or(|next| block.place > next));
        Ok(page)
    }

    /// Places with a wanted state, newest first, and where to look on.
    async fn outcomes(
        &self,
        shard: ShardId,
        query: &SettledQuery,
        limit: usize,
    ) -> Result<(Vec<SettledPlace>, Option<SettledPlace>), RedisError> {
        let last = SettledPlace { at: query.to, position: u64::MAX };
        let last = query.before.map_or(last, |before| before.min(last));
        let key = self.redis.key(shard, &format!("o:{}", query.org.0));
        let low = outcome_row(SettledPlace { at: query.from, position: 0 });
        let mut high = [b"[".as_slice(), &outcome_row(last), &[0xff]].concat();
        let (mut found, mut seen) = (Vec::new(), 0);
        loop {
            let mut command = redis::cmd("ZREVRANGEBYLEX");
            command.arg(&key).arg(&high).arg([b"[".as_slice(), &low].concat());
            command.arg("LIMIT").arg(0).arg(ROWS_AT_ONCE);
            let rows = reply::array(self.redis.query(&key, command).await?)?;
            let is_all = rows.len() < ROWS_AT_ONCE;
            for row in rows.into_iter().filter_map(reply::bytes) {
                let Some((place, bits)) = read_outcome(&row) else { continue };
                if seen >= ROWS_MAX || found.len() >= limit {
                    return Ok((found, Some(place)));
                }
                seen += 1;
                if bits & query.states != 0 {
                    found.push(place);
                }
                high = [b"(".as_slice(), &row].concat();
            }
            if is_all {
                return Ok((found, None));
            }
        }
    }

    /// What was settled at `places`, and the first of them that found no room.
    async fn ended(
        &self,
        shard: ShardId,
        query: &SettledQuery,
        places: &[SettledPlace],
    ) -> Result<(Vec<SettledBlock>, Option<SettledPlace>), RedisError> {
        let (mut blocks, mut bytes, mut rest) = (Vec::new(), 0, places);
        while !rest.is_empty() && bytes < PAGE_BYTES {
            let (some, later) = rest.split_at(rest.len().min(BLOCKS_AT_ONCE));
            rest = later;
            let stored = self.blocks(shard, some.iter().map(|place| place.position)).await?;
            for place in some {
                // Retention may have dropped the block a moment ago.
                let Some(stored) = stored.get(&place.position) else { continue };
                let settled = settled_in(stored, query.org);
                let events = settled.iter().flat_map(|settled| &settled.events);
                bytes += events.map(Bytes::len).sum::<usize>();
                blocks.push(SettledBlock { place: *place, settled });
            }
        }
        let ended = blocks.iter().flat_map(|block| &block.settled);
        let ended = ended.flat_map(|settled| settled.finals.iter().map(|(delivery, _)| *delivery));
        let reopened = self.reopened(shard, &ended.collect::<Vec<_>>()).await?;
        for block in &mut blocks {
            let at = block.place.position;
            let is_current =
                |id: &DeliveryId| reopened.get(id).is_none_or(|position| *position <= at);
            for settled in &mut block.settled {
                settled.finals.retain(|(delivery, _)| is_current(delivery));
            }
        }
        Ok((blocks, rest.first().copied()))
    }

    /// As `reopened`, in whatever shard each delivery is.
    pub(super) async fn reopened_anywhere(
        &self,
        deliveries: &[DeliveryId],
    ) -> Result<HashMap<DeliveryId, u64>, RedisError> {
        let asked = self.cells.iter().map(|cell| self.reopened(cell.shard, deliveries));
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    /// Where each of `deliveries` was sent again last.
    async fn reopened(
        &self,
        shard: ShardId,
        deliveries: &[DeliveryId],
    ) -> Result<HashMap<DeliveryId, u64>, RedisError> {
        let key = self.redis.key(shard, "re");
        let mut found = HashMap::new();
        for some in deliveries.chunks(ROWS_AT_ONCE) {
            let mut command = redis::cmd("HMGET");
            command.arg(&key);
            some.iter().for_each(|delivery| {
                command.arg(delivery.0.as_bytes().as_slice());
            });
            let values = reply::array(self.redis.query(&key, command).await?)?;
            let known = some.iter().zip(values).filter(|(_, value)| *value != Value::Nil);
            found.extend(known.filter_map(|(id, value)| Some((*id, reply::number(&value)?))));
        }
        Ok(found)
    }

    pub(super) async fn dead_of(
        &self,
        org: OrganizationId,
        before: Option<DeadPlace>,
        limit: usize,
    ) -> Result<DeadPage, RedisError> {
        let mut page = DeadPage::default();
        let before = before.map_or(vec![0xff; 13], dead_row);
        for shard in self.homes(org) {
            let key = self.redis.key(shard, &format!("d:{}", org.0));
            let rows = self.range(&key, b"", Some(&before), limit.saturating_add(1)).await?;
            page.rows.extend(self.letters(shard, &rows).await?);
        }
        page.rows.sort_by_key(|row| std::cmp::Reverse(row.place));
        if page.rows.len() > limit {
            page.rows.truncate(limit);
            page.next = page.rows.last().map(|row| row.place);
        }
        // Those being amended by this node are as good as gone.
        let reserved = self.reserved.lock().clone();
        page.rows.retain(|row| !reserved.contains(&row.letter.delivery));
        Ok(page)
    }

    pub(super) async fn dead_letter(
        &self,
        org: OrganizationId,
        delivery: DeliveryId,
    ) -> Result<Option<DeadRow>, RedisError> {
        for shard in self.homes(org) {
            let row = [[0; 12].as_slice(), delivery.0.as_bytes()].concat();
            let mut rows = self.letters_of(shard, &[Bytes::from(row)], Some(org)).await?;
            if let Some(row) = rows.pop() {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Dead letters of all organizations, oldest first.
    pub(super) async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, RedisError> {
        let mut found = Vec::new();
        for cell in &self.cells {
            let key = self.redis.key(cell.shard, "da");
            let rows = self.range(&key, b"", None, limit).await?;
            found.extend(self.letters(cell.shard, &rows).await?);
        }
        found.sort_by_key(|row| (row.at, row.place));
        Ok(found.into_iter().take(limit).map(|row| row.letter).collect())
    }

    async fn letters(&self, shard: ShardId, rows: &[Bytes]) -> Result<Vec<DeadRow>, RedisError> {
        self.letters_of(shard, rows, None).await
    }

    /// The letters of rows (place 12 | delivery 16), with what their last settlements said.
    async fn letters_of(
        &self,
        shard: ShardId,
        rows: &[Bytes],
        org: Option<OrganizationId>,
    ) -> Result<Vec<DeadRow>, RedisError> {
        let key = self.redis.key(shard, "d");
        let mut letters = Vec::with_capacity(rows.len());
        for some in rows.chunks(ROWS_AT_ONCE) {
            let mut command = redis::cmd("HMGET");
            command.arg(&key);
            some.iter().for_each(|row| {
                command.arg(row.get(12..).unwrap_or_default());
            });
            let values = reply::array(self.redis.query(&key, command).await?)?;
            let values = values.into_iter().map(reply::bytes);
            let read = some.iter().zip(values).filter_map(|(row, value)| {
                let delivery = row.get(12..)?.first_chunk::<16>()?;
                read_letter(DeliveryId(Uuid::from_bytes(*delivery)), &value?)
            });
            let ours = read.filter(|(of, _)| org.is_none_or(|org| *of == org));
            letters.extend(ours.map(|(_, row)| row));
        }
        let positions: Vec<_> = letters.iter().map(|row| row.place.position).collect();
        self.each_block(shard, positions, |block| {
            for row in letters.iter_mut().filter(|row| row.place.position == block.position) {
                row.events = said(block, row.letter.delivery);
            }
        })
        .await?;
        Ok(letters)
    }
}

/// What the settlement that gave a delivery up said.
fn said(stored: &Stored, delivery: DeliveryId) -> Vec<Bytes> {
    let records = Records::new(stored.payload.clone()).flatten();
    let mut own = records.filter_map(|record| match record {
        Record::Settle(settle) if settle.dead.iter().any(|(id, _)| *id == delivery) => {
            Some(copied(&settle.events))
        }
        _ => None,
    });
    own.next().unwrap_or_default()
}

/// What was settled of `org` in one block.
fn settled_in(stored: &Stored, org: OrganizationId) -> Vec<Settled> {
    let records = Records::new(stored.payload.clone()).flatten();
    let settled = records.filter_map(|record| match record {
        Record::Settle(settle) if settle.org == org => {
            let finals = settle.resolved.into_iter();
            let finals = finals.filter_map(|(delivery, resolution)| match resolution {
                Resolution::Final(state) => Some((delivery, state)),
                Resolution::Moved => None,
            });
            let (notification, events) = (settle.notification, copied(&settle.events));
            Some(Settled { notification, finals: finals.collect(), events })
        }
        _ => None,
    });
    settled.collect()
}

/// Copies of events: as slices they would keep the whole block in memory.
fn copied(events: &[Bytes]) -> Vec<Bytes> {
    events.iter().map(|event| Bytes::copy_from_slice(event)).collect()
}

/// place 12 | notification 16 | organization 4 | at 8 | copy
fn read_letter(delivery: DeliveryId, value: &Bytes) -> Option<(OrganizationId, DeadRow)> {
    let ((position, ordinal), rest) = super::rows::read_place(value)?;
    let (notification, rest) = rest.split_first_chunk::<16>()?;
    let (org, rest) = rest.split_first_chunk::<4>()?;
    let (at, copy) = rest.split_first_chunk::<8>()?;
    let notification = NotificationId(Uuid::from_bytes(*notification));
    let copy = Bytes::copy_from_slice(copy);
    let row = DeadRow {
        place: DeadPlace { position, ordinal },
        at: Millis(u64::from_be_bytes(*at)),
        letter: DeadLetter { delivery, notification, copy },
        events: Vec::new(),
    };
    Some((OrganizationId(i32::from_be_bytes(*org)), row))
}
