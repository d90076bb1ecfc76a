//! Several rows in one value: the devices of a user, the devices of a token.
//!
//! Each row is the length of the rest of its key (1 byte), the length of its value (4 bytes,
//! big-endian), the rest of the key, the value; rows ascend by key.

use std::collections::BTreeMap;

use crate::store::changes::tables::{Flaw, Table};

/// Rows by what follows the packed first bytes of their keys.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) fn unpack(table: Table, mut stored: &[u8]) -> Result<Rows, Flaw> {
    let mut rows = Rows::new();
    while let Some((head, rest)) = stored.split_first_chunk::<5>() {
        let [key_bytes, length @ ..] = *head;
        let key_bytes = usize::from(key_bytes);
        let value_bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let both = rest.split_at_checked(key_bytes);
        let (key, rest) = both.ok_or(Flaw::Value(table))?;
        let (value, rest) = rest.split_at_checked(value_bytes).ok_or(Flaw::Value(table))?;
        rows.insert(key.to_vec(), value.to_vec());
        stored = rest;
    }
    if stored.is_empty() { Ok(rows) } else { Err(Flaw::Value(table)) }
}

/// The value for `rows`; `None` for none.
pub(super) fn pack(table: Table, rows: &Rows) -> Result<Option<Vec<u8>>, Flaw> {
    let mut packed = Vec::new();
    for (key, value) in rows {
        packed.push(u8::try_from(key.len()).map_err(|_| Flaw::Value(table))?);
        let length = u32::try_from(value.len()).map_err(|_| Flaw::Value(table))?;
        packed.extend_from_slice(&length.to_be_bytes());
        packed.extend_from_slice(key);
        packed.extend_from_slice(value);
    }
    Ok((!packed.is_empty()).then_some(packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_order_and_a_cut_value_is_refused() {
        let rows: Rows = [(b"b".to_vec(), b"two".to_vec()), (b"a".to_vec(), Vec::new())].into();
        let packed = pack(Table::Devices, &rows).unwrap().unwrap();
        assert_eq!(unpack(Table::Devices, &packed).unwrap(), rows);
        for cut in 1..packed.len() {
            let read = unpack(Table::Devices, &packed[..cut]);
            assert!(read.is_err() || read.unwrap().len() < rows.len(), "cut at {cut}");
        }
        assert_eq!(pack(Table::Devices, &Rows::new()).unwrap(), None);
    }
}
