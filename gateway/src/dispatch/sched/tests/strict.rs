//! Lines in strict order: nobody is overtaken, and nothing stands still for want of room or leases.

use super::*;
use crate::model::OnUnknown;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

const ALL: u64 = 5_000;
const SERVICE_MS: u64 = 2;
/// Entries that are claimed in a millisecond.
const CLAIMED: usize = 8;

fn strict(number: u64) -> Offer<u64> {
    let offer = hook_offer(1, 1, number, number);
    let policy = TargetPolicy { keeps_order: true, on_unknown: OnUnknown::Resend, ..offer.policy };
    Offer { policy, ..offer }
}

fn absent(number: u64, is_first: bool) -> Absent {
    let Offer { org, target, about, .. } = strict(number);
    Absent { org, target, id: about.id, notification: about.notification, is_first }
}

/// Sends all of a line, the journal being a heap of timers behind a log; those in `failing` have to be
/// tried again half a second after their first try.
fn drain(mut failing: BTreeSet<u64>, until: u64) -> Vec<u64> {
    let bounds = Bounds { slots: 100, queue: 8_192, hook_max: 64 };
    let mut scheduler = Scheduler::new(bounds, 7, 0);
    scheduler.set_limit(&hooks(), 1_000);
    let mut fresh: VecDeque<u64> = (1..=ALL).collect();
    let mut timers = BinaryHeap::new();
    let mut tried = BTreeSet::new();
    let mut running: Option<(u64, u64, Ticket)> = None;
    let mut sent = Vec::new();
    let mut tick = LATER;
    while sent.len() < usize::try_from(ALL).unwrap() {
        tick += 1;
        assert!(tick < until, "{} of {ALL} were sent", sent.len());
        for turn in 0..CLAIMED.min(scheduler.room_for(organization(1))) {
            let is_due = timers.peek().is_some_and(|Reverse((due, _))| *due <= now(tick).at);
            // The journal gives due timers a share, not precedence.
            let came_back = is_due && (turn % 5 == 0 || fresh.is_empty());
            let next = if came_back {
                timers.pop().map(|Reverse((_, number))| number)
            } else {
                fresh.pop_front()
            };
            let Some(number) = next else { break };
            let mut offer = strict(number);
            (offer.about.came_back, offer.about.is_retry) = (came_back, tried.contains(&number));
            if let Offered::Later { parked, .. } = scheduler.offer(offer, now(tick)) {
                timers.push(Reverse((parked.due, parked.item)));
            }
        }
        if let Some((at, number, ticket)) = running.filter(|(at, _, _)| *at <= tick) {
            running = None;
            if failing.remove(&number) {
                tried.insert(number);
                let due = at + 500;
                let again = Finished { again_ms: Some(due - tick), ..signal(Signal::Failed) };
                scheduler.finish(ticket, again, now(tick));
                timers.push(Reverse((now(due).at, number)));
            } else {
                sent.push(number);
                scheduler.finish(ticket, answered(SERVICE_MS), now(tick));
            }
        }
        for (number, ticket) in picks(&mut scheduler, tick) {
            assert!(running.is_none(), "one at a time");
            running = Some((tick + SERVICE_MS, number, ticket));
        }
        for parked in scheduler.take_parked() {
            timers.push(Reverse((parked.due, parked.item)));
        }
    }
    sent
}

#[test]
fn a_line_longer_than_memory_leaves_its_head_the_room_to_come_back() {
    let sent = drain(BTreeSet::from([1, 2_500]), LATER + 50_000);
    assert!(sent.is_sorted());
}

#[test]
fn a_line_whose_leases_ran_out_is_claimed_again_and_goes_on_at_once() {
    let mut scheduler = scheduler();
    (1..=10).for_each(|n| queued(scheduler.offer(strict(n), now(LATER))));
    let [(1, ticket)] = picks(&mut scheduler, LATER)[..] else { panic!("one at a time") };
    scheduler.lost(ticket, now(LATER));
    let back: Vec<_> = scheduler.take_parked().into_iter().map(|parked| parked.item).collect();
    assert_eq!(back, (2..=10).collect::<Vec<_>>(), "nobody waits here for what is not here");
    // Their leases ran out as well.
    back.into_iter().for_each(|n| scheduler.fenced(absent(n, true), now(LATER)));
    let mut sent = Vec::new();
    let mut claims: VecDeque<_> =
        [2, 1].into_iter().chain(3..=10).map(|n| (LATER, n, false)).collect();
    for tick in LATER + 1..LATER + 5_000 {
        while claims.front().is_some_and(|(due, _, _)| *due <= tick) {
            let Some((_, number, came_back)) = claims.pop_front() else { break };
            let mut offer = strict(number);
            offer.about.came_back = came_back;
            if let Offered::Later { parked, .. } = scheduler.offer(offer, now(tick)) {
                claims.push_back((LATER + parked.due.since(now(LATER).at), parked.item, true));
            }
        }
        for (number, ticket) in picks(&mut scheduler, tick) {
            sent.push(number);
            scheduler.finish(ticket, answered(5), now(tick));
        }
    }
    assert_eq!(sent, (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_head_that_ends_in_the_journal_holds_nobody_back() {
    let mut scheduler = scheduler();
    queued(scheduler.offer(strict(1), now(LATER)));
    let picked = picks(&mut scheduler, LATER);
    let again = Finished { again_ms: Some(1_000), ..signal(Signal::Failed) };
    scheduler.finish(picked[0].1, again, now(LATER));
    let later = scheduler.offer(strict(2), now(LATER + 1_000));
    assert!(matches!(later, Offered::Later { .. }), "{later:?}");
    scheduler.gone(absent(1, false), now(LATER + 1_100));
    let mut offer = strict(2);
    offer.about.came_back = true;
    queued(scheduler.offer(offer, now(LATER + 1_200)));
    assert_eq!(numbers(&picks(&mut scheduler, LATER + 1_200)), [2]);
}
