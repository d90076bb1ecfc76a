//! The checkpoint of releases that claimed in log order: only its books and position are of use.

use crate::journal::Books;
use crate::journal::shard::Place;
use crate::model::DeliveryId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EarlierCheckpoint {
    pub(super) position: u64,
    shards: Vec<EarlierShard>,
    accepted: u64,
    finals: [u64; 6],
    dead_letters: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct EarlierShard {
    cursor: u64,
    unfinished: BTreeMap<u64, (Option<u32>, Vec<u32>)>,
    partial: Vec<(Place, Vec<DeliveryId>)>,
    changes: BTreeSet<Place>,
    counts: [u64; 3],
}

impl EarlierCheckpoint {
    pub(super) fn books(&self) -> Books {
        Books {
            accepted: self.accepted,
            finals: self.finals,
            dead_letters: self.dead_letters,
            ..Books::default()
        }
    }

    /// As an earlier release would have written it for one shard with nothing unfinished.
    #[cfg(test)]
    pub(super) fn of(position: u64, shards: usize, books: &Books) -> Self {
        let shard = || EarlierShard {
            cursor: position,
            unfinished: BTreeMap::new(),
            partial: Vec::new(),
            changes: BTreeSet::new(),
            counts: [0; 3],
        };
        Self {
            position,
            shards: std::iter::repeat_with(shard).take(shards).collect(),
            accepted: books.accepted,
            finals: books.finals,
            dead_letters: books.dead_letters,
        }
    }
}
