//! Search over the users of one subtree of organizations: text in memory, sorted by any column.
//!
//! The users as of the last fold are packed in a [`base::Base`] that never changes; users put or
//! removed since are kept beside it and folded in once they are many. A clone shares both, so a
//! search works on the moment it was cloned at while others write.

use std::sync::Arc;

use self::base::Base;
use self::overlay::Overlay;
use self::row::Packed;
use crate::model::{Millis, UserId, UserStatus};
use crate::store::SortBy;

mod base;
mod order;
mod overlay;
mod page;
mod row;
mod text;

#[cfg(test)]
mod tests;

/// Changed users after which a fold is due, for an index of few users.
const CHANGED_MIN: usize = 1024;
/// A fold costs time by the users, so more users may wait for it: one in this many.
const CHANGED_SHARE: usize = 128;

/// Needles whose hits are kept: pages of one search follow each other.
const RECENT_MAX: usize = 64;

/// What the index keeps of a user.
#[derive(Clone, Debug)]
pub struct SearchRow {
    pub user: UserId,
    pub org_name: Arc<str>,
    pub name: String,
    pub email: String,
    pub nick_name: Option<String>,
    pub phone: Option<String>,
    pub status: UserStatus,
    /// When an active user becomes an inactive one, if nothing changes; kept in whole seconds.
    pub inactive_from: Option<Millis>,
    pub role: i32,
    pub devices: u32,
    pub country: Option<Arc<str>>,
    pub registered_at: Millis,
}

/// Columns whose order is kept; by id the users are stored, and a status depends on the time.
const SORTED: [SortBy; 8] = [
    SortBy::Name,
    SortBy::Email,
    SortBy::Role,
    SortBy::OrganizationName,
    SortBy::DevicesCount,
    SortBy::Country,
    SortBy::RegisteredAt,
    SortBy::Phone,
];
/// Columns there are.
const COLUMNS: usize = SortBy::ALL.len();

/// One page of the users whose name, e-mail, nick name or phone number contains `text`.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Taken literally, in any case; empty matches everybody.
    pub text: &'a str,
    /// Text compares in lower case, an absent value as the empty text, a status by its name.
    pub sort: SortBy,
    /// Equal values stand in ascending user id either way.
    pub descending: bool,
    pub offset: u64,
    pub limit: usize,
    /// Decides who is inactive.
    pub now: Millis,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub users: Vec<UserId>,
    /// All matching users, not only those of this page.
    pub total: u64,
}

/// The users of a subtree, each named once.
#[derive(Clone, Debug)]
pub struct SearchIndex {
    base: Arc<Base>,
    overlay: Arc<Overlay>,
}

/// An index with its changes folded in, for [`SearchIndex::adopt`].
#[derive(Debug)]
pub struct Folded {
    base: Base,
    overlay: Arc<Overlay>,
}

impl SearchIndex {
    /// Rows in ascending user id are taken as they are; others are sorted first. Of several rows
    /// of one user the last counts.
    pub fn build(rows: impl IntoIterator<Item = SearchRow>) -> Self {
        let base = Arc::new(Base::build(rows.into_iter().map(|row| Packed::from(&row))));
        Self { base, overlay: Arc::default() }
    }

    /// The users of both, as of their last folds; those of `higher` have the higher ids.
    #[must_use]
    pub fn joined(self, higher: &Self) -> Self {
        let low = Arc::try_unwrap(self.base);
        let low = low.unwrap_or_else(|shared| Base::default().joined(&shared));
        Self { base: Arc::new(low.joined(&higher.base)), overlay: Arc::default() }
    }

    /// Inserts or replaces a user.
    pub fn put(&mut self, row: &SearchRow) {
        let packed = Arc::new(Packed::from(row));
        Arc::make_mut(&mut self.overlay).set(&self.base, row.user, Some(packed));
    }

    /// Removes a user; an unknown one is no error.
    pub fn remove(&mut self, user: UserId) {
        Arc::make_mut(&mut self.overlay).set(&self.base, user, None);
    }

    /// Milliseconds for a million users, and more for the first search sorted by a column.
    #[must_use]
    pub fn search(&self, query: &Query<'_>) -> Page {
        page::find(self, query)
    }

    /// Sorts by every column now, so that no search has to.
    pub fn warm(&self) {
        for column in SORTED {
            self.base.order(column);
        }
    }

    /// True if so many users changed that searches slow down: fold a clone, adopt the result.
    #[must_use]
    pub fn is_fold_due(&self) -> bool {
        let users = self.base.count() as usize;
        self.overlay.changed() >= CHANGED_MIN.max(users / CHANGED_SHARE)
    }

    /// Takes long, so it is for a clone: the index itself stays in use.
    #[must_use]
    pub fn folded(&self) -> Folded {
        Folded { base: self.base.folded(&self.overlay), overlay: Arc::clone(&self.overlay) }
    }

    /// Goes on from what a clone of this index folded, with the changes made since.
    ///
    /// Nothing else may have been adopted in between.
    pub fn adopt(&mut self, folded: Folded) {
        let since = self.overlay.since(&folded.overlay, &folded.base);
        *self = Self { base: Arc::new(folded.base), overlay: Arc::new(since) };
    }

    /// Users put or removed since the last fold.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.overlay.changed()
    }

    /// True if `user` is one of the index's.
    #[must_use]
    pub fn has(&self, user: UserId) -> bool {
        let changed = self.overlay.entry(user);
        changed.map_or_else(|| self.base.slot(user).is_some(), |entry| entry.row.is_some())
    }

    /// Memory in use, recently sought hits at their largest.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.base.bytes() + self.overlay.bytes()
    }
}
