//! The one thread that writes records: many applies per commit, one fsync for all of them.
//!
//! Whatever applies arrived during the previous commit go into the next one, so nobody waits for
//! a timer. An apply that breaks a constraint is taken back alone. A commit that fails refuses
//! every apply in it, and redb refuses every later one until the file is opened again.
//!
//! Logged applies are checked in the open transaction, then written to their log, and committed
//! once the log has them: without a sync, since the log can make them again (`redo`).

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::Durability;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::cache::Touched;
use super::change::{self, Making, Refusal};
use super::tables::{Flaw, META_VERSION, Table};
use super::transaction::Draft;
use super::{DiskError, Records, searches};

use crate::store::{Change, LogStep, Logged, StoreError, Version};

/// Applies waiting for the writer; more callers wait for a place.
const QUEUE_MAX: usize = 1024;
/// Applies in one commit.
const COMMIT_APPLIES_MAX: usize = 256;
/// Changes after which a commit takes no further apply, so that one import delays few others.
const COMMIT_CHANGES_MAX: usize = 4096;

type Answer = Result<Version, StoreError>;

struct Apply {
    work: Work,
    answer: oneshot::Sender<Answer>,
}

enum Work {
    Changes(Vec<Change>, Option<LogStep>),
    Redo(Vec<(Version, Vec<Change>)>),
}

impl Work {
    fn len(&self) -> usize {
        match self {
            Self::Changes(changes, _) => changes.len(),
            Self::Redo(logged) => logged.len(),
        }
    }
}

/// The writing side. Dropping it commits what is queued, then ends the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Apply>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(records: Arc<Records>) -> io::Result<Self> {
        let (queue, applies) = mpsc::channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name(String::from("store-writer"))
            .spawn(move || run(&records, applies))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Resolves after the commit. Dropped once queued, the changes are still made.
    pub(super) async fn apply(&self, changes: Vec<Change>, log: Option<LogStep>) -> Answer {
        self.send(Work::Changes(changes, log)).await
    }

    /// Resolves once the records hold the logged changes durably.
    pub(super) async fn redo(&self, logged: Vec<(Version, Vec<Change>)>) -> Answer {
        self.send(Work::Redo(logged)).await
    }

    async fn send(&self, work: Work) -> Answer {
        let stopped = || StoreError::Backend(Box::new(DiskError::WriterStopped));
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(Apply { work, answer }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the store's writer thread had panicked: its last applies got an error"
            );
        }
    }
}

fn run(records: &Records, mut applies: mpsc::Receiver<Apply>) {
    // A runtime of its own, only to wait for logs without depending on the caller's.
    let waiting = tokio::runtime::Builder::new_current_thread().build();
    let Ok(waiting) = waiting else {
        tracing::error!("the store's writer cannot wait for its log; nothing is written");
        return;
    };
    let mut is_dirty = false;
    while let Some(first) = applies.blocking_recv() {
        let mut changes = first.work.len();
        let mut group = vec![first];
        while group.len() < COMMIT_APPLIES_MAX
            && changes < COMMIT_CHANGES_MAX
            && let Ok(next) = applies.try_recv()
        {
            changes += next.work.len();
            group.push(next);
        }
        commit(records, group, &waiting, &mut is_dirty);
    }
    if is_dirty && let Err(flaw) = write(records, Vec::new(), &waiting, &mut is_dirty) {
        tracing::warn!(error = %records.explain(flaw), "the last changes stay in the log only");
    }
}

/// Commits a group of applies and answers each.
fn commit(records: &Records, group: Vec<Apply>, waiting: &Runtime, is_dirty: &mut bool) {
    let (work, callers): (Vec<_>, Vec<_>) =
        group.into_iter().map(|apply| (apply.work, apply.answer)).unzip();
    let answers = write(records, work, waiting, is_dirty).unwrap_or_else(|flaw| {
        let error = Arc::new(records.explain(flaw));
        let refusal = || Err(StoreError::Backend(Box::new(Arc::clone(&error))));
        callers.iter().map(|_| refusal()).collect()
    });
    for (caller, answer) in callers.into_iter().zip(answers) {
        // A caller that went away needs no answer: its changes stand.
        drop(caller.send(answer));
    }
}

/// A group being made: one transaction, the touched caches, and what its logs still owe.
struct Group<'a, 'txn> {
    records: &'a Records,
    draft: Draft<'txn>,
    version: Version,
    touched: Touched,
    logs: Vec<(usize, Logged)>,
    is_durable: bool,
}

fn write(
    records: &Records,
    group: Vec<Work>,
    waiting: &Runtime,
    is_dirty: &mut bool,
) -> Result<Vec<Answer>, Flaw> {
    let mut transaction = records.database.begin_write()?;
    transaction.set_quick_repair(true);
    let is_flush = group.is_empty();
    let mut answers = Vec::with_capacity(group.len());
    let (touched, logs, is_durable) = {
        let draft = Draft::open(&transaction)?;
        let version = stored_version(&draft)?;
        let (touched, logs) = (Touched::default(), Vec::new());
        let mut making = Group { records, draft, version, touched, logs, is_durable: is_flush };
        for (number, work) in group.into_iter().enumerate() {
            answers.push(match work {
                Work::Changes(changes, log) => making.changes(number, changes, log)?,
                Work::Redo(logged) => making.redo(logged)?,
            });
        }
        making.draft.put(Table::Meta, META_VERSION, &making.version.0.to_be_bytes())?;
        (making.touched, making.logs, making.is_durable)
    };
    let logs = logs.into_iter().map(|(number, log)| async move { (number, log.await) });
    for (number, logged) in waiting.block_on(futures_util::future::join_all(logs)) {
        if let Err(error) = logged {
            // The log may hold some of the group: it has failed and is read again at the next
            // start. Until then nothing of the group may be seen.
            answers.iter_mut().for_each(|answer| *answer = Err(StoreError::Log(error)));
            tracing::error!(number, %error, "changes could not be logged; none of the group is made");
            return Ok(answers);
        }
    }
    if is_durable {
        transaction.set_durability(Durability::Immediate)?;
    } else {
        transaction.set_durability(Durability::None)?;
    }
    transaction.commit()?;
    *is_dirty = !is_durable;
    records.note_ids(&touched);
    records.caches.forget(&touched);
    searches::note(records, &touched);
    Ok(answers)
}

impl Group<'_, '_> {
    fn changes(
        &mut self,
        number: usize,
        changes: Vec<Change>,
        log: Option<LogStep>,
    ) -> Result<Answer, Flaw> {
        let version = Version(self.version.0.saturating_add(1));
        if let Err(refusal) = self.make(version, changes, false) {
            self.draft.roll_back()?;
            return Ok(Err(refused(self.records, refusal)));
        }
        match log.map(|log| log(version)) {
            None => self.is_durable = true,
            Some(Ok(logged)) => self.logs.push((number, logged)),
            Some(Err(error)) => {
                self.draft.roll_back()?;
                return Ok(Err(StoreError::Log(error)));
            }
        }
        self.draft.keep();
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
                Err(refusal) => {
                    self.draft.roll_back()?;
                    let error = refused(self.records, refusal);
                    tracing::error!(version = version.0, error = %crate::telemetry::chain(&error), "a logged change cannot be made again; it is left out");
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
            .try_for_each(|change| change::make(&mut self.draft, change, &mut making))
    }
}

fn stored_version(draft: &Draft<'_>) -> Result<Version, Flaw> {
    let Some(bytes) = draft.get(Table::Meta, META_VERSION)? else { return Ok(Version(0)) };
    let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| Flaw::Value(Table::Meta))?;
    Ok(Version(u64::from_be_bytes(bytes)))
}

fn refused(records: &Records, refusal: Refusal) -> StoreError {
    match refusal {
        Refusal::Conflict(field) => StoreError::Conflict { field },
        Refusal::Missing(what) => StoreError::Missing { what },
        Refusal::Unmet(what) => StoreError::Unmet { what },
        Refusal::Used(what) => StoreError::Used { what },
        Refusal::Flaw(flaw) => records.refuse(flaw),
    }
}
