//! Reading all records on Redis out, while nobody changes them, and building them from rows.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::Cmd;
use tokio::sync::mpsc::Sender;

use super::ids::Kind;
use super::overlay::Overlay;
use super::packed;
use super::places::{Form, Home, Place, field, form, hashed, home, version_key};
use super::scripts::{LOAD, RESERVE};
use super::wire::{Wire, array, into_bytes, members};
use super::{RecordsError, Versions};
use crate::model::{OrganizationId, ShardId};
use crate::redis::{Call, Redis, RedisError};
use crate::store::changes::tables::{
    Flaw, META_VERSION, Table, org_key, org_of, pair_key, user_of,
};
use crate::store::dump::{Row, RowTotals, RowsError};

/// Rows read or written at once.
const AT_ONCE: usize = 500;
/// Bytes written at once.
const BYTES: usize = 1 << 20;
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(250);

/// The records of a Redis on which nobody works.
#[derive(Debug)]
pub struct RedisRows {
    wire: Wire,
}

impl RedisRows {
    #[must_use]
    pub fn new(redis: &Redis, shards: u16) -> Self {
        Self { wire: Wire::new(redis.clone(), shards.max(1)) }
    }

    /// Keeps everybody from changing records and journal from now on, and ends what was begun.
    ///
    /// # Errors
    /// Redis cannot be written.
    pub async fn hold(&mut self, is_held: bool) -> Result<(), RowsError> {
        for shard in (0..self.wire.shards).map(ShardId) {
            let key = [self.wire.base(shard).as_slice(), b"held"].concat();
            let mut pipe = redis::Pipeline::new();
            let meta = self.wire.redis.key(shard, "m");
            if is_held {
                pipe.cmd("SET").arg(&key).arg(1).cmd("HSET").arg(&meta).arg("held").arg(1);
            } else {
                pipe.cmd("DEL").arg(&key).cmd("HDEL").arg(&meta).arg("held");
            }
            self.wire.redis.pipe(&key, pipe).await.map_err(RecordsError::from)?;
        }
        if is_held {
            self.wire.stale_after = Duration::ZERO;
            self.wire.sweep().await.map_err(RecordsError::from)?;
        }
        Ok(())
    }

    /// Reads all rows out; answers what they come to.
    ///
    /// # Errors
    /// Redis cannot be read, or nobody takes the rows.
    pub async fn dump(&self, rows: Option<&Sender<Row>>) -> Result<RowTotals, RowsError> {
        let mut out = Out { rows, totals: RowTotals::default() };
        let mut last = 0;
        for shard in (0..self.wire.shards).map(ShardId) {
            let names = Place::Names(shard);
            for table in Table::ALL {
                self.table(names, table, &mut out).await?;
            }
            for key in self.index(names, Table::Known).await? {
                let org = org_of(Table::Known, &key).map_err(RecordsError::from)?;
                for table in Table::ALL {
                    self.table(Place::Org(org), table, &mut out).await?;
                }
                last = last.max(self.version(shard, org).await?);
            }
        }
        let version = Row::new(Table::Meta, None, (META_VERSION, &u64::to_be_bytes(last)));
        out.put(version).await?;
        Ok(out.totals)
    }

    async fn version(&self, shard: ShardId, org: OrganizationId) -> Result<u64, RowsError> {
        let key = self.key(shard, &version_key(org));
        let mut get = redis::cmd("GET");
        get.arg(&key);
        let found = self.query(&key, get).await?;
        Ok(super::wire::number(&found).unwrap_or(0))
    }

    fn key(&self, shard: ShardId, name: &[u8]) -> Vec<u8> {
        [self.wire.base(shard).as_slice(), name].concat()
    }

    async fn query(&self, key: &[u8], command: Cmd) -> Result<redis::Value, RowsError> {
        Ok(self.wire.redis.query(key, command).await.map_err(RecordsError::from)?)
    }

    async fn table(&self, place: Place, table: Table, out: &mut Out<'_>) -> Result<(), RowsError> {
        let org = match place {
            Place::Org(org) => Some(org),
            Place::Names(_) => None,
        };
        let key = self.key(place.shard(self.wire.shards), &place.key(table));
        let (keys, values) = match form(table) {
            Form::Index => {
                for row in self.index(place, table).await? {
                    out.put(Row::new(table, org, (&row, &[]))).await?;
                }
                return Ok(());
            }
            Form::Sorted => (self.index(place, table).await?, [key.as_slice(), b"="].concat()),
            Form::Hash | Form::Packed(_) => {
                let mut ask = redis::cmd("HKEYS");
                ask.arg(&key);
                let found = self.query(&key, ask).await?;
                (members(found).map_err(RecordsError::from)?, key)
            }
        };
        for some in keys.chunks(AT_ONCE) {
            let mut ask = redis::cmd("HMGET");
            ask.arg(&values);
            some.iter().for_each(|key| {
                ask.arg(key.as_slice());
            });
            let found = array(self.query(&values, ask).await?).map_err(RecordsError::from)?;
            for (key, value) in some.iter().zip(found) {
                let value = into_bytes(value).ok_or(RecordsError::from(Flaw::Value(table)))?;
                if !matches!(form(table), Form::Packed(_)) {
                    out.put(Row::new(table, org, (key, &value))).await?;
                    continue;
                }
                let packed = packed::unpack(table, &value).map_err(RecordsError::from)?;
                for (rest, value) in packed {
                    out.put(Row::new(table, org, (&pair_key(key, &rest), &value))).await?;
                }
            }
        }
        Ok(())
    }

    /// Every member of a sorted set.
    async fn index(&self, place: Place, table: Table) -> Result<Vec<Vec<u8>>, RowsError> {
        let key = self.key(place.shard(self.wire.shards), &place.key(table));
        let mut all: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut ask = redis::cmd("ZRANGE");
            ask.arg(&key).arg(all.len()).arg(all.len() + 10 * AT_ONCE - 1);
            let found = members(self.query(&key, ask).await?).map_err(RecordsError::from)?;
            let count = found.len();
            all.extend(found);
            if count < 10 * AT_ONCE {
                return Ok(all);
            }
        }
    }
}

struct Out<'a> {
    rows: Option<&'a Sender<Row>>,
    totals: RowTotals,
}

impl Out<'_> {
    async fn put(&mut self, row: Row) -> Result<(), RowsError> {
        self.totals.add(&row);
        match self.rows {
            Some(rows) => rows.send(row).await.map_err(|_| RowsError::Stopped),
            None => Ok(()),
        }
    }
}

/// Records being built.
pub struct RedisRowLoader {
    wire: Wire,
    places: Overlay,
    /// What goes to one shard next: a script's operations.
    waiting: Vec<(ShardId, [Vec<u8>; 4])>,
    bytes: usize,
    /// Rows of one value that come one after another.
    pack: Option<(Table, Place, Vec<u8>, packed::Rows)>,
    orgs: BTreeSet<OrganizationId>,
    version: u64,
    last_user: i64,
}

impl std::fmt::Debug for RedisRowLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisRowLoader").field("wire", &self.wire).finish_non_exhaustive()
    }
}

impl RedisRowLoader {
    #[must_use]
    pub fn new(redis: &Redis, shards: u16) -> Self {
        let shards = shards.max(1);
        Self {
            wire: Wire::new(redis.clone(), shards),
            places: Overlay::new(shards),
            waiting: Vec::new(),
            bytes: 0,
            pack: None,
            orgs: BTreeSet::new(),
            version: 0,
            last_user: 0,
        }
    }

    /// Takes the next row. Rows of one value come together.
    ///
    /// # Errors
    /// Redis does not take it, or it is of no table.
    pub async fn put(&mut self, row: Row) -> Result<(), RowsError> {
        let table = row.table().ok_or(RowsError::Table)?;
        if table == Table::Meta {
            let version = row.value.first_chunk::<8>().copied().unwrap_or_default();
            self.version = self.version.max(u64::from_be_bytes(version));
            return Ok(());
        }
        let is_owned = matches!(home(table), Home::User | Home::Content)
            || table == Table::Counters && row.key.first() == Some(&b'i');
        let place = match row.org {
            Some(org) if is_owned => Some(Place::Org(org)),
            _ => self.places.place(table, &row.key),
        };
        let place = place.ok_or(RowsError::Nobody(table.name()))?;
        if let Place::Org(org) = place {
            self.orgs.insert(org);
        }
        self.beside(table, place, &row)?;
        let name = field(table, &row.key).to_vec();
        if let Form::Packed(bytes) = form(table) {
            let is_same = self.pack.as_ref().is_some_and(|(of, at, field, _)| {
                (*of, *at, field.as_slice()) == (table, place, name.as_slice())
            });
            if !is_same {
                self.put_pack()?;
                self.pack = Some((table, place, name, packed::Rows::new()));
            }
            if let Some((_, _, _, rows)) = &mut self.pack {
                rows.insert(row.key.get(bytes..).unwrap_or_default().to_vec(), row.value);
            }
        } else {
            self.put_pack()?;
            self.set(place, table, name, row.value);
        }
        self.flush(AT_ONCE, BYTES).await
    }

    /// Puts what only stores on Redis have: where users are kept, and which organizations there are.
    fn beside(&mut self, table: Table, place: Place, row: &Row) -> Result<(), RowsError> {
        match (table, place) {
            (Table::Users, Place::Org(org)) => {
                let user = user_of(table, &row.key).map_err(RecordsError::from)?;
                if user.0 < Kind::User.limit() {
                    self.last_user = self.last_user.max(user.0);
                }
                let at = hashed(&row.key, self.wire.shards);
                self.set(at, Table::UserHomes, row.key.clone(), org_key(org).to_vec());
            }
            (Table::Organizations, Place::Org(org)) => {
                let at = Place::Names(ShardId::of(org, self.wire.shards));
                self.set(at, Table::Known, row.key.clone(), Vec::new());
            }
            _ => {}
        }
        Ok(())
    }

    fn put_pack(&mut self) -> Result<(), RowsError> {
        if let Some((table, place, field, rows)) = self.pack.take()
            && let Some(value) = packed::pack(table, &rows).map_err(RecordsError::from)?
        {
            self.set(place, table, field, value);
        }
        Ok(())
    }

    fn set(&mut self, place: Place, table: Table, field: Vec<u8>, value: Vec<u8>) {
        let key = place.key(table);
        let form = form(table);
        if matches!(form, Form::Sorted | Form::Index) {
            self.op(place, [b"A".to_vec(), key.clone(), field.clone(), Vec::new()]);
        }
        if form != Form::Index {
            let key = if form == Form::Sorted { pair_key(&key, b"=") } else { key };
            self.op(place, [b"S".to_vec(), key, field, value]);
        }
    }

    fn op(&mut self, place: Place, op: [Vec<u8>; 4]) {
        self.bytes += op.iter().map(Vec::len).sum::<usize>();
        self.waiting.push((place.shard(self.wire.shards), op));
    }

    /// Writes what waits, if it is as much.
    async fn flush(&mut self, rows: usize, bytes: usize) -> Result<(), RowsError> {
        if self.waiting.len() < rows && self.bytes < bytes {
            return Ok(());
        }
        self.bytes = 0;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_by_key(|(shard, _)| *shard);
        for group in waiting.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((shard, _)) = group.first() else { continue };
            let call = Call::new(&LOAD).key(self.wire.base(*shard));
            let parts = group.iter().flat_map(|(_, op)| op);
            self.send(parts.fold(call, |call, part| call.arg(part.clone()))).await?;
        }
        Ok(())
    }

    /// Sends what can be sent twice until it is there.
    async fn send(&self, call: Call) -> Result<(), RowsError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let reply = self.wire.redis.run_all(vec![call.clone()]).await.pop();
            match reply.unwrap_or_else(|| Err(RedisError::unexpected("no reply"))) {
                Err(error) if tries < TRIES && (error.is_unknown() || error.is_temporary()) => {
                    tokio::time::sleep(PAUSE).await;
                }
                sent => return Ok(sent.map(drop).map_err(RecordsError::from)?),
            }
        }
    }

    /// Writes the rest, and keeps ids that are there from being given out again.
    ///
    /// # Errors
    /// As for `put`.
    pub async fn finish(mut self) -> Result<(), RowsError> {
        self.put_pack()?;
        let versions = Versions::default();
        versions.observe(self.version);
        let version = versions.next().0.to_string().into_bytes();
        let orgs = std::mem::take(&mut self.orgs);
        let ids = orgs.iter().map(|org| i64::from(org.0));
        let last = ids.filter(|id| *id < Kind::Organization.limit()).max().unwrap_or(0);
        for org in orgs {
            let key = version_key(org);
            self.op(Place::Org(org), [b"V".to_vec(), key, version.clone(), Vec::new()]);
            self.flush(AT_ONCE, BYTES).await?;
        }
        self.flush(0, 0).await?;
        let base = self.wire.base(super::places::FIRST.shard(self.wire.shards));
        for (kind, last) in [(Kind::User, self.last_user), (Kind::Organization, last)] {
            let call = Call::new(&RESERVE).key(base.clone()).arg(kind.name()).number(0);
            self.send(call.arg(last.to_string()).arg(kind.limit().to_string())).await?;
        }
        Ok(())
    }
}
