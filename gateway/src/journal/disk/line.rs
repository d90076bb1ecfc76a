//! One organization's line in a shard: which of its entries are known and unclaimed, and where
//! the ones that are not known begin.

use super::record::Extent;
use super::state::Place;
use crate::journal::Backlog;
use crate::model::Millis;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where an entry stands, with what it takes to read it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spot {
    pub(super) position: u64,
    pub(super) index: u32,
    pub(super) extent: Extent,
}

impl Spot {
    pub(super) fn place(&self) -> Place {
        (self.position, self.index)
    }
}

/// Which share of a claim an entry counts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// First attempts, and everything else that was due when it was committed.
    First,
    /// What an earlier attempt left for later.
    Again,
}

/// A claimable entry. `due` is 0 for one that was due when it was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) spot: Spot,
    pub(super) due: Millis,
    pub(super) class: Class,
}

impl Ticket {
    /// A ticket for an entry that waits in no timer.
    pub(super) fn from_log(spot: Spot) -> Self {
        Self { spot, due: Millis(0), class: Class::First }
    }

    pub(super) fn is_timer(&self) -> bool {
        self.due != Millis(0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) pending: u64,
    pub(super) timers: u64,
    pub(super) bytes: u64,
}

/// What is unclaimed of one organization.
#[derive(Debug)]
pub(super) struct Line {
    /// Entries from the log that were claimed before and are free again.
    pub(super) lapsed: BTreeMap<Place, Spot>,
    /// Entries from the log never claimed, in log order, none missing before `behind`.
    pub(super) queue: VecDeque<Spot>,
    /// The log from here on holds entries that are not in `queue`; `None`: it holds none.
    pub(super) behind: Option<Place>,
    /// Entries at or past the cursor that are done all the same: after a restart.
    pub(super) done: BTreeSet<Place>,
    /// Timers that are due.
    scheduled: VecDeque<Ticket>,
    again: VecDeque<Ticket>,
    pub(super) counts: Counts,
    pub(super) claimed: u64,
    /// Entries of the log that are claimed, or set aside: known, though not in line.
    pub(super) out: usize,
    /// Entries of the first class taken since the last of the other.
    pub(super) since_again: usize,
    /// The scheduled ones come next.
    prefers_scheduled: bool,
    pub(super) turns: Turns,
}

/// Which rounds a line stands in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    pub(super) first: bool,
    pub(super) again: bool,
    pub(super) hungry: bool,
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
    pub(super) fn has(&self, class: Class) -> bool {
        match class {
            Class::First => {
                !(self.queue.is_empty() && self.lapsed.is_empty() && self.scheduled.is_empty())
            }
            Class::Again => !self.again.is_empty(),
        }
    }

    /// Due timers waiting here.
    pub(super) fn ready(&self) -> usize {
        self.scheduled.len() + self.again.len()
    }

    pub(super) fn push_ready(&mut self, ticket: Ticket) {
        match ticket.class {
            Class::First => self.scheduled.push_back(ticket),
            Class::Again => self.again.push_back(ticket),
        }
    }

    pub(super) fn is_ready(&self, place: Place) -> bool {
        self.scheduled.iter().chain(&self.again).any(|ticket| ticket.spot.place() == place)
    }

    pub(super) fn drop_ready(&mut self, place: Place) -> bool {
        let before = self.ready();
        self.scheduled.retain(|ticket| ticket.spot.place() != place);
        self.again.retain(|ticket| ticket.spot.place() != place);
        self.ready() < before
    }

    /// The next entry of `class`: lapsed ones, then log and schedule by turns.
    pub(super) fn take(&mut self, class: Class) -> Option<Ticket> {
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
    pub(super) fn cursor(&self) -> Option<Place> {
        self.queue.front().map(Spot::place).or(self.behind)
    }

    /// True if entries of the log are pending that nothing here knows.
    pub(super) fn has_more(&self) -> bool {
        let known = self.queue.len() + self.lapsed.len() + self.out;
        self.counts.pending.saturating_sub(self.counts.timers) > known as u64
    }

    /// Forgets what the cursor has passed; answers how much.
    pub(super) fn trim_done(&mut self) -> usize {
        let (before, cursor) = (self.done.len(), self.cursor());
        while self.done.first().is_some_and(|first| cursor.is_none_or(|cursor| *first < cursor)) {
            self.done.pop_first();
        }
        before - self.done.len()
    }

    /// Lowest position that claims still need.
    pub(super) fn low_water(&self) -> Option<u64> {
        let lapsed = self.lapsed.keys().next().copied();
        lapsed.into_iter().chain(self.cursor()).map(|(position, _)| position).min()
    }

    pub(super) fn backlog(&self) -> Backlog {
        Backlog {
            pending: self.counts.pending,
            claimed: self.claimed,
            timers: self.counts.timers,
            bytes: self.counts.bytes,
            unreadable: 0,
        }
    }
}
