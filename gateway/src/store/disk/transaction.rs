//! One write transaction shared by many applies: each can be taken back without the others.
//!
//! redb's own savepoints cost a commit-like walk each; an undo list of the few keys an apply
//! touched costs nothing until it is needed.

use std::collections::HashSet;
use std::ops::Bound;

use redb::{ReadableTable, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::tables::{Flaw, Table, decode, encode, successor};

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

    /// The keys of `table` that start with `prefix`, ascending.
    pub(super) fn keys(
        &self,
        table: Table,
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<Vec<u8>, Flaw>> + use<'_, 'txn>, Flaw> {
        let end = successor(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.tables[table as usize].range::<&[u8]>((Bound::Included(prefix), to))?;
        Ok(rows.map(|row| Ok(row?.0.value().to_vec())))
    }

    /// The last key of `table` that starts with `prefix`.
    pub(super) fn last(&self, table: Table, prefix: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
        let end = successor(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = self.tables[table as usize].range::<&[u8]>((Bound::Included(prefix), to))?;
        let last = rows.next_back().transpose()?;
        Ok(last.map(|(key, _)| key.value().to_vec()))
    }

    /// SHA-256 over what the current apply replaced, and over what is there now.
    pub(super) fn digests(&self) -> Result<([u8; 32], [u8; 32]), Flaw> {
        let (mut before, mut after) = (Sha256::new(), Sha256::new());
        let mut seen = HashSet::new();
        for undo in &self.undo {
            if !seen.insert((undo.table as usize, undo.key.as_slice())) {
                continue;
            }
            let now = self.get(undo.table, &undo.key)?;
            for (hash, value) in [(&mut before, &undo.before), (&mut after, &now)] {
                hash.update((undo.key.len() as u64).to_be_bytes());
                hash.update(&undo.key);
                let value = value.as_deref().unwrap_or_default();
                hash.update((value.len() as u64).to_be_bytes());
                hash.update(value);
            }
        }
        Ok((before.finalize().into(), after.finalize().into()))
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
