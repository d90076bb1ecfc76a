//! The one thread that writes records: many applies per commit, one fsync for all of them.
//!
//! Whatever applies arrived during the previous commit go into the next one, so nobody waits for
//! a timer. An apply that breaks a constraint is taken back alone. A commit that fails refuses
//! every apply in it, and redb refuses every later one until the file is opened again.
//!
//! Logged applies are checked in the open transaction, then written to their log, and committed
//! once the log has them: without a sync, since the log can make them again (`redo`). What a full
//! log did not take is left out; after a log that failed nothing is made at all, since what it
//! holds is known only at the next start.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::group::{self, Answer, Carried, Work};
use super::{DiskError, Records};
use crate::store::{Change, LogError, LogStep, StoreError, Version};

/// Applies waiting for the writer; more callers wait for a place.
const QUEUE_MAX: usize = 1024;
/// Applies in one commit.
const COMMIT_APPLIES_MAX: usize = 256;
/// Changes after which a commit takes no further apply, so that one import delays few others.
const COMMIT_CHANGES_MAX: usize = 4096;

struct Apply {
    work: Work,
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
    let mut carried = Carried::default();
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
        commit(records, group, &waiting, &mut carried);
    }
    if carried.is_dirty
        && let Err(flaw) = group::write(records, Vec::new(), &waiting, &mut carried)
    {
        tracing::warn!(error = %records.explain(flaw), "the last changes stay in the log only");
    }
}

/// Commits a group of applies and answers each.
fn commit(records: &Records, group: Vec<Apply>, waiting: &Runtime, carried: &mut Carried) {
    let (work, callers): (Vec<_>, Vec<_>) =
        group.into_iter().map(|apply| (apply.work, apply.answer)).unzip();
    let is_logged = work.iter().any(Work::is_logged);
    let written = if carried.has_failed {
        Ok(work.iter().map(|_| Err(StoreError::Log(LogError::Failed))).collect())
    } else {
        group::write(records, work, waiting, carried)
    };
    let answers: Vec<Answer> = written.unwrap_or_else(|flaw| {
        // The log may hold versions that the records do not have: none may be used twice.
        carried.has_failed |= is_logged;
        let error = Arc::new(records.explain(flaw));
        let refusal = || Err(StoreError::Backend(Box::new(Arc::clone(&error))));
        callers.iter().map(|_| refusal()).collect()
    });
    for (caller, answer) in callers.into_iter().zip(answers) {
        // A caller that went away needs no answer: its changes stand.
        drop(caller.send(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        InboxMessage, InboxOutcome, InboxRecipient, InboxStep, Millis, NotificationId,
        OrganizationId, UserId,
    };
    use crate::store::InboxChange;
    use uuid::Uuid;

    #[test]
    fn work_weighs_the_rows_it_writes() {
        let notification = NotificationId(Uuid::from_u128(1));
        let to = |user| InboxRecipient { user: UserId(user), open: Vec::new() };
        let put = Change::Inbox(InboxChange::Put {
            message: InboxMessage {
                notification,
                org: OrganizationId(1),
                start_at: Millis(0),
                created_at: Millis(0),
                created_by: None,
                content: String::from("text"),
            },
            to: (0..300).map(to).collect(),
            at: Millis(0),
        });
        let step = |user| InboxStep {
            user: UserId(user),
            notification,
            delivery: crate::model::DeliveryId(Uuid::from_u128(2)),
            outcome: InboxOutcome::Delivered,
            at: Millis(0),
        };
        let steps = Change::Inbox(InboxChange::Step((0..40).map(step).collect()));
        let forget = || Change::Forget(Millis(0));
        let changes = vec![put, steps, forget()];
        assert_eq!(Work::Changes(changes.clone(), None).len(), 341);
        let logged = vec![(Version(1), changes), (Version(2), vec![forget(), forget()])];
        assert_eq!(Work::Redo(logged).len(), 343);
    }
}
