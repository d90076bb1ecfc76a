//! Items that are judged together: of one organization, and not too many.

use crate::model::OrganizationId;
use crate::rules::RouteItem;
use crate::rules::hooks::{AuthorizeItem, TransformItem};
use crate::rules::limits::RuleLimits;
use std::collections::HashMap;
use std::sync::Arc;

impl RouteItem {
    /// What a batch has in common.
    pub(super) fn owner(&self) -> (OrganizationId, &str) {
        (self.notification.org, &self.recipient.org)
    }
}

impl TransformItem {
    pub(super) fn owner(&self) -> (OrganizationId, &str) {
        (self.notification.org, &self.recipient.org)
    }
}

impl AuthorizeItem {
    pub(super) fn owner(&self) -> (OrganizationId, &str) {
        (self.org, "")
    }
}

pub(super) struct Group<I> {
    pub(super) positions: Vec<usize>,
    pub(super) items: Vec<I>,
    /// Roughly.
    pub(super) bytes: usize,
}

impl<I> Default for Group<I> {
    fn default() -> Self {
        Self { positions: Vec::new(), items: Vec::new(), bytes: 0 }
    }
}

/// Items of different organizations never share an instance, so they never share a group. Mostly one
/// follows another of the same.
pub(super) fn split<I>(
    items: Vec<I>,
    limits: &RuleLimits,
    key: impl Fn(&I) -> (OrganizationId, &str),
    weigh: impl Fn(&I, Option<&I>) -> usize,
) -> Vec<Group<I>> {
    let mut open: HashMap<(OrganizationId, String), Group<I>> = HashMap::new();
    let mut groups = Vec::new();
    let mut current: Group<I> = Group::default();
    for (position, item) in items.into_iter().enumerate() {
        if current.items.last().is_some_and(|last| key(last) != key(&item)) {
            let other = std::mem::take(&mut current);
            if let Some((org, of)) = other.items.last().map(&key) {
                open.insert((org, of.to_owned()), other);
            }
            let (org, of) = key(&item);
            current = open.remove(&(org, of.to_owned())).unwrap_or_default();
        }
        let bytes = weigh(&item, current.items.last());
        let is_full = current.items.len() >= limits.batch_items
            || current.bytes.saturating_add(bytes) > limits.batch_bytes;
        if is_full && !current.items.is_empty() {
            groups.push(std::mem::take(&mut current));
        }
        current.positions.push(position);
        current.items.push(item);
        current.bytes = current.bytes.saturating_add(bytes);
    }
    groups.extend(open.into_values());
    groups.extend((!current.items.is_empty()).then_some(current));
    groups
}

/// Roughly what an item weighs; a notification counts once for a run of recipients.
pub(super) fn text_bytes(item: &RouteItem, before: Option<&RouteItem>) -> usize {
    let (notification, recipient) = (&item.notification, &item.recipient);
    let content = &notification.content;
    let is_shared = before.is_some_and(|b| Arc::ptr_eq(&b.notification, notification));
    let text = content.title.len() + content.body.len() + content.data.len();
    let prefs = recipient.prefs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let targets = recipient.targets.iter().map(|t| t.handle.len() + t.app.len()).sum::<usize>();
    let roles = recipient.roles.iter().map(String::len).sum::<usize>();
    prefs + targets + roles + if is_shared { 0 } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner<'a>(item: &'a (i32, &'static str, usize)) -> (OrganizationId, &'a str) {
        (OrganizationId(item.0), item.1)
    }

    #[test]
    fn every_item_is_in_one_group_of_its_owner_and_no_group_is_too_large() {
        let limits = RuleLimits { batch_items: 3, batch_bytes: 10, ..RuleLimits::default() };
        let items = [(1, "a", 1), (1, "a", 2), (2, "a", 1), (1, "b", 1), (1, "a", 8), (1, "a", 1)];
        let many = [(3, "c", 0); 7];
        let all: Vec<_> = items.into_iter().chain(many).collect();
        let groups = split(all.clone(), &limits, owner, |item, _| item.2);
        let mut positions: Vec<_> =
            groups.iter().flat_map(|group| group.positions.clone()).collect();
        positions.sort_unstable();
        assert_eq!(positions, (0..all.len()).collect::<Vec<_>>());
        for group in &groups {
            let own: Vec<_> = group.positions.iter().map(|at| all[*at]).collect();
            assert_eq!(own, group.items);
            assert!(own.iter().all(|item| owner(item) == owner(&own[0])));
            assert!(own.len() <= 3 && own.iter().map(|item| item.2).sum::<usize>() <= 10);
        }
        // 1a: three items are too heavy together; 2a, 1b; seven of 3c.
        assert_eq!(groups.len(), 2 + 2 + 3);
    }
}
