//! Users that no longer change, packed by column: built once, searched by many, then replaced.

use std::collections::{HashMap, VecDeque};
use std::num::NonZero;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::order::{Key, Order, Place};
use super::overlay::Overlay;
use super::row::{Packed, Status};
use super::text::{CHUNK_USERS, CHUNK_WORDS, Chunk, Field, Needle, field};
use super::{COLUMNS, RECENT_MAX, SORTED};
use crate::model::{Millis, UserId};
use crate::store::SortBy;

/// Blocks of text below which a second thread costs more than it saves.
const SHARED_BLOCKS_MIN: u32 = 2048;
/// Threads of one search, the caller's included.
const THREADS_MAX: usize = 4;

/// Users in ascending id: a slot is a position in every column.
#[derive(Debug, Default)]
pub(super) struct Base {
    users: Vec<UserId>,
    /// Each but the last is full.
    text: Vec<Chunk>,
    /// Names of organizations and countries, folded.
    words: Vec<Arc<str>>,
    org_names: Vec<u32>,
    countries: Vec<u32>,
    statuses: Vec<Status>,
    roles: Vec<i32>,
    devices: Vec<u32>,
    registered: Vec<u64>,
    /// By column, each sorted when it is first asked for.
    orders: [OnceLock<Order>; COLUMNS],
    /// The last needles, the newest first.
    recent: Mutex<VecDeque<(Box<str>, Arc<Hits>)>>,
}

/// The slots that match a needle.
#[derive(Clone, Debug)]
pub(super) struct Hits {
    words: Vec<u64>,
    pub(super) count: u64,
}

impl Hits {
    pub(super) fn has(&self, slot: u32) -> bool {
        let slot = slot as usize;
        self.words[slot / 64] >> (slot % 64) & 1 == 1
    }

    /// Ascending.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.words.iter().zip(0u32..).flat_map(|(word, number)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.checked_ilog2().map(|_| left.trailing_zeros())?;
                left &= left - 1;
                Some(number * 64 + bit)
            })
        })
    }

    pub(super) fn remove(&mut self, slot: u32) {
        if self.has(slot) {
            let slot = slot as usize;
            self.words[slot / 64] &= !(1 << (slot % 64));
            self.count -= 1;
        }
    }
}

impl Base {
    /// Of several rows of one user the last counts.
    pub(super) fn build(rows: impl Iterator<Item = Packed>) -> Self {
        let mut builder = Builder::default();
        let mut ascending = true;
        for row in rows {
            ascending &= builder.base.users.last().is_none_or(|last| *last < row.user);
            builder.push(&row);
        }
        if ascending {
            return builder.finish();
        }
        let arrived = builder.finish();
        let mut slots: Vec<u32> = (0..arrived.count()).collect();
        let user = |slot: &u32| arrived.users[*slot as usize];
        slots.sort_unstable_by_key(|slot| (user(slot), *slot));
        let mut sorted = Builder::default();
        let mut words = vec![None; arrived.words.len()];
        for run in slots.chunk_by(|one, next| user(one) == user(next)) {
            run.last().iter().for_each(|slot| sorted.copy(&arrived, **slot, &mut words));
        }
        sorted.finish()
    }

    /// The users of both, in ascending id if those of `higher` have the higher ids.
    pub(super) fn joined(mut self, higher: &Self) -> Self {
        self.orders = Default::default();
        self.recent.get_mut().clear();
        let numbered = self.words.iter().cloned().zip(0..);
        let mut builder = Builder { known: numbered.collect(), base: self };
        let mut words = vec![None; higher.words.len()];
        (0..higher.count()).for_each(|slot| builder.copy(higher, slot, &mut words));
        builder.finish()
    }

    /// The users with the changes of `overlay`, every order that `self` has kept sorted.
    pub(super) fn folded(&self, overlay: &Overlay) -> Self {
        let mut builder = Builder::default();
        let mut words = vec![None; self.words.len()];
        let mut renumbered = vec![None; self.users.len()];
        let mut added = Vec::new();
        let mut changes = overlay.entries().peekable();
        let mut copied = 0..self.count();
        loop {
            let slot = copied.start;
            let old = self.users.get(slot as usize).copied();
            let change = changes.next_if(|(user, _)| old.is_none_or(|old| *user <= old));
            match (old, change) {
                (_, Some((user, entry))) => {
                    if let Some(row) = &entry.row {
                        added.push((builder.base.count(), entry));
                        builder.push(row);
                    }
                    if old == Some(user) {
                        copied.next();
                    }
                }
                (Some(_), None) => {
                    renumbered[slot as usize] = Some(builder.base.count());
                    builder.copy(self, slot, &mut words);
                    copied.next();
                }
                (None, None) => break,
            }
        }
        let folded = builder.finish();
        for column in SORTED {
            let Some(order) = self.orders[column as usize].get() else { continue };
            let mut places: Vec<(Place, u32)> =
                added.iter().map(|(slot, entry)| (entry.place(self, column), *slot)).collect();
            let key = |slot| folded.key(column, slot);
            places.sort_unstable_by(|(one, a), (other, b)| {
                one.cmp(other).then_with(|| key(*a).cmp(&key(*b))).then(a.cmp(b))
            });
            let renumber = |slot: u32| renumbered[slot as usize];
            let merged = order.merge(renumber, &places, |a, b| key(a) == key(b));
            folded.orders[column as usize].get_or_init(|| merged);
        }
        folded
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.users.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn user(&self, slot: u32) -> UserId {
        self.users[slot as usize]
    }

    pub(super) fn status(&self, slot: u32) -> Status {
        self.statuses[slot as usize]
    }

    pub(super) fn slot(&self, user: UserId) -> Option<u32> {
        self.users.binary_search(&user).ok().and_then(|slot| u32::try_from(slot).ok())
    }

    /// Where `row` stands, or would stand, in the order of `column`.
    pub(super) fn place(&self, column: SortBy, row: &Packed) -> Place {
        if column == SortBy::Id {
            return Place::before_group(self.users.partition_point(|user| *user < row.user));
        }
        let sought = row.key(column);
        self.order(column).place(|slot| self.key(column, slot).cmp(&sought))
    }

    /// The slots in the order of `column`, sorted now if nobody asked before.
    pub(super) fn order(&self, column: SortBy) -> &Order {
        self.orders[column as usize]
            .get_or_init(|| Order::sort(self.count(), |slot| self.key(column, slot)))
    }

    pub(super) fn key(&self, column: SortBy, slot: u32) -> Key<'_> {
        let at = slot as usize;
        match column {
            SortBy::Id => Key::from(self.users[at].0),
            SortBy::Name => Key::Text(field(self.record(slot), Field::Name)),
            SortBy::Email => Key::Text(field(self.record(slot), Field::Email)),
            SortBy::Phone => Key::Text(field(self.record(slot), Field::Phone)),
            SortBy::Status => Key::Number(self.statuses[at].rank(Millis(0)).into()),
            SortBy::Role => Key::from(i64::from(self.roles[at])),
            SortBy::OrganizationName => {
                Key::Text(self.words[self.org_names[at] as usize].as_bytes())
            }
            SortBy::DevicesCount => Key::Number(self.devices[at].into()),
            SortBy::Country => Key::Text(self.words[self.countries[at] as usize].as_bytes()),
            SortBy::RegisteredAt => Key::Number(self.registered[at]),
        }
    }

    fn record(&self, slot: u32) -> &[u8] {
        let slot = slot as usize;
        self.text[slot / CHUNK_USERS].record(slot % CHUNK_USERS)
    }

    /// The slots whose text contains `folded`.
    pub(super) fn hits(&self, folded: &str) -> Arc<Hits> {
        if let Some(hits) = self.recall(folded) {
            return hits;
        }
        let hits = Arc::new(self.scan(folded));
        let mut recent = self.recent.lock();
        recent.truncate(RECENT_MAX - 1);
        recent.push_front((Box::from(folded), Arc::clone(&hits)));
        hits
    }

    fn recall(&self, folded: &str) -> Option<Arc<Hits>> {
        let mut recent = self.recent.lock();
        let found = recent.iter().position(|(needle, _)| &**needle == folded)?;
        let found = recent.remove(found)?;
        let hits = Arc::clone(&found.1);
        recent.push_front(found);
        Some(hits)
    }

    fn scan(&self, folded: &str) -> Hits {
        let needle = Needle::new(folded);
        let mut words = vec![0; self.users.len().div_ceil(64)];
        let candidates: Vec<_> = self.text.iter().map(|chunk| chunk.candidates(&needle)).collect();
        let blocks: u32 = candidates.iter().map(|found| found.blocks()).sum();
        let work = self.text.iter().zip(&candidates).zip(words.chunks_mut(CHUNK_WORDS));
        if blocks < SHARED_BLOCKS_MIN {
            work.for_each(|((chunk, candidates), hits)| chunk.scan(&needle, candidates, hits));
        } else {
            // A queue of chunks, so that a thread without a core delays one chunk only.
            let work = Mutex::new(work);
            let run = || {
                loop {
                    let next = work.lock().next();
                    let Some(((chunk, candidates), hits)) = next else { break };
                    chunk.scan(&needle, candidates, hits);
                }
            };
            std::thread::scope(|scope| {
                for _ in 1..threads() {
                    let thread = std::thread::Builder::new().name(String::from("search"));
                    // Without another thread this one does it all.
                    drop(thread.spawn_scoped(scope, run));
                }
                run();
            });
        }
        let count = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Hits { words, count }
    }

    pub(super) fn bytes(&self) -> usize {
        let text: usize = self.text.iter().map(Chunk::bytes).sum();
        let words: usize = self.words.iter().map(|word| word.len() + 32).sum();
        let orders: usize = self.orders.iter().filter_map(OnceLock::get).map(Order::bytes).sum();
        let recent = RECENT_MAX * self.users.len().div_ceil(8);
        let columns = size_of::<(UserId, u32, u32, Status, i32, u32, u64)>();
        size_of::<Self>() + text + words + orders + recent + self.users.capacity() * columns
    }
}

fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX)
    })
}

#[derive(Default)]
struct Builder {
    base: Base,
    known: HashMap<Arc<str>, u32>,
}

impl Builder {
    fn push(&mut self, row: &Packed) {
        let (org_name, country) = (self.word(&row.org_name), self.word(&row.country));
        self.append(row.user, &row.record);
        let base = &mut self.base;
        base.org_names.push(org_name);
        base.countries.push(country);
        base.statuses.push(row.status);
        base.roles.push(row.role);
        base.devices.push(row.devices);
        base.registered.push(row.registered_at);
    }

    /// Pushes a row of `from`, whose words have the new numbers `words` as far as known.
    fn copy(&mut self, from: &Base, slot: u32, words: &mut [Option<u32>]) {
        let at = slot as usize;
        let mut word = |old: u32| match words[old as usize] {
            Some(known) => known,
            None => *words[old as usize].insert(self.word(&from.words[old as usize])),
        };
        let (org_name, country) = (word(from.org_names[at]), word(from.countries[at]));
        self.append(from.users[at], from.record(slot));
        let base = &mut self.base;
        base.org_names.push(org_name);
        base.countries.push(country);
        base.statuses.push(from.statuses[at]);
        base.roles.push(from.roles[at]);
        base.devices.push(from.devices[at]);
        base.registered.push(from.registered[at]);
    }

    fn append(&mut self, user: UserId, record: &[u8]) {
        let base = &mut self.base;
        base.users.push(user);
        if !base.text.last_mut().is_some_and(|chunk| chunk.push(record)) {
            base.text.last_mut().into_iter().for_each(Chunk::finish);
            let mut chunk = Chunk::default();
            chunk.push(record);
            base.text.push(chunk);
        }
    }

    fn word(&mut self, word: &Arc<str>) -> u32 {
        if let Some(known) = self.known.get(word) {
            return *known;
        }
        let number = u32::try_from(self.base.words.len()).unwrap_or(u32::MAX);
        self.base.words.push(Arc::clone(word));
        self.known.insert(Arc::clone(word), number);
        number
    }

    fn finish(mut self) -> Base {
        let base = &mut self.base;
        base.text.last_mut().into_iter().for_each(Chunk::finish);
        base.users.shrink_to_fit();
        base.org_names.shrink_to_fit();
        base.countries.shrink_to_fit();
        base.statuses.shrink_to_fit();
        base.roles.shrink_to_fit();
        base.devices.shrink_to_fit();
        base.registered.shrink_to_fit();
        self.base
    }
}
