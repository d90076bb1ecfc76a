//! What an index keeps of a user outside the packed columns.

use std::sync::Arc;

use super::order::Key;
use super::text::{self, Field, field};
use super::{Column, SearchRow};
use crate::model::UserId;

/// A row in the form that is searched and compared.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) user: UserId,
    pub(super) record: Box<[u8]>,
    /// Folded, like the country.
    pub(super) org_name: Arc<str>,
    /// Empty if there is none.
    pub(super) country: Arc<str>,
    pub(super) status: u8,
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
            status: row.status,
            role: row.role,
            devices: row.devices,
            registered_at: row.registered_at.0,
        }
    }
}

impl Packed {
    pub(super) fn key(&self, column: Column) -> Key<'_> {
        match column {
            Column::UserId => Key::from(self.user.0),
            Column::Name => Key::Text(field(&self.record, Field::Name)),
            Column::Email => Key::Text(field(&self.record, Field::Email)),
            Column::PhoneNumber => Key::Text(field(&self.record, Field::Phone)),
            Column::Status => Key::Number(self.status.into()),
            Column::Role => Key::from(i64::from(self.role)),
            Column::OrganizationName => Key::Text(self.org_name.as_bytes()),
            Column::DevicesCount => Key::Number(self.devices.into()),
            Column::Country => Key::Text(self.country.as_bytes()),
            Column::RegisteredAt => Key::Number(self.registered_at),
        }
    }
}
