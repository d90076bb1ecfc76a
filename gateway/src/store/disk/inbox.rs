//! Reads of inboxes on disk: entries, removals that sync still tells of, hidden notifications.

use super::DiskStore;
use super::accounts::Read;
use super::reader::View;
use super::tables::{
    Flaw, Table, change_key, decode, notification_key, notification_of, org_key, pair_key,
    successor, user_key,
};
use crate::model::{InboxEntry, InboxHead, NotificationId, OrganizationId, UserId};
use crate::store::{InboxRow, Inboxes};

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
