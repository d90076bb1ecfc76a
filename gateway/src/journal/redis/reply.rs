//! Reading replies: raw values on the hot path, without a map for every entry.

use crate::journal::Books;
use crate::redis::RedisError;
use bytes::Bytes;
use redis::Value;

/// The elements of an array; a nil is an empty one.
pub(super) fn array(value: Value) -> Result<Vec<Value>, RedisError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(RedisError::unexpected("an array was due")),
    }
}

pub(super) fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        Value::SimpleString(text) => Some(Bytes::from(text)),
        Value::Int(number) => Some(Bytes::from(number.to_string())),
        _ => None,
    }
}

pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(bytes) => parse(bytes),
        Value::SimpleString(text) => parse(text.as_bytes()),
        Value::Nil => Some(0),
        _ => None,
    }
}

pub(super) fn parse(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The number before the dash of a stream id.
pub(super) fn position(id: &[u8]) -> Option<u64> {
    parse(id.split(|byte| *byte == b'-').next()?)
}

/// One block of the log as Redis has it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) position: u64,
    pub(super) committed_at: u64,
    pub(super) payload: Bytes,
    /// Who wrote it, and which of its requests that was.
    pub(super) mark: Bytes,
    /// Places and payload bytes of timers that ended here and were claimed by nobody's dispatcher.
    pub(super) sizes: Bytes,
}

impl Stored {
    /// Reads the fields of an entry.
    pub(super) fn of(position: u64, fields: Value) -> Result<Self, RedisError> {
        let none = Bytes::new;
        let mut stored =
            Self { position, committed_at: 0, payload: none(), mark: none(), sizes: none() };
        let mut fields = array(fields)?.into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            match bytes(name).as_deref() {
                Some(b"b") => stored.payload = bytes(value).unwrap_or_default(),
                Some(b"t") => stored.committed_at = number(&value).unwrap_or_default(),
                Some(b"w") => stored.mark = bytes(value).unwrap_or_default(),
                Some(b"z") => stored.sizes = bytes(value).unwrap_or_default(),
                _ => {}
            }
        }
        Ok(stored)
    }

    /// Reads the reply of `XRANGE`.
    pub(super) fn all(reply: Value) -> Result<Vec<Self>, RedisError> {
        array(reply)?.into_iter().map(Self::entry).collect()
    }

    fn entry(entry: Value) -> Result<Self, RedisError> {
        let mut parts = array(entry)?.into_iter();
        let id = parts.next().and_then(bytes).and_then(|id| position(&id));
        match (id, parts.next()) {
            (Some(position), Some(fields)) => Self::of(position, fields),
            _ => Err(RedisError::unexpected("an entry of a stream was due")),
        }
    }

    /// Reads the reply of `XREADGROUP` on one stream.
    pub(super) fn read(reply: Value) -> Result<Vec<Self>, RedisError> {
        let mut stored = Vec::new();
        for stream in array(reply)? {
            let entries = array(stream)?.pop().unwrap_or_default();
            stored.extend(Self::all(entries)?);
        }
        Ok(stored)
    }
}

/// What a shard sums up to, in the order in which scripts answer it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) books: Books,
    pub(super) pending: u64,
    pub(super) timers: u64,
    pub(super) bytes: u64,
}

/// The fields of a shard's sums.
pub(super) const SUMS: [&str; 18] = [
    "accepted",
    "f0",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "dead",
    "r0",
    "r1",
    "r2",
    "r3",
    "r4",
    "r5",
    "discarded",
    "pending",
    "timers",
    "bytes",
];

impl Sums {
    pub(super) fn of(values: Value) -> Result<Self, RedisError> {
        let values = array(values)?;
        let numbers: Vec<_> = values.iter().map(|value| number(value).unwrap_or(0)).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        let six = |from: usize| std::array::from_fn(|index| at(from + index));
        Ok(Self {
            books: Books {
                accepted: at(0),
                finals: six(1),
                dead_letters: at(7),
                reopened: six(8),
                discarded: at(14),
            },
            pending: at(15),
            timers: at(16),
            bytes: at(17),
        })
    }
}
