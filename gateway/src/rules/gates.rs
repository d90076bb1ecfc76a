//! When a version goes back by itself, and what it has to show before it goes on. Pure, but for the counts.

use crate::model::Millis;
use crate::rules::manifest::Gates;
use crate::rules::stage::Stage;
use crate::rules::stats::Counts;
use std::collections::VecDeque;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// Errors of a version in force: more than this share of a minute's items, and this many.
const ERROR_SHARE: f64 = 0.001;
const ERRORS_MIN: u64 = 3;
/// A rate of drops and denies may move by this factor within an hour of a change.
const RATE_FACTOR: f64 = 3.0;
/// So many items say something about a rate, or about a percentile.
const TELLING: u64 = 1_000;

/// The counts of one version at one stage over the last minute.
#[derive(Debug, Default)]
pub(super) struct Minute {
    seen: VecDeque<(Millis, Counts)>,
}

/// Drops and denies of a rule over the last hour, whatever its version.
#[derive(Debug, Default)]
pub(super) struct Hour {
    minutes: VecDeque<(u64, u64, u64)>,
}

/// What happened within the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recent {
    pub(super) items: u64,
    pub(super) errors: u64,
    pub(super) deadlines: u64,
    pub(super) withheld: u64,
}

impl Minute {
    /// Notes the counts at `now`; answers what the last minute added to them, and the last look.
    pub(super) fn note(&mut self, now: Millis, counts: Counts) -> (Recent, Recent) {
        let since = |(_, then): &(Millis, Counts)| Recent {
            items: counts.items.saturating_sub(then.items),
            errors: counts.errors.saturating_sub(then.errors),
            deadlines: counts.deadlines.saturating_sub(then.deadlines),
            withheld: counts.withheld.saturating_sub(then.withheld),
        };
        while self.seen.get(1).is_some_and(|(at, _)| now.since(*at) >= MINUTE_MS) {
            self.seen.pop_front();
        }
        let begin = (now, Counts::default());
        let recent = since(self.seen.front().unwrap_or(&begin));
        let added = since(self.seen.back().unwrap_or(&begin));
        self.seen.push_back((now, counts));
        (recent, added)
    }

    /// Begins anew: what was held against it has been said.
    pub(super) fn forgive(&mut self, now: Millis, counts: Counts) {
        self.seen = VecDeque::from([(now, counts)]);
    }
}

impl Hour {
    pub(super) fn note(&mut self, now: Millis, added: Recent) {
        let minute = now.0 / MINUTE_MS;
        match self.minutes.back_mut().filter(|(last, ..)| *last == minute) {
            Some((_, items, withheld)) => {
                *items += added.items;
                *withheld += added.withheld;
            }
            None => self.minutes.push_back((minute, added.items, added.withheld)),
        }
        while self.minutes.len() > 61 {
            self.minutes.pop_front();
        }
    }

    /// Share of what was withheld in the hour before the last minute, if that was enough to tell.
    fn rate(&self, now: Millis) -> Option<f64> {
        let last = (now.0 / MINUTE_MS).saturating_sub(1);
        let before = self.minutes.iter().filter(|(minute, ..)| *minute < last);
        let (items, withheld) = before.fold((0, 0), |sum, one| (sum.0 + one.1, sum.1 + one.2));
        (items >= TELLING).then(|| share(withheld, items))
    }
}

/// What is known of a version when it is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) stage: Stage,
    /// How long it has been at this stage.
    pub(super) age_ms: u64,
    pub(super) gates: &'a Gates,
    /// Its share of drops and denies may be another than before.
    pub(super) expects_change: bool,
    pub(super) counts: Counts,
    pub(super) recent: Recent,
    /// What the version in force did, where this is not it.
    pub(super) active: Option<Counts>,
}

impl Case<'_> {
    /// Why the version has to go back; `None`: it may stay.
    pub(super) fn fault(&self, hour: &Hour, now: Millis) -> Option<String> {
        match self.stage {
            Stage::Shadow(_) => self.beyond_gates(),
            Stage::Canary(_) => self.misbehaves(hour, now).or_else(|| self.beyond_gates()),
            Stage::Active => self.misbehaves(hour, now),
        }
    }

    /// Of a version that judges: what no gate has to say.
    fn misbehaves(&self, hour: &Hour, now: Millis) -> Option<String> {
        let Recent { items, errors, deadlines, withheld } = self.recent;
        if deadlines > 0 {
            return Some(format!("{deadlines} deadlines of {items} items in a minute"));
        }
        if errors >= ERRORS_MIN && share(errors, items) > ERROR_SHARE {
            return Some(format!("{errors} errors of {items} items in a minute"));
        }
        let is_told = self.age_ms < HOUR_MS && items >= TELLING && !self.expects_change;
        let before = hour.rate(now).filter(|_| is_told)?;
        let rate = share(withheld, items);
        // Of a thousand items one more or less is chance.
        let (low, high) = (before.min(rate), before.max(rate));
        let moved = high > 0.01 && high > RATE_FACTOR * low;
        let percent = |share: f64| share * 100.0;
        moved.then(|| {
            let (rate, before) = (percent(rate), percent(before));
            format!("{rate:.1} % dropped or denied in a minute, {before:.1} % in the hour before")
        })
    }

    /// What the gates of the manifest say of a version that is being tried.
    fn beyond_gates(&self) -> Option<String> {
        let Counts { items, errors, withheld, compared, same, .. } = self.counts;
        let gates = self.gates;
        if errors > gates.max_errors {
            return Some(format!("max_errors: {errors} of {}", gates.max_errors));
        }
        if items < gates.min_items {
            return None;
        }
        let beyond = |name: &str, is: f64, most: f64| {
            (is > most).then(|| format!("{name}: {:.2} % of {:.2} %", is * 100.0, most * 100.0))
        };
        let is_shadow = matches!(self.stage, Stage::Shadow(_));
        let diff = share(compared - same.min(compared), compared);
        let diff = beyond("max_diff", diff, gates.max_diff).filter(|_| is_shadow);
        diff.or_else(|| beyond("max_drop_rate", share(withheld, items), gates.max_drop_rate))
            .or_else(|| self.slower())
    }

    fn slower(&self) -> Option<String> {
        let active = self.active.filter(|active| active.items >= TELLING)?;
        let times = |name: &str, is: u64, was: u64, most: f64| {
            let factor = ratio(is, was.max(1));
            // Buckets are a quarter wide, and a microsecond is the least there is.
            let is_beyond = factor > most * 1.25 && is > was + 4;
            is_beyond.then(|| format!("{name}: {factor:.2}x of {most:.2}x"))
        };
        let fuel =
            times("max_fuel_p99", self.counts.fuel_p99, active.fuel_p99, self.gates.max_fuel_p99);
        // A shadow waits for what judges, so its time says nothing.
        let is_canary = matches!(self.stage, Stage::Canary(_));
        let (is, was) = (self.counts.micros_p99, active.micros_p99);
        let time = || times("max_time_p99", is, was, self.gates.max_time_p99);
        fuel.or_else(|| time().filter(|_| is_canary))
    }

    /// What is missing before it may go on; empty: nothing.
    pub(super) fn missing(&self) -> Vec<String> {
        let gates = self.gates;
        let mut missing: Vec<String> = self.beyond_gates().into_iter().collect();
        if self.counts.items < gates.min_items {
            missing.push(format!("min_items: {} of {}", self.counts.items, gates.min_items));
        }
        let minutes = self.age_ms / MINUTE_MS;
        if minutes < gates.min_minutes {
            missing.push(format!("min_minutes: {minutes} of {}", gates.min_minutes));
        }
        missing
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { ratio(part, whole) }
}

/// Counts stay far below where a float loses ones.
#[expect(clippy::cast_precision_loss, reason = "a share of counts needs no more digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(stage: &str, counts: Counts, recent: Recent) -> Case<'static> {
        static GATES: Gates = Gates {
            min_items: 1_000,
            min_minutes: 10,
            max_diff: 0.01,
            max_errors: 2,
            max_fuel_p99: 1.5,
            max_time_p99: 1.5,
            max_drop_rate: 0.5,
        };
        let stage = stage.parse().unwrap();
        let (gates, expects_change) = (&GATES, false);
        Case { stage, age_ms: 0, gates, expects_change, counts, recent, active: None }
    }

    fn fault(case: Case<'_>) -> Option<String> {
        case.fault(&Hour::default(), Millis(0))
    }

    #[test]
    fn a_version_in_force_goes_back_after_errors_or_a_deadline_within_a_minute() {
        let is_faulty = |errors, deadlines, items| {
            let recent = Recent { items, errors, deadlines, withheld: 0 };
            fault(case("active", Counts::default(), recent)).is_some()
        };
        assert!(is_faulty(3, 0, 2_000) && is_faulty(1, 1, 1_000_000));
        assert!(!is_faulty(2, 0, 3) && !is_faulty(3, 0, 3_001) && !is_faulty(0, 0, 0));
    }

    #[test]
    fn a_version_being_tried_goes_back_beyond_its_gates() {
        let counts = Counts { items: 1_000, compared: 1_000, same: 1_000, ..Counts::default() };
        let shadow = |counts| fault(case("shadow", counts, Recent::default()));
        assert_eq!(shadow(counts), None);
        assert_eq!(shadow(Counts { errors: 3, items: 5, ..counts }).unwrap(), "max_errors: 3 of 2");
        let differs = Counts { same: 989, ..counts };
        assert_eq!(shadow(differs).unwrap(), "max_diff: 1.10 % of 1.00 %");
        assert_eq!(shadow(Counts { items: 999, ..differs }), None, "too few to tell");
        assert_eq!(fault(case("canary:5%", differs, Recent::default())), None);
        let drops = Counts { withheld: 501, ..counts };
        assert!(shadow(drops).unwrap().starts_with("max_drop_rate"));
        let slow = Counts { fuel_p99: 2_000, micros_p99: 30, ..counts };
        let beside = |stage, fuel_p99| {
            let active = Some(Counts { fuel_p99, micros_p99: 9, ..counts });
            fault(Case { active, ..case(stage, slow, Recent::default()) })
        };
        assert!(beside("shadow", 1_000).unwrap().starts_with("max_fuel_p99"));
        assert_eq!(beside("shadow", 1_900), None);
        assert!(beside("canary:5%", 1_900).unwrap().starts_with("max_time_p99"));
    }

    #[test]
    fn what_is_missing_is_said_until_it_is_there() {
        let counts = Counts { items: 120, ..Counts::default() };
        let young = case("shadow", counts, Recent::default());
        assert_eq!(young.missing(), ["min_items: 120 of 1000", "min_minutes: 0 of 10"]);
        let counts = Counts { items: 1_000, ..counts };
        assert_eq!(Case { counts, age_ms: 600_000, ..young }.missing(), [""; 0]);
    }

    #[test]
    fn a_rate_of_drops_that_moves_within_an_hour_of_a_change_takes_it_back() {
        let mut hour = Hour::default();
        let now = Millis(HOUR_MS);
        for minute in 0..30 {
            let at = Millis(minute * MINUTE_MS);
            hour.note(at, Recent { items: 100, withheld: 5, ..Recent::default() });
        }
        let moved_if = |expects_change, withheld, age_ms| {
            let recent = Recent { items: 1_000, withheld, ..Recent::default() };
            let case = Case { age_ms, expects_change, ..case("active", Counts::default(), recent) };
            case.fault(&hour, now).is_some()
        };
        let moved = |withheld, age_ms| moved_if(false, withheld, age_ms);
        assert!(!moved_if(true, 160, 0), "it was said that it would");
        assert!(moved(160, 0) && moved(10, 0));
        assert!(!moved(140, 0) && !moved(20, 0) && !moved(160, HOUR_MS));
    }

    #[test]
    fn a_minute_forgets_what_is_older() {
        let mut minute = Minute::default();
        let counts = |items| Counts { items, ..Counts::default() };
        assert_eq!(minute.note(Millis(0), counts(5)).0.items, 5);
        assert_eq!(minute.note(Millis(30_000), counts(9)).0.items, 4);
        let (recent, added) = minute.note(Millis(60_000), counts(10));
        assert_eq!((recent.items, added.items), (5, 1));
        assert_eq!(minute.note(Millis(120_000), counts(10)).0.items, 0);
    }
}
