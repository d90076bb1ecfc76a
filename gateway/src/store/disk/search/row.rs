//! What an index keeps of a user outside the packed columns.

use std::sync::Arc;

use super::SearchRow;
use super::order::Key;
use super::text::{self, Field, field};
use crate::model::{Millis, UserId, UserStatus};
use crate::store::SortBy;

/// A status and when it becomes another one by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    stored: UserStatus,
    /// Seconds since the epoch; the largest is never.
    inactive_from: u32,
}

impl Status {
    /// By the names the statuses are shown with: Active, Inactive, Pending, Suspended.
    pub(super) const RANKS: u8 = 4;

    fn new(stored: UserStatus, inactive_from: Option<Millis>) -> Self {
        let from = inactive_from.map(|at| u32::try_from(at.0.div_ceil(1000)).unwrap_or(u32::MAX));
        Self { stored, inactive_from: from.unwrap_or(u32::MAX) }
    }

    /// Where the status stands among all statuses.
    pub(super) fn rank(self, now: Millis) -> u8 {
        match self.stored {
            UserStatus::Active if now.0 / 1000 < u64::from(self.inactive_from) => 0,
            UserStatus::Active => u8::from(self.inactive_from < u32::MAX),
            UserStatus::Pending => 2,
            UserStatus::Suspended => 3,
        }
    }
}

/// A row in the form that is searched and compared.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) user: UserId,
    pub(super) record: Box<[u8]>,
    /// Folded, like the country.
    pub(super) org_name: Arc<str>,
    /// Empty if there is none.
    pub(super) country: Arc<str>,
    pub(super) status: Status,
    pub(super) role: i32,
    pub(super) devices: u32,
    pub(super) registered_at: u64,
}

impl From<&SearchRow> for Packed {
    fn from(row: &SearchRow) -> Self {
        let (nick_name, phone) = (row.nick_name.as_deref(), row.phone.as_deref());
        let fields =
            [&row.name, &row.email, nick_name.unwrap_or_default(), phone.unwrap_or_default()];
        Self {
            user: row.user,
            record: text::pack(fields).into(),
            org_name: text::fold(&row.org_name).into(),
            country: text::fold(row.country.as_deref().unwrap_or_default()).into(),
            status: Status::new(row.status, row.inactive_from),
            role: row.role,
            devices: row.devices,
            registered_at: row.registered_at.0,
        }
    }
}

impl Packed {
    /// The value of a column; of the status at the epoch.
    pub(super) fn key(&self, column: SortBy) -> Key<'_> {
        match column {
            SortBy::Id => Key::from(self.user.0),
            SortBy::Name => Key::Text(field(&self.record, Field::Name)),
            SortBy::Email => Key::Text(field(&self.record, Field::Email)),
            SortBy::Phone => Key::Text(field(&self.record, Field::Phone)),
            SortBy::Status => Key::Number(self.status.rank(Millis(0)).into()),
            SortBy::Role => Key::from(i64::from(self.role)),
            SortBy::OrganizationName => Key::Text(self.org_name.as_bytes()),
            SortBy::DevicesCount => Key::Number(self.devices.into()),
            SortBy::Country => Key::Text(self.country.as_bytes()),
            SortBy::RegisteredAt => Key::Number(self.registered_at),
        }
    }
}
