//! One organization's line in a shard: which of its entries are known and unclaimed, and where
//! the ones that are not known begin.

use super::Place;
use crate::journal::Backlog;
use crate::journal::record::Extent;
use crate::model::Millis;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where an entry stands, with what it takes to read it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct Spot {
    pub(in crate::journal) position: u64,
    pub(in crate::journal) index: u32,
    pub(in crate::journal) extent: Extent,
}

impl Spot {
    pub(in crate::journal) fn place(&self) -> Place {
        (self.position, self.index)
    }
}

/// Which share of a claim an entry counts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum Class {
    /// First attempts, and everything else that was due when it was committed.
    First,
    /// What an earlier attempt left for later.
    Again,
}

/// A claimable entry. `due` is 0 for one that was due when it was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Ticket {
    pub(in crate::journal) spot: Spot,
    pub(in crate::journal) due: Millis,
    pub(in crate::journal) class: Class,
}

impl Ticket {
    /// A ticket for an entry that waits in no timer.
    pub(in crate::journal) fn from_log(spot: Spot) -> Self {
        Self { spot, due: Millis(0), class: Class::First }
    }

    pub(in crate::journal) fn is_timer(&self) -> bool {
        self.due != Millis(0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct Counts {
    pub(in crate::journal) pending: u64,
    pub(in crate::journal) timers: u64,
    pub(in crate::journal) bytes: u64,
}

/// What is unclaimed of one organization.
#[derive(Debug)]
pub(in crate::journal) struct Line {
    /// Entries from the log that were claimed before and are free again.
    pub(in crate::journal) lapsed: BTreeMap<Place, Spot>,
    /// Entries from the log never claimed, in log order, none missing before `behind`.
    pub(in crate::journal) queue: VecDeque<Spot>,
    /// The log from here on holds entries that are not in `queue`; `None`: it holds none.
    pub(in crate::journal) behind: Option<Place>,
    /// Entries at or past the cursor that are done all the same: after a restart.
    pub(in crate::journal) done: BTreeSet<Place>,
    /// Timers that are due.
    scheduled: VecDeque<Ticket>,
    again: VecDeque<Ticket>,
    pub(in crate::journal) counts: Counts,
    pub(in crate::journal) claimed: u64,
    /// Entries of the log that are claimed, or set aside: known, though not in line.
    pub(in crate::journal) out: usize,
    /// Entries of the first class taken since the last of the other.
    pub(in crate::journal) since_again: usize,
    /// The scheduled ones come next.
    prefers_scheduled: bool,
    pub(in crate::journal) turns: Turns,
}

/// Which rounds a line stands in.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::journal) struct Turns {
    pub(in crate::journal) first: bool,
    pub(in crate::journal) again: bool,
    pub(in crate::journal) hungry: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            lapsed: BTreeMap::new(),
            queue: VecDeque::new(),
            behind: None,
            done: BTreeSet::new(),
            scheduled: VecDeque::new(),
            again: VecDeque::new(),
            counts: Counts::default(),
            claimed: 0,
            out: 0,
            since_again: usize::MAX,
            prefers_scheduled: true,
            turns: Turns::default(),
        }
    }
}

impl Line {
    pub(in crate::journal) fn has(&self, class: Class) -> bool {
        match class {
            Class::First => {
                !(self.queue.is_empty() && self.lapsed.is_empty() && self.scheduled.is_empty())
            }
            Class::Again => !self.again.is_empty(),
        }
    }

    /// Due timers waiting here.
    pub(in crate::journal) fn ready(&self) -> usize {
        self.scheduled.len() + self.again.len()
    }

    pub(in crate::journal) fn push_ready(&mut self, ticket: Ticket) {
        match ticket.class {
            Class::First => self.scheduled.push_back(ticket),
            Class::Again => self.again.push_back(ticket),
        }
    }

    pub(in crate::journal) fn is_ready(&self, place: Place) -> bool {
        self.scheduled.iter().chain(&self.again).any(|ticket| ticket.spot.place() == place)
    }

    pub(in crate::journal) fn drop_ready(&mut self, place: Place) -> bool {
        let before = self.ready();
        self.scheduled.retain(|ticket| ticket.spot.place() != place);
        self.again.retain(|ticket| ticket.spot.place() != place);
        self.ready() < before
    }

    /// The next entry of `class`: lapsed ones, then log and schedule by turns.
    pub(in crate::journal) fn take(&mut self, class: Class) -> Option<Ticket> {
        if class == Class::Again {
            self.since_again = 0;
            return self.again.pop_front();
        }
        self.since_again = self.since_again.saturating_add(1);
        if let Some((_, spot)) = self.lapsed.pop_first() {
            return Some(Ticket::from_log(spot));
        }
        self.prefers_scheduled = !self.prefers_scheduled;
        if self.prefers_scheduled || self.queue.is_empty() {
            let scheduled = self.scheduled.pop_front();
            scheduled.or_else(|| self.queue.pop_front().map(Ticket::from_log))
        } else {
            self.queue.pop_front().map(Ticket::from_log)
        }
    }

    /// The first entry of the log that was never claimed, if there may be one.
    pub(in crate::journal) fn cursor(&self) -> Option<Place> {
        self.queue.front().map(Spot::place).or(self.behind)
    }

    /// True if entries of the log are pending that nothing here knows.
    pub(in crate::journal) fn has_more(&self) -> bool {
        let known = self.queue.len() + self.lapsed.len() + self.out;
        self.counts.pending.saturating_sub(self.counts.timers) > known as u64
    }

    /// Forgets what the cursor has passed; answers how much.
    pub(in crate::journal) fn trim_done(&mut self) -> usize {
        let (before, cursor) = (self.done.len(), self.cursor());
        while self.done.first().is_some_and(|first| cursor.is_none_or(|cursor| *first < cursor)) {
            self.done.pop_first();
        }
        before - self.done.len()
    }

    /// Lowest position that claims still need.
    pub(in crate::journal) fn low_water(&self) -> Option<u64> {
        let lapsed = self.lapsed.keys().next().copied();
        lapsed.into_iter().chain(self.cursor()).map(|(position, _)| position).min()
    }

    pub(in crate::journal) fn backlog(&self) -> Backlog {
        Backlog {
            pending: self.counts.pending,
            claimed: self.claimed,
            timers: self.counts.timers,
            bytes: self.counts.bytes,
            unreadable: 0,
        }
    }
}
