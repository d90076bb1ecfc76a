//! What callers were told and what providers got, and whether the promises hold.

use crate::journal::Books;
use crate::model::{DeliveryId, FinalState, Millis, NotificationId, OrganizationId, TimelineEvent};
use std::collections::{BTreeMap, HashMap};

/// What a caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing: the process ended first.
    Nothing,
    Accepted,
    Refused,
}

#[derive(Clone, Debug)]
pub(crate) struct Submitted {
    pub(crate) id: NotificationId,
    pub(crate) org: OrganizationId,
    pub(crate) title: String,
    pub(crate) start_at: Millis,
    pub(crate) is_scheduled: bool,
    pub(crate) expires_at: Option<Millis>,
    pub(crate) targets: Vec<String>,
    pub(crate) key: [u8; 16],
    pub(crate) told: Told,
    /// Places in the order of all that happened.
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) life: u64,
}

/// One try as its provider saw it.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    pub(crate) delivery: DeliveryId,
    pub(crate) notification: NotificationId,
    pub(crate) target: String,
    pub(crate) title: String,
    pub(crate) at: Millis,
    pub(crate) start_at: Millis,
    pub(crate) attempt: u16,
    pub(crate) life: u64,
    pub(crate) accepted: bool,
    pub(crate) ambiguous: bool,
}

/// What the journal says in the end.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) timelines: HashMap<NotificationId, Vec<TimelineEvent>>,
    pub(crate) books: Books,
    pub(crate) pending: u64,
    /// Keys that it does not remember although their notification is there.
    pub(crate) forgotten: Vec<NotificationId>,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) submitted: Vec<Submitted>,
    pub(crate) receipts: Vec<Receipt>,
    /// Lives that ended without a drain, and lives in which leases ran out.
    pub(crate) crashed: Vec<u64>,
    pub(crate) lapsed: Vec<u64>,
    /// What was taken back, and the life in which that was durable.
    pub(crate) canceled: Vec<(NotificationId, u64)>,
    pub(crate) max_in_flight: u64,
    /// Nothing is held by a rule, and nothing given back for want of a place in memory.
    pub(crate) keeps_order: bool,
    /// The journal of this life has said that it failed.
    pub(crate) has_failed: bool,
    pub(crate) breaches: Vec<String>,
    pub(crate) time: u64,
}

impl Ledger {
    pub(crate) fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    pub(crate) fn receive(&mut self, receipt: Receipt) {
        self.receipts.push(receipt);
    }

    pub(crate) fn answer(&mut self, first: usize, count: usize, told: Told) {
        let now = self.tick();
        if told == Told::Accepted && self.has_failed {
            self.breaches.push(String::from("P14: accepted after the journal had failed"));
        }
        for submitted in self.submitted.iter_mut().skip(first).take(count) {
            submitted.told = told;
            submitted.answered = now;
        }
    }

    /// Every promise that does not hold, in words.
    pub(crate) fn judge(&self, found: &Found) -> Vec<String> {
        let mut breaches = self.breaches.clone();
        if found.pending > 0 {
            breaches.push(format!("I7: {} entries are never done", found.pending));
        }
        for submitted in &self.submitted {
            self.judge_one(submitted, found, &mut breaches);
        }
        self.judge_receipts(&mut breaches);
        self.judge_repeats(&mut breaches);
        self.judge_canceled(&mut breaches);
        if self.keeps_order {
            self.judge_order(&mut breaches);
        }
        judge_books(found, &mut breaches);
        breaches.extend(
            found.forgotten.iter().map(|id| format!("P5: the key of {id} is not remembered")),
        );
        breaches
    }

    fn judge_one(&self, submitted: &Submitted, found: &Found, breaches: &mut Vec<String>) {
        let id = submitted.id;
        let Some(events) = found.timelines.get(&id) else {
            if submitted.told == Told::Accepted {
                breaches.push(format!("I1: {id} was accepted and is not there"));
            }
            return;
        };
        if submitted.told == Told::Refused {
            breaches.push(format!("I2: {id} was refused and is there"));
        }
        for target in &submitted.targets {
            let delivery = DeliveryId::derive(id, target);
            let finals: Vec<_> = events
                .iter()
                .filter_map(TimelineEvent::finished)
                .filter(|(of, _)| *of == delivery)
                .map(|(_, state)| state)
                .collect();
            match finals.as_slice() {
                [] => breaches.push(format!("I1: {id} to {target} has no final state")),
                [FinalState::Delivered] => {
                    let got = self.receipts.iter().any(|r| r.delivery == delivery && r.accepted);
                    if !got {
                        breaches.push(format!("I1: {id} to {target} was never received"));
                    }
                }
                [_] => {}
                several => {
                    breaches.push(format!("I8: {id} to {target} ended as {several:?}"));
                }
            }
        }
    }

    fn judge_receipts(&self, breaches: &mut Vec<String>) {
        let by_id: HashMap<_, _> = self.submitted.iter().map(|s| (s.id, s)).collect();
        for receipt in &self.receipts {
            let id = receipt.notification;
            let Some(submitted) = by_id.get(&id) else {
                breaches.push(format!("I2: {id} was received and never submitted"));
                continue;
            };
            if submitted.told == Told::Refused {
                breaches.push(format!("I2: {id} was refused and received"));
            }
            if receipt.title != submitted.title {
                breaches.push(format!("I4: {id} says {:?}", receipt.title));
            }
            if !submitted.targets.contains(&receipt.target) {
                breaches.push(format!("I5: {id} of {} went to {}", submitted.org, receipt.target));
            }
            if submitted.expires_at.is_some_and(|at| receipt.at >= at) {
                breaches.push(format!("P10: {id} was sent after its time"));
            }
            if receipt.at < submitted.start_at || receipt.start_at != submitted.start_at {
                breaches.push(format!("P10: {id} was sent before its time"));
            }
        }
    }

    /// What was taken back is sent by nobody who starts later.
    fn judge_canceled(&self, breaches: &mut Vec<String>) {
        for (id, life) in &self.canceled {
            let sent = self.receipts.iter().filter(|r| r.notification == *id && r.life > *life);
            breaches.extend(sent.map(|receipt| {
                format!("taken back: {id} was canceled in life {life} and sent in {}", receipt.life)
            }));
        }
    }

    /// A repeat needs an excuse: nobody knew what had become of the try before, or the process
    /// ended or lost its leases in between; and crashes excuse only what was in flight.
    fn judge_repeats(&self, breaches: &mut Vec<String>) {
        let mut last: HashMap<DeliveryId, &Receipt> = HashMap::new();
        let mut by_crash: BTreeMap<u64, u64> = BTreeMap::new();
        for receipt in &self.receipts {
            if let Some(before) = last.get(&receipt.delivery)
                && before.accepted
                && !before.ambiguous
            {
                let crash = self.crashed.iter().find(|l| (before.life..receipt.life).contains(l));
                let lapse = |l: &&u64| (before.life..=receipt.life).contains(l);
                match crash {
                    // Nobody who works knew of it: all that was claimed may go out again.
                    _ if self.lapsed.iter().any(|life| lapse(&life)) => {}
                    Some(life) => *by_crash.entry(*life).or_default() += 1,
                    None => breaches.push(format!(
                        "I3: {} to {} was repeated for no reason",
                        receipt.notification, receipt.target
                    )),
                }
            }
            last.insert(receipt.delivery, receipt);
        }
        for (life, repeats) in by_crash {
            let bound = self.max_in_flight;
            if repeats > bound {
                breaches.push(format!("I3: {repeats} repeats by life {life}, {bound} allowed"));
            }
        }
    }

    fn judge_order(&self, breaches: &mut Vec<String>) {
        let mut firsts: HashMap<(&str, NotificationId), usize> = HashMap::new();
        for (place, receipt) in self.receipts.iter().enumerate() {
            firsts.entry((&receipt.target, receipt.notification)).or_insert(place);
        }
        let plain: Vec<_> = self.submitted.iter().filter(|s| !s.is_scheduled).collect();
        for earlier in plain.iter().filter(|s| s.told == Told::Accepted) {
            for later in plain.iter().filter(|s| s.org == earlier.org && s.sent > earlier.answered)
            {
                for target in &earlier.targets {
                    let first = |s: &Submitted| firsts.get(&(target.as_str(), s.id));
                    // What was sent back to the journal loses its place to a restart, and what
                    // waited under a lease that ran out is claimed anew.
                    let is_kept = |place: &usize| {
                        let life = self.receipts.get(*place).map(|receipt| receipt.life);
                        life == Some(earlier.life) && !self.lapsed.contains(&earlier.life)
                    };
                    if let (Some(a), Some(b)) =
                        (first(earlier).filter(|a| is_kept(a)), first(later))
                        && a > b
                    {
                        breaches.push(format!(
                            "I6: {} overtook {} on the way to {target}",
                            later.id, earlier.id
                        ));
                    }
                }
            }
        }
    }
}

fn judge_books(found: &Found, breaches: &mut Vec<String>) {
    let accepted = found.timelines.len() as u64;
    if found.books.accepted != accepted {
        let said = found.books.accepted;
        breaches.push(format!("I8: the books say {said} accepted, there are {accepted}"));
    }
    for (state, said) in FinalState::ALL.iter().zip(found.books.finals) {
        let finals = found.timelines.values().flatten().filter_map(TimelineEvent::finished);
        let counted = finals.filter(|(_, ended)| ended == state).count() as u64;
        if counted != said {
            breaches.push(format!("I8: the books say {said} {state:?}, there are {counted}"));
        }
    }
}
