//! The scheduler alone: who goes next, who waits for what, and what goes back to the journal.

use super::*;
use crate::model::{DeliveryId, DeviceId, NotificationId, ObjectId, OnUnknown, UserId};
use uuid::Uuid;

mod away;
mod fairness;
mod strict;

pub(super) fn organization(number: usize) -> OrganizationId {
    OrganizationId(i32::try_from(number).expect("small"))
}

pub(super) fn now(tick: u64) -> Now {
    Now { at: Millis(1_700_000_000_000 + tick), tick }
}

pub(super) fn hooks() -> LaneKey {
    (ProviderName::Webhook, String::new())
}

fn subscription(org: usize, hook: u64) -> ObjectId {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&hook.to_be_bytes());
    bytes[8..].copy_from_slice(&organization(org).0.to_be_bytes());
    ObjectId(bytes)
}

fn about(number: u64) -> About {
    let id = Uuid::from_u128(u128::from(number));
    About {
        id: DeliveryId(id),
        notification: NotificationId(id),
        expires_at: Millis(u64::MAX),
        collapse: None,
        is_retry: false,
        came_back: false,
    }
}

pub(super) fn hook_offer<T>(org: usize, hook: u64, number: u64, item: T) -> Offer<T> {
    Offer {
        lane: hooks(),
        org: organization(org),
        target: TargetRef::Subscription {
            provider: ProviderName::Webhook,
            subscription: subscription(org, hook),
        },
        policy: TargetPolicy::default(),
        about: about(number),
        item,
    }
}

pub(super) fn answered(service_ms: u64) -> Finished {
    Finished {
        signal: Signal::Answered,
        wait_ms: None,
        is_lane_wait: false,
        service_ms: u32::try_from(service_ms).expect("small"),
        again_ms: None,
        stays_first: false,
    }
}

fn signal(signal: Signal) -> Finished {
    Finished { signal, ..answered(10) }
}

const SLOTS: usize = 100;

/// Long after its start, so that limits are whole.
const LATER: u64 = 60_000;

fn scheduler() -> Scheduler<u64> {
    let mut scheduler = Scheduler::new(Bounds { slots: SLOTS, queue: 1_000, hook_max: 64 }, 7, 0);
    for lane in [hooks(), (ProviderName::Slack, String::new()), push("a"), push("b")] {
        scheduler.set_limit(&lane, 1_000);
    }
    scheduler
}

fn push(app: &str) -> LaneKey {
    (ProviderName::Apns, app.to_owned())
}

fn push_offer(org: usize, device: u64, number: u64, app: &str) -> Offer<u64> {
    let device = DeviceId(Uuid::from_u128(u128::from(device)));
    let target = TargetRef::Device { provider: ProviderName::Apns, device, user: UserId(1) };
    let offer = hook_offer(org, 0, number, number);
    Offer { lane: push(app), target, ..offer }
}

fn queued<T: std::fmt::Debug>(offered: Offered<T>) {
    assert!(matches!(offered, Offered::Queued { replaced: None }), "{offered:?}");
}

/// Everything that can go at `tick`, with its tickets.
fn picks(scheduler: &mut Scheduler<u64>, tick: u64) -> Vec<(u64, Ticket)> {
    let mut all = Vec::new();
    while scheduler.in_flight() < SLOTS {
        match scheduler.pick(now(tick), SLOTS - scheduler.in_flight()) {
            Some(Picked::Send { ticket, item, .. }) => all.push((item, ticket)),
            Some(Picked::Expired(item)) => panic!("{item} expired"),
            None => break,
        }
    }
    all
}

fn numbers(picks: &[(u64, Ticket)]) -> Vec<u64> {
    picks.iter().map(|(number, _)| *number).collect()
}

#[test]
fn a_target_is_served_in_order_and_up_to_its_limit() {
    let mut scheduler = scheduler();
    (1..=6).for_each(|n| queued(scheduler.offer(hook_offer(1, 1, n, n), now(LATER))));
    let first = picks(&mut scheduler, LATER);
    assert_eq!(numbers(&first), [1, 2, 3, 4], "a webhook starts with four");
    scheduler.finish(first[0].1, answered(10), now(LATER));
    assert_eq!(numbers(&picks(&mut scheduler, LATER)), [5]);
}

#[test]
fn limits_start_low_after_a_restart() {
    let mut scheduler = scheduler();
    for n in 0..50 {
        let org = usize::try_from(n % 10).unwrap();
        queued(scheduler.offer(push_offer(org, n, n, "a"), now(0)));
    }
    assert_eq!(picks(&mut scheduler, 0).len(), 18, "a quarter, less what a lane leaves free");
    assert!(scheduler.next_wake(0).is_some_and(|at| at <= 1_000), "and it looks again soon");
    assert!(!picks(&mut scheduler, 2_000).is_empty());
}

#[test]
fn a_lane_that_hangs_never_has_every_slot() {
    let mut scheduler = scheduler();
    for n in 0..400 {
        queued(
            scheduler.offer(push_offer(usize::try_from(n % 40).unwrap(), n, n, "a"), now(LATER)),
        );
    }
    let hung = picks(&mut scheduler, LATER).len();
    assert!((50..=75).contains(&hung), "{hung}");
    (0..10).for_each(|n| queued(scheduler.offer(push_offer(50, 1_000 + n, n, "b"), now(LATER))));
    assert_eq!(picks(&mut scheduler, LATER).len(), 10);
}

#[test]
fn an_organization_leaves_three_quarters_to_those_who_wait() {
    let mut scheduler = scheduler();
    for org in 1..=4 {
        for n in 0..60 {
            let n = n + 100 * org;
            let offer = push_offer(usize::try_from(org).unwrap(), n, n, "a");
            queued(scheduler.offer(offer, now(LATER)));
        }
    }
    let picked = picks(&mut scheduler, LATER);
    let of = |org: u64| picked.iter().filter(|(n, _)| n / 100 == org).count();
    assert!((1..=4).all(|org| (15..=25).contains(&of(org))), "{:?}", [1, 2, 3, 4].map(of));
}

#[test]
fn an_organization_alone_leaves_as_much_free_as_it_uses() {
    let mut scheduler = scheduler();
    (0..200).for_each(|n| queued(scheduler.offer(push_offer(1, n, n, "a"), now(LATER))));
    assert_eq!(picks(&mut scheduler, LATER).len(), 50);
    queued(scheduler.offer(push_offer(2, 999, 999, "a"), now(LATER)));
    assert_eq!(numbers(&picks(&mut scheduler, LATER)), [999], "who comes later goes at once");
}

#[test]
fn repeats_leave_first_tries_their_slots() {
    let mut scheduler = scheduler();
    for n in 0..300 {
        let mut offer = push_offer(usize::try_from(n % 50).unwrap(), n, n, "a");
        offer.about.is_retry = n < 150;
        offer.about.came_back = n < 150;
        queued(scheduler.offer(offer, now(LATER)));
    }
    let picked = picks(&mut scheduler, LATER);
    let repeats = picked.iter().filter(|(n, _)| *n < 150).count();
    assert!(repeats <= SLOTS / 5, "{repeats} of {}", picked.len());
    assert!(repeats >= 10, "but they are not starved: {repeats}");
    assert_eq!(numbers(&picked)[0], 150, "first tries go first");
}

#[test]
fn a_breaker_opens_sends_its_line_back_and_probes_once() {
    let mut scheduler = scheduler();
    (1..=30).for_each(|n| queued(scheduler.offer(hook_offer(1, 1, n, n), now(LATER))));
    let mut failed = 0;
    while scheduler.take_parked().is_empty() {
        let picked = picks(&mut scheduler, LATER);
        assert!(!picked.is_empty(), "the breaker never opened");
        for (_, ticket) in picked {
            scheduler.finish(ticket, signal(Signal::Unreachable), now(LATER));
            failed += 1;
        }
        assert!(failed <= 30);
        if failed >= 5 {
            break;
        }
    }
    assert_eq!(scheduler.queued(), 0, "nothing waits in memory behind a long gate");
    let offered = scheduler.offer(hook_offer(1, 1, 99, 99), now(LATER));
    let Offered::Later { parked, .. } = offered else { panic!("{offered:?}") };
    let opens = LATER + (parked.due.0 - now(LATER).at.0);
    assert!((LATER + 2_500..=LATER + 7_500).contains(&opens), "5 s ± 50 %: {opens}");
    for n in 100..103 {
        let mut offer = hook_offer(1, 1, n, n);
        offer.about.came_back = true;
        queued(scheduler.offer(offer, now(opens)));
    }
    let probe = picks(&mut scheduler, opens);
    assert_eq!(probe.len(), 1, "one probe");
    scheduler.finish(probe[0].1, answered(10), now(opens));
    assert_eq!(picks(&mut scheduler, opens).len(), 1, "and one more until three have succeeded");
}

#[test]
fn a_line_too_long_for_memory_still_goes_out_whole_and_in_order() {
    let mut scheduler = scheduler();
    let mut back = Vec::new();
    for n in 1..=400 {
        match scheduler.offer(hook_offer(1, 1, n, n), now(LATER)) {
            Offered::Later { parked, .. } => back.push(parked.item),
            offered => queued(offered),
        }
    }
    assert!(!back.is_empty());
    let mut sent = Vec::new();
    let mut tick = LATER;
    while sent.len() < 400 {
        tick += 100;
        // As the journal does: what came back is claimed while there is room.
        while scheduler.room_for(organization(1)) > 0 && !back.is_empty() {
            let n = back.remove(0);
            let mut offer = hook_offer(1, 1, n, n);
            offer.about.came_back = true;
            queued(scheduler.offer(offer, now(tick)));
        }
        for (number, ticket) in picks(&mut scheduler, tick) {
            sent.push(number);
            scheduler.finish(ticket, answered(10), now(tick));
        }
        assert!(tick < LATER + 60_000, "the line stands still after {}", sent.len());
    }
    assert!(sent.is_sorted());
}

#[test]
fn nothing_goes_out_inside_a_gate() {
    let mut scheduler = scheduler();
    (1..=9).for_each(|n| queued(scheduler.offer(hook_offer(1, 1, n, n), now(LATER))));
    let first = picks(&mut scheduler, LATER);
    let wait = Finished { wait_ms: Some(30_000), ..signal(Signal::Throttled) };
    scheduler.finish(first[0].1, wait, now(LATER));
    for (_, ticket) in &first[1..] {
        scheduler.finish(*ticket, answered(10), now(LATER));
    }
    let parked = scheduler.take_parked();
    assert_eq!(parked.len(), 5);
    assert!(parked.iter().all(|parked| parked.due == now(LATER + 30_000).at));
    assert!(picks(&mut scheduler, LATER + 29_999).is_empty());
    // They come back in any order; one accepted meanwhile waits for them: in the journal while that
    // takes long, here once they are due.
    let newcomer = scheduler.offer(hook_offer(1, 1, 51, 51), now(LATER + 20_000));
    assert!(matches!(newcomer, Offered::Later { .. }), "{newcomer:?}");
    queued(scheduler.offer(hook_offer(1, 1, 50, 50), now(LATER + 30_000)));
    assert!(picks(&mut scheduler, LATER + 30_000).is_empty());
    for n in [7, 5, 6, 9, 8] {
        let mut offer = hook_offer(1, 1, n, n);
        offer.about.came_back = true;
        queued(scheduler.offer(offer, now(LATER + 30_000)));
    }
    let mut sent = Vec::new();
    loop {
        let picked = picks(&mut scheduler, LATER + 30_000);
        if picked.is_empty() {
            break;
        }
        for (number, ticket) in picked {
            sent.push(number);
            scheduler.finish(ticket, answered(10), now(LATER + 30_000));
        }
    }
    assert_eq!(sent, [5, 6, 7, 8, 9, 50], "first tries leave in the order they were accepted");
}

#[test]
fn a_refused_credential_holds_its_lane_and_no_other() {
    let mut scheduler = scheduler();
    (0..5).for_each(|n| queued(scheduler.offer(push_offer(1, n, n, "a"), now(LATER))));
    let picked = picks(&mut scheduler, LATER);
    scheduler.finish(picked[0].1, signal(Signal::Refused), now(LATER));
    let offered = scheduler.offer(push_offer(2, 77, 77, "a"), now(LATER));
    assert!(matches!(offered, Offered::Later { .. }), "{offered:?}");
    queued(scheduler.offer(push_offer(2, 78, 78, "b"), now(LATER)));
    assert_eq!(numbers(&picks(&mut scheduler, LATER)), [78]);
}

#[test]
fn a_provider_that_fails_for_everybody_is_asked_less() {
    let mut scheduler = scheduler();
    let mut tries = 0u64;
    for n in 0..2_000 {
        let offered = scheduler.offer(push_offer(1, n, n, "a"), now(LATER + n));
        assert!(!matches!(offered, Offered::Collapsed(_)));
        for (_, ticket) in picks(&mut scheduler, LATER + n) {
            tries += 1;
            scheduler.finish(ticket, signal(Signal::Overloaded), now(LATER + n));
        }
    }
    assert!((20..400).contains(&tries), "{tries} tries in two seconds of 503");
}

#[test]
fn a_newer_delivery_takes_the_place_of_one_that_waits_but_not_of_one_in_flight() {
    let mut scheduler = scheduler();
    let collapsing = |n: u64| {
        let mut offer = push_offer(1, 1, n, "a");
        offer.about.collapse = Some("k".into());
        offer
    };
    queued(scheduler.offer(collapsing(1), now(LATER)));
    assert_eq!(numbers(&picks(&mut scheduler, LATER)), [1]);
    queued(scheduler.offer(collapsing(2), now(LATER)));
    let offered = scheduler.offer(collapsing(3), now(LATER));
    assert!(matches!(offered, Offered::Queued { replaced: Some(2) }), "{offered:?}");
    let offered = scheduler.offer(collapsing(2), now(LATER));
    assert!(matches!(offered, Offered::Collapsed(2)), "an older one that comes back: {offered:?}");
    assert_eq!(scheduler.queued(), 1);
}

#[test]
fn in_strict_order_the_line_waits_for_the_one_that_failed() {
    let mut scheduler = scheduler();
    let strict = |n: u64| {
        let mut offer = hook_offer(1, 1, n, n);
        offer.policy =
            TargetPolicy { keeps_order: true, on_unknown: OnUnknown::Resend, ..offer.policy };
        offer
    };
    (1..=3).for_each(|n| queued(scheduler.offer(strict(n), now(LATER))));
    let picked = picks(&mut scheduler, LATER);
    assert_eq!(numbers(&picked), [1], "one at a time");
    let again = Finished { again_ms: Some(5_000), ..signal(Signal::Failed) };
    scheduler.finish(picked[0].1, again, now(LATER));
    assert_eq!(scheduler.take_parked().len(), 2);
    let back = LATER + 5_000;
    for n in [2, 3, 1] {
        assert!(picks(&mut scheduler, back).is_empty());
        let mut offer = strict(n);
        (offer.about.came_back, offer.about.is_retry) = (true, n == 1);
        queued(scheduler.offer(offer, now(back)));
    }
    for n in 1..=3 {
        let picked = picks(&mut scheduler, back);
        assert_eq!(numbers(&picked), [n]);
        scheduler.finish(picked[0].1, answered(10), now(back));
    }
}

#[test]
fn overflow_of_a_slack_hook_goes_out_as_one_message() {
    let mut scheduler = scheduler();
    for n in 1..=10 {
        let mut offer = hook_offer(1, 1, n, n);
        offer.lane = (ProviderName::Slack, String::new());
        offer.target = TargetRef::Subscription {
            provider: ProviderName::Slack,
            subscription: subscription(1, 1),
        };
        offer.policy.merges_overflow = true;
        queued(scheduler.offer(offer, now(LATER)));
    }
    let mut sent = Vec::new();
    while let Some(Picked::Send { ticket, item, merged }) = scheduler.pick(now(LATER), SLOTS) {
        sent.push((item, merged.len()));
        scheduler.finish(ticket, answered(10), now(LATER));
    }
    assert_eq!(sent, [(1, 0), (2, 0), (3, 7)]);
    assert_eq!(scheduler.queued(), 0);
}

#[test]
fn expired_deliveries_take_no_slot() {
    let mut scheduler = scheduler();
    let mut offer = push_offer(1, 1, 1, "a");
    offer.about.expires_at = now(LATER + 10).at;
    queued(scheduler.offer(offer, now(LATER)));
    let picked = scheduler.pick(now(LATER + 10), SLOTS);
    assert!(matches!(picked, Some(Picked::Expired(1))), "{picked:?}");
    assert_eq!((scheduler.in_flight(), scheduler.queued()), (0, 0));
}

#[test]
fn who_has_nothing_here_takes_no_memory() {
    let mut scheduler = scheduler();
    for n in 0..500 {
        let org = usize::try_from(n).unwrap();
        queued(scheduler.offer(push_offer(org, n, n, "a"), now(LATER)));
    }
    while scheduler.queued() > 0 {
        for (_, ticket) in picks(&mut scheduler, LATER) {
            scheduler.finish(ticket, answered(5), now(LATER));
        }
    }
    // The last of them leave with the next look at their ring.
    assert!(scheduler.pick(now(LATER), SLOTS).is_none());
    assert_eq!(scheduler.remembered(), (0, 0));
}

#[test]
fn one_organization_leaves_room_in_the_queue_for_others() {
    let mut scheduler = scheduler();
    let mut taken = 0;
    for n in 0..1_000 {
        if scheduler.room_for(organization(1)) > 0 {
            queued(scheduler.offer(push_offer(1, n, n, "a"), now(LATER)));
            taken += 1;
        }
    }
    assert_eq!(taken, 500, "as much as it leaves free");
    assert_eq!(scheduler.room_for(organization(2)), 500);
    let offered = scheduler.offer(push_offer(1, 5_000, 5_000, "a"), now(LATER));
    assert!(matches!(offered, Offered::Later { .. }), "the rest stays in the journal");
}
