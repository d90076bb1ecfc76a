//! One write transaction shared by many applies: each can be taken back without the others.
//!
//! redb's own savepoints cost a commit-like walk each; an undo list of the few keys an apply
//! touched costs nothing until it is needed.

use redb::{ReadableTable, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tables::{Flaw, Table, decode, encode};

type OpenTable<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;

/// The open tables of a write transaction and how to undo the current apply.
pub(super) struct Draft<'txn> {
    tables: Vec<OpenTable<'txn>>,
    undo: Vec<Undo>,
}

struct Undo {
    table: Table,
    key: Vec<u8>,
    before: Option<Vec<u8>>,
}

impl<'txn> Draft<'txn> {
    /// Opens every table, creating those that are missing.
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, Flaw> {
        let tables = Table::ALL
            .into_iter()
            .map(|table| transaction.open_table(table.definition()))
            .collect::<Result<_, _>>()?;
        Ok(Self { tables, undo: Vec::new() })
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
        Ok(self.tables[table as usize].get(key)?.map(|value| value.value().to_vec()))
    }

    pub(super) fn has(&self, table: Table, key: &[u8]) -> Result<bool, Flaw> {
        Ok(self.tables[table as usize].get(key)?.is_some())
    }

    pub(super) fn record<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, Flaw> {
        let stored = self.tables[table as usize].get(key)?;
        stored.map(|value| decode(table, value.value())).transpose()
    }

    pub(super) fn put_record<T: Serialize>(
        &mut self,
        table: Table,
        key: &[u8],
        record: &T,
    ) -> Result<(), Flaw> {
        self.put(table, key, &encode(table, record)?)
    }

    pub(super) fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Flaw> {
        let before = self.tables[table as usize].insert(key, value)?.map(|v| v.value().to_vec());
        self.undo.push(Undo { table, key: key.to_vec(), before });
        Ok(())
    }

    pub(super) fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Flaw> {
        let before = self.tables[table as usize].remove(key)?.map(|v| v.value().to_vec());
        if before.is_some() {
            self.undo.push(Undo { table, key: key.to_vec(), before });
        }
        Ok(())
    }

    /// Makes the writes since the last `keep` part of the transaction for good.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// Takes back the writes since the last `keep`.
    pub(super) fn roll_back(&mut self) -> Result<(), Flaw> {
        while let Some(Undo { table, key, before }) = self.undo.pop() {
            match before {
                Some(value) => {
                    self.tables[table as usize].insert(key.as_slice(), value.as_slice())?;
                }
                None => {
                    self.tables[table as usize].remove(key.as_slice())?;
                }
            }
        }
        Ok(())
    }
}
