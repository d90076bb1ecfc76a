//! Inboxes on disk: entries, removals that sync still tells of, shared contents, hidden notifications.

use super::DiskStore;
use super::accounts::Read;
use super::change::{Refusal, count, require_organization};
use super::reader::View;
use super::tables::{
    Counter, Flaw, Table, decode, notification_key, notification_of, org_key, pair_key, successor,
    user_key,
};
use super::transaction::Draft;
use crate::model::{
    InboxEntry, InboxHead, InboxMessage, InboxOutcome, InboxRecipient, InboxState, InboxStep,
    Millis, NotificationId, OrganizationId, UserId,
};
use crate::store::{InboxChange, InboxRow, Inboxes};

/// Entries of one inbox; the oldest makes room for the next.
const LIVE_MAX: u32 = 1_000;
/// Removals of one inbox that are still told of.
const REMOVED_MAX: u32 = 1_000;
/// Hidden notifications forgotten in one change.
const FORGOTTEN_AT_ONCE: usize = 64;

type Made = Result<(), Refusal>;

pub(super) fn make(draft: &mut Draft<'_>, change: InboxChange) -> Made {
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
pub(super) fn revision(
    draft: &Draft<'_>,
    user: UserId,
    notification: NotificationId,
) -> Result<Option<u64>, Flaw> {
    let key = pair_key(&user_key(user), &notification_key(notification));
    let entry = draft.record::<InboxEntry>(Table::Inbox, &key)?;
    Ok(entry.map(|entry| entry.revision))
}

fn put(draft: &mut Draft<'_>, message: &InboxMessage, to: Vec<InboxRecipient>, at: Millis) -> Made {
    let key = notification_key(message.notification);
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

fn step(draft: &mut Draft<'_>, step: InboxStep) -> Made {
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
struct Inbox<'a, 'txn> {
    draft: &'a mut Draft<'txn>,
    user: UserId,
    before: InboxHead,
    head: InboxHead,
}

impl<'a, 'txn> Inbox<'a, 'txn> {
    fn open(draft: &'a mut Draft<'txn>, user: UserId) -> Result<Self, Flaw> {
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
        let Some(key) = self.draft.keys(table, &user_key(self.user))?.next() else {
            return Ok(None);
        };
        let key = key?;
        let entry: Option<InboxEntry> = self.draft.record(table, &key)?;
        let entry = entry.ok_or(Flaw::Value(table))?;
        Ok(Some((notification_of(table, &key)?, entry)))
    }
}

fn change_key(user: UserId, revision: u64) -> Vec<u8> {
    pair_key(&user_key(user), &revision.to_be_bytes())
}

fn hide(
    draft: &mut Draft<'_>,
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
    let mut old = Vec::new();
    for key in draft.keys(Table::Hidden, &org_key(org))?.take(FORGOTTEN_AT_ONCE) {
        let key = key?;
        if key >= until {
            break;
        }
        old.push(key);
    }
    for key in old {
        draft.remove(Table::Hidden, &key)?;
    }
    Ok(draft.put(Table::Hidden, &key, &[])?)
}

impl Inboxes for DiskStore {
    fn inbox_head(&self, user: UserId) -> Read<'_, InboxHead> {
        self.short(|view| view.inbox_head(user))
    }

    fn inbox_entry(
        &self,
        user: UserId,
        notification: NotificationId,
    ) -> Read<'_, Option<InboxRow>> {
        self.short(|view| view.inbox_entry(user, notification))
    }

    fn inbox(
        &self,
        user: UserId,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> Read<'_, Vec<InboxRow>> {
        self.long(move |view| view.inbox(user, org, before, limit))
    }

    fn inbox_changes(
        &self,
        user: UserId,
        org: OrganizationId,
        after: u64,
        limit: usize,
    ) -> Read<'_, Vec<InboxRow>> {
        self.long(move |view| view.inbox_changes(user, org, after, limit))
    }

    fn hidden(
        &self,
        org: OrganizationId,
        among: Vec<NotificationId>,
    ) -> Read<'_, Vec<NotificationId>> {
        self.short(move |view| view.hidden(org, &among))
    }
}

impl View<'_> {
    fn inbox_head(&self, user: UserId) -> Result<InboxHead, Flaw> {
        Ok(self.record(Table::InboxHeads, &user_key(user))?.unwrap_or_default())
    }

    fn inbox_entry(
        &self,
        user: UserId,
        notification: NotificationId,
    ) -> Result<Option<InboxRow>, Flaw> {
        let row = pair_key(&user_key(user), &notification_key(notification));
        let entry: Option<InboxEntry> = self.record(Table::Inbox, &row)?;
        entry.map(|entry| self.inbox_row(notification, entry)).transpose()
    }

    fn inbox(
        &self,
        user: UserId,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> Result<Vec<InboxRow>, Flaw> {
        let prefix = user_key(user);
        let end = match before {
            Some(before) => Some(pair_key(&prefix, &notification_key(before))),
            None => successor(&prefix),
        };
        let mut found = Vec::new();
        for row in self.rows(Table::Inbox, &prefix, end.as_deref())?.rev() {
            let (key, value) = row?;
            let entry: InboxEntry = decode(Table::Inbox, value.value())?;
            if entry.org != org {
                continue;
            }
            if found.len() == limit {
                break;
            }
            found.push(self.inbox_row(notification_of(Table::Inbox, key.value())?, entry)?);
        }
        Ok(found)
    }

    fn inbox_changes(
        &self,
        user: UserId,
        org: OrganizationId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<InboxRow>, Flaw> {
        let from = change_key(user, after.saturating_add(1));
        let end = successor(&user_key(user));
        let mut found = Vec::new();
        for row in self.rows(Table::InboxChanges, &from, end.as_deref())? {
            if found.len() == limit {
                break;
            }
            let notification = notification_of(Table::InboxChanges, row?.1.value())?;
            let key = pair_key(&user_key(user), &notification_key(notification));
            let live: Option<InboxEntry> = self.record(Table::Inbox, &key)?;
            let entry = match live {
                Some(entry) => Some(entry),
                None => self.record(Table::InboxRemoved, &key)?,
            };
            if let Some(entry) = entry.filter(|entry: &InboxEntry| entry.org == org) {
                found.push(self.inbox_row(notification, entry)?);
            }
        }
        Ok(found)
    }

    fn inbox_row(&self, notification: NotificationId, entry: InboxEntry) -> Result<InboxRow, Flaw> {
        let content = if entry.is_removed {
            None
        } else {
            self.record(Table::InboxMessages, &notification_key(notification))?
        };
        Ok(InboxRow { notification, entry, content })
    }

    fn hidden(
        &self,
        org: OrganizationId,
        among: &[NotificationId],
    ) -> Result<Vec<NotificationId>, Flaw> {
        let mut hidden = Vec::new();
        for id in among {
            if self
                .value(Table::Hidden, &pair_key(&org_key(org), &notification_key(*id)))?
                .is_some()
            {
                hidden.push(*id);
            }
        }
        Ok(hidden)
    }
}
