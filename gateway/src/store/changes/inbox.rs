//! What changes of inboxes do to the tables: entries, removals that sync still tells of, contents.

use super::rows::Rows;
use super::tables::{
    Counter, Flaw, Table, change_key, notification_key, notification_of, org_key, pair_key,
    user_key,
};
use super::{Refusal, count, require_organization};
use crate::model::{
    InboxEntry, InboxHead, InboxMessage, InboxOutcome, InboxRecipient, InboxState, InboxStep,
    Millis, NotificationId, OrganizationId, UserId,
};
use crate::store::InboxChange;

/// Entries of one inbox; the oldest makes room for the next.
const LIVE_MAX: u32 = 1_000;
/// Removals of one inbox that are still told of.
const REMOVED_MAX: u32 = 1_000;
/// Hidden notifications forgotten in one change.
const FORGOTTEN_AT_ONCE: usize = 64;

type Made = Result<(), Refusal>;

pub(in crate::store) fn make(draft: &mut impl Rows, change: InboxChange) -> Made {
    match change {
        InboxChange::Put { message, to, at } => put(draft, &message, to, at),
        InboxChange::Step(steps) => steps.into_iter().try_for_each(|one| step(draft, one)),
        InboxChange::Set { user, notification, state, at, by } => {
            let mut inbox = Inbox::open(draft, user)?;
            if let Some(entry) = inbox.entry(notification)? {
                let changed = InboxEntry { state, updated_at: at, updated_by: by, ..entry };
                inbox.change(notification, changed)?;
            }
            inbox.close()
        }
        InboxChange::Remove { user, notification, at, by } => {
            let mut inbox = Inbox::open(draft, user)?;
            if let Some(entry) = inbox.entry(notification)? {
                inbox.remove(notification, InboxEntry { updated_by: by, ..entry }, at)?;
            }
            inbox.close()
        }
        InboxChange::Hide { org, notification, forget_before } => {
            hide(draft, org, notification, forget_before)
        }
    }
}

/// The revision of an entry; `None` if it is not there.
pub(in crate::store) fn revision(
    draft: &impl Rows,
    user: UserId,
    notification: NotificationId,
) -> Result<Option<u64>, Flaw> {
    let key = pair_key(&user_key(user), &notification_key(notification));
    let entry = draft.record::<InboxEntry>(Table::Inbox, &key)?;
    Ok(entry.map(|entry| entry.revision))
}

fn put(draft: &mut impl Rows, message: &InboxMessage, to: Vec<InboxRecipient>, at: Millis) -> Made {
    let key = notification_key(message.notification);
    draft.tie(message.notification, message.org);
    for InboxRecipient { user, open } in to {
        let row = pair_key(&user_key(user), &key);
        // Made again by a later claim: what is there is newer. Users may be gone meanwhile.
        let is_there = draft.has(Table::Inbox, &row)? || draft.has(Table::InboxRemoved, &row)?;
        if is_there || !draft.has(Table::Users, &user_key(user))? {
            continue;
        }
        if !draft.has(Table::InboxMessages, &key)? {
            draft.put_record(Table::InboxMessages, &key, &message.content)?;
        }
        count(draft, Counter::InboxEntries(message.notification), 1)?;
        let state = if open.is_empty() { InboxState::Sent } else { InboxState::Queued };
        let entry = InboxEntry {
            org: message.org,
            state,
            start_at: message.start_at,
            created_at: message.created_at,
            created_by: message.created_by,
            updated_at: at,
            updated_by: message.created_by,
            open,
            revision: 0,
            is_removed: false,
        };
        let mut inbox = Inbox::open(draft, user)?;
        inbox.change(message.notification, entry)?;
        inbox.head.live += 1;
        inbox.make_room(at)?;
        inbox.close()?;
    }
    Ok(())
}

fn step(draft: &mut impl Rows, step: InboxStep) -> Made {
    let InboxStep { user, notification, delivery, outcome, at } = step;
    let mut inbox = Inbox::open(draft, user)?;
    let Some(entry) = inbox.entry(notification)?.filter(|entry| entry.state.is_waiting()) else {
        return Ok(());
    };
    let mut open = entry.open.clone();
    if outcome != InboxOutcome::Retry {
        open.retain(|one| *one != delivery);
    }
    let state = match outcome {
        InboxOutcome::Delivered => InboxState::Sent,
        InboxOutcome::Failed if open.is_empty() => InboxState::Failed,
        InboxOutcome::Failed => entry.state,
        InboxOutcome::Retry => InboxState::Retry,
    };
    if state != entry.state {
        inbox.change(notification, InboxEntry { state, open, updated_at: at, ..entry })?;
    } else if open != entry.open {
        inbox.keep(notification, &InboxEntry { open, ..entry })?;
    }
    inbox.close()
}

/// One inbox being changed.
struct Inbox<'a, R> {
    draft: &'a mut R,
    user: UserId,
    before: InboxHead,
    head: InboxHead,
}

impl<'a, R: Rows> Inbox<'a, R> {
    fn open(draft: &'a mut R, user: UserId) -> Result<Self, Flaw> {
        let head: Option<InboxHead> = draft.record(Table::InboxHeads, &user_key(user))?;
        let head = head.unwrap_or_default();
        Ok(Self { draft, user, before: head, head })
    }

    fn close(self) -> Made {
        if self.head != self.before {
            self.draft.put_record(Table::InboxHeads, &user_key(self.user), &self.head)?;
        }
        Ok(())
    }

    fn row(&self, notification: NotificationId) -> Vec<u8> {
        pair_key(&user_key(self.user), &notification_key(notification))
    }

    fn entry(&self, notification: NotificationId) -> Result<Option<InboxEntry>, Flaw> {
        self.draft.record(Table::Inbox, &self.row(notification))
    }

    /// Stores an entry without telling anybody.
    fn keep(&mut self, notification: NotificationId, entry: &InboxEntry) -> Result<(), Flaw> {
        let row = self.row(notification);
        let table = if entry.is_removed { Table::InboxRemoved } else { Table::Inbox };
        self.draft.put_record(table, &row, entry)
    }

    /// Stores an entry under a new revision.
    fn change(&mut self, notification: NotificationId, entry: InboxEntry) -> Result<(), Flaw> {
        let old = change_key(self.user, entry.revision);
        self.draft.remove(Table::InboxChanges, &old)?;
        self.head.revision += 1;
        let entry = InboxEntry { revision: self.head.revision, ..entry };
        let new = change_key(self.user, entry.revision);
        self.draft.put(Table::InboxChanges, &new, &notification_key(notification))?;
        self.keep(notification, &entry)
    }

    fn remove(
        &mut self,
        notification: NotificationId,
        entry: InboxEntry,
        at: Millis,
    ) -> Result<(), Flaw> {
        let row = self.row(notification);
        self.draft.tie(notification, entry.org);
        self.draft.remove(Table::Inbox, &row)?;
        let (state, open) = (InboxState::Dismissed, Vec::new());
        let gone = InboxEntry { state, open, is_removed: true, updated_at: at, ..entry };
        self.change(notification, gone)?;
        self.head.live = self.head.live.saturating_sub(1);
        self.head.removed += 1;
        if count(self.draft, Counter::InboxEntries(notification), -1)? == 0 {
            let key = Counter::InboxEntries(notification).key();
            self.draft.remove(Table::Counters, &key)?;
            self.draft.remove(Table::InboxMessages, &notification_key(notification))?;
        }
        self.forget_removals()
    }

    fn make_room(&mut self, at: Millis) -> Result<(), Flaw> {
        while self.head.live > LIVE_MAX {
            let Some((oldest, entry)) = self.oldest(Table::Inbox)? else { return Ok(()) };
            self.remove(oldest, entry, at)?;
        }
        Ok(())
    }

    fn forget_removals(&mut self) -> Result<(), Flaw> {
        while self.head.removed > REMOVED_MAX {
            let Some((oldest, entry)) = self.oldest(Table::InboxRemoved)? else { return Ok(()) };
            let row = self.row(oldest);
            self.draft.remove(Table::InboxRemoved, &row)?;
            self.draft.remove(Table::InboxChanges, &change_key(self.user, entry.revision))?;
            self.head.removed -= 1;
            self.head.forgotten = self.head.forgotten.max(entry.revision);
        }
        Ok(())
    }

    fn oldest(&self, table: Table) -> Result<Option<(NotificationId, InboxEntry)>, Flaw> {
        let first = self.draft.keys(table, &user_key(self.user), 1)?;
        let Some(key) = first.into_iter().next() else { return Ok(None) };
        let entry: Option<InboxEntry> = self.draft.record(table, &key)?;
        let entry = entry.ok_or(Flaw::Value(table))?;
        Ok(Some((notification_of(table, &key)?, entry)))
    }
}

fn hide(
    draft: &mut impl Rows,
    org: OrganizationId,
    notification: NotificationId,
    forget_before: Millis,
) -> Made {
    require_organization(draft, org)?;
    let key = pair_key(&org_key(org), &notification_key(notification));
    if draft.has(Table::Hidden, &key)? {
        return Err(Refusal::Used("the notification"));
    }
    // A version 7 UUID starts with 48 bits of milliseconds.
    let until = pair_key(&org_key(org), &(forget_before.0 << 16).to_be_bytes());
    let mut old = draft.keys(Table::Hidden, &org_key(org), FORGOTTEN_AT_ONCE)?;
    old.retain(|key| *key < until);
    for key in old {
        draft.remove(Table::Hidden, &key)?;
    }
    Ok(draft.put(Table::Hidden, &key, &[])?)
}
