//! One page of a search: the hits of the base and of the overlay, merged in the asked order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::base::{Base, Hits};
use super::order::{Key, Place};
use super::overlay::Entry;
use super::row::Status;
use super::text::{self, Needle};
use super::{Page, Query, SearchIndex};
use crate::model::UserId;
use crate::store::SortBy;

/// Hits are few, and sorted themselves, if they are at most one in this many users: else it is
/// cheaper to go through the users in the order of the column until the page is full.
const FEW_SHARE: u64 = 256;
const FEW_MIN: u64 = 8;

pub(super) fn find(index: &SearchIndex, query: &Query<'_>) -> Page {
    let folded = text::fold(query.text);
    let needle = Needle::new(&folded);
    let mut hits = index.base.hits(&folded);
    let mut changed = Vec::new();
    if index.overlay.changed() > 0 {
        let mut left = Hits::clone(&hits);
        for (user, entry) in index.overlay.entries() {
            entry.slot.into_iter().for_each(|slot| left.remove(slot));
            if let Some(row) = entry.row.as_ref().filter(|row| needle.is_in(&row.record)) {
                let descending = query.descending;
                let (key, place) = match query.sort {
                    SortBy::Status => by_rank(row.status.rank(query.now)),
                    sort => (row.key(sort), None),
                };
                changed.push(Changed { key, place, user, entry, descending });
            }
        }
        hits = left.into();
    }
    let total = hits.count + changed.len() as u64;
    let mut page = Page { users: Vec::new(), total };
    if query.offset >= total || query.limit == 0 {
        return page;
    }
    page.users = if hits.count <= FEW_MIN.max(u64::from(index.base.count()) / FEW_SHARE) {
        of_few(&index.base, &hits, &changed, query)
    } else {
        of_many(&index.base, &hits, BinaryHeap::from(changed), query)
    };
    page
}

/// Sorts the hits, as far as the page needs them.
fn of_few(base: &Base, hits: &Hits, changed: &[Changed<'_>], query: &Query<'_>) -> Vec<UserId> {
    let key = |slot: u32| match query.sort {
        SortBy::Status => by_rank(base.status(slot).rank(query.now)).0,
        sort => base.key(sort, slot),
    };
    let mut found: Vec<(Key<'_>, UserId)> =
        hits.slots().map(|slot| (key(slot), base.user(slot))).collect();
    found.extend(changed.iter().map(|hit| (hit.key, hit.user)));
    let compare = |one: &(Key<'_>, UserId), other: &(Key<'_>, UserId)| {
        let keys = one.0.cmp(&other.0);
        let keys = if query.descending { keys.reverse() } else { keys };
        keys.then_with(|| one.1.cmp(&other.1))
    };
    let first = usize::try_from(query.offset).unwrap_or(usize::MAX);
    let end = first.saturating_add(query.limit);
    if end < found.len() {
        found.select_nth_unstable_by(end, compare);
        found.truncate(end);
    }
    found.sort_unstable_by(compare);
    found.into_iter().skip(first).map(|(_, user)| user).collect()
}

/// Goes through the base in the asked order.
fn of_many(
    base: &Base,
    hits: &Hits,
    changed: BinaryHeap<Changed<'_>>,
    query: &Query<'_>,
) -> Vec<UserId> {
    let sorted = Sorted { base, hits, changed, query };
    let alone = |slot: u32| (Place::in_group(slot as usize), slot);
    // One pass over the hits per status: which one a user has depends on the time.
    let of_rank = |rank: u8| {
        let has_it = move |slot: &u32| base.status(*slot).rank(query.now) == rank;
        hits.slots().filter(has_it).map(move |slot| (Place::in_group(rank.into()), slot))
    };
    match (query.sort, query.descending) {
        (SortBy::Id, false) => sorted.page(hits.slots().map(alone)),
        (SortBy::Id, true) => sorted.page((0..base.count()).rev().map(alone)),
        (SortBy::Status, false) => sorted.page((0..Status::RANKS).flat_map(of_rank)),
        (SortBy::Status, true) => sorted.page((0..Status::RANKS).rev().flat_map(of_rank)),
        (column, false) => sorted.page(base.order(column).ascending()),
        (column, true) => sorted.page(base.order(column).descending()),
    }
}

fn by_rank(rank: u8) -> (Key<'static>, Option<Place>) {
    (Key::Number(rank.into()), Some(Place::in_group(rank.into())))
}

/// A hit of the overlay. The greatest is the one that comes first.
struct Changed<'a> {
    key: Key<'a>,
    /// Where it stands, if that is not to be looked up.
    place: Option<Place>,
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
        let found = next.place.unwrap_or_else(|| next.entry.place(self.base, self.query.sort));
        let ascending = found.cmp(&place);
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
