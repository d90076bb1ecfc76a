//! Reading the file of records out row by row, and building one from rows.

use std::collections::HashMap;
use std::path::Path;

use redb::{ReadableTable, WriteTransaction};

use super::reader::View;
use super::tables::{Flaw, META_VERSION, Table, decode};
use super::transaction::definition;
use super::{DiskError, DiskStore, FILE_NAME, Records};
use crate::model::{InboxEntry, OrganizationId, User};
use crate::store::dump::{Row, RowTotals, RowsError};

/// Rows in one transaction.
const ROWS_AT_ONCE: usize = 20_000;

/// Organizations of users and of what their inboxes hold: others keep rows with them.
#[derive(Default)]
struct Homes {
    users: HashMap<Vec<u8>, OrganizationId>,
    contents: HashMap<Vec<u8>, OrganizationId>,
}

impl DiskStore {
    /// Reads all rows out; answers what they come to.
    ///
    /// # Errors
    /// The file cannot be read, or `put` stopped it.
    pub fn dump(
        &self,
        put: &mut dyn FnMut(Row) -> Result<(), RowsError>,
    ) -> Result<RowTotals, RowsError> {
        let mut totals = RowTotals::default();
        let view = View::uncached(&self.records);
        let explain = |flaw| RowsError::Disk(self.records.explain(flaw));
        let homes = Homes::read(&view).map_err(explain)?;
        for table in Table::ALL {
            for row in view.rows(table, &[], None).map_err(explain)? {
                let (key, value) = row.map_err(|error| explain(error.into()))?;
                let (key, value) = (key.value(), value.value());
                let Some(org) = homes.of(table, key) else { continue };
                if table != Table::Meta || key == META_VERSION {
                    let row = Row::new(table, org, (key, value));
                    totals.add(&row);
                    put(row)?;
                }
            }
        }
        Ok(totals)
    }
}

impl Homes {
    fn read(view: &View<'_>) -> Result<Self, Flaw> {
        let mut homes = Self::default();
        for row in view.rows(Table::Users, &[], None)? {
            let (key, value) = row?;
            let user: User = decode(Table::Users, value.value())?;
            homes.users.insert(key.value().to_vec(), user.org);
        }
        for table in [Table::Inbox, Table::InboxRemoved] {
            for row in view.rows(table, &[], None)? {
                let (key, value) = row?;
                let entry: InboxEntry = decode(table, value.value())?;
                let notification = key.value().get(8..).unwrap_or_default();
                homes.contents.insert(notification.to_vec(), entry.org);
            }
        }
        Ok(homes)
    }

    /// Whose a row is, as far as its key does not say so; `None` if it is nobody's any more.
    fn of(&self, table: Table, key: &[u8]) -> Option<Option<OrganizationId>> {
        match table {
            Table::Users
            | Table::Devices
            | Table::Passwords
            | Table::Inbox
            | Table::InboxRemoved
            | Table::InboxChanges
            | Table::InboxHeads => self.users.get(key.get(..8)?).map(|org| Some(*org)),
            Table::InboxMessages => self.contents.get(key).map(|org| Some(*org)),
            Table::Counters => match key.split_first()? {
                (b'i', notification) => self.contents.get(notification).map(|org| Some(*org)),
                _ => Some(None),
            },
            _ => Some(None),
        }
    }
}

/// A file of records being built.
#[derive(Debug)]
pub struct DiskRows {
    records: Records,
    waiting: Vec<Row>,
}

impl DiskRows {
    /// Begins a file in `dir`; one that is there is removed first.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn begin(dir: &Path) -> Result<Self, RowsError> {
        super::create(dir)?;
        let path = dir.join(FILE_NAME);
        if path.exists() {
            let source = std::fs::remove_file(&path).err();
            if let Some(source) = source {
                return Err(DiskError::Directory { path, source }.into());
            }
        }
        Ok(Self { records: Records::open(&path)?, waiting: Vec::new() })
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// The file cannot be written, or the row is of no table.
    pub fn put(&mut self, row: Row) -> Result<(), RowsError> {
        self.waiting.push(row);
        if self.waiting.len() >= ROWS_AT_ONCE { self.write() } else { Ok(()) }
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// As for `put`.
    pub fn finish(mut self) -> Result<(), RowsError> {
        self.write()
    }

    fn write(&mut self) -> Result<(), RowsError> {
        let rows = std::mem::take(&mut self.waiting);
        let mut tables = Vec::with_capacity(rows.len());
        for row in rows {
            tables.push((row.table().ok_or(RowsError::Table)?, row));
        }
        let written = self.commit(&tables);
        Ok(written.map_err(|flaw| self.records.explain(flaw))?)
    }

    fn commit(&self, rows: &[(Table, Row)]) -> Result<(), Flaw> {
        let transaction = self.records.database.begin_write()?;
        for (table, row) in rows {
            insert(&transaction, *table, row)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn insert(transaction: &WriteTransaction, table: Table, row: &Row) -> Result<(), Flaw> {
    let mut open = transaction.open_table(definition(table))?;
    // A version is never given out twice.
    let is_newer = table == Table::Meta
        && open.get(row.key.as_slice())?.is_some_and(|known| known.value() > row.value.as_slice());
    if !is_newer {
        open.insert(row.key.as_slice(), row.value.as_slice())?;
    }
    Ok(())
}
