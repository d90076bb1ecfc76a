//! When timers that are not in memory come due.

use crate::model::{Millis, OrganizationId};
use std::collections::{BTreeSet, HashMap};

/// The next due time of every organization that has timers.
#[derive(Debug, Default)]
pub(in crate::journal) struct Alarms {
    by_org: HashMap<OrganizationId, Millis>,
    order: BTreeSet<(Millis, OrganizationId)>,
    /// The index was asked for what was there at the start.
    pub(in crate::journal) is_primed: bool,
}

impl Alarms {
    /// Organization `org` has a timer due at `due`.
    pub(in crate::journal) fn set(&mut self, org: OrganizationId, due: Millis) {
        let known = self.by_org.get(&org).copied();
        if known.is_some_and(|known| known <= due) {
            return;
        }
        if let Some(known) = known {
            self.order.remove(&(known, org));
        }
        self.by_org.insert(org, due);
        self.order.insert((due, org));
    }

    /// Takes out everybody whose time has come.
    pub(in crate::journal) fn take_due(&mut self, now: Millis) -> Vec<OrganizationId> {
        let mut due = Vec::new();
        while let Some((_, org)) = self.order.first().copied().filter(|(at, _)| *at <= now) {
            self.order.pop_first();
            self.by_org.remove(&org);
            due.push(org);
        }
        due
    }
}
