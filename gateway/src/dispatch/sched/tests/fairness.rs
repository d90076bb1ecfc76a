//! A seeded simulation of many organizations, and the same with a plain queue, which must fail it.

use super::*;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

const ORGS: usize = 200;
/// What the provider takes at once, and the slots of the process, which leave room for others.
const TAKEN: usize = 10;
const SLOTS: usize = 16;
/// Answers take 10 ms, so ten at once are 1,000 a second: 5 for each organization.
const SERVICE_MS: u64 = 10;

/// Something that decides who is next.
trait Line {
    fn room(&self, org: usize) -> usize;
    fn offer(&mut self, org: usize, number: u64, tick: u64);
    /// The organization served, and what `finish` needs.
    fn pick(&mut self, tick: u64, free: usize) -> Option<(usize, Option<Ticket>, u64)>;
    fn finish(&mut self, ticket: Option<Ticket>, tick: u64);
}

impl Line for Scheduler<(usize, u64)> {
    fn room(&self, org: usize) -> usize {
        self.room_for(organization(org))
    }

    fn offer(&mut self, org: usize, number: u64, tick: u64) {
        let offer = hook_offer(org, number % 20, number, (org, tick));
        let taken = Scheduler::offer(self, offer, now(tick));
        assert!(matches!(taken, Offered::Queued { .. }), "there was room");
    }

    fn pick(&mut self, tick: u64, free: usize) -> Option<(usize, Option<Ticket>, u64)> {
        match Scheduler::pick(self, now(tick), free + SLOTS - TAKEN)? {
            Picked::Send { ticket, item, .. } => Some((item.0, Some(ticket), item.1)),
            Picked::Expired(_) => None,
        }
    }

    fn finish(&mut self, ticket: Option<Ticket>, tick: u64) {
        let ticket = ticket.expect("the scheduler gives one");
        Scheduler::finish(self, ticket, answered(SERVICE_MS), now(tick));
    }
}

/// First in, first out, bounded as a whole and for nobody in particular.
struct Fifo(VecDeque<(usize, u64)>);

impl Line for Fifo {
    fn room(&self, _: usize) -> usize {
        8_192 - self.0.len()
    }

    fn offer(&mut self, org: usize, _: u64, tick: u64) {
        self.0.push_back((org, tick));
    }

    fn pick(&mut self, _: u64, _: usize) -> Option<(usize, Option<Ticket>, u64)> {
        self.0.pop_front().map(|(org, since)| (org, None, since))
    }

    fn finish(&mut self, _: Option<Ticket>, _: u64) {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Accept(usize),
    End(usize),
}

struct Run {
    served: Vec<u64>,
    /// The longest that a delivery of an organization waited in line, in ms.
    waited: Vec<u64>,
}

/// Runs `events` events; `every_us` is the time between two deliveries of each organization.
fn run(line: &mut dyn Line, every_us: &[u64], events: usize) -> Run {
    let mut queue = BinaryHeap::new();
    for (org, every) in every_us.iter().enumerate() {
        queue.push(Reverse((every * (org as u64 + 1) / ORGS as u64, 0, Event::Accept(org))));
    }
    let mut running: Vec<Option<(usize, Option<Ticket>)>> = vec![None; TAKEN];
    let mut backlog = vec![0u64; ORGS];
    let mut ledger = Run { served: vec![0; ORGS], waited: vec![0; ORGS] };
    let mut number = 0;
    for _ in 0..events {
        let Reverse((at, _, event)) = queue.pop().expect("arrivals never end");
        // Long after the start, so that limits are whole.
        let tick = 60_000 + at / 1_000;
        let org = match event {
            Event::Accept(org) => {
                backlog[org] += 1;
                queue.push(Reverse((at + every_us[org], 0, event)));
                org
            }
            Event::End(slot) => {
                let (org, ticket) = running[slot].take().expect("it ran");
                line.finish(ticket, tick);
                ledger.served[org] += 1;
                org
            }
        };
        while backlog[org] > 0 && line.room(org) > 0 {
            backlog[org] -= 1;
            number += 1;
            line.offer(org, number, tick);
        }
        while let Some(slot) = running.iter().position(Option::is_none) {
            let free = running.iter().filter(|slot| slot.is_none()).count();
            let Some((org, ticket, since)) = line.pick(tick, free) else { break };
            ledger.waited[org] = ledger.waited[org].max(tick - since);
            running[slot] = Some((org, ticket));
            queue.push(Reverse((at + SERVICE_MS * 1_000, 1, Event::End(slot))));
        }
    }
    ledger
}

/// Jain's index: 1 if all got the same, 1/n if one got everything.
fn jain(served: &[u64]) -> f64 {
    let float = |n: &u64| f64::from(u32::try_from(*n).expect("small"));
    let sum: f64 = served.iter().map(float).sum();
    let squares: f64 = served.iter().map(|n| float(n) * float(n)).sum();
    sum * sum / (f64::from(u32::try_from(served.len()).expect("small")) * squares)
}

fn scheduler() -> Scheduler<(usize, u64)> {
    let bounds = Bounds { slots: SLOTS, queue: 8_192, hook_max: 64 };
    let mut scheduler = Scheduler::new(bounds, 7, 0);
    scheduler.set_limit(&hooks(), TAKEN);
    scheduler
}

/// Everybody wants twice what there is; the first wants 200 times as much.
fn all_want_more() -> Vec<u64> {
    (0..ORGS).map(|org| if org == 0 { 1_000 } else { 100_000 }).collect()
}

#[test]
fn a_million_events_are_shared_alike_and_nobody_waits_three_rounds() {
    let mut scheduler = scheduler();
    let run = run(&mut scheduler, &all_want_more(), 1_000_000);
    let index = jain(&run.served);
    assert!(index >= 0.98, "Jain index {index}");
    assert!(scheduler.longest_wait() <= 2, "{} rounds", scheduler.longest_wait());
    let all: u64 = run.served.iter().sum();
    assert!(all > 245_000, "and no slot stood idle while somebody waited: {all}");
}

#[test]
fn a_plain_queue_fails_the_same_run() {
    let run = run(&mut Fifo(VecDeque::new()), &all_want_more(), 1_000_000);
    let index = jain(&run.served);
    assert!(index < 0.2, "Jain index {index}");
}

/// The first wants ten times everything; the others together want half of what there is.
fn one_floods() -> Vec<u64> {
    (0..ORGS).map(|org| if org == 0 { 100 } else { 400_000 }).collect()
}

#[test]
fn the_others_hardly_notice_a_flood() {
    let mut scheduler = scheduler();
    let fair = run(&mut scheduler, &one_floods(), 300_000);
    let plain = run(&mut Fifo(VecDeque::new()), &one_floods(), 300_000);
    let worst = |run: &Run| run.waited.iter().skip(1).max().copied().expect("others");
    assert!(worst(&fair) <= 200, "{} ms in line", worst(&fair));
    assert!(worst(&plain) >= 4_000, "a plain queue: {} ms", worst(&plain));
}
