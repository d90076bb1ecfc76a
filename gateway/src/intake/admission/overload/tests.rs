//! The formulas in closed form, and the controller in a simulated gateway.

use super::*;

const HOT: OrganizationId = OrganizationId(1);

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

/// Has as many commits wait at once as make a queue, for `requests` each.
fn queue(overload: &mut Overload, requests: u32, now: Instant) {
    for _ in 0..QUEUE_MIN {
        overload.begin(HOT, requests, 100, now);
    }
}

/// Has them all come back after `wait`.
fn served(overload: &mut Overload, requests: u32, wait: Duration, now: Instant) {
    for _ in 0..QUEUE_MIN {
        overload.end(requests, Some(wait), now);
    }
}

/// Windows in which requests wait `wait`, one window after another.
fn windows(overload: &mut Overload, now: &mut Instant, wait: Duration, count: u32) {
    for _ in 0..count {
        queue(overload, 1, *now);
        served(overload, 1, wait, *now);
        *now += WINDOW;
        overload.advance(*now);
    }
}

#[test]
fn refusal_grows_with_the_level_and_the_share_above_the_fair_one() {
    for (ratio, level, expected) in [
        (1.0, 8, 0.0),
        (0.2, 40, 0.0),
        (2.0, 0, 0.0),
        (2.0, 1, 0.125),
        (2.0, 4, 0.5),
        (2.0, 8, 1.0),
        (1.5, 4, 0.25),
        (9.0, 1, 1.0),
        (3.0, 40, 1.0),
    ] {
        assert!(near(refusal(ratio, level), expected), "{ratio} {level}");
    }
}

#[test]
fn the_refused_come_back_later_the_higher_the_level_and_not_all_at_once() {
    for (level, draw, expected) in [
        (0, 0.0, 1),
        (0, 0.99, 1),
        (1, 0.0, 1),
        (1, 0.75, 2),
        (4, 0.0, 2),
        (8, 0.5, 3),
        (40, 0.9, 11),
    ] {
        assert_eq!(retry_after(level, draw), expected, "{level} {draw}");
    }
}

#[test]
fn the_level_follows_the_least_wait_of_each_window() {
    let mut now = Instant::now();
    let mut overload = Overload::new(now);
    windows(&mut overload, &mut now, Duration::from_millis(20), 5);
    assert_eq!((overload.level(), overload.is_overloaded()), (0, false), "at the target");
    windows(&mut overload, &mut now, Duration::from_millis(21), 3);
    assert_eq!((overload.level(), overload.is_overloaded()), (3, true));
    // One short wait shows that nothing stands.
    queue(&mut overload, 1, now);
    overload.begin(HOT, 1, 0, now);
    served(&mut overload, 1, Duration::from_secs(1), now);
    overload.end(1, Some(Duration::from_millis(1)), now);
    now += WINDOW;
    overload.advance(now);
    assert_eq!(overload.level(), 2);
    windows(&mut overload, &mut now, Duration::from_millis(1), 4);
    assert_eq!((overload.level(), overload.is_overloaded()), (0, false));
}

#[test]
fn a_few_who_wait_long_are_no_queue() {
    let mut now = Instant::now();
    let mut overload = Overload::new(now);
    for _ in 0..10 {
        for _ in 1..QUEUE_MIN {
            overload.begin(HOT, 512, 100, now);
        }
        now += WINDOW * 5;
        for _ in 1..QUEUE_MIN {
            overload.end(512, Some(WINDOW * 5), now);
        }
    }
    assert_eq!((overload.level(), overload.is_overloaded()), (0, false));
}

#[test]
fn a_slow_disk_has_a_longer_target() {
    let mut now = Instant::now();
    let mut overload = Overload::new(now);
    overload.set_sync(Duration::from_millis(200));
    windows(&mut overload, &mut now, Duration::from_millis(590), 4);
    assert_eq!(overload.level(), 0);
    windows(&mut overload, &mut now, Duration::from_millis(610), 1);
    assert_eq!(overload.level(), 1);
}

#[test]
fn a_disk_that_answers_nothing_is_seen_as_well() {
    let mut now = Instant::now();
    let mut overload = Overload::new(now);
    queue(&mut overload, 1, now);
    now += WINDOW * 3;
    overload.advance(now);
    assert_eq!(overload.level(), 3);
    for class in [Class::Bulk, Class::Normal] {
        // Refused at the latest once a window has shown that there are such requests.
        overload.ask(HOT, class, now, || 0.5).ok();
        now += WINDOW;
        overload.advance(now);
        assert!(overload.ask(HOT, class, now, || 0.5).is_err(), "nothing comes back: {class:?}");
    }
    served(&mut overload, 1, Duration::from_millis(400), now);
    now += Duration::from_mins(1);
    assert!(overload.ask(HOT, Class::Normal, now, || 0.0).is_ok(), "long ago");
}

#[test]
fn lower_classes_are_refused_before_higher_ones() {
    let mut now = Instant::now();
    let mut overload = Overload::new(now);
    windows(&mut overload, &mut now, Duration::from_millis(100), 4);
    let share = |overload: &mut Overload, now: Instant, class| {
        let refused = (0..100).filter(|i| {
            let draw = f64::from(*i) / 100.0;
            overload.ask(HOT, class, now, || draw).is_err()
        });
        refused.count()
    };
    // 160 come back in a window, and a little late; 100 of each class are asked for.
    for _ in 0..20 {
        queue(&mut overload, 10, now);
        for class in Class::ALL {
            share(&mut overload, now, class);
        }
        served(&mut overload, 10, Duration::from_millis(25), now);
        now += WINDOW;
        overload.advance(now);
    }
    let refused = Class::ALL.map(|class| share(&mut overload, now, class));
    assert_eq!(refused[0], 100, "all of bulk: {refused:?}");
    assert!((1..100).contains(&refused[1]), "some of normal: {refused:?}");
    assert_eq!(refused[2], 0, "nothing critical: {refused:?}");
}

/// A gateway whose journal syncs groups of whatever waits, in steps of a millisecond.
struct Simulated {
    overload: Overload,
    start: Instant,
    random: u64,
    queue: Vec<(u64, OrganizationId)>,
    group: Option<(u64, Vec<(u64, OrganizationId)>)>,
    inflight: usize,
    /// Answers within the patience of their callers, by organization.
    good: std::collections::HashMap<OrganizationId, u32>,
    is_admitting: bool,
}

const SYNC_MS: u64 = 2;
/// Records that the disk takes in a millisecond.
const RECORDS_PER_MS: usize = 2;
const PATIENCE_MS: u64 = 60;
const INFLIGHT_MAX: usize = 800;

impl Simulated {
    fn new(is_admitting: bool) -> Self {
        let start = Instant::now();
        let mut overload = Overload::new(start);
        overload.set_sync(Duration::from_millis(SYNC_MS));
        Self {
            overload,
            start,
            random: 0x9e37_79b9_7f4a_7c15,
            queue: Vec::new(),
            group: None,
            inflight: 0,
            good: std::collections::HashMap::new(),
            is_admitting,
        }
    }

    fn arrive(&mut self, org: OrganizationId, at: u64) {
        let now = self.start + Duration::from_millis(at);
        if self.inflight >= INFLIGHT_MAX {
            return;
        }
        // As in the gateway: who is not pressed is not asked.
        if self.is_admitting && self.overload.is_overloaded() {
            let random = &mut self.random;
            let draw = || {
                *random ^= *random << 13;
                *random ^= *random >> 7;
                *random ^= *random << 17;
                f64::from(u32::try_from(*random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
            };
            if self.overload.ask(org, Class::Normal, now, draw).is_err() {
                return;
            }
        }
        self.overload.begin(org, 1, 1_000, now);
        self.inflight += 1;
        self.queue.push((at, org));
    }

    fn work(&mut self, at: u64) {
        let now = self.start + Duration::from_millis(at);
        if let Some((_, group)) = self.group.take_if(|(end, _)| *end <= at) {
            self.inflight -= group.len();
            for (arrived, org) in group {
                let wait = at - arrived;
                self.overload.end(1, Some(Duration::from_millis(wait)), now);
                *self.good.entry(org).or_insert(0) += u32::from(wait <= PATIENCE_MS);
            }
        }
        if self.group.is_none() && !self.queue.is_empty() {
            let group = std::mem::take(&mut self.queue);
            let end = at + SYNC_MS + group.len().div_ceil(RECORDS_PER_MS) as u64;
            self.group = Some((end, group));
        }
    }

    /// Has organizations offer so many records each 50 ms; answers the good answers.
    fn run(mut self, offered: &[(OrganizationId, u64)], seconds: u64) -> Vec<u32> {
        for at in 0..seconds * 1_000 {
            self.work(at);
            for (org, per_50_ms) in offered {
                let (before, after) = (at * per_50_ms / 50, (at + 1) * per_50_ms / 50);
                for _ in before..after {
                    self.arrive(*org, at);
                }
            }
        }
        offered.iter().map(|(org, _)| self.good.get(org).copied().unwrap_or(0)).collect()
    }
}

/// Good answers in a minute when one organization offers `percent` of what the disk can take.
fn goodput(percent: u64, is_admitting: bool) -> u32 {
    Simulated::new(is_admitting).run(&[(HOT, percent)], 60)[0]
}

#[test]
fn goodput_stays_at_five_times_the_load_and_falls_without_admission() {
    let peak = [50, 70, 80, 90, 95, 100].map(|load| goodput(load, false)).into_iter().max();
    let peak = f64::from(peak.unwrap());
    let (with, without) = (f64::from(goodput(500, true)), f64::from(goodput(500, false)));
    assert!(with >= 0.9 * peak, "{with} of {peak}");
    assert!(without < 0.5 * peak, "the run does not show what admission is for: {without}");
    let (light, ablation) = (goodput(80, true), goodput(80, false));
    assert!(f64::from(light) >= 0.99 * f64::from(ablation), "{light} of {ablation} in quiet");
}

#[test]
fn a_flood_of_one_organization_is_refused_before_others() {
    let mut offered = vec![(HOT, 450)];
    offered.extend((2..12).map(|org| (OrganizationId(org), 5)));
    let good = Simulated::new(true).run(&offered, 60);
    let others = &good[1..];
    // 5 in 50 ms for a minute, the onset included.
    assert!(others.iter().all(|good| *good >= 5_700), "{good:?}");
    assert!(good[0] > 20_000, "the rest of the disk is the flood's: {good:?}");
    let alone = Simulated::new(false).run(&offered, 60);
    assert!(alone[1..].iter().all(|good| *good < 3_000), "{alone:?}");
}
