//! The organizations of a shard that have something pending, and whose turn it is.
//!
//! Each has a line of entries ready to be claimed. All lines together hold a bounded number of
//! entries of the log, and none more than a quarter of what is free: an organization with more is
//! cut short, remembers where in the log it goes on (`behind`) and is refilled from there (`sweep`)
//! while it drains. When all places are taken, the longest line gives up its second half. So a
//! backlog of any size costs a bounded amount of memory and is never in anybody else's way.

use super::Place;
use super::line::{Class, Counts, Line, Spot, Ticket};
use crate::journal::Room;
use crate::model::OrganizationId;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// An organization may have one place in so many in any case, as long as there are places at all.
const PLACES_SHARE_MIN: usize = 2048;
/// Due timers waiting to be claimed, as a share of the places.
const READY_SHARE: usize = 16;
const READY_MIN: usize = 16;
/// One entry in so many is a repeat while first attempts wait.
const AGAIN_SHARE: usize = 5;
/// Entries an organization gets in one turn.
const TURN_MAX: usize = 32;

#[derive(Debug, Default)]
pub(in crate::journal) struct Lines {
    /// Unclaimed entries of the log remembered one by one.
    places_max: usize,
    /// In order, so that the same history gives the same turns.
    by_org: BTreeMap<OrganizationId, Line>,
    first: VecDeque<OrganizationId>,
    again: VecDeque<OrganizationId>,
    /// Lines that are short and go on in the log.
    hungry: VecDeque<OrganizationId>,
    /// The log is being read for them.
    is_sweeping: bool,
    /// What was read last found no place.
    is_stuck: bool,
    lowest_next: bool,
    places: usize,
    ready: usize,
    done: usize,
    /// What repeats may still take, in parts of `AGAIN_SHARE`.
    owed: usize,
    /// Who gave places up since somebody last looked.
    cut: Vec<OrganizationId>,
}

/// What one claim takes.
struct Basket<'a> {
    room: &'a dyn Room,
    left: HashMap<OrganizationId, usize>,
    taken: Vec<(OrganizationId, Ticket)>,
}

/// A stretch of the log as read for the lines that are behind.
#[derive(Debug, Default)]
pub(in crate::journal) struct Stretch {
    pub(in crate::journal) start: u64,
    /// One past the last block that was looked at.
    pub(in crate::journal) next: u64,
    /// Entries of the log in their order; timers are left out.
    pub(in crate::journal) entries: Vec<(OrganizationId, Spot)>,
    /// Blocks that could not be read: where, and how many entries they held.
    pub(in crate::journal) unreadable: Vec<(u64, u32)>,
}

impl Lines {
    pub(in crate::journal) fn new(places_max: usize) -> Self {
        Self { places_max, ..Self::default() }
    }

    pub(in crate::journal) fn places_max(&self) -> usize {
        self.places_max
    }

    pub(in crate::journal) fn get(&self, org: OrganizationId) -> Option<&Line> {
        self.by_org.get(&org)
    }

    pub(in crate::journal) fn iter(&self) -> impl Iterator<Item = (OrganizationId, &Line)> {
        self.by_org.iter().map(|(org, line)| (*org, line))
    }

    /// Takes a line up as a checkpoint left it.
    pub(in crate::journal) fn restore(
        &mut self,
        org: OrganizationId,
        counts: Counts,
        behind: Option<Place>,
        done: impl IntoIterator<Item = Place>,
    ) {
        let line = self.by_org.entry(org).or_default();
        (line.counts, line.behind) = (counts, behind);
        line.done.extend(done);
        self.done += line.done.len();
        self.feed(org);
    }

    pub(in crate::journal) fn count(&mut self, org: OrganizationId, bytes: u64, is_timer: bool) {
        let counts = &mut self.by_org.entry(org).or_default().counts;
        counts.pending += 1;
        counts.bytes += bytes;
        counts.timers += u64::from(is_timer);
    }

    /// An entry is done; a line with nothing pending is forgotten.
    pub(in crate::journal) fn uncount(&mut self, org: OrganizationId, bytes: u64, is_timer: bool) {
        let Some(line) = self.by_org.get_mut(&org) else { return };
        let counts = &mut line.counts;
        counts.pending = counts.pending.saturating_sub(1);
        counts.bytes = counts.bytes.saturating_sub(bytes);
        counts.timers = counts.timers.saturating_sub(u64::from(is_timer));
        if counts.pending == 0
            && let Some(line) = self.by_org.remove(&org)
        {
            self.places -= line.queue.len();
            self.ready -= line.ready();
            self.done -= line.done.len();
            // Seldom: only what ended without being claimed still stands anywhere.
            let stands = [line.turns.first, line.turns.again, line.turns.hungry];
            let rounds = [&mut self.first, &mut self.again, &mut self.hungry];
            for (round, _) in rounds.into_iter().zip(stands).filter(|(_, stands)| *stands) {
                round.retain(|standing| *standing != org);
            }
        }
    }

    /// Puts a new entry of the log into its line, or leaves it in the log; true if it was put.
    pub(in crate::journal) fn offer(&mut self, org: OrganizationId, spot: Spot) -> bool {
        let Some(line) = self.by_org.get(&org) else { return false };
        if line.behind.is_some() {
            return false;
        }
        let fits = self.admit(org, spot);
        self.cut.clear();
        if let Some(line) = self.by_org.get_mut(&org).filter(|_| !fits) {
            line.behind = Some(spot.place());
            self.feed(org);
        }
        fits
    }

    fn cap(&self) -> usize {
        (self.places_max.saturating_sub(self.places) / 4).max(self.cap_min())
    }

    fn cap_min(&self) -> usize {
        (self.places_max / PLACES_SHARE_MIN).max(1)
    }

    fn admit(&mut self, org: OrganizationId, spot: Spot) -> bool {
        let cap = self.cap();
        let queued = self.by_org.get(&org).map_or(0, |line| line.queue.len());
        if queued >= cap
            || (self.places >= self.places_max
                && !(queued < self.cap_min() && self.push_out(queued)))
        {
            return false;
        }
        let Some(line) = self.by_org.get_mut(&org) else { return false };
        line.queue.push_back(spot);
        self.places += 1;
        self.stand(org, Class::First);
        true
    }

    /// Takes the second half of the longest line's places away, unless that has hardly more than
    /// `queued`.
    fn push_out(&mut self, queued: usize) -> bool {
        let longest = self.by_org.iter_mut().max_by_key(|(_, line)| line.queue.len());
        let Some((org, line)) = longest.filter(|(_, line)| line.queue.len() > 2 * queued + 1)
        else {
            return false;
        };
        let (org, keep) = (*org, line.queue.len() / 2);
        if let Some(first) = line.queue.get(keep) {
            line.behind = Some(first.place());
        }
        self.places -= line.queue.len() - keep;
        line.queue.truncate(keep);
        self.cut.push(org);
        self.feed(org);
        true
    }

    fn stand(&mut self, org: OrganizationId, class: Class) {
        let Some(line) = self.by_org.get_mut(&org) else { return };
        let (stands, round) = match class {
            Class::First => (&mut line.turns.first, &mut self.first),
            Class::Again => (&mut line.turns.again, &mut self.again),
        };
        if !*stands {
            *stands = true;
            round.push_back(org);
        }
    }

    /// Notes a line that is short and goes on in the log.
    fn feed(&mut self, org: OrganizationId) {
        let cap = self.cap();
        let Some(line) = self.by_org.get_mut(&org) else { return };
        if line.behind.is_some() && !line.has_more() {
            line.behind = None;
            self.done -= line.trim_done();
        }
        if line.behind.is_some() && !line.turns.hungry && line.queue.len() * 2 <= cap {
            line.turns.hungry = true;
            self.hungry.push_back(org);
        }
    }

    pub(in crate::journal) fn is_hungry(&self) -> bool {
        !self.hungry.is_empty()
    }

    /// True while lines are being filled from the log.
    fn expects_more(&self) -> bool {
        !self.is_stuck && (self.is_sweeping || self.is_hungry())
    }

    /// True if a claim of `max` would get more first attempts a moment later, and has repeats to take.
    pub(in crate::journal) fn is_worth_waiting(&self, max: usize) -> bool {
        self.expects_more() && self.places < max && !self.again.is_empty()
    }

    /// Entries known to be done although nobody has come to them yet.
    pub(in crate::journal) fn done_ahead(&self) -> usize {
        self.done
    }

    /// Moves the cursors of lines that have something to forget to where these end, as if all before
    /// were claimed and had lapsed.
    pub(in crate::journal) fn pass_done(&mut self) {
        let forgetful = self.by_org.iter().filter(|(_, line)| !line.done.is_empty());
        let orgs: Vec<_> = forgetful.map(|(org, _)| *org).collect();
        for org in orgs {
            let Some(line) = self.by_org.get_mut(&org) else { continue };
            self.places -= line.queue.len();
            line.lapsed.extend(line.queue.drain(..).map(|spot| (spot.place(), spot)));
            self.done -= line.trim_done();
            self.feed(org);
        }
    }

    /// Where the line that has most to forget goes on.
    pub(in crate::journal) fn most_done(&self) -> Option<u64> {
        let most = self.by_org.values().max_by_key(|line| line.done.len())?;
        most.behind.map(|(position, _)| position)
    }

    /// Where the next line that is short goes on.
    pub(in crate::journal) fn next_hungry(&mut self) -> Option<u64> {
        let next = self.hungriest();
        self.is_sweeping = next.is_some();
        next
    }

    fn hungriest(&mut self) -> Option<u64> {
        if self.hungry.is_empty() {
            return None;
        }
        // By turns who waits longest, and who goes on first: that one meets all others on its way.
        self.lowest_next = !self.lowest_next;
        if self.lowest_next {
            let behind = |org: &OrganizationId| self.by_org.get(org).and_then(|line| line.behind);
            let lowest =
                (0..self.hungry.len()).min_by_key(|at| self.hungry.get(*at).and_then(behind));
            self.hungry.swap(0, lowest.unwrap_or(0));
        }
        while let Some(org) = self.hungry.pop_front() {
            let Some(line) = self.by_org.get_mut(&org) else { continue };
            line.turns.hungry = false;
            if let Some((position, _)) = line.behind {
                return Some(position);
            }
        }
        None
    }

    /// Refills lines from a stretch of the log. `is_end` says that nothing is behind it. False if
    /// there was no place for anything.
    pub(in crate::journal) fn merge(&mut self, stretch: &Stretch, is_end: bool) -> bool {
        let mut moved = false;
        let Stretch { start, next, .. } = *stretch;
        self.cut.clear();
        let mut full = BTreeSet::new();
        for (org, spot) in &stretch.entries {
            let place = spot.place();
            let Some(line) = self.by_org.get_mut(org) else { continue };
            // A line that goes on before the stretch would miss what lies between.
            let Some(behind) = line.behind.filter(|behind| behind.0 >= start) else { continue };
            if place < behind || full.contains(org) {
                continue;
            }
            // Kept in `done`: the place may be given up and come to again.
            let fits = line.done.contains(&place) || self.admit(*org, *spot);
            // Who was cut to make room goes on where it was cut, which the stretch has passed.
            full.extend(self.cut.drain(..));
            if !fits {
                full.insert(*org);
                continue;
            }
            if let Some(line) = self.by_org.get_mut(org) {
                line.behind = Some((place.0, place.1 + 1));
                moved = true;
            }
        }
        let mut short = Vec::new();
        for (org, line) in &mut self.by_org {
            let Some((position, _)) = line.behind.filter(|behind| behind.0 >= start) else {
                continue;
            };
            if full.contains(org) {
                continue;
            }
            if position < next || (is_end && position == next) {
                line.behind = (!is_end).then_some((next, 0));
                self.done -= line.trim_done();
                moved = true;
            }
            short.push(*org);
        }
        for org in short.into_iter().chain(full) {
            self.feed(org);
        }
        (self.is_sweeping, self.is_stuck) = (false, !moved);
        moved
    }

    /// Free again: its lease ran out.
    pub(in crate::journal) fn lapse(&mut self, org: OrganizationId, ticket: Ticket) {
        let Some(line) = self.by_org.get_mut(&org) else { return };
        if ticket.is_timer() {
            line.push_ready(ticket);
            self.ready += 1;
        } else {
            line.lapsed.insert(ticket.spot.place(), ticket.spot);
        }
        self.stand(org, ticket.class);
    }

    /// Timers of `org` that may be loaded now.
    pub(in crate::journal) fn room_for_ready(&self, org: OrganizationId) -> usize {
        let free = (self.places_max / READY_SHARE).saturating_sub(self.ready);
        let has = self.by_org.get(&org).map_or(0, Line::ready);
        (free / 4).max(READY_MIN).saturating_sub(has)
    }

    pub(in crate::journal) fn drop_ready(&mut self, org: OrganizationId, place: Place) {
        if self.by_org.get_mut(&org).is_some_and(|line| line.drop_ready(place)) {
            self.ready -= 1;
        }
    }

    /// An entry was claimed without standing in line.
    pub(in crate::journal) fn claim(&mut self, org: OrganizationId) {
        if let Some(line) = self.by_org.get_mut(&org) {
            line.claimed += 1;
        }
    }

    /// A claim is over, whatever comes of its entry; one of the log may stay `aside`.
    pub(in crate::journal) fn unclaim(
        &mut self,
        org: OrganizationId,
        ticket: &Ticket,
        aside: bool,
    ) {
        if let Some(line) = self.by_org.get_mut(&org) {
            line.claimed = line.claimed.saturating_sub(1);
            line.out = line.out.saturating_sub(usize::from(!ticket.is_timer() && !aside));
        }
    }

    /// Takes an unclaimed entry of the log out because it is done: while replaying.
    pub(in crate::journal) fn finish(&mut self, org: OrganizationId, place: Place) -> Finished {
        let Some(line) = self.by_org.get_mut(&org) else { return Finished::Unknown };
        if let Some(spot) = line.lapsed.remove(&place) {
            return Finished::Known(spot);
        }
        if let Ok(at) = line.queue.binary_search_by_key(&place, Spot::place)
            && let Some(spot) = line.queue.remove(at)
        {
            self.places -= 1;
            // Taken out of the middle: the place may be given up and come to again.
            self.done += usize::from(line.done.insert(place));
            self.done -= line.trim_done();
            self.feed(org);
            return Finished::Known(spot);
        }
        if line.behind.is_some_and(|behind| behind <= place) && line.done.insert(place) {
            self.done += 1;
            return Finished::Ahead;
        }
        Finished::Unknown
    }

    /// Takes up to `max` entries: organizations by turns, each as many as `room` allows, repeats a
    /// fifth while first attempts wait, be it in the log.
    pub(in crate::journal) fn pick(
        &mut self,
        max: usize,
        room: &dyn Room,
    ) -> Vec<(OrganizationId, Ticket)> {
        let mut basket = Basket { room, left: HashMap::new(), taken: Vec::new() };
        if !self.first.is_empty() {
            self.rounds(Class::Again, (self.owed / AGAIN_SHARE).min(max), true, &mut basket);
            self.owed -= basket.taken.len() * AGAIN_SHARE;
        }
        self.rounds(Class::First, max - basket.taken.len(), false, &mut basket);
        if !self.again.is_empty() {
            let owed = self.owed + basket.taken.len();
            self.owed = owed.min(max.saturating_mul(AGAIN_SHARE));
        }
        if !self.expects_more() {
            self.rounds(Class::Again, max - basket.taken.len(), false, &mut basket);
        } else if basket.taken.is_empty() {
            // On account of its share, so that repeats go on while a long log is read.
            self.rounds(Class::Again, max.min(1), false, &mut basket);
            self.owed = self.owed.saturating_sub(basket.taken.len() * AGAIN_SHARE);
        }
        basket.taken
    }

    fn rounds(&mut self, class: Class, max: usize, shared: bool, basket: &mut Basket<'_>) {
        let until = basket.taken.len() + max;
        let mut passed_over = 0;
        loop {
            let round = match class {
                Class::First => &mut self.first,
                Class::Again => &mut self.again,
            };
            let missing = until - basket.taken.len();
            if missing == 0 || passed_over >= round.len() {
                return;
            }
            let turn = (missing / round.len()).clamp(1, TURN_MAX);
            let Some(org) = round.pop_front() else { return };
            let taken = self.turn(org, class, (turn, shared), basket);
            let Some(line) = self.by_org.get_mut(&org) else { continue };
            let stands = match class {
                Class::First => &mut line.turns.first,
                Class::Again => &mut line.turns.again,
            };
            *stands = false;
            if line.has(class) {
                self.stand(org, class);
                passed_over = if taken == 0 { passed_over + 1 } else { 0 };
            }
        }
    }

    fn turn(
        &mut self,
        org: OrganizationId,
        class: Class,
        (max, shared): (usize, bool),
        basket: &mut Basket<'_>,
    ) -> usize {
        let Some(line) = self.by_org.get_mut(&org) else { return 0 };
        let left = basket.left.entry(org).or_insert_with(|| basket.room.room(org));
        let mut max = max.min(*left);
        if shared && line.has(Class::First) {
            // Of its own room, too, its repeats get a fifth.
            let is_due = usize::from(line.since_again >= AGAIN_SHARE - 1);
            max = max.min((*left / AGAIN_SHARE).max(is_due));
        }
        let (queued, ready) = (line.queue.len(), line.ready());
        let before = basket.taken.len();
        let tickets = std::iter::from_fn(|| line.take(class)).take(max);
        basket.taken.extend(tickets.map(|ticket| (org, ticket)));
        let taken = basket.taken.len() - before;
        line.out += taken - (ready - line.ready());
        *left -= taken;
        line.claimed += taken as u64;
        let freed = queued - line.queue.len();
        self.places -= freed;
        self.is_stuck &= freed == 0;
        self.ready -= ready - line.ready();
        self.done -= line.trim_done();
        self.feed(org);
        taken
    }
}

/// What a line knew of an entry that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum Finished {
    /// Unclaimed, or its lease had run out.
    Known(Spot),
    /// Not come to yet: remembered as done until somebody does.
    Ahead,
    /// Not pending.
    Unknown,
}
