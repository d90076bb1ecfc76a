//! What the rules of changes need of a store: rows by table and key, in one draft.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tables::{Flaw, Table, decode, encode};
use crate::model::{NotificationId, OrganizationId, UserId};

/// Rows as they are with the changes made so far.
pub(in crate::store) trait Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Flaw>;

    fn has(&self, table: Table, key: &[u8]) -> Result<bool, Flaw> {
        Ok(self.get(table, key)?.is_some())
    }

    fn record<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>, Flaw> {
        self.get(table, key)?.map(|stored| decode(table, &stored)).transpose()
    }

    /// The first `limit` keys of `table` that start with `prefix`, ascending.
    fn keys(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, Flaw>;

    /// The last key of `table` that starts with `prefix`.
    fn last(&self, table: Table, prefix: &[u8]) -> Result<Option<Vec<u8>>, Flaw>;

    /// SHA-256 over what the current apply replaced, and over what is there now.
    fn digests(&self) -> Result<([u8; 32], [u8; 32]), Flaw>;

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Flaw>;

    fn put_record<T: Serialize>(
        &mut self,
        table: Table,
        key: &[u8],
        record: &T,
    ) -> Result<(), Flaw> {
        self.put(table, key, &encode(table, record)?)
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Flaw>;

    /// Said before a user's record is put: their rows are kept with this organization from now on.
    fn lodge(&mut self, _user: UserId, _org: OrganizationId) -> Result<(), Flaw> {
        Ok(())
    }

    /// Said before an inbox content is touched: it is kept with this organization.
    fn tie(&mut self, _notification: NotificationId, _org: OrganizationId) {}
}
