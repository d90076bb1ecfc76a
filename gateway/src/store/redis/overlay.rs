//! Changes made over rows that were read before: what is missing is noted, and then read.
//!
//! The rules of changes run on an overlay as they run on a transaction. A row nobody has read yet
//! counts as absent and is noted in `wants`; as long as anything is wanted, what the rules made of
//! it is worth nothing: it is read, and they run again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::packed;
use super::places::{FIRST, Form, Home, Place, field, first_org, form, hashed, home};
use crate::model::{NotificationId, OrganizationId, ShardId, UserId};
use crate::store::changes::Rows;
use crate::store::changes::tables::{Flaw, Table, org_key, org_of, pair_key, user_key};

/// One stored value: a field of a hash or a member of a sorted set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Cell {
    pub(super) place: Place,
    pub(super) table: Table,
    pub(super) field: Vec<u8>,
}

/// What has to be read before the rules can run to their end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Want {
    Cell(Cell),
    /// The first so many members that start with the field.
    Range(Cell, usize),
    /// The last member that starts with the field.
    Last(Cell),
}

impl Want {
    pub(super) fn cell(&self) -> &Cell {
        match self {
            Self::Cell(cell) | Self::Range(cell, _) | Self::Last(cell) => cell,
        }
    }
}

/// Members as they were read.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) keys: Vec<Vec<u8>>,
    /// No more members start with the prefix.
    pub(super) is_all: bool,
}

/// Rows by table and key; `None` once removed.
type Writes = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

enum Undo {
    Write { table: Table, key: Vec<u8>, overlaid: Option<Option<Vec<u8>>>, before: Option<Vec<u8>> },
    Departed(usize),
}

pub(super) struct Overlay {
    shards: u16,
    pub(super) cells: HashMap<Cell, Option<Vec<u8>>>,
    pub(super) ranges: HashMap<Cell, Fetched>,
    pub(super) lasts: HashMap<Cell, Option<Vec<u8>>>,
    pub(super) versions: HashMap<OrganizationId, u64>,
    pub(super) wants: RefCell<BTreeSet<Want>>,
    /// What the rules looked at since the run began.
    pub(super) used: RefCell<HashSet<Cell>>,
    pub(super) orgs: RefCell<BTreeSet<OrganizationId>>,
    pub(super) writes: Writes,
    /// Rows that moved away with their user, where they were.
    pub(super) departures: Vec<(OrganizationId, Table, Vec<u8>)>,
    ties: HashMap<NotificationId, OrganizationId>,
    undo: Vec<Undo>,
}

impl Overlay {
    pub(super) fn new(shards: u16) -> Self {
        Self {
            shards,
            cells: HashMap::new(),
            ranges: HashMap::new(),
            lasts: HashMap::new(),
            versions: HashMap::new(),
            wants: RefCell::default(),
            used: RefCell::default(),
            orgs: RefCell::default(),
            writes: Writes::new(),
            departures: Vec::new(),
            ties: HashMap::new(),
            undo: Vec::new(),
        }
    }

    /// Takes back everything but what was read.
    pub(super) fn begin(&mut self) {
        self.wants.get_mut().clear();
        self.used.get_mut().clear();
        self.orgs.get_mut().clear();
        self.writes.clear();
        self.departures.clear();
        self.ties.clear();
        self.undo.clear();
    }

    pub(super) fn is_complete(&mut self) -> bool {
        self.wants.get_mut().is_empty()
    }

    /// Makes the writes since the last `keep` part of the commit for good.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// Takes back the writes since the last `keep`.
    pub(super) fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Write { table, key, overlaid: Some(value), .. } => {
                    self.writes.insert((table, key), value);
                }
                Undo::Write { table, key, overlaid: None, .. } => {
                    self.writes.remove(&(table, key));
                }
                Undo::Departed(count) => self.departures.truncate(count),
            }
        }
    }

    /// Where a row is kept; `None` for rows of a user who is not there.
    pub(super) fn place(&self, table: Table, key: &[u8]) -> Option<Place> {
        match home(table) {
            Home::Org => first_org(table, key).map(Place::Org),
            Home::User => self.home_of(key.get(..8)?).map(Place::Org),
            Home::Hash => Some(hashed(field(table, key), self.shards)),
            Home::Ending => match key.get(8..)?.split_first()? {
                (b'v', _) => Some(FIRST),
                (_, ended) => Some(hashed(ended, self.shards)),
            },
            Home::Owner => {
                // A text's key says first whether an organization follows.
                let owner = if table == Table::Texts { key.get(1..5)? } else { key };
                let is_instance =
                    owner.is_empty() || table == Table::Texts && key.first() == Some(&0);
                if is_instance { Some(FIRST) } else { first_org(table, owner).map(Place::Org) }
            }
            Home::Shard => {
                let org = first_org(table, key)?;
                Some(Place::Names(ShardId::of(org, self.shards)))
            }
            Home::Content => self.tied(key),
            Home::Counter => match key.split_first()? {
                (b'p', []) => Some(FIRST),
                (b'i', notification) => self.tied(notification),
                (_, org) => first_org(table, org).map(Place::Org),
            },
            Home::First => Some(FIRST),
        }
    }

    fn tied(&self, notification: &[u8]) -> Option<Place> {
        let id = NotificationId(uuid::Uuid::from_slice(notification).ok()?);
        self.ties.get(&id).copied().map(Place::Org)
    }

    /// The organization that a user's rows are kept with.
    fn home_of(&self, user: &[u8]) -> Option<OrganizationId> {
        let stored = self.get(Table::UserHomes, user).ok()??;
        org_of(Table::UserHomes, &stored).ok()
    }

    pub(super) fn cell(&self, table: Table, key: &[u8]) -> Option<Cell> {
        let place = self.place(table, key)?;
        Some(Cell { place, table, field: field(table, key).to_vec() })
    }

    /// The stored value of a cell, as it was read.
    fn stored(&self, cell: Cell) -> Option<&[u8]> {
        self.look_at(&cell);
        if let Some(value) = self.cells.get(&cell) {
            return value.as_deref();
        }
        self.wants.borrow_mut().insert(Want::Cell(cell));
        None
    }

    fn look_at(&self, cell: &Cell) {
        match cell.place {
            Place::Org(org) => {
                self.orgs.borrow_mut().insert(org);
            }
            Place::Names(_) => {
                self.used.borrow_mut().insert(cell.clone());
            }
        }
    }

    /// The row as it was before any change.
    fn before(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
        let Some(cell) = self.cell(table, key) else { return Ok(None) };
        let packed_bytes = match form(table) {
            Form::Packed(bytes) => bytes,
            _ => return Ok(self.stored(cell).map(<[u8]>::to_vec)),
        };
        let Some(stored) = self.stored(cell) else { return Ok(None) };
        let mut rows = packed::unpack(table, stored)?;
        Ok(rows.remove(key.get(packed_bytes..).unwrap_or_default()))
    }

    /// Members that start with `prefix`, as they were read; more of them are wanted if `limit`
    /// asks for more than is known.
    fn known(&self, cell: Cell, limit: usize) -> (Vec<Vec<u8>>, bool) {
        self.look_at(&cell);
        match self.ranges.get(&cell) {
            Some(fetched) => (fetched.keys.clone(), fetched.is_all),
            None => {
                self.wants.borrow_mut().insert(Want::Range(cell, limit));
                (Vec::new(), false)
            }
        }
    }

    /// The writes to rows of `table` that start with `prefix`, ascending.
    fn written<'a>(
        &'a self,
        table: Table,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> {
        let from = self.writes.range((table, prefix.to_vec())..);
        from.take_while(move |((of, key), _)| *of == table && key.starts_with(prefix))
            .map(|((_, key), value)| (key, value))
    }

    fn sorted_keys(
        &self,
        (table, prefix): (Table, &[u8]),
        cell: Cell,
        limit: usize,
    ) -> Vec<Vec<u8>> {
        let (stored, is_all) = self.known(cell.clone(), limit);
        let count = stored.len();
        let last = stored.last().cloned();
        let mut keys: BTreeSet<Vec<u8>> = stored.into_iter().collect();
        for (key, value) in self.written(table, prefix) {
            if value.is_some() {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        if !is_all {
            // Behind the last key that is known others may follow.
            keys.retain(|key| last.as_ref().is_some_and(|last| key <= last));
            if keys.len() < limit && self.ranges.contains_key(&cell) {
                let more = count.saturating_mul(4).max(limit.saturating_add(count));
                self.wants.borrow_mut().insert(Want::Range(cell, more));
            }
        }
        keys.into_iter().take(limit).collect()
    }

    /// Rows that ended lie in every shard.
    fn endings(&self, limit: usize) -> Vec<Vec<u8>> {
        let mut all = BTreeSet::new();
        for shard in 0..self.shards {
            let place = Place::Names(ShardId(shard));
            let cell = Cell { place, table: Table::Endings, field: Vec::new() };
            let (keys, is_all) = self.known(cell.clone(), limit);
            if !is_all && keys.len() < limit && self.ranges.contains_key(&cell) {
                self.wants.borrow_mut().insert(Want::Range(cell, limit));
            }
            all.extend(keys);
        }
        for (key, value) in self.written(Table::Endings, &[]) {
            match value {
                Some(_) => all.insert(key.clone()),
                None => all.remove(key),
            };
        }
        all.into_iter().take(limit).collect()
    }

    fn write(&mut self, table: Table, key: &[u8], value: Option<Vec<u8>>, before: Option<Vec<u8>>) {
        let overlaid = self.writes.insert((table, key.to_vec()), value);
        self.undo.push(Undo::Write { table, key: key.to_vec(), overlaid, before });
    }

    /// Reads all rows of a user where they are, and writes them where the user goes.
    fn move_rows(&mut self, user: UserId, from: OrganizationId) -> Result<Vec<MovedRow>, Flaw> {
        let prefix = user_key(user);
        let mut rows = Vec::new();
        for table in [Table::Users, Table::Passwords, Table::InboxHeads] {
            rows.push((table, prefix.to_vec()));
        }
        for table in [Table::Devices, Table::Inbox, Table::InboxRemoved, Table::InboxChanges] {
            let keys = self.keys(table, &prefix, usize::MAX)?;
            rows.extend(keys.into_iter().map(|key| (table, key)));
        }
        let mut moved = Vec::with_capacity(rows.len());
        self.undo.push(Undo::Departed(self.departures.len()));
        for (table, key) in rows {
            let Some(value) = self.get(table, &key)? else { continue };
            let field = field(table, &key).to_vec();
            self.departures.push((from, table, field));
            moved.push((table, key, value));
        }
        Ok(moved)
    }
}

type MovedRow = (Table, Vec<u8>, Vec<u8>);

impl Rows for Overlay {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
        match self.writes.get(&(table, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => self.before(table, key),
        }
    }

    fn keys(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, Flaw> {
        if table == Table::Endings {
            return Ok(self.endings(limit));
        }
        let Some(cell) = self.cell(table, prefix) else { return Ok(Vec::new()) };
        let Form::Packed(_) = form(table) else {
            let cell = Cell { field: prefix.to_vec(), ..cell };
            return Ok(self.sorted_keys((table, prefix), cell, limit));
        };
        let stored = self.stored(cell).unwrap_or_default();
        let rows = packed::unpack(table, stored)?;
        let mut keys: BTreeSet<_> = rows.into_keys().map(|rest| pair_key(prefix, &rest)).collect();
        for (key, value) in self.written(table, prefix) {
            match value {
                Some(_) => keys.insert(key.clone()),
                None => keys.remove(key),
            };
        }
        Ok(keys.into_iter().take(limit).collect())
    }

    fn last(&self, table: Table, prefix: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
        let written = self.written(table, prefix).filter(|(_, value)| value.is_some());
        let written = written.last().map(|(key, _)| key.clone());
        let Some(cell) = self.cell(table, prefix) else { return Ok(written) };
        let cell = Cell { field: prefix.to_vec(), ..cell };
        self.look_at(&cell);
        let Some(stored) = self.lasts.get(&cell) else {
            self.wants.borrow_mut().insert(Want::Last(cell));
            return Ok(written);
        };
        Ok(written.max(stored.clone()))
    }

    fn digests(&self) -> Result<([u8; 32], [u8; 32]), Flaw> {
        let (mut before, mut after) = (Sha256::new(), Sha256::new());
        let mut seen = HashSet::new();
        for undo in &self.undo {
            let Undo::Write { table, key, before: old, .. } = undo else { continue };
            if !seen.insert((*table, key.as_slice())) {
                continue;
            }
            let now = self.get(*table, key)?;
            for (hash, value) in [(&mut before, old), (&mut after, &now)] {
                hash.update((key.len() as u64).to_be_bytes());
                hash.update(key);
                let value = value.as_deref().unwrap_or_default();
                hash.update((value.len() as u64).to_be_bytes());
                hash.update(value);
            }
        }
        Ok((before.finalize().into(), after.finalize().into()))
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Flaw> {
        if self.place(table, key).is_none() {
            // Its user is not read yet; with everything read nobody writes for nobody.
            let is_known = self.is_complete();
            return if is_known { Err(Flaw::Value(table)) } else { Ok(()) };
        }
        let before = self.get(table, key)?;
        self.write(table, key, Some(value.to_vec()), before);
        if table == Table::Organizations {
            self.put(Table::Known, key, &[])?;
        }
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Flaw> {
        let before = self.get(table, key)?;
        if before.is_some() {
            self.write(table, key, None, before);
        }
        Ok(())
    }

    fn lodge(&mut self, user: UserId, org: OrganizationId) -> Result<(), Flaw> {
        let key = user_key(user);
        let moved = match self.home_of(&key) {
            Some(stays) if stays == org => return Ok(()),
            Some(from) => self.move_rows(user, from)?,
            None => Vec::new(),
        };
        self.put(Table::UserHomes, &key, &org_key(org))?;
        for (table, key, value) in moved {
            self.put(table, &key, &value)?;
        }
        Ok(())
    }

    fn tie(&mut self, notification: NotificationId, org: OrganizationId) {
        self.ties.insert(notification, org);
    }
}
