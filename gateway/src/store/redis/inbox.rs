//! Reads of inboxes on Redis: entries lie with their user, contents with who sent them.

use redis::Value;

use super::Records;
use super::RedisStore;
use super::accounts::{Read, told};
use super::places::Place;
use super::reads::{Found, cell, decoded};
use super::wire::{Ask, pairs};
use crate::model::{InboxEntry, InboxHead, NotificationId, OrganizationId, UserId};
use crate::store::changes::tables::{
    Table, change_key, decode, notification_key, notification_of, org_key, pair_key, user_key,
};
use crate::store::{InboxRow, Inboxes};

/// Entries of one inbox that are read: there are no more.
const ENTRIES_MAX: usize = 2_001;

impl Inboxes for RedisStore {
    fn inbox_head(&self, user: UserId) -> Read<'_, InboxHead> {
        told(async move {
            let head = self.records.user_record(user, Table::InboxHeads).await?;
            Ok(head.unwrap_or_default())
        })
    }

    fn inbox_entry(
        &self,
        user: UserId,
        notification: NotificationId,
    ) -> Read<'_, Option<InboxRow>> {
        told(async move {
            let key = pair_key(&user_key(user), &notification_key(notification));
            let asks = |place| vec![cell(place, Table::Inbox, &key)];
            let Some((_, mut values)) = self.records.of_user(user, asks).await? else {
                return Ok(None);
            };
            let entry = decoded(Table::Inbox, values.pop().unwrap_or(Value::Nil))?;
            let entries = entry.map(|entry| (notification, entry)).into_iter().collect();
            Ok(self.records.inbox_rows(entries).await?.pop())
        })
    }

    fn inbox(
        &self,
        user: UserId,
        org: OrganizationId,
        before: Option<NotificationId>,
        limit: usize,
    ) -> Read<'_, Vec<InboxRow>> {
        told(async move {
            let prefix = user_key(user);
            let before = before.map(|before| pair_key(&prefix, &notification_key(before)));
            let asks = |place| {
                let at = (place, Table::Inbox);
                vec![Ask::rows_back(at, &prefix, before.as_deref(), ENTRIES_MAX)]
            };
            let Some((_, mut values)) = self.records.of_user(user, asks).await? else {
                return Ok(Vec::new());
            };
            let mut entries = Vec::new();
            for (key, stored) in pairs(values.pop().unwrap_or(Value::Nil))? {
                let entry: InboxEntry = decode(Table::Inbox, &stored)?;
                if entry.org == org && entries.len() < limit {
                    entries.push((notification_of(Table::Inbox, &key)?, entry));
                }
            }
            self.records.inbox_rows(entries).await
        })
    }

    fn inbox_changes(
        &self,
        user: UserId,
        org: OrganizationId,
        after: u64,
        limit: usize,
    ) -> Read<'_, Vec<InboxRow>> {
        told(async move {
            let prefix = user_key(user);
            let last = change_key(user, after);
            let asks = |place| {
                let at = (place, Table::InboxChanges);
                let all = |table| Ask::members((place, table), &prefix, None, ENTRIES_MAX, true);
                vec![
                    Ask::members(at, &prefix, Some(&last), ENTRIES_MAX, true),
                    all(Table::Inbox),
                    all(Table::InboxRemoved),
                ]
            };
            let Some((_, values)) = self.records.of_user(user, asks).await? else {
                return Ok(Vec::new());
            };
            let mut values = values.into_iter();
            let changes = pairs(values.next().unwrap_or(Value::Nil))?;
            let mut rows = std::collections::HashMap::new();
            for reply in values {
                rows.extend(pairs(reply)?);
            }
            let mut entries = Vec::new();
            for (_, notification) in changes {
                let Some(stored) = rows.get(&pair_key(&prefix, &notification)) else { continue };
                let entry: InboxEntry = decode(Table::Inbox, stored)?;
                if entry.org == org && entries.len() < limit {
                    entries.push((notification_of(Table::InboxChanges, &notification)?, entry));
                }
            }
            self.records.inbox_rows(entries).await
        })
    }

    fn hidden(
        &self,
        org: OrganizationId,
        among: Vec<NotificationId>,
    ) -> Read<'_, Vec<NotificationId>> {
        told(async move {
            let ask = |id: &NotificationId| {
                let key = pair_key(&org_key(org), &notification_key(*id));
                cell(Place::Org(org), Table::Hidden, &key)
            };
            let asks: Vec<Ask> = among.iter().map(ask).collect();
            let replies = self.records.wire.read(&asks).await?;
            let hidden = among.into_iter().zip(replies);
            Ok(hidden.filter(|(_, reply)| *reply != Value::Nil).map(|(id, _)| id).collect())
        })
    }
}

impl Records {
    /// Entries with what they say; a removed one says nothing any more.
    async fn inbox_rows(&self, entries: Vec<(NotificationId, InboxEntry)>) -> Found<Vec<InboxRow>> {
        let ask = |(notification, entry): &(NotificationId, InboxEntry)| {
            let key = notification_key(*notification);
            cell(Place::Org(entry.org), Table::InboxMessages, &key)
        };
        let asks: Vec<Ask> = entries.iter().map(ask).collect();
        let mut rows = Vec::with_capacity(entries.len());
        for ((notification, entry), reply) in entries.into_iter().zip(self.wire.read(&asks).await?)
        {
            let content =
                if entry.is_removed { None } else { decoded(Table::InboxMessages, reply)? };
            rows.push(InboxRow { notification, entry, content });
        }
        Ok(rows)
    }
}
