//! The one thread that writes records: many applies per commit, one fsync for all of them.
//!
//! Whatever applies arrived during the previous commit go into the next one, so nobody waits for
//! a timer. An apply that breaks a constraint is taken back alone. A commit that fails refuses
//! every apply in it, and redb refuses every later one until the file is opened again.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::Durability;
use tokio::sync::{mpsc, oneshot};

use super::cache::Touched;
use super::change::{self, Refusal};
use super::tables::{Flaw, META_VERSION, Table};
use super::transaction::Draft;
use super::{DiskError, Records};

use crate::store::{Change, StoreError, Version};

/// Applies waiting for the writer; more callers wait for a place.
const QUEUE_MAX: usize = 1024;
/// Applies in one commit.
const COMMIT_APPLIES_MAX: usize = 256;
/// Changes after which a commit takes no further apply, so that one import delays few others.
const COMMIT_CHANGES_MAX: usize = 4096;

type Answer = Result<Version, StoreError>;

struct Apply {
    changes: Vec<Change>,
    answer: oneshot::Sender<Answer>,
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
    pub(super) async fn apply(&self, changes: Vec<Change>) -> Answer {
        let stopped = || StoreError::Backend(Box::new(DiskError::WriterStopped));
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(Apply { changes, answer }).await.map_err(|_| stopped())?;
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
    while let Some(first) = applies.blocking_recv() {
        let mut changes = first.changes.len();
        let mut group = vec![first];
        while group.len() < COMMIT_APPLIES_MAX
            && changes < COMMIT_CHANGES_MAX
            && let Ok(next) = applies.try_recv()
        {
            changes += next.changes.len();
            group.push(next);
        }
        commit(records, group);
    }
}

/// Commits a group of applies and answers each.
fn commit(records: &Records, group: Vec<Apply>) {
    let (changes, callers): (Vec<_>, Vec<_>) =
        group.into_iter().map(|apply| (apply.changes, apply.answer)).unzip();
    let answers = write(records, changes).unwrap_or_else(|flaw| {
        let error = Arc::new(records.explain(flaw));
        let refusal = || Err(StoreError::Backend(Box::new(Arc::clone(&error))));
        callers.iter().map(|_| refusal()).collect()
    });
    for (caller, answer) in callers.into_iter().zip(answers) {
        // A caller that went away needs no answer: its changes stand.
        drop(caller.send(answer));
    }
}

fn write(records: &Records, group: Vec<Vec<Change>>) -> Result<Vec<Answer>, Flaw> {
    let mut transaction = records.database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    let mut touched = Touched::default();
    let mut answers = Vec::with_capacity(group.len());
    {
        let mut draft = Draft::open(&transaction)?;
        let mut version = stored_version(&draft)?;
        for changes in group {
            let outcome = changes
                .into_iter()
                .try_for_each(|change| change::make(&mut draft, change, &mut touched));
            answers.push(match outcome {
                Ok(()) => {
                    draft.keep();
                    version = Version(version.0.saturating_add(1));
                    Ok(version)
                }
                Err(refusal) => {
                    draft.roll_back()?;
                    Err(refused(records, refusal))
                }
            });
        }
        draft.put(Table::Meta, META_VERSION, &version.0.to_be_bytes())?;
    }
    transaction.commit()?;
    records.caches.forget(&touched);
    Ok(answers)
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
        Refusal::Flaw(flaw) => records.refuse(flaw),
    }
}
