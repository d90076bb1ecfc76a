//! Collects what became of claimed work and settles it in the journal, many results per commit.
//!
//! A claim is finished by whoever reports its last unit. Slots of deliveries come back only
//! after the commit, so that repeats after a crash stay within `max_in_flight`.

use crate::dispatch::Context;
use crate::dispatch::counters::Counters;
use crate::dispatch::job::{EXPANDED, PLANNED, marker};
use crate::dispatch::line::Slot;
use crate::journal::{Claim, ClaimId, Entry, Journal, JournalError, Resolution, Settlement};
use crate::model::{DeliveryId, InboxStep, NotificationId, OrganizationId, ShardId, TimelineEvent};
use crate::store::{Change, InboxChange, Store};
use crate::work::{Events, decode_event};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Results settled in one commit.
const BATCH_MAX: usize = 512;
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// One claim being worked on; done when every unit has been reported.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) claim: ClaimId,
    pub(super) notification: NotificationId,
    pub(super) org: OrganizationId,
    units: AtomicUsize,
    /// A part of it could not be settled, so nothing may finish it.
    is_lost: AtomicBool,
}

impl Tracker {
    /// Starts with one unit: the expansion itself.
    pub(super) fn new(claim: &Claim) -> Arc<Self> {
        Arc::new(Self {
            claim: claim.id,
            notification: claim.notification,
            org: claim.org,
            units: AtomicUsize::new(1),
            is_lost: AtomicBool::new(false),
        })
    }

    /// Announces a delivery, before the expansion is reported.
    pub(super) fn expect(&self) {
        self.units.fetch_add(1, Ordering::AcqRel);
    }
}

/// The result of one unit of a claim.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) resolved: Vec<(DeliveryId, Resolution)>,
    pub(super) events: Vec<TimelineEvent>,
    pub(super) follow_ups: Vec<Entry>,
    pub(super) dead: Vec<(DeliveryId, Bytes)>,
    /// What inbox entries are told.
    pub(super) inbox: Vec<InboxStep>,
    /// Free again once this is committed.
    pub(super) slot: Option<Slot>,
}

/// Where units of one shard are reported.
#[derive(Clone, Debug)]
pub(super) struct Settler {
    to: mpsc::Sender<(Arc<Tracker>, Report)>,
    shard: ShardId,
    held: Arc<Mutex<HashMap<ClaimId, ()>>>,
}

impl Settler {
    /// A settler and the loop that must run for it.
    pub(super) fn new(
        context: &Context,
        shard: ShardId,
        capacity: usize,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let loop_parts = Parts {
            journal: Arc::clone(&context.journal),
            store: Arc::clone(&context.store),
            counters: Arc::clone(&context.counters),
            shard,
        };
        let (to, from) = mpsc::channel(capacity);
        let held = Arc::new(Mutex::new(HashMap::new()));
        (Self { to, shard, held: Arc::clone(&held) }, run(loop_parts, from, held))
    }

    /// Notes that claims are being worked on, so that their leases are renewed.
    pub(super) fn hold(&self, claims: impl IntoIterator<Item = ClaimId>) {
        self.held.lock().extend(claims.into_iter().map(|claim| (claim, ())));
    }

    /// True while nobody else may have claimed what `tracker` stands for. A claim that was lost is
    /// renewed no more.
    pub(super) fn still_holds(&self, journal: &dyn Journal, tracker: &Tracker) -> bool {
        let left = journal.lease_left(self.shard, tracker.claim);
        let is_held = left.is_some_and(|left| !left.is_zero());
        if !is_held {
            self.held.lock().remove(&tracker.claim);
        }
        is_held
    }

    /// Claims whose leases need renewing.
    pub(super) fn held(&self) -> Vec<ClaimId> {
        self.held.lock().keys().copied().collect()
    }

    /// Reports one unit. Waits while the journal is behind.
    pub(super) async fn report(&self, tracker: Arc<Tracker>, report: Report) {
        if self.to.send((tracker, report)).await.is_err() {
            tracing::debug!("a result came after its shard stopped; the entry is claimed again");
        }
    }
}

/// What a settling loop uses.
struct Parts {
    journal: Arc<dyn Journal>,
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
    shard: ShardId,
}

async fn run(
    parts: Parts,
    mut from: mpsc::Receiver<(Arc<Tracker>, Report)>,
    held: Arc<Mutex<HashMap<ClaimId, ()>>>,
) {
    let mut reports = Vec::with_capacity(BATCH_MAX);
    // Kept from batch to batch: so much new memory at once has to be cleared by the kernel.
    let (mut slots, mut trackers, mut counted) = (Vec::new(), Vec::new(), Vec::new());
    while from.recv_many(&mut reports, BATCH_MAX).await > 0 {
        tell_inboxes(&parts, &mut reports).await;
        trackers.extend(reports.iter().map(|(tracker, _)| Arc::clone(tracker)));
        // What a lost lease comes to changes nothing, so it is not counted either.
        let is_held = |claim| parts.journal.lease_left(parts.shard, claim).is_some();
        let settlements = merge(reports.drain(..), &mut slots, |claim, mut events| {
            events.retain(Counters::has_use_for);
            if !events.is_empty() && is_held(claim) {
                counted.append(&mut events);
            }
        });
        let mut done: Vec<_> = settlements.iter().filter(|s| s.done).map(|s| s.claim).collect();
        if commit(parts.journal.as_ref(), parts.shard, settlements).await {
            counted.iter().for_each(|event| parts.counters.count(event));
        } else {
            trackers.iter().for_each(|tracker| tracker.is_lost.store(true, Ordering::Release));
            // Nobody prolongs their leases any more, so they are claimed again.
            done.extend(trackers.iter().map(|tracker| tracker.claim));
        }
        let mut held = held.lock();
        for claim in done {
            held.remove(&claim);
        }
        drop(held);
        counted.clear();
        trackers.clear();
        slots.clear();
    }
}

/// Moves inbox entries on, before the journal forgets what moved them: told twice is told once.
async fn tell_inboxes(parts: &Parts, reports: &mut [(Arc<Tracker>, Report)]) {
    let steps: Vec<_> =
        reports.iter_mut().flat_map(|(_, report)| std::mem::take(&mut report.inbox)).collect();
    if steps.is_empty() {
        return;
    }
    let apply = || parts.store.apply(vec![Change::Inbox(InboxChange::Step(steps.clone()))]);
    while let Err(error) = apply().await {
        tracing::error!(shard = parts.shard.0, error = %crate::telemetry::chain(&error), "inboxes cannot be told of results; trying again");
        tokio::time::sleep(FULL_PAUSE).await;
    }
}

/// One settlement per claim, `done` for those whose last unit is among the reports. `told` gets the
/// events once they are encoded.
fn merge(
    reports: impl ExactSizeIterator<Item = (Arc<Tracker>, Report)>,
    slots: &mut Vec<Slot>,
    mut told: impl FnMut(ClaimId, Vec<TimelineEvent>),
) -> Vec<Settlement> {
    let mut merged: Vec<Settlement> = Vec::with_capacity(reports.len());
    let mut places: HashMap<ClaimId, usize> = HashMap::with_capacity(reports.len());
    let mut encoded = Events::with_room_for(reports.len());
    for (tracker, report) in reports {
        let place = *places.entry(tracker.claim).or_insert_with(|| {
            merged.push(Settlement {
                claim: tracker.claim,
                notification: tracker.notification,
                org: tracker.org,
                resolved: Vec::new(),
                events: Vec::new(),
                follow_ups: Vec::new(),
                dead: Vec::new(),
                done: false,
            });
            merged.len() - 1
        });
        let Some(settlement) = merged.get_mut(place) else { continue };
        let is_last = tracker.units.fetch_sub(1, Ordering::AcqRel) == 1;
        settlement.done |= is_last && !tracker.is_lost.load(Ordering::Acquire);
        if settlement.resolved.is_empty() {
            settlement.resolved = report.resolved;
        } else {
            settlement.resolved.extend(report.resolved);
        }
        settlement.events.reserve_exact(report.events.len());
        settlement.events.extend(report.events.iter().map(|event| encoded.encode(event)));
        told(tracker.claim, report.events);
        settlement.follow_ups.extend(report.follow_ups);
        settlement.dead.extend(report.dead);
        slots.extend(report.slot);
    }
    merged
}

/// Commits settlements in as few additions as fit into the journal; false if one was not committed.
/// Its claim must not be finished then: it is claimed again.
async fn commit(journal: &dyn Journal, shard: ShardId, settlements: Vec<Settlement>) -> bool {
    let mut parts = VecDeque::from([settlements]);
    while let Some(part) = parts.pop_front() {
        let committed = match journal.settle(shard, part.clone()) {
            Ok(commit) => commit.await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(()) => {}
            // Settling frees space, so it is worth waiting for.
            Err(JournalError::Full) => {
                parts.push_front(part);
                tokio::time::sleep(FULL_PAUSE).await;
            }
            Err(JournalError::Fenced) => {
                tracing::warn!(shard = shard.0, "a lease ran out before its work was settled");
            }
            Err(JournalError::TooLarge) if can_split(&part) => {
                let (first, second) = halves(part);
                parts.push_front(second);
                parts.push_front(first);
            }
            Err(error) => {
                tracing::error!(shard = shard.0, %error, "results could not be settled; their entries are claimed again");
                return false;
            }
        }
    }
    true
}

fn can_split(settlements: &[Settlement]) -> bool {
    match settlements {
        [one] => one.follow_ups.len() + one.events.len() > 1,
        _ => settlements.len() > 1,
    }
}

/// Two parts, to be committed in this order. Many follow-ups carry the whole notification each.
fn halves(mut settlements: Vec<Settlement>) -> (Vec<Settlement>, Vec<Settlement>) {
    if settlements.len() > 1 {
        let second = settlements.split_off(settlements.len() / 2);
        return (settlements, second);
    }
    let second = settlements.iter_mut().map(split).collect();
    (settlements, second)
}

/// A plan stands for all that an expansion came to: with only a half of it committed, whoever claims
/// the entry again has to expand it again.
fn forget_plan(settlement: &mut Settlement) {
    let planned = marker(settlement.notification, PLANNED);
    for (delivery, _) in &mut settlement.resolved {
        if *delivery == planned {
            *delivery = marker(settlement.notification, EXPANDED);
        }
    }
    let is_plan =
        |event: &Bytes| matches!(decode_event(event), Some(TimelineEvent::Planned { .. }));
    settlement.events.retain(|event| !is_plan(event));
}

/// Leaves the first half in `settlement` and answers the rest, which finishes the claim.
fn split(settlement: &mut Settlement) -> Settlement {
    forget_plan(settlement);
    let carried = settlement.follow_ups.len();
    let kept = carried / 2;
    // A delivery that moved and the entry that carries it stay together. They stand in the same
    // order, and only what stands before all of them moved without an entry.
    let is_moved = |resolved: &(DeliveryId, Resolution)| resolved.1 == Resolution::Moved;
    let moved = settlement.resolved.iter().filter(|resolved| is_moved(resolved)).count();
    let mut still = moved.saturating_sub(carried) + kept;
    let (first, rest) =
        std::mem::take(&mut settlement.resolved).into_iter().partition(|resolved| {
            let stays = is_moved(resolved) && still > 0;
            still -= usize::from(stays);
            stays
        });
    settlement.resolved = first;
    Settlement {
        claim: settlement.claim,
        notification: settlement.notification,
        org: settlement.org,
        resolved: rest,
        events: settlement.events.split_off(settlement.events.len() / 2),
        follow_ups: settlement.follow_ups.split_off(kept),
        dead: std::mem::take(&mut settlement.dead),
        done: std::mem::take(&mut settlement.done),
    }
}
