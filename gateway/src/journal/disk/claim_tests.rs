//! Lines and recovery from within: bounds, push-out, replays of replays, damage while running.

use super::*;
use crate::clock::TestClock;
use crate::journal::record::Extent;
use crate::journal::shard::ShardSnapshot;
use crate::journal::shard::class;
use crate::journal::shard::line::{Class, Spot, Ticket};
use crate::journal::shard::lines::{Finished, Lines, Stretch};
use crate::journal::{Entry, EntryKind, Unlimited};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use uuid::Uuid;

const SHARD: ShardId = ShardId(0);
const START: Millis = Millis(1_700_000_000_000);

fn options() -> DiskOptions {
    DiskOptions { shards: 2, segment_bytes: 256 << 10, places: 64, ..DiskOptions::default() }
}

fn open(dir: &Path, clock: &TestClock) -> DiskJournal {
    DiskJournal::open(dir, options(), Arc::new(clock.clone())).expect("opens")
}

fn spot(position: u64) -> Spot {
    Spot { position, index: 0, extent: Extent::default() }
}

fn entry(org: i32, text: &str, due: Millis) -> Entry {
    Entry {
        notification: NotificationId(Uuid::now_v7()),
        org: OrganizationId(org),
        kind: EntryKind::Listed,
        due,
        payload: Bytes::copy_from_slice(text.as_bytes()),
    }
}

async fn put(journal: &DiskJournal, entries: Vec<Entry>) {
    let append = Append { entries, idempotency: Vec::new() };
    journal.append(SHARD, append).expect("accepted").await.expect("committed");
}

async fn finish(journal: &DiskJournal, claims: &[Claim]) {
    if claims.is_empty() {
        return;
    }
    let settlements = claims.iter().map(|claim| Settlement {
        claim: claim.id,
        notification: claim.notification,
        org: claim.org,
        resolved: Vec::new(),
        events: vec![Bytes::from_static(b"sent")],
        follow_ups: Vec::new(),
        dead: Vec::new(),
        done: true,
    });
    let commit = journal.settle(SHARD, settlements.collect()).expect("held");
    commit.await.expect("settled");
}

#[test]
fn lines_hold_a_bounded_number_of_places_and_serve_everybody_within_two_rounds() {
    const ORGS: u64 = 200;
    const ENTRIES: u64 = 20_000;
    let mut lines = Lines::new(64);
    // Two thirds are of the first organization; what follows is of everybody.
    let owner = |n: u64| if n % 3 < 2 { 0 } else { (n / 3) % ORGS };
    let org = |n| OrganizationId(i32::try_from(owner(n)).expect("small"));
    for n in 0..ENTRIES {
        lines.count(org(n), 1, false);
        lines.offer(org(n), spot(n));
    }
    let mut left: BTreeMap<_, u64> = BTreeMap::new();
    (0..ENTRIES).for_each(|n| *left.entry(org(n)).or_default() += 1);
    let mut next: BTreeMap<_, u64> = BTreeMap::new();
    let mut waited: BTreeMap<OrganizationId, usize> = BTreeMap::new();
    while !left.is_empty() {
        let known: usize = lines.iter().map(|(_, line)| line.queue.len()).sum();
        assert!(known <= 64, "{known} places");
        let taken = lines.pick(50, &Unlimited);
        for (org, ticket) in &taken {
            let at = next.entry(*org).or_default();
            assert!(*at <= ticket.spot.position, "{org} out of order");
            *at = ticket.spot.position + 1;
            waited.remove(org);
            let count = left.get_mut(org).expect("not yet empty");
            *count -= 1;
            if *count == 0 {
                left.remove(org);
            }
            lines.unclaim(*org, ticket, false);
            lines.uncount(*org, 1, false);
        }
        for org in left.keys().filter(|org| lines.get(**org).is_some_and(|l| l.has(Class::First))) {
            let calls = waited.entry(*org).or_default();
            *calls += 1;
            assert!(*calls <= 4, "{org} stood in line and was passed over");
        }
        while let Some(start) = lines.next_hungry() {
            let end = (start + 1_000).min(ENTRIES);
            let entries = (start..end).map(|n| (org(n), spot(n))).collect();
            let stretch = Stretch { start, next: end, entries, ..Stretch::default() };
            if !lines.merge(&stretch, end == ENTRIES) {
                break;
            }
        }
        assert!(!taken.is_empty() || lines.iter().any(|(_, line)| line.has(Class::First)));
    }
    assert_eq!(lines.iter().count(), 0, "who has nothing pending is forgotten");
}

#[test]
fn repeats_keep_to_their_share_while_first_attempts_are_read_from_the_log() {
    const FIRST: u64 = 400;
    let (mut lines, org) = (Lines::new(64), OrganizationId(1));
    for n in 0..FIRST {
        lines.count(org, 1, false);
        lines.offer(org, spot(n));
    }
    for n in FIRST..2 * FIRST {
        lines.count(org, 1, true);
        lines.lapse(org, Ticket { spot: spot(n), due: START, class: Class::Again });
    }
    let (mut first, mut again) = (0, 0);
    while first < FIRST {
        // A claim comes while the stretch is being read.
        let start = lines.next_hungry();
        let taken = lines.pick(50, &Unlimited);
        assert!(!taken.is_empty(), "somebody is always served");
        again += taken.iter().filter(|(_, ticket)| ticket.class == Class::Again).count() as u64;
        first += taken.iter().filter(|(_, ticket)| ticket.class == Class::First).count() as u64;
        let Some(start) = start else { continue };
        let entries = (start..FIRST).map(|n| (org, spot(n))).collect();
        lines.merge(&Stretch { start, next: FIRST, entries, ..Stretch::default() }, true);
    }
    assert!(again * 3 <= first, "{again} repeats beside {first} first attempts");
}

#[test]
fn repeats_take_what_is_free_when_the_log_cannot_be_read() {
    let (mut lines, org) = (Lines::new(64), OrganizationId(1));
    for n in 0..400 {
        lines.count(org, 1, false);
        lines.offer(org, spot(n));
    }
    lines.count(org, 1, true);
    for n in 400..450 {
        lines.count(org, 1, true);
        lines.lapse(org, Ticket { spot: spot(n), due: START, class: Class::Again });
    }
    while lines.get(org).is_some_and(|line| line.has(Class::First)) {
        lines.pick(50, &Unlimited);
    }
    let start = lines.next_hungry().expect("the line goes on in the log");
    lines.merge(&Stretch { start, next: start, ..Stretch::default() }, false);
    let again = lines.get(org).map_or(0, |line| line.ready());
    assert_eq!(lines.pick(50, &Unlimited).len(), again.min(50));
}

#[test]
fn a_place_given_up_is_not_served_again_once_it_is_done() {
    let (mut lines, hot) = (Lines::new(64), OrganizationId(0));
    for n in 0..10 {
        lines.count(hot, 1, false);
        assert!(lines.offer(hot, spot(n)));
    }
    // Done out of order, as a replay sees it; then the line is cut before it.
    assert!(matches!(lines.finish(hot, (5, 0)), Finished::Known(_)));
    lines.uncount(hot, 1, false);
    for n in 10..68u64 {
        let other = OrganizationId(i32::try_from(n).expect("small"));
        lines.count(other, 1, false);
        assert!(lines.offer(other, spot(n)));
    }
    assert!(lines.get(hot).is_some_and(|line| line.behind.is_some_and(|behind| behind < (5, 0))));
    let mut served = Vec::new();
    loop {
        let taken = lines.pick(8, &Unlimited);
        if taken.is_empty() {
            break;
        }
        let of_hot = taken.iter().filter(|(org, _)| *org == hot);
        served.extend(of_hot.map(|(_, ticket)| ticket.spot.position));
        if let Some(start) = lines.next_hungry() {
            let entries = (start..10).map(|n| (hot, spot(n))).collect();
            lines.merge(&Stretch { start, next: 80, entries, ..Stretch::default() }, true);
        }
    }
    assert_eq!(served, [0, 1, 2, 3, 4, 6, 7, 8, 9]);
}

/// A log that is newer than its index, with claims out of order, timers and unfinished work.
async fn interrupted(home: &Path, clock: &TestClock) {
    let journal = open(home, clock);
    for n in 0..30 {
        let due = if n % 3 == 0 { START.plus(60_000) } else { START };
        put(&journal, (0..20).map(|m| entry(1 + (n + m) % 9 * (m % 2), "text", due)).collect())
            .await;
    }
    journal.close().await;
    drop(journal);
    std::fs::copy(home.join("index.redb"), home.join("index.old")).expect("copied");
    let journal = open(home, clock);
    for n in 0..12 {
        let claims = journal.claim(SHARD, 31, &Unlimited).await.expect("claims");
        let odd: Vec<_> = claims.into_iter().skip(n % 2).step_by(2).collect();
        finish(&journal, &odd).await;
        put(&journal, vec![entry(3, "more", START.plus(1_000)), entry(4, "more", START)]).await;
    }
    journal.close().await;
    drop(journal);
    std::fs::rename(home.join("index.old"), home.join("index.redb")).expect("renamed");
}

type Seen = (Vec<ShardSnapshot>, Books, Recovered, Vec<u64>);

fn seen(opened: &recovery::Opened) -> Seen {
    let core = &opened.core;
    let shards = core.shards.iter().map(|cell| cell.state.lock().snapshot()).collect();
    let mut timers = Vec::new();
    core.index.timer_positions(|position| timers.push(position)).expect("readable");
    (shards, *core.books.lock(), opened.recovered, timers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_killed_ten_times_ends_in_the_same_state_and_takes_no_longer() {
    let clock = TestClock::at(START);
    for rebuilt in [false, true] {
        let home = tempfile::tempdir().expect("temporary directory");
        interrupted(home.path(), &clock).await;
        if rebuilt {
            std::fs::remove_file(home.path().join("index.redb")).expect("index removed");
        }
        let mut first = None;
        for _ in 0..10 {
            // Dropped before the writer exists: nothing of this replay is checkpointed.
            let now = seen_again(home.path(), &clock);
            assert!(now.2.replayed_blocks > 0, "there is something to replay");
            assert_eq!(*first.get_or_insert(now), seen_again(home.path(), &clock));
        }
        let journal = open(home.path(), &clock);
        let left = journal.backlog(SHARD);
        let (mut claimed, mut ids) = (0, HashSet::new());
        clock.advance(Duration::from_hours(1));
        while claimed < left.pending {
            let claims = journal.claim(SHARD, 100, &Unlimited).await.expect("claims");
            claimed += claims.len() as u64;
            assert!(claims.iter().all(|claim| ids.insert(claim.notification)), "claimed twice");
            finish(&journal, &claims).await;
        }
        assert_eq!(journal.backlog(SHARD), Backlog::default());
    }
}

/// A journal replayed and not started.
fn recovered(dir: &Path, clock: &TestClock) -> recovery::Opened {
    let disk = media::machine();
    recovery::open(&disk, dir, options(), Arc::new(clock.clone())).expect("opens")
}

fn seen_again(dir: &Path, clock: &TestClock) -> Seen {
    seen(&recovered(dir, clock))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_built_again_without_remembering_the_backlog_of_others() {
    const BACKLOG: usize = 600;
    let (waits, served) = (OrganizationId(1), OrganizationId(2));
    let clock = TestClock::at(START);
    let home = tempfile::tempdir().expect("temporary directory");
    let journal = open(home.path(), &clock);
    for _ in 0..BACKLOG / 20 {
        put(&journal, (0..40).map(|n| entry(1 + n % 2, "text", Millis(0))).collect()).await;
    }
    let room = HashMap::from([(waits, 0)]);
    let mut left = BACKLOG;
    while left > 0 {
        let claims = journal.claim(SHARD, 100, &room).await.expect("claims");
        left -= claims.len();
        finish(&journal, &claims).await;
    }
    journal.close().await;
    drop(journal);
    std::fs::remove_file(home.path().join("index.redb")).expect("index removed");
    let opened = recovered(home.path(), &clock);
    let state = opened.core.shards[0].state.lock();
    assert_eq!(state.lines.get(waits).map(|line| line.counts.pending), Some(BACKLOG as u64));
    assert!(state.lines.get(served).is_none(), "nothing of it is left");
    let known = state.lines.iter().map(|(_, line)| line.queue.len() + line.lapsed.len());
    assert!(known.sum::<usize>() <= options().places, "what waits in the log is left there");
}

/// Flips a bit of the first `text` in the log.
fn damage(dir: &Path, text: &str) {
    for found in std::fs::read_dir(dir).expect("listing") {
        let path = found.expect("entry").path();
        if path.extension().is_none_or(|e| e != "log") {
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("segment");
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        if let Some(at) = at {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).expect("damaged");
            return;
        }
    }
    panic!("{text} is not in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_unreadable_is_set_aside_and_counted_and_the_rest_goes_on() {
    let clock = TestClock::at(START);
    let home = tempfile::tempdir().expect("temporary directory");
    let journal = open(home.path(), &clock);
    for n in 0..100 {
        put(&journal, vec![entry(1, &format!("entry {n:03}"), Millis(0))]).await;
    }
    put(&journal, vec![entry(2, "other", Millis(0))]).await;
    // Not in a line yet: found when the line is refilled.
    damage(home.path(), "entry 050");
    drain(&journal, 100).await;
    assert_eq!(journal.backlog(SHARD).unreadable, 1);
    drop(journal);
    std::fs::remove_file(home.path().join("index.redb")).expect("index removed");
    let error = DiskJournal::open(home.path(), options(), Arc::new(clock)).expect_err("named");
    assert!(error.to_string().contains("damaged at byte"), "{error}");
}

async fn drain(journal: &DiskJournal, wanted: usize) {
    let mut claimed = 0;
    while claimed < wanted {
        let claims = journal.claim(SHARD, 10, &Unlimited).await.expect("claims");
        claimed += claims.len();
        finish(journal, &claims).await;
    }
    assert_eq!(claimed, wanted);
    let backlog = journal.backlog(SHARD);
    assert!(journal.is_healthy());
    assert_eq!((backlog.pending, backlog.claimed), (1, 0), "the unreadable one stays pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_damaged_after_it_was_lined_up_is_never_served() {
    let clock = TestClock::at(START);
    let home = tempfile::tempdir().expect("temporary directory");
    let journal = open(home.path(), &clock);
    put(&journal, (0..10).map(|n| entry(1, &format!("entry {n:03}"), Millis(0))).collect()).await;
    drop(journal);
    let journal = open(home.path(), &clock);
    for _ in 0..500 {
        let queued = {
            let state = journal.core.shards[0].state.lock();
            state.lines.get(OrganizationId(1)).map_or(0, |line| line.queue.len())
        };
        if queued == 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    damage(home.path(), "entry 004");
    drain(&journal, 9).await;
    assert_eq!(journal.backlog(SHARD).unreadable, 1);
    drop(journal);
    let error = DiskJournal::open(home.path(), options(), Arc::new(clock)).expect_err("named");
    assert!(error.to_string().contains("damaged at byte"), "{error}");
}

#[test]
fn first_attempts_that_were_put_off_are_claimed_as_such() {
    assert!(class(EntryKind::Deferred) == Class::First);
    assert!(class(EntryKind::FollowUp) == Class::Again);
}
