//! A group of applies in one transaction: made, logged, and made again without what a full log
//! refused.

use futures_util::future::join_all;
use redb::{Durability, WriteTransaction};
use tokio::runtime::Runtime;

use super::tables::{Flaw, META_VERSION, Table};
use super::transaction::Draft;
use super::{Records, searches};
use crate::store::changes::{self, Making, Refusal, Rows, Touched};
use crate::store::{Change, InboxChange, LogError, LogStep, Logged, StoreError, Version};

pub(super) type Answer = Result<Version, StoreError>;

/// What one apply asks for.
pub(super) enum Work {
    Changes(Vec<Change>, Option<LogStep>),
    Redo(Vec<(Version, Vec<Change>)>),
}

impl Work {
    /// Rows it writes, about: what bounds a group.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Changes(changes, _) => rows(changes),
            Self::Redo(logged) => logged.iter().map(|(_, changes)| rows(changes)).sum(),
        }
    }

    pub(super) fn is_logged(&self) -> bool {
        matches!(self, Self::Changes(_, Some(_)))
    }
}

fn rows(changes: &[Change]) -> usize {
    let rows = |change: &Change| match change {
        Change::Inbox(InboxChange::Put { to, .. }) => to.len().max(1),
        Change::Inbox(InboxChange::Step(steps)) => steps.len().max(1),
        _ => 1,
    };
    changes.iter().map(rows).sum()
}

/// What the writer carries from one group to the next.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// A commit without a sync waits for one.
    pub(super) is_dirty: bool,
    /// A log failed, and may hold versions that the records lack: nothing more is made, lest a
    /// later version hides them from `redo`.
    pub(super) has_failed: bool,
}

/// Makes, logs and commits a group; an empty one only syncs.
pub(super) fn write(
    records: &Records,
    group: Vec<Work>,
    waiting: &Runtime,
    carried: &mut Carried,
) -> Result<Vec<Answer>, Flaw> {
    let mut transaction = begin(records)?;
    let mut made = Group::open(records, &transaction)?.make_all(group)?;
    let logs = std::mem::take(&mut made.logs);
    let refused = wait(waiting, logs);
    if refused.iter().any(|(_, error)| *error == LogError::Failed) {
        carried.has_failed = true;
        tracing::error!("changes could not be logged; no more are made until a restart");
        let failed = || Err(StoreError::Log(LogError::Failed));
        return Ok(made.answers.iter().map(|_| failed()).collect());
    }
    if !refused.is_empty() {
        // What the log has must stay, under the versions it has there.
        drop(transaction);
        transaction = begin(records)?;
        made = Group::open(records, &transaction)?.make_again(made, &refused)?;
    }
    let durability = if made.is_durable { Durability::Immediate } else { Durability::None };
    transaction.set_durability(durability)?;
    transaction.commit()?;
    carried.is_dirty = !made.is_durable;
    records.note_ids(&made.touched);
    records.caches.forget(&made.touched);
    searches::note(records, &made.touched);
    Ok(made.answers)
}

fn begin(records: &Records) -> Result<WriteTransaction, Flaw> {
    let mut transaction = records.database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Waits for every log; answers which applies theirs did not take, and why.
fn wait(waiting: &Runtime, logs: Vec<(usize, Logged)>) -> Vec<(usize, LogError)> {
    let logs = logs.into_iter().map(|(number, log)| async move { (number, log.await) });
    let logged = waiting.block_on(join_all(logs));
    logged.into_iter().filter_map(|(number, log)| Some((number, log.err()?))).collect()
}

/// A group that is made and not yet committed.
struct Made {
    answers: Vec<Answer>,
    touched: Touched,
    /// The highest version given out, whether it stays or not.
    version: Version,
    is_durable: bool,
    /// By the place of their apply in the group.
    logs: Vec<(usize, Logged)>,
    /// Copies of what was made, if some of it may have to be made again without the rest.
    kept: Vec<(usize, Kept)>,
}

enum Kept {
    Logged(Version, Vec<Change>),
    Unlogged(Version, Vec<Change>),
    Redo(Vec<(Version, Vec<Change>)>),
}

/// A group being made in one transaction.
struct Group<'a, 'txn> {
    records: &'a Records,
    draft: Draft<'txn>,
    version: Version,
    touched: Touched,
    is_durable: bool,
    logs: Vec<(usize, Logged)>,
    keeps: bool,
    kept: Vec<(usize, Kept)>,
}

impl<'a, 'txn> Group<'a, 'txn> {
    fn open(records: &'a Records, transaction: &'txn WriteTransaction) -> Result<Self, Flaw> {
        let draft = Draft::open(transaction)?;
        let version = stored_version(&draft)?;
        Ok(Self {
            records,
            draft,
            version,
            touched: Touched::default(),
            is_durable: false,
            logs: Vec::new(),
            keeps: false,
            kept: Vec::new(),
        })
    }

    fn make_all(mut self, group: Vec<Work>) -> Result<Made, Flaw> {
        self.is_durable = group.is_empty();
        self.keeps = group.len() > 1 && group.iter().any(Work::is_logged);
        let mut answers = Vec::with_capacity(group.len());
        for (number, work) in group.into_iter().enumerate() {
            answers.push(match work {
                Work::Changes(changes, log) => self.changes(number, changes, log)?,
                Work::Redo(logged) => {
                    if self.keeps {
                        self.kept.push((number, Kept::Redo(logged.clone())));
                    }
                    self.redo(logged)?
                }
            });
        }
        self.finish(answers)
    }

    /// Makes what `made` made, in an empty transaction, but for the applies that were `refused`.
    fn make_again(mut self, made: Made, refused: &[(usize, LogError)]) -> Result<Made, Flaw> {
        let mut answers = made.answers;
        for (number, error) in refused {
            answers[*number] = Err(StoreError::Log(*error));
        }
        for (number, kept) in made.kept {
            if refused.iter().any(|(refused, _)| *refused == number) {
                continue;
            }
            let (version, changes, again) = match kept {
                Kept::Redo(logged) => {
                    answers[number] = self.redo(logged)?;
                    continue;
                }
                Kept::Logged(version, changes) => (version, changes, true),
                Kept::Unlogged(version, changes) => (version, changes, false),
            };
            self.is_durable |= !again;
            match self.make(version, changes, again) {
                Ok(()) => self.draft.keep(),
                Err(Refusal::Flaw(flaw)) => return Err(flaw),
                // It built on an apply that the log did not take.
                Err(refusal) => {
                    self.draft.roll_back()?;
                    let error = to_error(self.records, refusal);
                    if again {
                        left_out(version, &error);
                    }
                    answers[number] = Err(error);
                }
            }
        }
        self.version = made.version;
        self.finish(answers)
    }

    fn finish(mut self, answers: Vec<Answer>) -> Result<Made, Flaw> {
        self.draft.put(Table::Meta, META_VERSION, &self.version.0.to_be_bytes())?;
        let Self { touched, version, is_durable, logs, kept, .. } = self;
        Ok(Made { answers, touched, version, is_durable, logs, kept })
    }

    fn changes(
        &mut self,
        number: usize,
        changes: Vec<Change>,
        log: Option<LogStep>,
    ) -> Result<Answer, Flaw> {
        let version = Version(self.version.0.saturating_add(1));
        let copy = self.keeps.then(|| changes.clone());
        if let Err(refusal) = self.make(version, changes, false) {
            self.draft.roll_back()?;
            return Ok(Err(to_error(self.records, refusal)));
        }
        let is_logged = log.is_some();
        match log.map(|log| log(version)) {
            None => self.is_durable = true,
            Some(Ok(logged)) => self.logs.push((number, logged)),
            Some(Err(LogError::Failed)) => {
                self.logs.push((number, Box::pin(std::future::ready(Err(LogError::Failed)))));
            }
            Some(Err(error)) => {
                self.draft.roll_back()?;
                return Ok(Err(StoreError::Log(error)));
            }
        }
        self.draft.keep();
        if let Some(changes) = copy {
            let kept = if is_logged { Kept::Logged } else { Kept::Unlogged };
            self.kept.push((number, kept(version, changes)));
        }
        self.version = version;
        Ok(Ok(version))
    }

    fn redo(&mut self, mut logged: Vec<(Version, Vec<Change>)>) -> Result<Answer, Flaw> {
        self.is_durable = true;
        logged.sort_by_key(|(version, _)| *version);
        for (version, changes) in logged {
            if version <= self.version {
                continue;
            }
            match self.make(version, changes, true) {
                Ok(()) => self.draft.keep(),
                // Damage: leaving the change out would hide it behind a later version.
                Err(Refusal::Flaw(flaw)) => return Err(flaw),
                Err(refusal) => {
                    self.draft.roll_back()?;
                    left_out(version, &to_error(self.records, refusal));
                }
            }
            self.version = version;
        }
        Ok(Ok(self.version))
    }

    fn make(&mut self, version: Version, changes: Vec<Change>, again: bool) -> Result<(), Refusal> {
        let mut making = Making { version, again, touched: &mut self.touched };
        changes
            .into_iter()
            .try_for_each(|change| changes::make(&mut self.draft, change, &mut making))
    }
}

fn left_out(version: Version, error: &StoreError) {
    let error = crate::telemetry::chain(error);
    tracing::error!(version = version.0, %error, "a logged change cannot be made again; it is left out");
}

fn stored_version(draft: &Draft<'_>) -> Result<Version, Flaw> {
    let Some(bytes) = draft.get(Table::Meta, META_VERSION)? else { return Ok(Version(0)) };
    let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| Flaw::Value(Table::Meta))?;
    Ok(Version(u64::from_be_bytes(bytes)))
}

fn to_error(records: &Records, refusal: Refusal) -> StoreError {
    match refusal {
        Refusal::Conflict(field) => StoreError::Conflict { field },
        Refusal::Missing(what) => StoreError::Missing { what },
        Refusal::Unmet(what) => StoreError::Unmet { what },
        Refusal::Used(what) => StoreError::Used { what },
        Refusal::Flaw(flaw) => records.refuse(flaw),
    }
}
