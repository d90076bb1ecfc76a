//! One shard on this node: what waits to be written, and, while the node owns it, what is pending.

use super::plan::Part;
use super::reply::Sums;
use crate::journal::shard::alarms::Alarms;
use crate::journal::shard::line::Ticket;
use crate::journal::shard::{Place, Shard};
use crate::journal::{Backlog, JournalError};
use crate::model::{Millis, OrganizationId, ShardId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Organizations of which a node that does not own the shard remembers the backlog.
const TOLD_MAX: usize = 65_536;

/// The right to work on a shard.
#[derive(Clone, Debug)]
pub(super) struct Tenure {
    pub(super) token: Arc<str>,
    pub(super) epoch: u64,
    /// False while it is in doubt: what is claimed is settled, nothing more is claimed.
    pub(super) may_claim: bool,
    /// It is being given up: of what is claimed nothing more is begun.
    pub(super) is_leaving: bool,
}

/// A timer taken by this node, of which nothing is to be sent.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) lease: u64,
    pub(super) until: Millis,
    pub(super) token: String,
    pub(super) org: OrganizationId,
    pub(super) ticket: Ticket,
    pub(super) is_closing: bool,
}

/// What this node knows of a shard.
#[derive(Debug)]
pub(super) struct State {
    /// What Redis had when it was last loaded, and what came since.
    pub(super) shard: Shard,
    /// Grows whenever `shard` is made anew: claims made in an earlier one are void.
    pub(super) generation: u64,
    pub(super) tenure: Option<Tenure>,
    /// True once `shard` is what Redis has, and for as long as it is kept so.
    pub(super) is_loaded: bool,
    /// The mark of the last block that was taken in: another one there is another history.
    pub(super) mark: Bytes,
    pub(super) taken: HashMap<Place, Taken>,
    /// Timers that ended while due ones were being read.
    pub(super) ended: Option<HashSet<Place>>,
}

impl State {
    /// True while entries may be claimed.
    pub(super) fn is_working(&self) -> bool {
        self.is_loaded && self.tenure.as_ref().is_some_and(|tenure| tenure.may_claim)
    }

    pub(super) fn token(&self) -> Option<Arc<str>> {
        self.tenure.as_ref().map(|tenure| Arc::clone(&tenure.token))
    }

    /// Another right to work on the shard; under another token all that is known of it is void.
    pub(super) fn hand_over(&mut self, tenure: Option<Tenure>, places: usize) {
        let old = self.token();
        self.tenure = tenure;
        if old != self.token() {
            self.is_loaded = false;
            let mut shard = Shard::new(places);
            shard.leases = self.shard.leases;
            self.renew(shard);
        }
    }

    /// Begins anew with `shard`: what was claimed is void.
    pub(super) fn renew(&mut self, shard: Shard) {
        self.shard = shard;
        self.generation += 1;
    }
}

/// One atomic addition on its way to Redis.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) part: Part,
    pub(super) bytes: usize,
    /// Entries it settles; true where it ends them.
    pub(super) sent: Vec<(Place, bool)>,
    /// The generation in which these were claimed; `None` if they were taken.
    pub(super) generation: Option<u64>,
    pub(super) is_settle: bool,
    /// Frees what fills us.
    pub(super) is_urgent: bool,
    pub(super) done: Option<oneshot::Sender<Result<(), JournalError>>>,
}

/// What waits for one shard.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) plain: VecDeque<Request>,
    pub(super) settles: VecDeque<Request>,
}

/// What scripts told of a shard.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) sums: Sums,
    pub(super) dead_kept: u64,
    backlogs: HashMap<OrganizationId, Backlog>,
    /// Asked about and not told yet.
    wanted: HashSet<OrganizationId>,
}

impl Told {
    pub(super) fn note(&mut self, org: OrganizationId, backlog: Backlog) {
        if self.backlogs.len() >= TOLD_MAX && !self.backlogs.contains_key(&org) {
            self.backlogs.clear();
        }
        self.backlogs.insert(org, backlog);
    }

    /// The backlog as last told; it is asked for again.
    pub(super) fn ask(&mut self, org: OrganizationId) -> Backlog {
        if self.wanted.len() < TOLD_MAX {
            self.wanted.insert(org);
        }
        self.backlogs.get(&org).copied().unwrap_or_default()
    }

    pub(super) fn take_wanted(&mut self) -> Vec<OrganizationId> {
        self.wanted.drain().collect()
    }
}

/// One shard with the means to wait for it.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) shard: ShardId,
    pub(super) state: Mutex<State>,
    /// One claimer at a time, so that `state` is not held while reading.
    pub(super) gate: tokio::sync::Mutex<()>,
    /// Blocks are written and taken in by one at a time.
    pub(super) log: tokio::sync::Mutex<()>,
    pub(super) claimers: Notify,
    pub(super) waiting: Mutex<Waiting>,
    /// Something waits to be written.
    pub(super) writing: Notify,
    /// The keeper has something to do.
    pub(super) keeping: Notify,
    /// The log was read for lines that are short.
    pub(super) swept: Notify,
    /// The reader begins.
    pub(super) reading: Notify,
    /// A script found another owner.
    pub(super) lost: Notify,
    pub(super) alarms: Mutex<Alarms>,
    pub(super) told: Mutex<Told>,
    /// Since when nothing could be written.
    pub(super) failing: Mutex<Option<Failing>>,
}

/// Writes that do not get through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failing {
    pub(super) since: Instant,
    /// When one was tried last: while nothing is, nobody knows.
    pub(super) tried: Instant,
}

impl Cell {
    pub(super) fn new(shard: ShardId, places: usize) -> Self {
        Self {
            shard,
            state: Mutex::new(State {
                shard: Shard::new(places),
                generation: 0,
                tenure: None,
                is_loaded: false,
                mark: Bytes::new(),
                taken: HashMap::new(),
                ended: None,
            }),
            gate: tokio::sync::Mutex::default(),
            log: tokio::sync::Mutex::default(),
            claimers: Notify::new(),
            waiting: Mutex::default(),
            writing: Notify::new(),
            keeping: Notify::new(),
            swept: Notify::new(),
            reading: Notify::new(),
            lost: Notify::new(),
            alarms: Mutex::default(),
            told: Mutex::default(),
            failing: Mutex::default(),
        }
    }

    /// Takes back that settlements are on their way, `true` for those that end their entry: they
    /// were refused and may come again.
    pub(super) fn reopen(&self, generation: Option<u64>, sent: &[(Place, bool)]) {
        let mut state = self.state.lock();
        for (place, is_last) in sent {
            if generation.is_none()
                && let Some(taken) = state.taken.get_mut(place)
            {
                taken.is_closing = false;
            }
            if generation != Some(state.generation) {
                continue;
            }
            let Some(held) = state.shard.in_flight.get_mut(place) else { continue };
            if *is_last {
                held.closing = false;
            } else {
                held.settling = held.settling.saturating_sub(1);
            }
        }
    }

    /// What is known of the shard is no longer what Redis has: it is read again.
    pub(super) fn unload(&self, why: &'static str) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.is_loaded, false) {
            tracing::warn!(shard = self.shard.0, why, "a shard is read again");
            self.keeping.notify_one();
        }
    }
}
