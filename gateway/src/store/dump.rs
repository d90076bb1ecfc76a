//! What records are carried as to another store: rows as every store keeps them.

use super::changes::tables::Table;
use crate::model::OrganizationId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// One row of a table, with the organization that it is kept with where only its owner says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    table: String,
    pub(in crate::store) org: Option<OrganizationId>,
    pub(in crate::store) key: Vec<u8>,
    pub(in crate::store) value: Vec<u8>,
}

/// What records come to: for each table how many rows, and a sum over what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowTotals {
    pub tables: BTreeMap<String, (u64, u64)>,
}

/// Why records could not be read out or put in.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error(transparent)]
    Disk(#[from] super::disk::DiskError),
    #[error(transparent)]
    Redis(#[from] super::redis::RecordsError),
    #[error("a row came of a table that this release does not know: use the release that wrote it")]
    Table,
    #[error("a row of table {0} came that belongs to nobody")]
    Nobody(&'static str),
    /// Nobody takes what is read.
    #[error("reading out the records was stopped")]
    Stopped,
}

impl Row {
    pub(in crate::store) fn new(
        table: Table,
        org: Option<OrganizationId>,
        (key, value): (&[u8], &[u8]),
    ) -> Self {
        let table = String::from(table.name());
        Self { table, org, key: key.to_vec(), value: value.to_vec() }
    }

    pub(in crate::store) fn table(&self) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == self.table)
    }
}

impl RowTotals {
    /// Counts a row. Rows of `meta` say how a store is laid out, and differ.
    pub fn add(&mut self, row: &Row) {
        if row.table == Table::Meta.name() {
            return;
        }
        let mut hash = Sha256::new();
        for part in [&row.key, &row.value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let first = digest.first_chunk::<8>().copied().unwrap_or_default();
        let sum = self.tables.entry(row.table.clone()).or_default();
        sum.0 += 1;
        sum.1 = sum.1.wrapping_add(u64::from_be_bytes(first));
    }

    /// Rows of all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.values().map(|(rows, _)| rows).sum()
    }
}
