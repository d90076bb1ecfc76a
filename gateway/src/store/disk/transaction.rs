//! One write transaction shared by many applies: each can be taken back without the others.
//!
//! redb's own savepoints cost a commit-like walk each; an undo list of the few keys an apply
//! touched costs nothing until it is needed.

use std::collections::HashSet;
use std::ops::Bound;

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use sha2::{Digest, Sha256};

use super::tables::{Flaw, Table, successor};
use crate::store::changes::Rows;

/// How a table is called in the file.
pub(super) const fn definition(
    table: Table,
) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

macro_rules! flaw_from {
    ($($error:ty),+) => {
        $(impl From<$error> for Flaw {
            fn from(error: $error) -> Self {
                Self::Backend(Box::new(redb::Error::from(error)))
            }
        })+
    };
}

flaw_from!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::SetDurabilityError
);

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
            .map(|table| transaction.open_table(definition(table)))
            .collect::<Result<_, _>>()?;
        Ok(Self { tables, undo: Vec::new() })
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

impl Rows for Draft<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
        Ok(self.tables[table as usize].get(key)?.map(|value| value.value().to_vec()))
    }

    fn has(&self, table: Table, key: &[u8]) -> Result<bool, Flaw> {
        Ok(self.tables[table as usize].get(key)?.is_some())
    }

    fn keys(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, Flaw> {
        let end = successor(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.tables[table as usize].range::<&[u8]>((Bound::Included(prefix), to))?;
        rows.take(limit).map(|row| Ok(row?.0.value().to_vec())).collect()
    }

    fn last(&self, table: Table, prefix: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
        let end = successor(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = self.tables[table as usize].range::<&[u8]>((Bound::Included(prefix), to))?;
        let last = rows.next_back().transpose()?;
        Ok(last.map(|(key, _)| key.value().to_vec()))
    }

    fn digests(&self) -> Result<([u8; 32], [u8; 32]), Flaw> {
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

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Flaw> {
        let before = self.tables[table as usize].insert(key, value)?.map(|v| v.value().to_vec());
        self.undo.push(Undo { table, key: key.to_vec(), before });
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Flaw> {
        let before = self.tables[table as usize].remove(key)?.map(|v| v.value().to_vec());
        if before.is_some() {
            self.undo.push(Undo { table, key: key.to_vec(), before });
        }
        Ok(())
    }
}
