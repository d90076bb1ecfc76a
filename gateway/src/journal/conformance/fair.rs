//! Fairness: whose entries are claimed next when one organization has far more than the others.

use super::*;
use crate::journal::{Backlog, Room};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};

const HOT: OrganizationId = OrganizationId(7);

pub(super) async fn run<F: Fixture>(make: &impl AsyncFn() -> F) {
    a_hot_organization_delays_nobody(make().await).await;
    each_organization_keeps_its_order(make().await).await;
    who_has_no_room_is_passed_over(make().await).await;
    no_more_is_claimed_than_there_is_room_for(make().await).await;
    due_timers_of_one_organization_delay_nobody(make().await).await;
    repeats_leave_first_attempts_the_most(make().await).await;
    a_repeat_is_not_starved_by_first_attempts(make().await).await;
    a_backlog_is_exact_for_each_organization(make().await).await;
    a_crash_amid_turns_keeps_exactly_the_unfinished(make().await).await;
}

/// Room by organization; whoever is not named has plenty.
#[derive(Default)]
struct Limits(Mutex<HashMap<OrganizationId, usize>>);

impl Limits {
    fn set(&self, org: OrganizationId, room: usize) {
        self.0.lock().insert(org, room);
    }
}

impl Room for Limits {
    fn room(&self, org: OrganizationId) -> usize {
        self.0.lock().get(&org).copied().unwrap_or(usize::MAX)
    }
}

fn of(org: OrganizationId, text: &str, due: Millis) -> Entry {
    Entry { org, ..entry(text, due) }
}

fn others(count: i32) -> impl Iterator<Item = OrganizationId> {
    (0..count).map(|n| OrganizationId(1_000 + n))
}

async fn put_many(f: &impl Fixture, org: OrganizationId, count: usize, due: Millis) {
    let all: Vec<_> = (0..count).map(|n| of(org, &format!("{n}"), due)).collect();
    for part in all.chunks(500) {
        put(f, SHARD, part.to_vec()).await;
    }
}

async fn claim_with(f: &impl Fixture, max: usize, room: &dyn Room) -> Vec<Claim> {
    let journal = f.journal();
    let claims = journal.claim(SHARD, max, room);
    let claims = tokio::time::timeout(Duration::from_secs(20), claims).await;
    claims.expect("something to claim").expect("claim answered")
}

async fn settle_all(f: &impl Fixture, claims: &[Claim]) {
    if claims.is_empty() {
        return;
    }
    let settlements = claims.iter().map(settlement).collect();
    let commit = f.journal().settle(SHARD, settlements).expect("held");
    commit.await.expect("settled");
}

async fn a_hot_organization_delays_nobody(mut f: impl Fixture) {
    let now = f.now();
    put_many(&f, HOT, 5_000, now).await;
    for round in 0..2 {
        for org in others(20) {
            put(&f, SHARD, vec![of(org, "one", now)]).await;
        }
        let mut served = BTreeSet::new();
        for _ in 0..2 {
            let claims = claim(&f, SHARD, 64).await;
            served.extend(claims.iter().map(|claim| claim.org));
            settle_all(&f, &claims).await;
        }
        assert_eq!(served.len(), 21, "everybody within two turns, round {round}");
        f.crash().await;
    }
}

async fn each_organization_keeps_its_order(mut f: impl Fixture) {
    let now = f.now();
    let orgs: Vec<_> = others(5).collect();
    let mut put_of = HashMap::<_, usize>::new();
    for n in 0..60 {
        let entries = (0..50).map(|m| {
            // The first has most, the last few and far apart.
            let org = orgs[(0..4).take_while(|k| (n * 50 + m) % (3 << (2 * k)) == 0).count()];
            let count = put_of.entry(org).or_default();
            *count += 1;
            of(org, &(*count - 1).to_string(), now)
        });
        put(&f, SHARD, entries.collect()).await;
    }
    assert_eq!(put_of.len(), 5, "every organization has some");
    let mut seen = HashMap::<_, Vec<String>>::new();
    let mut count = 0;
    while count < 3_000 {
        let claims = claim(&f, SHARD, 100).await;
        settle_all(&f, &claims).await;
        for claimed in &claims {
            let text = String::from_utf8_lossy(&claimed.payload).into_owned();
            seen.entry(claimed.org).or_default().push(text);
        }
        count += claims.len();
        if count == 1_500 {
            f.crash().await;
        }
    }
    for (org, texts) in seen {
        let all: Vec<_> = (0..put_of[&org]).map(|n| n.to_string()).collect();
        assert_eq!(texts, all, "{org}");
    }
    nothing_to_claim(&f, SHARD).await;
}

async fn who_has_no_room_is_passed_over(f: impl Fixture) {
    let now = f.now();
    put_many(&f, HOT, 3_000, now).await;
    for org in others(10) {
        put(&f, SHARD, vec![of(org, "one", now)]).await;
    }
    let limits = Limits::default();
    limits.set(HOT, 0);
    let mut served = Vec::new();
    while served.len() < 10 {
        served.extend(claim_with(&f, 4, &limits).await);
    }
    assert!(served.iter().all(|claim| claim.org != HOT), "{served:?}");
    let journal = f.journal();
    let quiet = journal.claim(SHARD, 10, &limits);
    let quiet = tokio::time::timeout(Duration::from_millis(60), quiet).await;
    assert!(quiet.is_err(), "claimed {quiet:?}");
    let nudge = async {
        limits.set(HOT, 3);
        journal.nudge(SHARD);
    };
    let (claims, ()) = tokio::join!(claim_with(&f, 10, &limits), nudge);
    assert_eq!(texts(&claims), ["0", "1", "2"]);
}

async fn no_more_is_claimed_than_there_is_room_for(f: impl Fixture) {
    let now = f.now();
    put_many(&f, HOT, 100, now).await;
    put_many(&f, ORG, 100, now).await;
    let limits = Limits::default();
    limits.set(HOT, 5);
    limits.set(ORG, 9);
    let claims = claim_with(&f, 50, &limits).await;
    let count = |org| claims.iter().filter(|claim| claim.org == org).count();
    assert_eq!((count(HOT), count(ORG)), (5, 9));
}

async fn due_timers_of_one_organization_delay_nobody(mut f: impl Fixture) {
    let due = f.now().plus(60_000);
    put_many(&f, HOT, 3_000, due).await;
    put(&f, SHARD, vec![of(ORG, "late", due.plus(1))]).await;
    nothing_to_claim(&f, SHARD).await;
    f.crash().await;
    f.advance(Duration::from_secs(61)).await;
    let mut before = 0;
    loop {
        let claims = claim(&f, SHARD, 50).await;
        settle_all(&f, &claims).await;
        if claims.iter().any(|claim| claim.org == ORG) {
            break;
        }
        before += claims.len();
        assert!(before < 2_000, "behind {before} of {HOT}");
    }
    let mut left = 3_000 - before;
    while left > 50 {
        let claims = claim(&f, SHARD, 50).await;
        settle_all(&f, &claims).await;
        left -= claims.len().min(left);
    }
}

fn repeat(org: OrganizationId, due: Millis) -> Entry {
    Entry { kind: EntryKind::FollowUp, ..of(org, "again", due) }
}

async fn repeats_leave_first_attempts_the_most(f: impl Fixture) {
    let due = f.now().plus(1_000);
    for org in [HOT, ORG] {
        put(&f, SHARD, (0..300).map(|_| repeat(org, due)).collect()).await;
        put_many(&f, org, 400, f.now()).await;
    }
    f.advance(Duration::from_secs(2)).await;
    let (mut first, mut again) = (0, 0);
    while first < 700 {
        let claims = claim(&f, SHARD, 50).await;
        let repeats = claims.iter().filter(|claim| claim.kind == EntryKind::FollowUp).count();
        first += claims.len() - repeats;
        again += repeats;
    }
    assert!(again <= first / 3, "{again} repeats beside {first} first attempts");
    while first + again < 1_400 {
        first += claim(&f, SHARD, 50).await.len();
    }
}

async fn a_repeat_is_not_starved_by_first_attempts(f: impl Fixture) {
    put(&f, SHARD, vec![repeat(HOT, f.now().plus(1_000))]).await;
    put_many(&f, HOT, 1_000, f.now()).await;
    f.advance(Duration::from_secs(2)).await;
    let limits = Limits::default();
    limits.set(HOT, 1);
    for _ in 0..2_000 {
        let claims = claim_with(&f, 10, &limits).await;
        if claims[0].kind == EntryKind::FollowUp {
            return;
        }
        // So that there is always a first attempt waiting.
        put_many(&f, HOT, claims.len(), f.now()).await;
    }
    panic_with("the repeat is claimed");
}

async fn a_backlog_is_exact_for_each_organization(mut f: impl Fixture) {
    let now = f.now();
    let later = now.plus(3_600_000);
    put(&f, SHARD, vec![of(ORG, "four", now), of(HOT, "fiver", now), of(ORG, "later", later)])
        .await;
    put(&f, SHARD, vec![of(ORG, "sixsix", now)]).await;
    for crash in [false, true, true] {
        if crash {
            f.crash().await;
        }
        assert_eq!(sums(f.journal().backlog_of(SHARD, ORG)), (3, 1, 15));
        assert_eq!(sums(f.journal().backlog_of(SHARD, HOT)), (1, 0, 5));
    }
    let claims = claim(&f, SHARD, 10).await;
    assert_eq!(claims.len(), 3);
    assert_eq!(f.journal().backlog_of(SHARD, ORG).claimed, 2);
    let first = claims.iter().find(|claim| claim.org == ORG).expect("claimed").clone();
    let mut done = settlement(&first);
    done.follow_ups = vec![Entry { kind: EntryKind::FollowUp, ..of(ORG, "again!!", later) }];
    settle(&f, done).await.expect("settled");
    let hot = claims.iter().find(|claim| claim.org == HOT).expect("claimed");
    settle(&f, settlement(hot)).await.expect("settled");
    for crash in [false, true, true] {
        if crash {
            f.crash().await;
        }
        assert_eq!(sums(f.journal().backlog_of(SHARD, ORG)), (3, 2, 18), "{crash}");
        assert_eq!(f.journal().backlog_of(SHARD, HOT), Backlog::default());
        assert_eq!(sums(f.journal().backlog(SHARD)), (3, 2, 18));
    }
    f.advance(Duration::from_hours(2)).await;
    let mut left = 3;
    while left > 0 {
        let claims = claim(&f, SHARD, 10).await;
        left -= claims.len();
        settle_all(&f, &claims).await;
        f.crash().await;
    }
    assert_eq!(f.journal().backlog_of(SHARD, ORG), Backlog::default());
    assert_eq!(f.journal().backlog(SHARD), Backlog::default());
}

fn sums(backlog: Backlog) -> (u64, u64, u64) {
    (backlog.pending, backlog.timers, backlog.bytes)
}

async fn a_crash_amid_turns_keeps_exactly_the_unfinished(mut f: impl Fixture) {
    let now = f.now();
    put_many(&f, HOT, 1_000, now).await;
    for org in others(50) {
        put_many(&f, org, 10, now).await;
    }
    let (mut finished, mut claimed) = (BTreeSet::new(), 0);
    for round in 0..6 {
        for _ in 0..3 {
            let claims = claim(&f, SHARD, 70).await;
            for claim in &claims {
                assert!(!finished.contains(&claim.notification), "done and claimed again");
            }
            claimed += claims.len();
            let some: Vec<_> = claims.iter().skip(round % 2).step_by(2).cloned().collect();
            settle_all(&f, &some).await;
            finished.extend(some.iter().map(|claim| claim.notification));
        }
        f.crash().await;
    }
    assert!(claimed > finished.len(), "some were left");
    while finished.len() < 1_500 {
        let claims = claim(&f, SHARD, 200).await;
        settle_all(&f, &claims).await;
        for claim in &claims {
            assert!(finished.insert(claim.notification), "done and claimed again");
        }
    }
    nothing_to_claim(&f, SHARD).await;
    assert_eq!(f.journal().backlog(SHARD), Backlog::default());
}
