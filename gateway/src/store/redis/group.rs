//! Applies that go into one commit: made over what is read, logged, committed, or made again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;

use super::commit::{Appended, Ended};
use super::overlay::{Cell, Overlay, Want};
use super::places::{Form, Place, form};
use super::plan::{Plan, plan};
use super::wire::{Ask, into_bytes, members, number, pairs};
use super::{Records, RecordsError};
use crate::model::{OrganizationId, ShardId};
use crate::redis::RedisError;
use crate::store::changes::tables::{Table, org_key};
use crate::store::changes::{self, Making, Refusal, Rows, Touched};
use crate::store::{AppendStep, Change, LogError, LogStep, StoreError, Version};

pub(super) type Answer = Result<Version, StoreError>;

/// How often a group starts over because others changed what it read.
const ATTEMPTS_MAX: u32 = 200;
/// How often rows are read for one attempt: each time at least one change gets further.
const ROUNDS_MAX: usize = 500;
/// Rows that are read at once, versions not counted.
const WANTS_AT_ONCE: usize = 4_000;

/// What is to know of changes besides the records.
pub(super) enum Log {
    Nobody,
    /// A log elsewhere, until it was called.
    Elsewhere(Option<LogStep>),
    /// The journal beside the records.
    Beside(ShardId, AppendStep),
}

/// What one apply asks for.
pub(super) enum Work {
    Changes(Vec<Change>, Log),
    Redo(Vec<(Version, Vec<Change>)>),
}

/// An apply on its way.
pub(super) struct Member {
    work: Work,
    /// The version it will have, as long as nobody else had a later one.
    version: Option<Version>,
    /// Under which it was logged.
    logged: Option<Version>,
    pub(super) answer: Option<Answer>,
}

impl Member {
    pub(super) fn new(work: Work) -> Self {
        Self { work, version: None, logged: None, answer: None }
    }
}

/// What the rules said to each member that has no answer yet.
#[derive(Default)]
struct Run {
    results: Vec<Option<Result<Version, Refusal>>>,
    left_out: Vec<(Version, Refusal)>,
    touched: Touched,
    version: Version,
}

impl Records {
    /// Makes the changes of `group`; every member has an answer afterwards.
    pub(super) async fn make(&self, group: &mut [Member]) {
        let made = self.try_make(group).await;
        let error = made.err().unwrap_or(RecordsError::Busy);
        for member in group.iter_mut().filter(|member| member.answer.is_none()) {
            // The log may have versions that the records lack: none may hide them.
            self.has_failed(member.logged.is_some());
            member.answer = Some(Err(StoreError::Backend(Box::new(error.clone()))));
        }
    }

    async fn try_make(&self, group: &mut [Member]) -> Result<(), RecordsError> {
        let mut overlay = Overlay::new(self.wire.shards);
        for tries in 0..ATTEMPTS_MAX {
            if tries > 0 {
                pause(tries).await;
            }
            group.iter_mut().for_each(|member| member.version = member.logged);
            let Some(run) = self.complete(&mut overlay, group).await? else {
                overlay = Overlay::new(self.wire.shards);
                continue;
            };
            let has_refusals = run.results.iter().flatten().any(Result::is_err);
            if has_refusals && !self.is_still_so(&mut overlay).await? {
                overlay = Overlay::new(self.wire.shards);
                continue;
            }
            match log(group, &run).await {
                Ok(true) => {}
                // Made again without those that the log did not take.
                Ok(false) => continue,
                Err(error) => {
                    self.has_failed(true);
                    answer_all(group, error);
                    return Ok(());
                }
            }
            let Some(appended) = lay_out(group, &run) else { continue };
            let plan = plan(&overlay, run.version.0, &run.touched.revoked, self.wire.shards)?;
            if !self.commit(&plan, &appended).await? {
                overlay = Overlay::new(self.wire.shards);
                continue;
            }
            self.note(&run.touched).await;
            answer_each(group, run);
            return Ok(());
        }
        Err(RecordsError::Busy)
    }

    /// False if what was read is not so any more.
    async fn commit(
        &self,
        plan: &Plan,
        (beside, appended): &(Option<ShardId>, Appended),
    ) -> Result<bool, RedisError> {
        let Some(decider) = beside.or_else(|| plan.decider()) else { return Ok(true) };
        match self.wire.commit(plan, decider, appended).await? {
            Ended::Made => Ok(true),
            Ended::Changed => Ok(false),
        }
    }

    /// Runs the rules until they miss nothing; `None` if what was read changed meanwhile.
    async fn complete(
        &self,
        overlay: &mut Overlay,
        group: &mut [Member],
    ) -> Result<Option<Run>, RecordsError> {
        for _ in 0..ROUNDS_MAX {
            let run = self.run(overlay, group);
            if overlay.is_complete() {
                let latest = overlay.versions.values().max().copied().map(Version);
                let is_late = |member: &&mut Member| {
                    let is_open = member.answer.is_none() && member.logged.is_none();
                    is_open && member.version.is_some_and(|version| Some(version) <= latest)
                };
                let mut late = group.iter_mut().filter(is_late).peekable();
                if late.peek().is_none() {
                    return Ok(Some(run));
                }
                // Keys contain versions: with later ones, other rows may be missing.
                late.for_each(|member| member.version = None);
                continue;
            }
            if !self.fetch(overlay).await? {
                return Ok(None);
            }
        }
        Err(RecordsError::Busy)
    }

    fn run(&self, overlay: &mut Overlay, group: &mut [Member]) -> Run {
        overlay.begin();
        let mut run = Run::default();
        let mut raised = BTreeMap::new();
        for member in group {
            if member.answer.is_some() {
                run.results.push(None);
                continue;
            }
            let result = match &member.work {
                Work::Changes(changes, _) => {
                    let version = *member.version.get_or_insert_with(|| self.versions.next());
                    let again = member.logged.is_some();
                    run.make(overlay, version, changes, again).map(|()| version)
                }
                Work::Redo(logged) => run.redo(overlay, logged, &mut raised),
            };
            run.results.push(Some(result));
        }
        run
    }

    /// Reads what the last run wanted; false if it does not fit to what was read before.
    async fn fetch(&self, overlay: &mut Overlay) -> Result<bool, RecordsError> {
        let wants: Vec<Want> = std::mem::take(overlay.wants.get_mut()).into_iter().collect();
        for wants in wants.chunks(WANTS_AT_ONCE) {
            let orgs: BTreeSet<OrganizationId> =
                wants.iter().filter_map(|want| org_of(want.cell())).collect();
            let mut asks: Vec<Ask> = orgs.iter().map(|org| Ask::version(*org)).collect();
            asks.extend(wants.iter().map(|want| match want {
                Want::Cell(cell) => Ask::cell(cell),
                Want::Range(cell, limit) => Ask::first(cell, *limit),
                Want::Last(cell) => Ask::last(cell),
            }));
            let mut replies = self.wire.read(&asks).await?.into_iter();
            for org in orgs {
                let found = replies.next().as_ref().and_then(number).unwrap_or_default();
                self.versions.observe(found);
                if *overlay.versions.entry(org).or_insert(found) != found {
                    return Ok(false);
                }
            }
            for (want, reply) in wants.iter().zip(replies) {
                fill(overlay, want, reply)?;
            }
        }
        Ok(true)
    }

    /// What a refusal rests on may have been read at different moments: it is read once more.
    async fn is_still_so(&self, overlay: &mut Overlay) -> Result<bool, RecordsError> {
        let mut cells: Vec<Cell> = overlay.used.get_mut().iter().cloned().collect();
        cells.retain(|cell| overlay.cells.contains_key(cell));
        let orgs: Vec<OrganizationId> = overlay.orgs.get_mut().iter().copied().collect();
        let mut asks: Vec<Ask> = orgs.iter().map(|org| Ask::version(*org)).collect();
        asks.extend(cells.iter().map(Ask::cell));
        let mut replies = self.wire.read(&asks).await?.into_iter();
        for org in orgs {
            let found = replies.next().as_ref().and_then(number).unwrap_or_default();
            if overlay.versions.get(&org) != Some(&found) {
                return Ok(false);
            }
        }
        let is_same = |(cell, reply): (Cell, Value)| {
            overlay.cells.get(&cell) == Some(&stored(cell.table, reply))
        };
        Ok(cells.into_iter().zip(replies).all(is_same))
    }
}

impl Run {
    fn make(
        &mut self,
        overlay: &mut Overlay,
        version: Version,
        changes: &[Change],
        again: bool,
    ) -> Result<(), Refusal> {
        let mut touched = Touched::default();
        let mut making = Making { version, again, touched: &mut touched };
        let mut made = Ok(());
        for change in changes {
            let one = changes::make(overlay, change.clone(), &mut making);
            made = made.and(one);
            // As long as anything is missing, the others say what they will need.
            if made.is_err() && overlay.is_complete() {
                break;
            }
        }
        match made {
            Ok(()) => overlay.keep(),
            Err(_) => overlay.roll_back(),
        }
        if made.is_ok() {
            self.touched.add(touched);
            self.version = self.version.max(version);
        }
        made
    }

    /// Makes logged changes again, but for those that their organization has.
    fn redo(
        &mut self,
        overlay: &mut Overlay,
        logged: &[(Version, Vec<Change>)],
        raised: &mut BTreeMap<OrganizationId, Version>,
    ) -> Result<Version, Refusal> {
        let mut logged: Vec<_> = logged.iter().collect();
        logged.sort_by_key(|(version, _)| *version);
        for (version, changes) in logged {
            let org = super::queue::main_org(changes);
            if let Some(org) = org {
                // Asked for its version only.
                overlay.has(Table::Organizations, &org_key(org))?;
                let stored = overlay.versions.get(&org).copied().map(Version);
                if stored.max(raised.get(&org).copied()) >= Some(*version) {
                    continue;
                }
            }
            match self.make(overlay, *version, changes, true) {
                Ok(()) => {
                    raised.extend(org.map(|org| (org, *version)));
                }
                // Damage: leaving the change out would hide it behind a later version.
                Err(Refusal::Flaw(flaw)) => return Err(Refusal::Flaw(flaw)),
                Err(refusal) => self.left_out.push((*version, refusal)),
            }
        }
        Ok(self.version)
    }
}

fn org_of(cell: &Cell) -> Option<OrganizationId> {
    match cell.place {
        Place::Org(org) => Some(org),
        Place::Names(_) => None,
    }
}

/// The stored value that a reply tells of; what an index has needs no value.
fn stored(table: Table, reply: Value) -> Option<Vec<u8>> {
    let value = into_bytes(reply)?;
    Some(if form(table) == Form::Index { Vec::new() } else { value })
}

fn fill(overlay: &mut Overlay, want: &Want, reply: Value) -> Result<(), RedisError> {
    match want {
        Want::Cell(cell) => {
            overlay.cells.insert(cell.clone(), stored(cell.table, reply));
        }
        Want::Range(cell, limit) => {
            let mut keys = Vec::new();
            if form(cell.table) == Form::Sorted {
                // Who goes through keys in their order reads the rows as well.
                for (key, value) in pairs(reply)? {
                    keys.push(key.clone());
                    let cell = Cell { field: key, ..cell.clone() };
                    overlay.cells.insert(cell, Some(value));
                }
            } else {
                keys = members(reply)?;
            }
            let is_all = keys.len() < *limit;
            overlay.ranges.insert(cell.clone(), super::overlay::Fetched { keys, is_all });
        }
        Want::Last(cell) => {
            overlay.lasts.insert(cell.clone(), members(reply)?.pop());
        }
    }
    Ok(())
}

/// Logs what was made and is not logged yet; false if a log took none of it.
async fn log(group: &mut [Member], run: &Run) -> Result<bool, LogError> {
    let (mut waiting, mut is_taken) = (Vec::new(), true);
    for (number, (member, result)) in group.iter_mut().zip(&run.results).enumerate() {
        let Some(Ok(version)) = result else { continue };
        let Work::Changes(_, Log::Elsewhere(log)) = &mut member.work else { continue };
        let Some(log) = log.take() else { continue };
        match log(*version) {
            Ok(logged) => {
                member.logged = Some(*version);
                waiting.push(async move { (number, logged.await) });
            }
            Err(LogError::Failed) => return Err(LogError::Failed),
            Err(error) => {
                is_taken = false;
                member.answer = Some(Err(StoreError::Log(error)));
            }
        }
    }
    for (number, logged) in join_all(waiting).await {
        match logged {
            Ok(()) => {}
            Err(LogError::Failed) => return Err(LogError::Failed),
            Err(error) => {
                is_taken = false;
                if let Some(member) = group.get_mut(number) {
                    member.logged = None;
                    member.answer = Some(Err(StoreError::Log(error)));
                }
            }
        }
    }
    Ok(is_taken)
}

/// What goes to the journal with the changes that are made; `None` if some of it cannot.
fn lay_out(group: &mut [Member], run: &Run) -> Option<(Option<ShardId>, Appended)> {
    let (mut beside, mut appended, mut is_taken) = (None, Appended::new(), true);
    for (member, result) in group.iter_mut().zip(&run.results) {
        let Some(Ok(version)) = result else { continue };
        let Work::Changes(_, Log::Beside(shard, append)) = &mut member.work else { continue };
        match append(*version) {
            Ok(parts) => {
                beside = Some(*shard);
                appended.push(parts);
            }
            Err(error) => {
                is_taken = false;
                member.answer = Some(Err(StoreError::Log(error)));
            }
        }
    }
    is_taken.then_some((beside, appended))
}

fn answer_all(group: &mut [Member], error: LogError) {
    for member in group {
        member.answer = Some(Err(StoreError::Log(error)));
    }
}

fn answer_each(group: &mut [Member], run: Run) {
    for (version, refusal) in run.left_out {
        left_out(version, &to_error(refusal));
    }
    for (member, result) in group.iter_mut().zip(run.results) {
        let Some(result) = result else { continue };
        let answer = result.map_err(to_error);
        if let (Some(version), Err(error)) = (member.logged, &answer) {
            left_out(version, error);
        }
        member.answer = Some(answer);
    }
}

fn left_out(version: Version, error: &StoreError) {
    let error = crate::telemetry::chain(error);
    tracing::error!(version = version.0, %error, "a logged change cannot be made; it is left out");
}

fn to_error(refusal: Refusal) -> StoreError {
    match refusal {
        Refusal::Conflict(field) => StoreError::Conflict { field },
        Refusal::Missing(what) => StoreError::Missing { what },
        Refusal::Unmet(what) => StoreError::Unmet { what },
        Refusal::Used(what) => StoreError::Used { what },
        Refusal::Flaw(flaw) => StoreError::Backend(Box::new(RecordsError::from(flaw))),
    }
}

/// Longer from time to time, and never as long as somebody else's.
async fn pause(tries: u32) {
    let longest = 1u64 << tries.min(6);
    let part = u64::from(uuid::Uuid::new_v4().as_bytes().first().copied().unwrap_or(0));
    tokio::time::sleep(Duration::from_millis(1 + longest * part / 256)).await;
}
