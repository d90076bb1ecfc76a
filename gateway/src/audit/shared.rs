//! Proves the books of a journal that several processes share: each shard's log against its counters.

use super::ledger::Ledger;
use super::log::{Log, Place};
use super::report::{Invariant, Report};
use crate::journal::disk::{Logged, ViewError};
use crate::journal::redis::{Beside, Counted, DumpError, RedisLog};
use crate::journal::{Resolution, Sums};
use crate::model::{FinalState, OrganizationId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What retention drops while a log is read is missed: then it is read again.
const TRIES: usize = 5;

/// Why a shared journal was not audited.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    #[error(transparent)]
    Log(#[from] DumpError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("retention drops blocks of shard {0} faster than they are read: ask again later")]
    Dropping(u16),
}

/// What the log of a shard comes to.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) sums: Sums,
    /// What is not settled for good: its organization, and whether it waits for a time.
    pub(super) open: HashMap<Place, (OrganizationId, bool)>,
    /// Blocks in which deliveries of an organization ended.
    pub(super) outcomes: BTreeMap<OrganizationId, BTreeSet<u64>>,
}

/// Audits one shard of a journal on Redis, whoever works on it meanwhile.
///
/// # Errors
/// Redis cannot be read, or a block is none of this release.
pub async fn audit_shard(
    mut open: impl AsyncFnMut() -> Result<RedisLog, DumpError>,
) -> Result<Report, SharedError> {
    let mut shard = 0;
    for _ in 0..TRIES {
        let mut log = open().await?;
        shard = log.shard().0;
        if let Some(report) = audited(&mut log).await? {
            return Ok(report);
        }
    }
    Err(SharedError::Dropping(shard))
}

/// `None` if something was dropped meanwhile.
async fn audited(log: &mut RedisLog) -> Result<Option<Report>, SharedError> {
    let counted = log.counted().clone();
    let mut seen = Seen { is_whole: counted.is_whole(), ..Seen::default() };
    let settled =
        if counted.gone > 0 { settled_before(log, counted.gone).await? } else { HashSet::new() };
    let mut ledger = Ledger::of_shard(settled, seen.is_whole);
    let mut outcomes: BTreeMap<OrganizationId, BTreeSet<u64>> = BTreeMap::new();
    let mut unreadable = Vec::new();
    loop {
        let (block, positions) = match log.next().await {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(DumpError::Unreadable { position, .. }) => {
                unreadable.push(position);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        seen.positions.extend(positions);
        for record in &block.records {
            if let Logged::Settlement(settlement) = record
                && settlement.resolved.iter().any(|(_, r)| matches!(r, Resolution::Final(_)))
            {
                outcomes.entry(settlement.org).or_default().insert(block.position);
            }
        }
        ledger.block(&seen, block);
    }
    let beside = log.beside().await.map_err(DumpError::from)?;
    if !beside.is_whole {
        return Ok(None);
    }
    let found = Found { outcomes, ..ledger.found() };
    let mut report = Report::default();
    ledger.finish(&seen, &mut report)?;
    report.without_index = false;
    let mut told = |invariant, what: String| {
        report.breach(invariant, format!("shard {}: {what}", log.shard().0));
    };
    for position in unreadable {
        told(Invariant::Readable, format!("block {position} is none of this release"));
    }
    books(&counted, &found, &mut told);
    waiting(&counted, &found, &beside, &mut told);
    for (org, blocks) in &found.outcomes {
        let rows = log.outcomes(*org).await.map_err(DumpError::from)?;
        let rows: BTreeSet<_> = rows.into_iter().filter(|at| *at <= counted.position).collect();
        // All of an organization's go together, a moment before the blocks do.
        if !rows.is_empty() && rows != *blocks {
            let (log, rows) = (blocks.len(), rows.len());
            let what = format!(
                "outcomes of organization {org} are in {log} blocks of the log, and rows tell of \
                 {rows}, or of others"
            );
            told(Invariant::Index, what);
        }
    }
    Ok(Some(report))
}

/// Entries of old blocks that are still there, which settlements ended that are gone.
async fn settled_before(log: &mut RedisLog, gone: u64) -> Result<HashSet<Place>, SharedError> {
    let beside = log.beside().await.map_err(DumpError::from)?;
    let (mut old, mut ended) = (Vec::new(), HashSet::new());
    // What was settled since is not open any more, and its settlement stands further on.
    log.rewind(true);
    while let Some((block, _)) = log.next().await? {
        for record in block.records {
            match record {
                Logged::Entry(_, is_timer, place) if place.0 <= gone => old.push((place, is_timer)),
                Logged::Settlement(settlement) if settlement.done => {
                    ended.insert(settlement.entry);
                }
                _ => {}
            }
        }
    }
    log.rewind(false);
    let is_open = |(place, is_timer): &(Place, bool)| match is_timer {
        true => beside.timers.contains(place),
        false => beside.left.contains_key(&place.0) && !beside.done.contains(place),
    };
    let settled = old.iter().filter(|one| !is_open(one) && !ended.contains(&one.0));
    Ok(settled.map(|(place, _)| *place).collect())
}

/// Blocks that were read so far.
#[derive(Debug, Default)]
struct Seen {
    positions: HashSet<u64>,
    is_whole: bool,
}

impl Log for Seen {
    fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn segment_of(&self, position: u64) -> Option<u64> {
        self.positions.contains(&position).then_some(position)
    }

    fn name(&self, base: u64) -> String {
        format!("block {base}")
    }

    fn timers(&self, _: &mut dyn FnMut(Place)) -> Result<(), ViewError> {
        Ok(())
    }
}

/// What is counted against what the log adds up to; and what is counted of each organization.
fn books(counted: &Counted, found: &Found, told: &mut dyn FnMut(Invariant, String)) {
    let (books, sums) = (&counted.books, &found.sums);
    let mut check = |what: &str, log: i64, counted_as: u64, is_exact: bool| {
        let books = i64::try_from(counted_as).unwrap_or(i64::MAX);
        // What retention dropped is counted, too, and not told apart.
        if log != books && (is_exact || log > books) {
            let what = format!("{what}: {log} by the log and {books} in the books");
            told(Invariant::Books, what);
        }
    };
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let is_exact = counted.is_whole();
    check("accepted", signed(sums.accepted), books.accepted, is_exact);
    check("dead letters made", signed(sums.dead_letters), books.dead_letters, is_exact);
    check("dead letters discarded", signed(sums.discarded), books.discarded, is_exact);
    for (slot, state) in FinalState::ALL.iter().enumerate() {
        let of = |counts: &[u64; 6]| counts.get(slot).copied().unwrap_or_default();
        let log = sums.finals.get(slot).copied().unwrap_or_default();
        check(state.as_str(), log, of(&books.finals), is_exact);
        let what = format!("replayed from {}", state.as_str());
        check(&what, signed(of(&sums.reopened)), of(&books.reopened), is_exact);
    }
    let timers = found.open.values().filter(|(_, is_timer)| *is_timer).count() as u64;
    check("pending", signed(found.open.len() as u64), counted.pending, true);
    check("waiting for a time", signed(timers), counted.timers, true);
    let mut orgs: BTreeMap<OrganizationId, (u64, u64)> = BTreeMap::new();
    for (org, is_timer) in found.open.values() {
        let sums = orgs.entry(*org).or_default();
        sums.0 += 1;
        sums.1 += u64::from(*is_timer);
    }
    let all: BTreeSet<_> = orgs.keys().chain(counted.backlogs.keys()).collect();
    for org in all {
        let (pending, timers) = orgs.get(org).copied().unwrap_or_default();
        let backlog = counted.backlogs.get(org).copied().unwrap_or_default();
        let what = format!("pending of organization {org}");
        check(&what, signed(pending), backlog.pending, true);
        let what = format!("of organization {org} waiting for a time");
        check(&what, signed(timers), backlog.timers, true);
    }
}

/// What Redis has to be done against what the log says is not done.
fn waiting(
    counted: &Counted,
    found: &Found,
    beside: &Beside,
    told: &mut dyn FnMut(Invariant, String),
) {
    let mut left: HashMap<u64, u64> = HashMap::new();
    for (place, (_, is_timer)) in &found.open {
        *left.entry(place.0).or_default() += u64::from(!is_timer);
    }
    left.retain(|_, count| *count > 0);
    let old = |position: &&u64| **position <= counted.position;
    let all: BTreeSet<_> = left.keys().chain(beside.left.keys()).filter(old).collect();
    for position in all {
        let of = |from: &HashMap<u64, u64>| from.get(position).copied().unwrap_or_default();
        let (log, rows) = (of(&left), of(&beside.left));
        // What was settled since is not left any more.
        if rows > log || (rows < log && beside.is_still) {
            let what =
                format!("{log} entries of block {position} are left in the log, {rows} in redis");
            told(Invariant::Timers, what);
        }
    }
    let is_timer = |place: &Place| found.open.get(place).is_some_and(|(_, is_timer)| *is_timer);
    let rows: HashSet<_> =
        beside.timers.iter().filter(|place| place.0 <= counted.position).collect();
    for place in rows.iter().filter(|place| !is_timer(place)) {
        let what = format!(
            "redis waits for the entry in block {}, number {}, and the log does not",
            place.0, place.1
        );
        told(Invariant::Timers, what);
    }
    let timers = found.open.values().filter(|(_, is_timer)| *is_timer).count();
    if beside.is_still && rows.len() != timers {
        let what = format!("{timers} entries wait in the log and {} in redis", rows.len());
        told(Invariant::Timers, what);
    }
    if beside.is_still && beside.dead_letters > counted.books.dead_letters {
        let (kept, made) = (beside.dead_letters, counted.books.dead_letters);
        told(Invariant::DeadLetters, format!("{made} made and {kept} kept"));
    }
}
