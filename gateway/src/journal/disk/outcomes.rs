//! Deliveries that ended, by organization and time: one small row for each block that ended some.
//!
//! A row says where the block is and which states are in it; who and how is read from the block,
//! so that a delivery costs the index nothing of its own.

use super::core::Core;
use super::index::{Index, IndexError, Projection, split_u64};
use crate::journal::record::{Record, Records, SettleRecord};
use crate::journal::{Resolution, Settled, SettledBlock, SettledPage, SettledPlace, SettledQuery};
use crate::model::{DeliveryId, Millis, OrganizationId};
use redb::{ReadableDatabase, TableDefinition, WriteTransaction};
use std::collections::BTreeMap;

/// organization 4 | committed at 8 | position 8 → one bit for each final state in the block
pub(super) const OUTCOMES: TableDefinition<'_, &[u8], u8> = TableDefinition::new("outcomes");
/// Rows looked at for one page, whatever they hold.
const ROWS_MAX: usize = 8_192;

pub(super) fn open(txn: &WriteTransaction) -> Result<(), IndexError> {
    txn.open_table(OUTCOMES)?;
    Ok(())
}

/// The organizations whose deliveries ended in these settlements, each with its states.
pub(super) fn states<'a>(
    settles: impl Iterator<Item = &'a SettleRecord>,
) -> BTreeMap<OrganizationId, u8> {
    let mut found = BTreeMap::new();
    for settle in settles {
        for (_, resolution) in &settle.resolved {
            if let Resolution::Final(state) = resolution {
                *found.entry(settle.org).or_default() |= SettledQuery::bit(*state);
            }
        }
    }
    found
}

pub(super) fn apply(txn: &WriteTransaction, projection: &Projection) -> Result<(), IndexError> {
    let states = states(projection.settles.iter());
    if states.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(OUTCOMES)?;
    let place = SettledPlace { at: projection.at, position: projection.position };
    for (org, bits) in states {
        table.insert(key(org, place).as_slice(), bits)?;
    }
    Ok(())
}

/// Forgets rows of `orgs` for blocks that were committed up to `until` and are gone.
pub(super) fn forget(
    txn: &WriteTransaction,
    orgs: impl Iterator<Item = OrganizationId>,
    until: Millis,
    is_stored: impl Fn(u64) -> bool,
) -> Result<(), IndexError> {
    let mut table = txn.open_table(OUTCOMES)?;
    let is_kept = |key: &[u8], _| read_key(key).is_some_and(|place| is_stored(place.position));
    for org in orgs {
        let low = key(org, SettledPlace::default());
        let high = key(org, SettledPlace { at: until, position: u64::MAX });
        table.retain_in(low.as_slice()..=high.as_slice(), is_kept)?;
    }
    Ok(())
}

fn key(org: OrganizationId, place: SettledPlace) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&org.0.to_be_bytes());
    key[4..12].copy_from_slice(&place.at.0.to_be_bytes());
    key[12..].copy_from_slice(&place.position.to_be_bytes());
    key
}

fn read_key(key: &[u8]) -> Option<SettledPlace> {
    let mut rest = key.get(4..)?;
    let at = Millis(split_u64(&mut rest)?);
    Some(SettledPlace { at, position: split_u64(&mut rest)? })
}

impl Index {
    /// Places with a wanted state, newest first, and where to look on.
    fn outcomes(
        &self,
        query: &SettledQuery,
        limit: usize,
    ) -> Result<(Vec<SettledPlace>, Option<SettledPlace>), IndexError> {
        let last = SettledPlace { at: query.to, position: u64::MAX };
        let last = query.before.map_or(last, |before| before.min(last));
        let low = key(query.org, SettledPlace { at: query.from, position: 0 });
        let high = key(query.org, last);
        let mut found = Vec::new();
        if low > high {
            return Ok((found, None));
        }
        let txn = self.database.begin_read()?;
        let table = txn.open_table(OUTCOMES)?;
        for (number, row) in table.range(low.as_slice()..=high.as_slice())?.rev().enumerate() {
            let (key, bits) = row?;
            let Some(place) = read_key(key.value()) else { continue };
            if number >= ROWS_MAX || found.len() >= limit {
                return Ok((found, Some(place)));
            }
            if bits.value() & query.states != 0 {
                found.push(place);
            }
        }
        Ok((found, None))
    }
}

impl Core {
    pub(super) fn settled(
        &self,
        query: &SettledQuery,
        limit: usize,
    ) -> Result<SettledPage, IndexError> {
        let (places, next) = self.index.outcomes(query, limit)?;
        let mut blocks = Vec::with_capacity(places.len());
        for place in places {
            // Retention may have dropped the segment a moment ago.
            if self.segments.at(place.position).is_none() {
                continue;
            }
            match self.segments.block(place.position) {
                Ok((_, payload)) => {
                    let settled =
                        Records::new(payload).flatten().filter_map(|record| match record {
                            Record::Settle(settle) if settle.org == query.org => {
                                Some(shown(settle))
                            }
                            _ => None,
                        });
                    blocks.push(SettledBlock { place, settled: settled.collect() });
                }
                Err(error) => {
                    tracing::error!(error = %crate::telemetry::chain(&error), position = place.position, "outcomes of an unreadable block are left out; run `bugler audit`");
                }
            }
        }
        let ended = blocks.iter().flat_map(|block: &SettledBlock| &block.settled);
        let ended = ended.flat_map(|settled| settled.finals.iter().map(|(delivery, _)| *delivery));
        let reopened = self.index.reopened(ended)?;
        for block in &mut blocks {
            let at = block.place.position;
            let is_current =
                |id: &DeliveryId| reopened.get(id).is_none_or(|position| *position <= at);
            for settled in &mut block.settled {
                settled.finals.retain(|(delivery, _)| is_current(delivery));
            }
        }
        Ok(SettledPage { blocks, next })
    }
}

fn shown(settle: SettleRecord) -> Settled {
    let finals =
        settle.resolved.into_iter().filter_map(|(delivery, resolution)| match resolution {
            Resolution::Final(state) => Some((delivery, state)),
            Resolution::Moved => None,
        });
    Settled { notification: settle.notification, finals: finals.collect(), events: settle.events }
}
