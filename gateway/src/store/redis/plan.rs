//! What a commit does in each shard: locks, comparisons and writes, from an overlay.

use std::collections::{BTreeMap, BTreeSet};

use super::overlay::{Cell, Overlay};
use super::packed;
use super::places::{FIRST, Form, Place, form, is_shared, version_key};
use crate::model::{Millis, OrganizationId, ShardId};
use crate::store::changes::tables::{Flaw, Table, org_key, pair_key};

/// Changed users that an organization remembers, so that searches need not start over.
const USER_CHANGES_MAX: usize = 20_000;

/// Four arguments of a script: a comparison or a write.
pub(super) type Step = [Vec<u8>; 4];

/// What is done in one shard.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) locks: BTreeSet<Vec<u8>>,
    pub(super) checks: Vec<Step>,
    pub(super) ops: Vec<Step>,
}

/// A commit by shard.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) parts: BTreeMap<ShardId, Part>,
    /// Shards with an organization that changes: one of them decides.
    deciders: BTreeSet<ShardId>,
}

impl Plan {
    /// The shard where the commit is decided.
    pub(super) fn decider(&self) -> Option<ShardId> {
        let written = || self.parts.iter().filter(|(_, part)| !part.ops.is_empty());
        let decider = written().find(|(shard, _)| self.deciders.contains(shard));
        decider.or_else(|| written().next()).map(|(shard, _)| *shard)
    }
}

/// Makes a plan of all writes in `overlay`, for the version they make.
pub(super) fn plan(
    overlay: &Overlay,
    version: u64,
    revoked: &[(String, Millis)],
    shards: u16,
) -> Result<Plan, Flaw> {
    let mut planner = Planner {
        overlay,
        shards,
        plan: Plan::default(),
        written: BTreeSet::new(),
        users: BTreeSet::new(),
        left: BTreeSet::new(),
    };
    planner.departures();
    planner.writes()?;
    for (id, until) in revoked {
        let until = until.0.to_string().into_bytes();
        planner.op(FIRST, "X", b"revoked".to_vec(), id.as_bytes().to_vec(), until);
    }
    planner.compare_names();
    planner.organizations(version);
    Ok(planner.plan)
}

struct Planner<'a> {
    overlay: &'a Overlay,
    shards: u16,
    plan: Plan,
    written: BTreeSet<OrganizationId>,
    /// Users whose rows change, by the organization they are kept with.
    users: BTreeSet<(OrganizationId, Vec<u8>)>,
    /// Cells that a user's move empties.
    left: BTreeSet<Cell>,
}

impl Planner<'_> {
    fn part(&mut self, place: Place) -> &mut Part {
        self.plan.parts.entry(place.shard(self.shards)).or_default()
    }

    fn op(&mut self, place: Place, code: &str, key: Vec<u8>, a: Vec<u8>, b: Vec<u8>) {
        if let Place::Org(org) = place {
            self.written.insert(org);
        }
        self.part(place).ops.push([code.as_bytes().to_vec(), key, a, b]);
    }

    fn departures(&mut self) {
        let overlay = self.overlay;
        for (org, table, field) in &overlay.departures {
            let place = Place::Org(*org);
            let cell = Cell { place, table: *table, field: field.clone() };
            if self.left.contains(&cell) {
                continue;
            }
            self.users.insert((*org, field.get(..8).unwrap_or_default().to_vec()));
            self.set(&cell, None);
            self.left.insert(cell);
        }
    }

    fn writes(&mut self) -> Result<(), Flaw> {
        let overlay = self.overlay;
        let mut packs: BTreeMap<Cell, packed::Rows> = BTreeMap::new();
        for ((table, key), value) in &overlay.writes {
            let cell = overlay.cell(*table, key).ok_or(Flaw::Value(*table))?;
            if let (Table::Users | Table::Devices, Place::Org(org)) = (*table, cell.place) {
                self.users.insert((org, key.get(..8).unwrap_or_default().to_vec()));
            }
            let Form::Packed(bytes) = form(*table) else {
                if self.is_new(&cell, value.as_deref()) {
                    self.guard(&cell);
                    self.set(&cell, value.as_deref());
                }
                continue;
            };
            let rest = key.get(bytes..).unwrap_or_default().to_vec();
            if !packs.contains_key(&cell) {
                let stored = overlay.cells.get(&cell).and_then(Option::as_deref);
                packs.insert(cell.clone(), packed::unpack(*table, stored.unwrap_or_default())?);
            }
            let rows = packs.entry(cell).or_default();
            match value {
                Some(value) => rows.insert(rest, value.clone()),
                None => rows.remove(&rest),
            };
        }
        for (cell, rows) in packs {
            let value = packed::pack(cell.table, &rows)?;
            if self.is_new(&cell, value.as_deref()) {
                self.guard(&cell);
                self.set(&cell, value.as_deref());
            }
        }
        Ok(())
    }

    fn is_new(&self, cell: &Cell, value: Option<&[u8]>) -> bool {
        let stored = self.overlay.cells.get(cell);
        self.left.contains(cell) || stored.is_none_or(|stored| stored.as_deref() != value)
    }

    /// Locks a row by name, and compares it with what was read.
    fn guard(&mut self, cell: &Cell) {
        let Place::Names(_) = cell.place else { return };
        if form(cell.table) == Form::Index {
            return;
        }
        let lock = cell.place.lock(cell.table, &cell.field);
        let key = cell.place.key(cell.table);
        let stored = self.overlay.cells.get(cell).and_then(Option::as_deref);
        let part = self.plan.parts.entry(cell.place.shard(self.shards)).or_default();
        if part.locks.insert(lock) {
            part.checks.push([b"h".to_vec(), key, cell.field.clone(), expected(stored)]);
        }
    }

    fn set(&mut self, cell: &Cell, value: Option<&[u8]>) {
        let (place, key) = (cell.place, cell.place.key(cell.table));
        let field = || cell.field.clone();
        let form = form(cell.table);
        if matches!(form, Form::Sorted | Form::Index) {
            let code = if value.is_some() { "A" } else { "Z" };
            self.op(place, code, key.clone(), field(), Vec::new());
        }
        let key = if form == Form::Sorted { pair_key(&key, b"=") } else { key };
        if form != Form::Index {
            match value {
                Some(value) => self.op(place, "S", key, field(), value.to_vec()),
                None => self.op(place, "D", key, field(), Vec::new()),
            }
        }
    }

    /// Rows by name that were only read are compared where that costs nothing, and where nothing
    /// else would notice: who changes any other one changes its owner's organization too.
    fn compare_names(&mut self) {
        let used = self.overlay.used.borrow();
        for cell in used.iter() {
            let shard = cell.place.shard(self.shards);
            let is_written = self.plan.parts.get(&shard).is_some_and(|part| !part.ops.is_empty());
            let is_read = self.overlay.cells.contains_key(cell);
            if is_read && (is_written || is_shared(cell.table)) {
                self.guard(cell);
            }
        }
    }

    fn organizations(&mut self, version: u64) {
        let users = std::mem::take(&mut self.users);
        for (org, user) in users {
            if self.written.contains(&org) {
                let key = Place::Org(org).key(Table::UserChanges);
                let version = self.next_version(org, version);
                let row = [&org_key(org)[..], &version.to_be_bytes(), &user].concat();
                self.op(Place::Org(org), "A", key.clone(), row, Vec::new());
                let kept = USER_CHANGES_MAX.to_string().into_bytes();
                self.op(Place::Org(org), "T", key, kept, Vec::new());
            }
        }
        for org in self.written.clone() {
            let version = self.next_version(org, version).to_string().into_bytes();
            self.op(Place::Org(org), "V", version_key(org), version, Vec::new());
            self.plan.deciders.insert(Place::Org(org).shard(self.shards));
        }
        let mut read: BTreeSet<_> = self.overlay.orgs.borrow().iter().copied().collect();
        read.extend(&self.written);
        for org in read {
            let place = Place::Org(org);
            let found = match self.stored_version(org) {
                0 => None,
                version => Some(version.to_string().into_bytes()),
            };
            let lock = place.lock(Table::Meta, &[]);
            let check = [b"v".to_vec(), version_key(org), Vec::new(), expected(found.as_deref())];
            let part = self.part(place);
            part.locks.insert(lock);
            part.checks.push(check);
        }
    }

    /// Rises with every commit: what was logged elsewhere may come late.
    fn next_version(&self, org: OrganizationId, version: u64) -> u64 {
        version.max(self.stored_version(org).saturating_add(1))
    }

    fn stored_version(&self, org: OrganizationId) -> u64 {
        self.overlay.versions.get(&org).copied().unwrap_or_default()
    }
}

fn expected(stored: Option<&[u8]>) -> Vec<u8> {
    stored.map_or_else(|| b"0".to_vec(), |stored| pair_key(b"1", stored))
}
