//! One page of a search: the hits of the base and of the overlay, merged in the asked order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::base::{Base, Hits};
use super::order::{Key, Place};
use super::overlay::Entry;
use super::text::{self, Needle};
use super::{Column, Page, Query, SearchIndex};
use crate::model::UserId;

pub(super) fn find(index: &SearchIndex, query: &Query<'_>) -> Page {
    let folded = text::fold(query.text);
    let needle = Needle::new(&folded);
    let mut hits = index.base.hits(&folded);
    let mut changed = BinaryHeap::new();
    if index.overlay.changed() > 0 {
        let mut left = Hits::clone(&hits);
        let mut found = Vec::new();
        for (user, entry) in index.overlay.entries() {
            entry.slot.into_iter().for_each(|slot| left.remove(slot));
            if let Some(row) = entry.row.as_ref().filter(|row| needle.is_in(&row.record)) {
                let descending = query.descending;
                found.push(Changed { key: row.key(query.sort), user, entry, descending });
            }
        }
        hits = left.into();
        changed = BinaryHeap::from(found);
    }
    let total = hits.count + changed.len() as u64;
    let mut page = Page { users: Vec::new(), total };
    if query.offset >= total || query.limit == 0 {
        return page;
    }
    let sorted = Sorted { base: &index.base, hits: &hits, changed, query };
    let slots = 0..index.base.count();
    let alone = |slot: u32| (Place::in_group(slot as usize), slot);
    page.users = match (query.sort, query.descending) {
        (Column::UserId, false) => sorted.page(slots.map(alone)),
        (Column::UserId, true) => sorted.page(slots.rev().map(alone)),
        (column, false) => sorted.page(index.base.order(column).ascending()),
        (column, true) => sorted.page(index.base.order(column).descending()),
    };
    page
}

/// A hit of the overlay. The greatest is the one that comes first.
struct Changed<'a> {
    key: Key<'a>,
    user: UserId,
    entry: &'a Entry,
    descending: bool,
}

impl Ord for Changed<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let ascending = other.key.cmp(&self.key);
        let keys = if self.descending { ascending.reverse() } else { ascending };
        keys.then_with(|| other.user.cmp(&self.user))
    }
}

impl PartialOrd for Changed<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Changed<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Changed<'_> {}

struct Sorted<'a> {
    base: &'a Base,
    hits: &'a Hits,
    changed: BinaryHeap<Changed<'a>>,
    query: &'a Query<'a>,
}

impl Sorted<'_> {
    /// `walk` names every slot of the base with its place, in the asked order.
    fn page(mut self, walk: impl Iterator<Item = (Place, u32)>) -> Vec<UserId> {
        let mut page =
            Window { skip: self.query.offset, users: Vec::new(), limit: self.query.limit };
        let mut left = self.hits.count;
        let mut walk = walk;
        while left > 0 && page.is_open() {
            let Some((place, slot)) = walk.next() else { break };
            if !self.hits.has(slot) {
                continue;
            }
            left -= 1;
            if self.changed.is_empty() && page.skip > 0 {
                page.skip -= 1;
                continue;
            }
            let user = self.base.user(slot);
            while let Some(first) = self.changed_before(place, user) {
                page.take(first);
            }
            page.take(user);
        }
        while page.is_open()
            && let Some(next) = self.changed.pop()
        {
            page.take(next.user);
        }
        page.users
    }

    /// The next hit of the overlay, if it comes before this one of the base.
    fn changed_before(&mut self, place: Place, user: UserId) -> Option<UserId> {
        let next = self.changed.peek()?;
        let ascending = next.entry.place(self.base, self.query.sort).cmp(&place);
        let places = if self.query.descending { ascending.reverse() } else { ascending };
        if places.then(next.user.cmp(&user)).is_lt() {
            return self.changed.pop().map(|first| first.user);
        }
        None
    }
}

/// The part of a sequence that is asked for.
struct Window {
    skip: u64,
    users: Vec<UserId>,
    limit: usize,
}

impl Window {
    fn is_open(&self) -> bool {
        self.users.len() < self.limit
    }

    fn take(&mut self, user: UserId) {
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.is_open() {
            self.users.push(user);
        }
    }
}
