//! Who is let in: the journal's overload, an organization's backlog, a disk without room.
//!
//! Decided from a request's head as far as possible. What frees work (settlements, claims) never
//! asks here.

mod overload;
mod quota;
mod shares;

pub use quota::BacklogQuota;

use self::overload::Overload;
use self::quota::Full;
use crate::journal::Backlog;
use crate::model::OrganizationId;
use crate::telemetry::metrics;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bytes a request counts besides its body.
const HEAD_BYTES: u64 = 512;
/// What is said when the disk has no room: nobody knows when there is some.
const STOPPED_RETRY_S: u32 = 10;
/// Shares shown in the metrics.
const SHARES_SHOWN: usize = 5;

/// What is refused first when there is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Bulk,
    Normal,
    Critical,
}

impl Class {
    /// In the order in which they are refused.
    pub const ALL: [Self; 3] = [Self::Bulk, Self::Normal, Self::Critical];

    /// The class of this name, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str().eq_ignore_ascii_case(name))
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Normal => "normal",
            Self::Critical => "critical",
        }
    }
}

/// What is let in at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionLimits {
    pub backlog: BacklogQuota,
}

/// What somebody asks to be let in with.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub org: OrganizationId,
    pub class: Class,
    /// True if it adds to what waits to be delivered.
    pub sends: bool,
    /// Of the body, as far as its head tells.
    pub bytes: u64,
}

/// Why somebody is not let in, and the seconds after which to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Overloaded(u32),
    Backlog(u32),
    /// New work of everybody waits until there is room.
    Stopped(u32),
}

/// How the disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// The moving average of the time of one sync of the journal.
    pub sync: Duration,
    /// Less room is left than the settings ask for, or the journal's buffer is full.
    pub is_full: bool,
}

/// Admission to one journal.
#[derive(Debug)]
pub struct Admission {
    limits: Mutex<AdmissionLimits>,
    overload: Mutex<Overload>,
    is_overloaded: AtomicBool,
    is_stopped: AtomicBool,
    full: Mutex<Full>,
    full_count: AtomicUsize,
}

impl Admission {
    #[must_use]
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits: Mutex::new(limits),
            overload: Mutex::new(Overload::new(Instant::now())),
            is_overloaded: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            full: Mutex::default(),
            full_count: AtomicUsize::new(0),
        }
    }

    /// Other limits from now on.
    pub fn limit(&self, limits: AdmissionLimits) {
        *self.limits.lock() = limits;
    }

    fn backlog_quota(&self) -> BacklogQuota {
        self.limits.lock().backlog
    }

    /// False while everybody would be let in.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.is_overloaded.load(Ordering::Relaxed)
            || self.is_stopped.load(Ordering::Relaxed)
            || self.full_count.load(Ordering::Relaxed) > 0
    }

    /// True while new work of everybody is refused.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Whether a request may come in, with what waits of its organization given by `backlog`.
    pub(super) fn ask(
        &self,
        asked: &Asked,
        backlog: impl FnOnce() -> Backlog,
    ) -> Result<(), Denied> {
        let now = Instant::now();
        let admitted = self.check_room().and_then(|()| {
            if asked.sends && self.full_count.load(Ordering::Relaxed) > 0 {
                self.check_known(asked, backlog, now)?;
            }
            if !self.is_overloaded.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut overload = self.overload.lock();
            let answer = overload.ask(asked.org, asked.class, now, rand::random);
            self.is_overloaded.store(overload.is_overloaded(), Ordering::Relaxed);
            answer.map_err(Denied::Overloaded)
        });
        admitted.inspect_err(|denied| count(*denied, asked.class))
    }

    fn check_known(
        &self,
        asked: &Asked,
        backlog: impl FnOnce() -> Backlog,
        now: Instant,
    ) -> Result<(), Denied> {
        let mut full = self.full.lock();
        if !full.has(asked.org) {
            return Ok(());
        }
        let more = Backlog { pending: 1, bytes: asked.bytes, ..Backlog::default() };
        let both = (backlog(), more);
        let checked = full.check(self.backlog_quota(), asked.org, both, (now, rand::random()));
        self.full_count.store(full.len(), Ordering::Relaxed);
        checked.map_err(Denied::Backlog)
    }

    /// The last look before entries are written: their organization is known for sure now.
    pub(super) fn check(
        &self,
        org: OrganizationId,
        backlog: Backlog,
        more: Backlog,
    ) -> Result<(), Denied> {
        let quota = self.backlog_quota();
        let draw = (Instant::now(), rand::random());
        let checked = self.check_room().and_then(|()| {
            let mut full = self.full.lock();
            let checked = full.check(quota, org, (backlog, more), draw);
            self.full_count.store(full.len(), Ordering::Relaxed);
            checked.map_err(Denied::Backlog)
        });
        checked.inspect_err(|denied| count(*denied, Class::Normal))
    }

    /// How many of entries of these sizes `backlog` has room for.
    pub(super) fn fitting(&self, backlog: Backlog, sizes: impl Iterator<Item = u64>) -> usize {
        self.backlog_quota().fitting(backlog, sizes)
    }

    /// Refuses everybody while the disk has no room.
    pub(super) fn check_room(&self) -> Result<(), Denied> {
        if self.is_stopped() { Err(Denied::Stopped(STOPPED_RETRY_S)) } else { Ok(()) }
    }

    /// `requests` of `org` begin to wait for their commit.
    pub(super) fn begin(
        self: &Arc<Self>,
        org: OrganizationId,
        requests: usize,
        bytes: u64,
    ) -> Waiting {
        let (since, requests) = (Instant::now(), u32::try_from(requests).unwrap_or(u32::MAX));
        let bytes = bytes + HEAD_BYTES * u64::from(requests);
        let mut overload = self.overload.lock();
        overload.begin(org, requests, bytes, since);
        self.is_overloaded.store(overload.is_overloaded(), Ordering::Relaxed);
        Waiting { admission: Arc::clone(self), since, requests, is_answered: false }
    }

    /// Takes note of how the disk is, and shows how admission is. Call a few times a second.
    pub fn observe(&self, vitals: Vitals) {
        let now = Instant::now();
        if self.is_stopped.swap(vitals.is_full, Ordering::Relaxed) != vitals.is_full {
            if vitals.is_full {
                tracing::error!("new work cannot be stored now; it is refused until it can");
            } else {
                tracing::info!("new work can be stored again, and is let in");
            }
        }
        {
            let mut full = self.full.lock();
            full.forget_idle(now);
            self.full_count.store(full.len(), Ordering::Relaxed);
        }
        let mut overload = self.overload.lock();
        overload.set_sync(vitals.sync);
        overload.advance(now);
        self.is_overloaded.store(overload.is_overloaded(), Ordering::Relaxed);
        let shares = overload.shares.largest(SHARES_SHOWN, now);
        metrics::admission(overload.level(), &shares);
    }
}

fn count(denied: Denied, class: Class) {
    let reason = match denied {
        Denied::Overloaded(_) => "overload",
        Denied::Backlog(_) => "backlog",
        Denied::Stopped(_) => "disk",
    };
    metrics::admission_refused(reason, class.as_str());
}

/// Requests that wait for one commit.
#[derive(Debug)]
pub(super) struct Waiting {
    admission: Arc<Admission>,
    since: Instant,
    requests: u32,
    is_answered: bool,
}

impl Waiting {
    /// Their commit came back.
    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = Instant::now();
        let wait = self.is_answered.then(|| now.saturating_duration_since(self.since));
        if let Some(wait) = wait {
            metrics::commit_waited(wait);
        }
        let mut overload = self.admission.overload.lock();
        overload.end(self.requests, wait, now);
        self.admission.is_overloaded.store(overload.is_overloaded(), Ordering::Relaxed);
    }
}
