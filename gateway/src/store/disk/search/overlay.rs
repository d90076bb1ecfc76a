//! Users put or removed since the base was built.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::COLUMNS;
use super::base::Base;
use super::order::Place;
use super::row::Packed;
use crate::model::UserId;
use crate::store::SortBy;

#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    entries: BTreeMap<UserId, Arc<Entry>>,
}

/// The last change of a user.
#[derive(Debug)]
pub(super) struct Entry {
    /// What the base has of the user, which no longer counts.
    pub(super) slot: Option<u32>,
    /// `None` if the user was removed.
    pub(super) row: Option<Arc<Packed>>,
    /// Where the row stands among those of the base, by column.
    places: [OnceLock<Place>; COLUMNS],
}

impl Entry {
    pub(super) fn place(&self, base: &Base, column: SortBy) -> Place {
        let nowhere = Place::before_group(0);
        let find = || self.row.as_ref().map_or(nowhere, |row| base.place(column, row));
        *self.places[column as usize].get_or_init(find)
    }

    fn same(&self, other: &Self) -> bool {
        match (&self.row, &other.row) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Overlay {
    pub(super) fn set(&mut self, base: &Base, user: UserId, row: Option<Arc<Packed>>) {
        let entry = Entry { slot: base.slot(user), row, places: Default::default() };
        self.entries.insert(user, Arc::new(entry));
    }

    pub(super) fn entry(&self, user: UserId) -> Option<&Entry> {
        self.entries.get(&user).map(|entry| &**entry)
    }

    pub(super) fn changed(&self) -> usize {
        self.entries.len()
    }

    /// In ascending user id.
    pub(super) fn entries(&self) -> impl Iterator<Item = (UserId, &Entry)> {
        self.entries.iter().map(|(user, entry)| (*user, &**entry))
    }

    /// What changed after `earlier` was folded into `base`.
    pub(super) fn since(&self, earlier: &Self, base: &Base) -> Self {
        let mut later = Self::default();
        for (user, entry) in &self.entries {
            if !earlier.entries.get(user).is_some_and(|before| before.same(entry)) {
                later.set(base, *user, entry.row.clone());
            }
        }
        later
    }

    pub(super) fn bytes(&self) -> usize {
        let text: usize = self
            .entries
            .values()
            .filter_map(|entry| entry.row.as_ref())
            .map(|row| row.record.len())
            .sum();
        text + self.entries.len() * (size_of::<Entry>() + size_of::<Packed>() + 64)
    }
}
