//! Applies by organization: what arrives while a commit is under way goes into the next one.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::group::{Answer, Log, Member, Work};
use super::{Records, RecordsError};
use crate::model::{OrganizationId, ShardId};
use crate::store::{Change, InboxChange, LogError, StoreError, Version};

/// Applies on their way; more are refused at once.
const WAITING_MAX: usize = 16_384;
/// Of these in one lane: whose shard is away takes no places from the others.
const LANE_MAX: usize = 256;
/// Applies in one commit.
const COMMIT_APPLIES_MAX: usize = 128;
/// Rows after which a commit takes no further apply.
const COMMIT_ROWS_MAX: usize = 2_048;

struct Waiting {
    work: Work,
    answer: oneshot::Sender<Answer>,
    place: OwnedSemaphorePermit,
}

/// Who waits for a commit, by what their changes are mainly about.
#[derive(Debug)]
pub(super) struct Queue {
    lanes: Mutex<HashMap<Lane, VecDeque<Waiting>>>,
    places: Arc<Semaphore>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { lanes: Mutex::default(), places: Arc::new(Semaphore::new(WAITING_MAX)) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    Org(OrganizationId),
    /// Changes that name no organization, by whom they name.
    Rest(u8),
}

/// Lanes of changes that name no organization.
const REST_LANES: u64 = 64;

impl Lane {
    fn of(changes: &[Change]) -> Self {
        if let Some(org) = main_org(changes) {
            return Self::Org(org);
        }
        let named = changes.iter().find_map(|change| match change {
            Change::PutDevice(device) | Change::ClaimDevice(device) => {
                Some(device.user.0.unsigned_abs())
            }
            Change::PutPassword(user, _)
            | Change::Inbox(InboxChange::Set { user, .. } | InboxChange::Remove { user, .. }) => {
                Some(user.0.unsigned_abs())
            }
            Change::Inbox(InboxChange::Step(steps)) => Some(steps.first()?.user.0.unsigned_abs()),
            Change::RemoveDevice(device) => Some(device.0.as_u64_pair().1),
            _ => None,
        });
        Self::Rest(u8::try_from(named.unwrap_or(0) % REST_LANES).unwrap_or(0))
    }
}

/// The organization that changes are mainly about, as far as they say.
pub(super) fn main_org(changes: &[Change]) -> Option<OrganizationId> {
    let noted = changes.iter().rev().find_map(|change| match change {
        Change::Audit(note) => Some(note.org),
        _ => None,
    });
    noted.or_else(|| changes.iter().find_map(org_of))
}

fn org_of(change: &Change) -> Option<OrganizationId> {
    match change {
        Change::PutOrganization(organization) => Some(organization.id),
        Change::PutUser(user) => Some(user.org),
        Change::PutRole(role) => Some(role.org),
        Change::PutMembership(org, _)
        | Change::RemoveMembership(org, ..)
        | Change::RemoveClient(org, _)
        | Change::RemoveKey(org, _)
        | Change::Inbox(InboxChange::Hide { org, .. }) => Some(*org),
        Change::PutSubscription(subscription) => Some(subscription.org),
        Change::PutInvitation(invitation) => Some(invitation.org),
        Change::PutClient(client) => Some(client.org),
        Change::PutKey(key) => Some(key.org),
        Change::PutRefresh(refresh) => Some(refresh.org),
        Change::Inbox(InboxChange::Put { message, .. }) => Some(message.org),
        Change::NoteFailing(_, failing) => failing.map(|failing| failing.org),
        _ => None,
    }
}

/// Rows that work writes, about.
fn rows(work: &Work) -> usize {
    let of = |changes: &[Change]| {
        let rows = |change: &Change| match change {
            Change::Inbox(InboxChange::Put { to, .. }) => to.len().max(1),
            Change::Inbox(InboxChange::Step(steps)) => steps.len().max(1),
            _ => 1,
        };
        changes.iter().map(rows).sum::<usize>()
    };
    match work {
        Work::Changes(changes, _) => of(changes),
        Work::Redo(logged) => logged.iter().map(|(_, changes)| of(changes)).sum(),
    }
}

/// Where the journal is that takes what the work triggers.
fn beside(work: &Work) -> Option<ShardId> {
    match work {
        Work::Changes(_, Log::Beside(shard, _)) => Some(*shard),
        Work::Changes(..) | Work::Redo(_) => None,
    }
}

/// One commit adds to one journal only.
fn fits(group: &[Waiting], next: &Waiting) -> bool {
    let shard = beside(&next.work);
    shard.is_none()
        || group.iter().filter_map(|one| beside(&one.work)).all(|other| Some(other) == shard)
}

impl Records {
    /// Resolves after the commit. Dropped once queued, the changes are still made.
    pub(super) async fn apply(self: &Arc<Self>, work: Work) -> Answer {
        let stopped = || StoreError::Backend(Box::new(RecordsError::Stopped));
        let busy = || StoreError::Backend(Box::new(RecordsError::BUSY));
        let lane = match &work {
            Work::Changes(changes, _) => Lane::of(changes),
            Work::Redo(logged) => logged.first().map_or(Lane::Rest(0), |(_, all)| Lane::of(all)),
        };
        let (answer, answered) = oneshot::channel();
        let take_place = || Arc::clone(&self.queue.places).try_acquire_owned().map_err(|_| busy());
        match self.queue.lanes.lock().entry(lane) {
            Entry::Occupied(others) if others.get().len() >= LANE_MAX => return Err(busy()),
            Entry::Occupied(mut others) => {
                others.get_mut().push_back(Waiting { work, answer, place: take_place()? });
            }
            Entry::Vacant(first) => {
                first.insert(VecDeque::from([Waiting { work, answer, place: take_place()? }]));
                tokio::spawn(drain(Arc::clone(self), lane));
            }
        }
        answered.await.map_err(|_| stopped())?
    }

    /// The next commit of a lane; `None` ends the lane.
    fn next(&self, lane: Lane) -> Option<Vec<Waiting>> {
        let mut lanes = self.queue.lanes.lock();
        let waiting = lanes.get_mut(&lane)?;
        let (mut group, mut size) = (Vec::new(), 0);
        while group.len() < COMMIT_APPLIES_MAX
            && size < COMMIT_ROWS_MAX
            && waiting.front().is_some_and(|next| fits(&group, next))
            && let Some(next) = waiting.pop_front()
        {
            size += rows(&next.work);
            group.push(next);
            if matches!(lane, Lane::Rest(_)) {
                break;
            }
        }
        if group.is_empty() {
            lanes.remove(&lane);
            return None;
        }
        Some(group)
    }
}

async fn drain(records: Arc<Records>, lane: Lane) {
    while let Some(group) = records.next(lane) {
        let (mut members, mut answers) = (Vec::new(), Vec::new());
        for Waiting { work, answer, place } in group {
            members.push(Member::new(work));
            answers.push((answer, place));
        }
        if records.is_failed() {
            for (answer, _) in answers {
                drop(answer.send(Err(StoreError::Log(LogError::Failed))));
            }
            continue;
        }
        records.make(&mut members).await;
        for (member, (answer, _)) in members.into_iter().zip(answers) {
            // A caller that went away needs no answer: its changes stand.
            drop(answer.send(member.answer.unwrap_or(Ok(Version::default()))));
        }
    }
}
