//! Changes to records: checked, written to the journal with what they trigger, then made.

use super::{Answer, Intake, IntakeError, Running, size};
use crate::journal::{Append, Journal, JournalError};
use crate::model::{AuditNote, Notification, OrganizationId};
use crate::store::{AppendStep, Change, LogError, LogStep, Store, StoreError, Version};
use crate::work::{Work, log_entry};
use std::sync::Arc;

/// A change to the records of one organization and the notifications it causes: all or nothing.
#[derive(Debug)]
pub struct RecordChange {
    pub org: OrganizationId,
    /// Expectations first; the audit line is added behind them.
    pub changes: Vec<Change>,
    pub audit: AuditNote,
    pub notifications: Vec<Notification>,
}

/// Why records were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The records refused: a name in use, an expectation that did not hold, a used token.
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

impl From<StoreError> for ChangeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Log(LogError::Full) => Self::Intake(IntakeError::Overloaded),
            StoreError::Log(LogError::TooLarge) => Self::Intake(IntakeError::TooLarge),
            StoreError::Log(LogError::Refused) => Self::Intake(IntakeError::Failed),
            StoreError::Log(LogError::Failed) => Self::Intake(IntakeError::Uncertain),
            other => Self::Store(other),
        }
    }
}

impl Intake {
    /// Makes a change; resolves once the journal has it durably and every read sees it.
    ///
    /// # Errors
    /// Nothing was made, and nothing it would have triggered will be sent; only after
    /// [`IntakeError::Uncertain`] all of it may have been.
    pub async fn change(
        &self,
        store: &dyn Store,
        change: RecordChange,
        remember: Option<(&Running, &Answer)>,
    ) -> Result<(), ChangeError> {
        let RecordChange { org, mut changes, audit, notifications } = change;
        changes.push(Change::Audit(audit));
        let shard = self.shard(org);
        let sent: Vec<_> = notifications.into_iter().map(Work::root).collect();
        if sent.is_empty() {
            self.admission.check_room().map_err(IntakeError::from)?;
        } else {
            let backlog = self.journal.backlog_of(shard, org);
            self.admission.check(org, backlog, size(&sent)).map_err(IntakeError::from)?;
        }
        let (id, now) = (self.mint(), self.now());
        let idempotency = remember.map(|(first, answer)| self.record(first, answer));
        // The change is decided where it is queued, whether its caller still waits or not.
        let running = remember.map(|(first, _)| first.clone());
        let logged = changes.clone();
        let laid_out = [log_entry(id, org, now, Version::default(), &logged)];
        let bytes = size(&laid_out).bytes + size(&sent).bytes;
        let journal: Arc<dyn Journal> = Arc::clone(&self.journal);
        let admission = Arc::clone(&self.admission);
        if store.appends() {
            let triggered = sent.clone();
            let append: AppendStep = Box::new(move |version| {
                // Goes with the step, once it is decided.
                let _running = &running;
                let mut entries = vec![log_entry(id, org, now, version, &logged)];
                entries.extend(sent.iter().cloned());
                let idempotency = idempotency.iter().cloned().collect();
                journal.program(Append { entries, idempotency }).map_err(log_error)
            });
            let waiting = admission.begin(org, 1, bytes);
            let made = store.apply_appending(changes, shard, append).await;
            waiting.answered();
            made?;
            self.journal.keep(triggered).await.map_err(IntakeError::from)?;
            return Ok(());
        }
        let log: LogStep = Box::new(move |version| {
            let mut entries = vec![log_entry(id, org, now, version, &logged)];
            entries.extend(sent);
            let append = Append { entries, idempotency: idempotency.into_iter().collect() };
            let commit = journal.append(shard, append).map_err(log_error)?;
            let waiting = admission.begin(org, 1, bytes);
            Ok(Box::pin(async move {
                let logged = commit.await.map_err(log_error);
                waiting.answered();
                drop(running);
                logged
            }))
        });
        store.apply_logged(changes, log).await?;
        Ok(())
    }
}

fn log_error(error: JournalError) -> LogError {
    match error {
        JournalError::Full => LogError::Full,
        JournalError::TooLarge => LogError::TooLarge,
        JournalError::Poisoned
        | JournalError::Closed
        | JournalError::Fenced
        | JournalError::KeyUsed => LogError::Refused,
        JournalError::Uncertain | JournalError::Unknown | JournalError::Unreadable => {
            LogError::Failed
        }
    }
}
