//! Random organizations, claims, settlements, lapses and restarts against a model of the journal.

use super::*;
use crate::journal::{Backlog, Room};
use std::collections::{BTreeMap, HashMap};

const SEEDS: u64 = 12;
const STEPS: usize = 120;

pub(super) async fn run<F: Fixture>(make: &impl AsyncFn() -> F) {
    for seed in 1..=SEEDS {
        any_history_claims_what_is_pending_in_order(make().await, seed).await;
    }
}

/// Numbers that follow from the seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn size(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll(sides as u64)).unwrap_or(0)
    }
}

impl Room for HashMap<OrganizationId, usize> {
    fn room(&self, org: OrganizationId) -> usize {
        self.get(&org).copied().unwrap_or(usize::MAX)
    }
}

#[derive(Debug)]
struct Known {
    org: OrganizationId,
    /// Order of acceptance.
    number: usize,
    due: Millis,
    waits: bool,
    bytes: u64,
    held: Option<Claim>,
    /// Claimed at some time: may come again before its turn.
    begun: bool,
}

#[derive(Default)]
struct Model {
    pending: BTreeMap<NotificationId, Known>,
    accepted: usize,
}

impl Model {
    fn accept(&mut self, entry: &Entry, now: Millis) {
        let known = Known {
            org: entry.org,
            number: self.accepted,
            due: entry.due,
            waits: entry.due > now,
            bytes: entry.payload.len() as u64,
            held: None,
            begun: false,
        };
        self.accepted += 1;
        assert!(self.pending.insert(entry.notification, known).is_none());
    }

    fn claimed(&mut self, claims: Vec<Claim>, now: Millis) {
        for claim in claims {
            let known = self.pending.get(&claim.notification);
            let known = known.expect("only what is pending is claimed");
            assert!(known.held.is_none(), "claimed twice: {claim:?}");
            assert!(known.due <= now, "claimed early: {claim:?}");
            assert_eq!((known.org, known.bytes), (claim.org, claim.payload.len() as u64));
            let (org, number) = (known.org, known.number);
            let is_first = !known.waits && !known.begun;
            let overtakes = |other: &Known| {
                other.org == org && other.number < number && !other.waits && !other.begun
            };
            if is_first {
                assert!(!self.pending.values().any(overtakes), "out of order: {claim:?}");
            }
            let known = self.pending.get_mut(&claim.notification).expect("found above");
            known.begun = true;
            known.held = Some(claim);
        }
    }

    fn release(&mut self) {
        self.pending.values_mut().for_each(|known| known.held = None);
    }

    fn backlog(&self, org: OrganizationId) -> Backlog {
        let of = || self.pending.values().filter(|known| known.org == org);
        Backlog {
            pending: of().count() as u64,
            claimed: of().filter(|known| known.held.is_some()).count() as u64,
            timers: of().filter(|known| known.waits).count() as u64,
            bytes: of().map(|known| known.bytes).sum(),
            unreadable: 0,
        }
    }
}

async fn any_history_claims_what_is_pending_in_order(mut f: impl Fixture, seed: u64) {
    let (mut dice, mut model) = (Dice(seed), Model::default());
    let orgs: Vec<_> = (0..).take(1 + dice.size(12)).map(OrganizationId).collect();
    for _ in 0..STEPS {
        match dice.roll(16) {
            0..=4 => accept(&f, &mut dice, &mut model, &orgs).await,
            5..=9 => {
                let room = orgs.iter().map(|org| (*org, dice.size(2) * (1 + dice.size(40))));
                let room: HashMap<_, _> = room.collect();
                let max = 1 + dice.size(60);
                let journal = f.journal();
                let claims = journal.claim(SHARD, max, &room);
                let claims = tokio::time::timeout(Duration::from_millis(5), claims).await;
                let claims = claims.map(|claims| claims.expect("claim answered"));
                model.claimed(claims.unwrap_or_default(), f.now());
            }
            10..=13 => settle_some(&f, &mut dice, &mut model).await,
            14 => {
                f.advance(f.lease() / 3 + Duration::from_secs(dice.roll(60))).await;
                let held = model.pending.values().filter_map(|known| known.held.as_ref());
                let held: Vec<_> = held.map(|claim| claim.id).collect();
                f.journal().renew(SHARD, &held);
            }
            _ => {
                if dice.roll(2) == 0 {
                    f.crash().await;
                } else {
                    // Every lease lapses at the next claim, which is of nobody.
                    f.advance(f.lease() + Duration::from_secs(1)).await;
                    let nobody: HashMap<_, _> = orgs.iter().map(|org| (*org, 0)).collect();
                    let journal = f.journal();
                    let claims = journal.claim(SHARD, 1, &nobody);
                    let none = tokio::time::timeout(Duration::from_millis(5), claims).await;
                    assert!(none.is_err(), "claimed {none:?}");
                }
                model.release();
            }
        }
        for org in &orgs {
            let found = f.journal().backlog_of(SHARD, *org);
            assert_eq!(found, model.backlog(*org), "seed {seed}, {org}");
        }
    }
    f.crash().await;
    model.release();
    f.advance(Duration::from_hours(1)).await;
    while !model.pending.is_empty() {
        let claims = claim(&f, SHARD, 64).await;
        model.claimed(claims, f.now());
        settle_some(&f, &mut Dice(0), &mut model).await;
    }
    nothing_to_claim(&f, SHARD).await;
    assert_eq!(f.journal().backlog(SHARD), Backlog::default(), "seed {seed}");
}

async fn accept(f: &impl Fixture, dice: &mut Dice, model: &mut Model, orgs: &[OrganizationId]) {
    let now = f.now();
    // Mostly one organization's, now and then everybody's.
    let hot = orgs[dice.size(orgs.len())];
    let entries: Vec<_> = (0..1 + dice.size(80))
        .map(|_| {
            let org = if dice.roll(4) == 0 { orgs[dice.size(orgs.len())] } else { hot };
            let wait = if dice.roll(8) == 0 { 1 + dice.roll(300_000) } else { 0 };
            let text = "x".repeat(dice.size(2_000));
            Entry { org, ..entry(&text, now.plus(wait)) }
        })
        .collect();
    entries.iter().for_each(|entry| model.accept(entry, now));
    put(f, SHARD, entries).await;
}

/// Settles about half of what is held, with a follow-up now and then; all of it for seed 0.
async fn settle_some(f: &impl Fixture, dice: &mut Dice, model: &mut Model) {
    let is_all = dice.0 == 0;
    let held = model.pending.values().filter_map(|known| known.held.clone());
    let held: Vec<_> = held.filter(|_| is_all || dice.roll(2) == 0).collect();
    let mut settlements = Vec::new();
    for claim in held {
        let mut done = settlement(&claim);
        model.pending.remove(&claim.notification);
        if !is_all && dice.roll(6) == 0 {
            let due = f.now().plus(dice.roll(2) * 90_000);
            let again = Entry { org: claim.org, kind: EntryKind::FollowUp, ..entry("again", due) };
            model.accept(&again, f.now());
            done.follow_ups.push(again);
        }
        settlements.push(done);
    }
    if !settlements.is_empty() {
        let commit = f.journal().settle(SHARD, settlements).expect("held");
        commit.await.expect("settled");
    }
}
