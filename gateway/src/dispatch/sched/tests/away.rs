//! Long lines: what went back to the journal comes back, in order, before anybody runs out of patience.

use super::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

const DEVICES: u64 = 10;
const ALL: u64 = 20_000;
const SERVICE_MS: u64 = 5;
/// Entries that are claimed in a millisecond.
const CLAIMED: usize = 8;

#[test]
fn a_long_backlog_of_few_devices_never_stands_still_and_stays_in_order() {
    let bounds = Bounds { slots: 1_024, queue: 8_192, hook_max: 64 };
    let mut scheduler = Scheduler::new(bounds, 7, 0);
    scheduler.set_limit(&push("a"), 1_000);
    let mut fresh: VecDeque<u64> = (1..=ALL).collect();
    let mut timers = BinaryHeap::new();
    let mut running: VecDeque<(u64, Ticket)> = VecDeque::new();
    let mut sent = Vec::new();
    let mut tick = LATER;
    while sent.len() < usize::try_from(ALL).unwrap() {
        tick += 1;
        assert!(tick < LATER + 30_000, "{} of {ALL} were sent", sent.len());
        for turn in 0..CLAIMED.min(scheduler.room_for(organization(1))) {
            let is_due = timers.peek().is_some_and(|Reverse((due, _))| *due <= now(tick).at);
            // The journal gives due timers a share, not precedence.
            let came_back = is_due && (turn % 2 == 0 || fresh.is_empty());
            let next = if came_back {
                timers.pop().map(|Reverse((_, number))| number)
            } else {
                fresh.pop_front()
            };
            let Some(number) = next else { break };
            let mut offer = push_offer(1, number % DEVICES, number, "a");
            offer.about.came_back = came_back;
            if let Offered::Later { parked, .. } = scheduler.offer(offer, now(tick)) {
                timers.push(Reverse((parked.due, parked.item)));
            }
        }
        while running.front().is_some_and(|(until, _)| *until <= tick) {
            let (_, ticket) = running.pop_front().unwrap();
            scheduler.finish(ticket, answered(SERVICE_MS), now(tick));
        }
        while let Some(Picked::Send { ticket, item, .. }) =
            scheduler.pick(now(tick), bounds.slots - running.len())
        {
            running.push_back((tick + SERVICE_MS, ticket));
            sent.push(item);
        }
        assert!(scheduler.take_parked().is_empty());
    }
    let of = |device| sent.iter().filter(move |number| *number % DEVICES == device);
    assert!((0..DEVICES).all(|device| of(device).is_sorted()), "first tries keep their order");
}

fn later(offered: Offered<u64>) -> Millis {
    let Offered::Later { parked, .. } = offered else { panic!("{offered:?}") };
    parked.due
}

/// A device whose first delivery was held back for half a minute, and one of which it is certain
/// that it will come back.
fn held_back(scheduler: &mut Scheduler<u64>, stays_first: bool) {
    queued(scheduler.offer(push_offer(1, 1, 1, "a"), now(LATER)));
    let picked = picks(scheduler, LATER);
    let again = Finished { again_ms: Some(30_000), stays_first, ..UNTRIED };
    scheduler.finish(picked[0].1, again, now(LATER));
}

fn absent() -> Absent {
    let Offer { org, target, about, .. } = push_offer(1, 1, 1, "a");
    Absent { org, target, id: about.id, notification: about.notification, is_first: true }
}

#[test]
fn without_room_nobody_comes_back_before_those_who_were_sent_away() {
    let mut scheduler = scheduler();
    held_back(&mut scheduler, true);
    for device in 2.. {
        if scheduler.room_for(organization(1)) == 0 {
            break;
        }
        queued(scheduler.offer(push_offer(1, device, device, "a"), now(LATER)));
    }
    let due = later(scheduler.offer(push_offer(1, 1, 9_000, "a"), now(LATER)));
    assert!(due >= now(LATER + 30_000).at, "{due:?}");
}

#[test]
fn a_closed_line_opens_to_nobody_before_those_who_were_sent_away() {
    let mut scheduler = scheduler();
    held_back(&mut scheduler, true);
    queued(scheduler.offer(push_offer(1, 2, 2, "a"), now(LATER)));
    let picked = picks(&mut scheduler, LATER);
    let wait = Finished { wait_ms: Some(5_000), is_lane_wait: true, ..signal(Signal::Throttled) };
    scheduler.finish(picked[0].1, wait, now(LATER));
    let due = later(scheduler.offer(push_offer(1, 1, 9_000, "a"), now(LATER)));
    assert!(due >= now(LATER + 30_000).at, "{due:?}");
}

#[test]
fn nobody_waits_for_what_ended_in_the_journal_or_comes_back_as_a_repeat() {
    let mut ended = scheduler();
    held_back(&mut ended, true);
    later(ended.offer(push_offer(1, 1, 9_000, "a"), now(LATER)));
    ended.gone(absent(), now(LATER));
    let Offer { org, target, about, .. } = push_offer(1, 1, 9_000, "a");
    let other =
        Absent { org, target, id: about.id, notification: about.notification, is_first: true };
    ended.gone(other, now(LATER));
    queued(ended.offer(push_offer(1, 1, 9_001, "a"), now(LATER)));
    let mut counted = scheduler();
    held_back(&mut counted, false);
    queued(counted.offer(push_offer(1, 1, 9_000, "a"), now(LATER)));
}

#[test]
fn what_could_not_be_sent_back_is_waited_for_no_more() {
    let mut scheduler = scheduler();
    held_back(&mut scheduler, true);
    scheduler.fenced(absent(), now(LATER));
    queued(scheduler.offer(push_offer(1, 1, 9_000, "a"), now(LATER)));
}

/// What became of a backlog of one hook.
struct Drained {
    sent_back: usize,
    longest_pause_ms: u64,
    took_ms: u64,
}

/// One hook that takes `first_ms` for each of the first messages, `service_ms` for each of the
/// others, and all of its backlog in the journal: the
/// numbers as they were given out, not quite in the order of the log, as many clients at once make
/// them. The journal gives what comes back one claim in five.
fn drain_one_hook(all: u64, service_ms: u64, first_ms: u64) -> Drained {
    let bounds = Bounds { slots: 1_024, queue: 8_192, hook_max: 64 };
    let mut scheduler = Scheduler::new(bounds, 7, 0);
    scheduler.set_limit(&hooks(), 1_000);
    let service = |number: u64| if number <= 8 { first_ms } else { service_ms };
    let mut fresh: VecDeque<u64> = (0..all).map(|n| (n ^ 0b10_0101).min(all - 1) + 1).collect();
    let mut timers = BinaryHeap::new();
    let mut running: BTreeMap<(u64, u64), Ticket> = BTreeMap::new();
    let (mut sent, mut tick, mut last) = (0, LATER, LATER);
    let mut drained = Drained { sent_back: 0, longest_pause_ms: 0, took_ms: 0 };
    while sent < all {
        tick += 1;
        for turn in 0..scheduler.claims_for(organization(1), tick).min(128) {
            let is_due = timers.peek().is_some_and(|Reverse((due, _))| *due <= now(tick).at);
            let came_back = is_due && (turn % 5 == 4 || fresh.is_empty());
            let next = if came_back {
                timers.pop().map(|Reverse((_, number))| number)
            } else {
                fresh.pop_front()
            };
            let Some(number) = next else { break };
            let mut offer = hook_offer(1, 1, number, number);
            offer.about.came_back = came_back;
            if let Offered::Later { parked, .. } = scheduler.offer(offer, now(tick)) {
                drained.sent_back += 1;
                timers.push(Reverse((parked.due, parked.item)));
            }
        }
        while let Some(first) = running.first_entry()
            && first.key().0 <= tick
        {
            let ((_, number), ticket) = first.remove_entry();
            scheduler.finish(ticket, answered(service(number)), now(tick));
        }
        while let Some(Picked::Send { ticket, item, .. }) =
            scheduler.pick(now(tick), bounds.slots - running.len())
        {
            running.insert((tick + service(item), item), ticket);
            (sent, last) = (sent + 1, tick);
        }
        timers.extend(
            scheduler.take_parked().into_iter().map(|parked| Reverse((parked.due, parked.item))),
        );
        drained.longest_pause_ms = drained.longest_pause_ms.max(tick - last);
        assert!(tick < last + 120_000, "it stands still after {sent} of {all}");
    }
    drained.took_ms = tick - LATER;
    drained
}

#[test]
fn a_quick_hooks_backlog_stays_in_the_journal_until_it_is_sent() {
    for first_ms in [2, 20] {
        let drained = drain_one_hook(100_000, 2, first_ms);
        assert!(drained.sent_back < 5_000, "{} were written a second time", drained.sent_back);
        assert!(drained.took_ms < 10_000, "{} ms", drained.took_ms);
        assert!(drained.longest_pause_ms < 600, "{} ms", drained.longest_pause_ms);
    }
}

#[test]
fn a_slow_hooks_backlog_never_stands_still() {
    let drained = drain_one_hook(20_000, 200, 200);
    assert!(drained.longest_pause_ms < 5_000, "{} ms", drained.longest_pause_ms);
}

#[test]
fn what_is_claimed_has_its_place() {
    let mut scheduler = scheduler();
    let mut number = 0;
    loop {
        let claims = scheduler.claims_for(organization(1), LATER);
        if claims == 0 {
            break;
        }
        for _ in 0..claims {
            number += 1;
            queued(scheduler.offer(push_offer(1, number, number, "a"), now(LATER)));
        }
    }
    assert_eq!(number, 500, "and it leaves as much free");
}

#[test]
fn work_for_many_devices_is_claimed_many_at_a_time_and_only_as_much_as_slots_take() {
    let mut scheduler = Scheduler::new(Bounds { slots: 64, queue: 8_192, hook_max: 64 }, 7, 0);
    scheduler.set_limit(&push("a"), 1_000);
    let mut number = 0;
    let mut fill = |scheduler: &mut Scheduler<u64>| {
        let claims = scheduler.claims_for(organization(1), LATER).min(256);
        for _ in 0..claims {
            number += 1;
            queued(scheduler.offer(push_offer(1, number, number, "a"), now(LATER)));
        }
        claims
    };
    while fill(&mut scheduler) > 0 {}
    let held = scheduler.queued();
    assert!((769..=1_024).contains(&held), "{held} of the 4,096 it has room for");
    let mut claimed = Vec::new();
    for _ in 0..2_000 {
        let Some(Picked::Send { ticket, .. }) = scheduler.pick(now(LATER), 64) else {
            panic!("nobody is ready");
        };
        scheduler.finish(ticket, answered(10), now(LATER));
        claimed.extend(Some(fill(&mut scheduler)).filter(|claims| *claims > 0));
    }
    assert!(claimed.len() > 1 && claimed.iter().all(|claims| *claims == 256), "{claimed:?}");
}
