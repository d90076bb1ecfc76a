//! Timers: entries whose time has not come, by organization and due time, and loading the due ones.
//!
//! Each organization's timers are a range of their own, so that a million of one are never between
//! another and its next one. In memory there is the next due time of each organization that has any.

use super::core::{Cell, Core};
use super::index::{Index, IndexError, split_u64};
use crate::journal::record::Extent;
use crate::journal::shard::Place;
use crate::journal::shard::line::{Class, Spot, Ticket};
use crate::model::{Millis, OrganizationId, ShardId};
use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

/// shard 2 | organization 4 | due 8 | position 8 | index 4 → class 1 | offset 4 | bytes 4 | crc 4
pub(super) const TIMERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("timers_by_org");

pub(super) fn open(txn: &WriteTransaction) -> Result<(), IndexError> {
    txn.open_table(TIMERS)?;
    Ok(())
}

pub(super) fn insert(
    txn: &WriteTransaction,
    shard: ShardId,
    timers: &[(OrganizationId, Ticket)],
) -> Result<(), IndexError> {
    let mut table = txn.open_table(TIMERS)?;
    for (org, ticket) in timers {
        let key = timer_key(shard, *org, ticket.due, ticket.spot.place());
        let Extent { offset, bytes, crc } = ticket.spot.extent;
        let mut value = [0; 13];
        value[0] = u8::from(ticket.class == Class::Again);
        value[1..5].copy_from_slice(&offset.to_be_bytes());
        value[5..9].copy_from_slice(&bytes.to_be_bytes());
        value[9..].copy_from_slice(&crc.to_be_bytes());
        table.insert(key.as_slice(), value.as_slice())?;
    }
    Ok(())
}

pub(super) fn timer_key(
    shard: ShardId,
    org: OrganizationId,
    due: Millis,
    place: Place,
) -> [u8; 26] {
    let mut key = [0; 26];
    key[..2].copy_from_slice(&shard.0.to_be_bytes());
    key[2..6].copy_from_slice(&org.0.to_be_bytes());
    key[6..14].copy_from_slice(&due.0.to_be_bytes());
    key[14..22].copy_from_slice(&place.0.to_be_bytes());
    key[22..].copy_from_slice(&place.1.to_be_bytes());
    key
}

pub(super) fn read_timer_key(key: &[u8]) -> Option<(ShardId, OrganizationId, Millis, Place)> {
    let (shard, rest) = key.split_first_chunk::<2>()?;
    let (org, mut rest) = rest.split_first_chunk::<4>()?;
    let due = split_u64(&mut rest)?;
    let position = split_u64(&mut rest)?;
    let index = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    let (shard, org) = (u16::from_be_bytes(*shard), i32::from_be_bytes(*org));
    Some((ShardId(shard), OrganizationId(org), Millis(due), (position, index)))
}

fn read_ticket(key: &[u8], value: &[u8]) -> Option<Ticket> {
    let (_, _, due, (position, index)) = read_timer_key(key)?;
    let (class, rest) = value.split_first()?;
    let (offset, rest) = rest.split_first_chunk::<4>()?;
    let (bytes, crc) = rest.split_first_chunk::<4>()?;
    let extent = Extent {
        offset: u32::from_be_bytes(*offset),
        bytes: u32::from_be_bytes(*bytes),
        crc: u32::from_be_bytes(*crc.first_chunk::<4>()?),
    };
    let class = if *class == 1 { Class::Again } else { Class::First };
    Some(Ticket { spot: Spot { position, index, extent }, due, class })
}

impl Index {
    /// Timers of `org` that are due, oldest first, leaving out those for which `skip` is true.
    fn due(
        &self,
        (shard, org): (ShardId, OrganizationId),
        now: Millis,
        limit: usize,
        skip: impl Fn(Place) -> bool,
    ) -> Result<Vec<Ticket>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(TIMERS)?;
        let low = timer_key(shard, org, Millis(0), (0, 0));
        let high = timer_key(shard, org, now.plus(1), (0, 0));
        let mut due = Vec::new();
        for row in table.range(low.as_slice()..high.as_slice())? {
            if due.len() >= limit {
                break;
            }
            let (key, value) = row?;
            let ticket = read_ticket(key.value(), value.value());
            due.extend(ticket.filter(|ticket| !skip(ticket.spot.place())));
        }
        Ok(due)
    }

    /// The first timer of `shard` whose key is at least `low`.
    fn first_timer(
        &self,
        shard: ShardId,
        low: [u8; 26],
    ) -> Result<Option<(OrganizationId, Millis)>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(TIMERS)?;
        let mut high = [0xff; 26];
        high[..2].copy_from_slice(&shard.0.to_be_bytes());
        let first = table.range(low.as_slice()..=high.as_slice())?.next().transpose()?;
        let key = first.and_then(|(key, _)| read_timer_key(key.value()));
        Ok(key.map(|(_, org, due, _)| (org, due)))
    }

    /// The next timer of every organization that has any in `shard`.
    fn first_timers(&self, shard: ShardId) -> Result<Vec<(OrganizationId, Millis)>, IndexError> {
        let mut found = Vec::new();
        // Keys are unsigned, so organizations below 0 come last; there are none.
        let mut low = timer_key(shard, OrganizationId(0), Millis(0), (0, 0));
        while let Some((org, due)) = self.first_timer(shard, low)? {
            found.push((org, due));
            low = timer_key(shard, org, Millis(u64::MAX), (u64::MAX, u32::MAX));
        }
        Ok(found)
    }

    /// Those of `timers` that have not been settled, at most `limit`.
    pub(super) fn waiting(
        &self,
        (shard, org): (ShardId, OrganizationId),
        timers: impl Iterator<Item = Ticket>,
        limit: usize,
    ) -> Result<Vec<Ticket>, IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(TIMERS)?;
        let mut found = Vec::new();
        for ticket in timers {
            if found.len() >= limit {
                break;
            }
            let key = timer_key(shard, org, ticket.due, ticket.spot.place());
            found.extend(table.get(key.as_slice())?.map(|_| ticket));
        }
        Ok(found)
    }

    /// Shows the position of every waiting timer.
    pub(super) fn timer_positions(&self, mut show: impl FnMut(u64)) -> Result<(), IndexError> {
        let txn = self.database.begin_read()?;
        let table = txn.open_table(TIMERS)?;
        for row in table.iter()? {
            if let Some((_, _, _, (position, _))) = read_timer_key(row?.0.value()) {
                show(position);
            }
        }
        Ok(())
    }
}

impl Core {
    /// Loads due timers of every shard that has some; called by the timer thread.
    pub(super) fn load_timers(&self, now: Millis) {
        for (number, cell) in (0u16..).zip(&self.shards) {
            let shard = ShardId(number);
            if let Err(error) = self.load_shard(shard, cell, now) {
                tracing::error!(error = %crate::telemetry::chain(&error), shard = number, "due timers cannot be read; they are tried again");
            }
        }
    }

    fn load_shard(&self, shard: ShardId, cell: &Cell, now: Millis) -> Result<(), IndexError> {
        let is_primed = std::mem::replace(&mut cell.alarms.lock().is_primed, true);
        if !is_primed {
            let found = self.index.first_timers(shard);
            let mut alarms = cell.alarms.lock();
            alarms.is_primed = found.is_ok();
            found?.into_iter().for_each(|(org, due)| alarms.set(org, due));
        }
        let due = cell.alarms.lock().take_due(now);
        if due.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        for org in due {
            let next = self.load_org(cell, (shard, org), now);
            let next = next.unwrap_or_else(|error| {
                failed = Some(error);
                Some(now)
            });
            if let Some(next) = next {
                cell.alarms.lock().set(org, next);
            }
        }
        cell.notify.notify_one();
        failed.map_or(Ok(()), Err)
    }

    /// Loads due timers of one organization; answers when to look again.
    fn load_org(
        &self,
        cell: &Cell,
        (shard, org): (ShardId, OrganizationId),
        now: Millis,
    ) -> Result<Option<Millis>, IndexError> {
        // Nobody claims or takes meanwhile, so what waits in the index now still waits below.
        let _gate = cell.gate.lock();
        let (room, loaded) = {
            let state = cell.state.lock();
            let room = state.lines.room_for_ready(org);
            if room == 0 {
                return Ok(Some(now));
            }
            (room, state.timers_loaded_of(org))
        };
        let due = self.index.due((shard, org), now, room, |place| loaded.contains(&place))?;
        let is_all = due.len() < room;
        {
            let mut state = cell.state.lock();
            for ticket in due {
                if state.timers_loaded.insert((org, ticket.spot.place())) {
                    state.lines.lapse(org, ticket);
                }
            }
        }
        if !is_all {
            return Ok(Some(now));
        }
        let low = timer_key(shard, org, now.plus(1), (0, 0));
        let next = self.index.first_timer(shard, low)?;
        Ok(next.filter(|(of, _)| *of == org).map(|(_, due)| due))
    }
}
