//! The search indexes in memory: built when first asked for, kept current, dropped when unused.
//!
//! An index belongs to a root: an organization with all below it. Whoever asks for one first has
//! it built beside the reactor; who asks meanwhile waits for the same. The writer adds what each
//! commit touched before the commit's applies answer, so a search finds every answered change.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::reader::View;
use super::search::{Page, Query, SearchIndex, SearchRow};
use super::search_reads::read_index;
use super::tables::Flaw;
use super::{DiskError, Records};
use crate::clock::{Clock, SystemClock};
use crate::model::{OrganizationId, UserId};
use crate::store::changes::Touched;
use crate::store::{StoreError, UserPage, UserRef, UserSearch};

/// Memory of all indexes together. The one used last stays even if it alone is larger.
const BYTES_MAX: usize = 1 << 30;
/// Indexes kept at once.
const ROOTS_MAX: usize = 64;
/// An index nobody asked for in so long is dropped.
const IDLE_MAX: Duration = Duration::from_mins(15);
/// Changed users nobody searched among since: building the index again costs less than keeping it.
const UNREAD_CHANGES_MAX: usize = 50_000;
/// Searches that run at once; more wait, so that they do not slow each other down.
const RUNNING_MAX: usize = 4;

/// The error of a build, told to everybody who waited for it.
type Failure = Option<Arc<DiskError>>;

#[derive(Debug)]
pub(super) struct Searches {
    roots: Mutex<HashMap<OrganizationId, Root>>,
    running: Arc<Semaphore>,
    /// One build at a time: it takes a core and the memory of its index.
    building: Semaphore,
    /// Tells an index from an earlier one of the same root.
    numbers: AtomicU64,
}

impl Default for Searches {
    fn default() -> Self {
        Self {
            roots: Mutex::default(),
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
            building: Semaphore::new(1),
            numbers: AtomicU64::default(),
        }
    }
}

#[derive(Debug)]
enum Root {
    Building(Building),
    Ready(Box<Ready>),
}

/// What a build that is under way has to add to what it reads.
#[derive(Debug)]
struct Building {
    number: u64,
    changes: BTreeMap<UserId, Option<Box<SearchRow>>>,
    /// Organizations moved, or too much changed: what the build reads is of no use.
    is_stale: bool,
    /// Wakes who waits, by an error or by its end.
    done: watch::Sender<Failure>,
}

#[derive(Debug)]
struct Ready {
    number: u64,
    index: SearchIndex,
    used: Instant,
    /// Changed users when the index was last used.
    seen: usize,
    is_folding: bool,
}

enum Found {
    Index(SearchIndex),
    Building(watch::Receiver<Failure>),
    Nothing,
}

/// One page of the users below `root` that match.
pub(super) async fn search(
    records: &Arc<Records>,
    root: OrganizationId,
    search: UserSearch,
) -> Result<UserPage, StoreError> {
    loop {
        match records.searches.find(root) {
            Found::Index(index) => {
                let permit = Arc::clone(&records.searches.running).acquire_owned().await;
                let found = blocking(records, move |records| {
                    let page = page(index, &search);
                    drop(permit);
                    let users = View::cached(records).users_below(root, &page.users)?;
                    Ok(UserPage { users, total: page.total })
                });
                return found.await;
            }
            Found::Building(mut done) => {
                if done.changed().await.is_ok()
                    && let Some(error) = done.borrow().clone()
                {
                    return Err(StoreError::Backend(Box::new(error)));
                }
            }
            Found::Nothing => {
                let asked = search.clone();
                let small = move |records: &Arc<Records>| small_page(records, root, &asked);
                if let Some(page) = blocking(records, small).await? {
                    return Ok(page);
                }
                records.searches.begin(root, records);
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    records: &Arc<Records>,
    read: impl FnOnce(&Arc<Records>) -> Result<T, Flaw> + Send + 'static,
) -> Result<T, StoreError> {
    let shared = Arc::clone(records);
    let read = tokio::task::spawn_blocking(move || read(&shared)).await;
    let cut_off = |error| StoreError::Backend(Box::new(DiskError::ReadCutOff(error)));
    read.map_err(cut_off)?.map_err(|flaw| records.refuse(flaw))
}

fn page(index: SearchIndex, search: &UserSearch) -> Page {
    let UserSearch { text, sort, descending, offset, limit } = search;
    let (sort, descending, offset, limit) = (*sort, *descending, *offset, *limit);
    index.search(&Query { text, sort, descending, offset, limit, now: SystemClock.now() })
}

/// The page, if the users below `root` are so few that an index need not be kept.
fn small_page(
    records: &Records,
    root: OrganizationId,
    search: &UserSearch,
) -> Result<Option<UserPage>, Flaw> {
    let view = View::cached(records);
    let Some(orgs) = view.small_subtree(root)? else { return Ok(None) };
    let page = page(view.small_index(&orgs)?, search);
    let users = view.users_below(root, &page.users)?;
    Ok(Some(UserPage { users, total: page.total }))
}

impl Searches {
    fn find(self: &Arc<Self>, root: OrganizationId) -> Found {
        let mut roots = self.roots.lock();
        match roots.get_mut(&root) {
            None => Found::Nothing,
            Some(Root::Building(building)) => Found::Building(building.done.subscribe()),
            Some(Root::Ready(ready)) => {
                ready.used = Instant::now();
                ready.seen = ready.index.changed();
                let index = ready.index.clone();
                if index.is_fold_due() && !ready.is_folding {
                    ready.is_folding = true;
                    let (searches, index) = (Arc::clone(self), index.clone());
                    let number = ready.number;
                    tokio::task::spawn_blocking(move || searches.fold(root, number, index));
                }
                Found::Index(index)
            }
        }
    }

    /// Starts a build unless one is under way. It goes on if everybody who waits leaves.
    fn begin(self: &Arc<Self>, root: OrganizationId, records: &Arc<Records>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        {
            let mut roots = self.roots.lock();
            if roots.contains_key(&root) {
                return;
            }
            let done = watch::Sender::default();
            let building = Building { number, changes: BTreeMap::new(), is_stale: false, done };
            roots.insert(root, Root::Building(building));
        }
        let unfinished = Unfinished { searches: Arc::clone(self), root, number };
        let records = Arc::clone(records);
        tokio::spawn(async move {
            let permit = unfinished.searches.building.acquire().await;
            let built = blocking(&records, move |records| {
                // Only now: what is committed before it is read need not be added to it.
                read_index(records, root)
            });
            match built.await {
                Ok(index) => unfinished.searches.finish(root, number, index),
                Err(error) => unfinished.searches.fail(root, number, error),
            }
            drop(permit);
        });
    }

    fn finish(self: &Arc<Self>, root: OrganizationId, number: u64, mut index: SearchIndex) {
        let mut roots = self.roots.lock();
        let Some(building) = take_building(&mut roots, root, number) else { return };
        if building.is_stale {
            return;
        }
        for (user, row) in building.changes {
            match row {
                Some(row) => index.put(&row),
                None if index.has(user) => index.remove(user),
                None => {}
            }
        }
        let (used, seen, sorted) = (Instant::now(), index.changed(), index.clone());
        let ready = Ready { number, index, used, seen, is_folding: false };
        roots.insert(root, Root::Ready(Box::new(ready)));
        let dropped = make_room(&mut roots, root);
        drop(roots);
        drop(dropped);
        tokio::task::spawn_blocking(move || sorted.warm());
        tokio::spawn(drop_unused(Arc::downgrade(self), root, number));
    }

    fn fail(&self, root: OrganizationId, number: u64, error: StoreError) {
        let building = take_building(&mut self.roots.lock(), root, number);
        if let (Some(building), StoreError::Backend(error)) = (building, error)
            && let Ok(error) = error.downcast::<DiskError>()
        {
            building.done.send_replace(Some(Arc::from(error)));
        }
    }

    fn fold(&self, root: OrganizationId, number: u64, index: SearchIndex) {
        let folded = index.folded();
        let mut roots = self.roots.lock();
        if let Some(Root::Ready(ready)) = roots.get_mut(&root)
            && ready.number == number
        {
            ready.index.adopt(folded);
            ready.seen = ready.index.changed();
            ready.is_folding = false;
        }
        let dropped = make_room(&mut roots, root);
        drop(roots);
        // What is left of the old index goes outside the lock.
        drop((dropped, index));
    }
}

fn take_building(
    roots: &mut HashMap<OrganizationId, Root>,
    root: OrganizationId,
    number: u64,
) -> Option<Building> {
    let is_it = |state: &&Root| matches!(state, Root::Building(found) if found.number == number);
    roots.get(&root).filter(is_it)?;
    match roots.remove(&root)? {
        Root::Building(building) => Some(building),
        Root::Ready(_) => None,
    }
}

/// Takes out the indexes used least lately while all together are too large, `kept` never.
fn make_room(roots: &mut HashMap<OrganizationId, Root>, kept: OrganizationId) -> Vec<Root> {
    let mut dropped = Vec::new();
    loop {
        let ready = roots.iter().filter_map(|(root, state)| match state {
            Root::Ready(ready) => Some((*root, ready)),
            Root::Building(_) => None,
        });
        let (mut count, mut bytes, mut oldest) = (0, 0, None);
        for (root, ready) in ready {
            count += 1;
            bytes += ready.index.bytes();
            if root != kept && oldest.is_none_or(|(used, _)| ready.used < used) {
                oldest = Some((ready.used, root));
            }
        }
        match oldest {
            Some((_, root)) if bytes > BYTES_MAX || count > ROOTS_MAX => {
                dropped.extend(roots.remove(&root));
            }
            _ => return dropped,
        }
    }
}

/// Drops the index of `root` once nobody asked for it long enough.
async fn drop_unused(searches: Weak<Searches>, root: OrganizationId, number: u64) {
    let mut until = Instant::now() + IDLE_MAX;
    loop {
        tokio::time::sleep_until(until).await;
        let Some(searches) = searches.upgrade() else { return };
        let mut roots = searches.roots.lock();
        let ready = match roots.get(&root) {
            Some(Root::Ready(ready)) if ready.number == number => ready,
            _ => return,
        };
        until = ready.used + IDLE_MAX;
        if until <= Instant::now() {
            let unused = roots.remove(&root);
            drop(roots);
            drop(unused);
            return;
        }
    }
}

/// Takes a build that ended early out of the way.
struct Unfinished {
    searches: Arc<Searches>,
    root: OrganizationId,
    number: u64,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        drop(take_building(&mut self.searches.roots.lock(), self.root, self.number));
    }
}

/// Adds to every index what a commit touched: call after the commit and after the caches forgot
/// it, before its applies answer.
pub(super) fn note(records: &Records, touched: &Touched) {
    let searches = &records.searches;
    if searches.roots.lock().is_empty() {
        return;
    }
    if let Err(flaw) = try_note(records, touched) {
        let error = records.explain(flaw);
        tracing::error!(error = %crate::telemetry::chain(&error), "searches start over");
        searches.roots.lock().retain(|_, root| match root {
            Root::Building(building) => {
                building.is_stale = true;
                true
            }
            Root::Ready(_) => false,
        });
    }
}

fn try_note(records: &Records, touched: &Touched) -> Result<(), Flaw> {
    let view = View::cached(records);
    let mut users = touched.devices.clone();
    users.extend(touched.users.iter().filter_map(|user| match user {
        UserRef::Id(id) => Some(*id),
        UserRef::Uuid(_) | UserRef::Email(_) => None,
    }));
    for (org, old_parent) in &touched.reshaped {
        match view.small_subtree(*org)? {
            Some(orgs) => {
                for org in orgs {
                    for user in view.users_of(org)? {
                        users.push(user?);
                    }
                }
            }
            None => {
                let mut above = view.chain(*org)?;
                if let Some(parent) = old_parent {
                    above.extend(view.chain(*parent)?);
                }
                records.searches.start_over(&above);
            }
        }
    }
    users.sort_unstable();
    users.dedup();
    for user in users {
        if let Some((org, row)) = view.search_row(user)? {
            records.searches.place(&row, &view.chain(org)?);
        }
    }
    records.searches.drop_unread();
    Ok(())
}

impl Searches {
    /// Puts `row` into the indexes of the organizations `above` it, and takes it out of all others.
    fn place(&self, row: &SearchRow, above: &[OrganizationId]) {
        let mut roots = self.roots.lock();
        for (root, state) in roots.iter_mut() {
            let is_below = above.contains(root);
            match state {
                Root::Building(building) if building.is_stale => {}
                Root::Building(building) => {
                    let row_here = is_below.then(|| Box::new(row.clone()));
                    building.changes.insert(row.user, row_here);
                }
                Root::Ready(ready) if is_below => ready.index.put(row),
                Root::Ready(ready) if ready.index.has(row.user) => ready.index.remove(row.user),
                Root::Ready(_) => {}
            }
        }
    }

    /// Drops indexes with more changes than are worth keeping until somebody searches, and has
    /// builds with as many start over.
    fn drop_unread(&self) {
        let mut roots = self.roots.lock();
        let is_unread = |_: &OrganizationId, state: &mut Root| match state {
            Root::Building(building) => {
                if building.changes.len() > UNREAD_CHANGES_MAX {
                    building.is_stale = true;
                    building.changes = BTreeMap::new();
                }
                false
            }
            Root::Ready(ready) => ready.index.changed() > ready.seen + UNREAD_CHANGES_MAX,
        };
        let unread: Vec<_> = roots.extract_if(is_unread).collect();
        drop(roots);
        drop(unread);
    }

    fn start_over(&self, above: &[OrganizationId]) {
        let mut roots = self.roots.lock();
        for root in above {
            if let Some(Root::Building(building)) = roots.get_mut(root) {
                building.is_stale = true;
            } else {
                roots.remove(root);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Millis, UserStatus};

    const ACME: OrganizationId = OrganizationId(101);

    fn row(user: i64) -> SearchRow {
        SearchRow {
            user: UserId(user),
            org_name: Arc::from("Acme"),
            name: format!("User {user}"),
            email: format!("user-{user}@example.com"),
            nick_name: None,
            phone: None,
            status: UserStatus::Active,
            inactive_from: None,
            role: 3,
            devices: 0,
            country: None,
            registered_at: Millis(0),
        }
    }

    fn building(searches: &Searches, number: u64) {
        let done = watch::Sender::default();
        let building = Building { number, changes: BTreeMap::new(), is_stale: false, done };
        searches.roots.lock().insert(ACME, Root::Building(building));
    }

    /// Notes changes of the users 1 to `users`, all at once.
    fn note(searches: &Searches, users: usize) {
        for user in 1..=i64::try_from(users).unwrap() {
            searches.place(&row(user), &[ACME]);
        }
        searches.drop_unread();
    }

    fn kept(searches: &Searches) -> Option<(usize, bool)> {
        match searches.roots.lock().get(&ACME)? {
            Root::Building(building) => Some((building.changes.len(), building.is_stale)),
            Root::Ready(ready) => Some((ready.index.changed(), false)),
        }
    }

    #[tokio::test]
    async fn a_build_keeps_a_bounded_number_of_changes_and_then_starts_over() {
        let searches = Arc::new(Searches::default());
        building(&searches, 1);
        note(&searches, UNREAD_CHANGES_MAX);
        assert_eq!(kept(&searches), Some((UNREAD_CHANGES_MAX, false)));
        note(&searches, UNREAD_CHANGES_MAX + 1);
        assert_eq!(kept(&searches), Some((0, true)));
        note(&searches, 10);
        assert_eq!(kept(&searches), Some((0, true)), "a stale build collects nothing");
        searches.finish(ACME, 1, SearchIndex::build([]));
        assert_eq!(kept(&searches), None, "what a stale build read is not served");
    }

    #[tokio::test]
    async fn an_index_nobody_reads_is_dropped_after_as_many_changes() {
        let searches = Arc::new(Searches::default());
        building(&searches, 1);
        searches.finish(ACME, 1, SearchIndex::build([]));
        note(&searches, UNREAD_CHANGES_MAX);
        assert_eq!(kept(&searches), Some((UNREAD_CHANGES_MAX, false)));
        note(&searches, UNREAD_CHANGES_MAX + 1);
        assert_eq!(kept(&searches), None);
    }
}
