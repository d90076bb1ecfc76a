//! Who has which slots, as the nodes of a cluster tell it: the newest claim on a slot wins.

use super::node::Address;
use super::slots::SLOTS;
use std::collections::{BTreeMap, BTreeSet};

/// One node's word on who has a range of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) first: u16,
    pub(super) last: u16,
    /// Grows with every failover and every move of slots.
    pub(super) epoch: u64,
    pub(super) address: Address,
}

/// What `CLUSTER NODES` says.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) claimed: Vec<Claimed>,
    /// Every node, replicas too: whoever may be asked next time.
    pub(super) addresses: BTreeSet<Address>,
    /// Of a node that has a number and a name: the one it is not dialled at, and the one it is.
    pub(super) aliases: BTreeMap<Address, Address>,
    /// Certificates are for names.
    pub(super) by_name: bool,
}

impl Told {
    /// Adds the answer of the node at `asked`, which may not know its own address.
    pub(super) fn read(&mut self, text: &str, asked: &Address) {
        for line in text.lines() {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let [_, place, flags, _, _, _, epoch, _, slots @ ..] = fields.as_slice() else {
                continue;
            };
            let flags: Vec<_> = flags.split(',').collect();
            if flags.contains(&"noaddr") || flags.contains(&"handshake") {
                continue;
            }
            let Some(address) = self.address(place, asked) else { continue };
            self.addresses.insert(address.clone());
            if !flags.contains(&"master") {
                continue;
            }
            let epoch = epoch.parse().unwrap_or(0);
            for range in slots.iter().filter(|slot| !slot.starts_with('[')) {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                if let (Ok(first), Ok(last)) = (first.parse(), last.parse()) {
                    self.claimed.push(Claimed { first, last, epoch, address: address.clone() });
                }
            }
        }
    }

    /// The owner of each slot, by index into the answered addresses.
    pub(super) fn owners(mut self) -> (Vec<Address>, Vec<Option<usize>>) {
        self.claimed.sort_by_key(|claim| claim.epoch);
        let addresses: Vec<_> = self.addresses.into_iter().collect();
        let mut owners = vec![None; usize::from(SLOTS)];
        for claim in &self.claimed {
            let owner = addresses.iter().position(|address| *address == claim.address);
            for slot in claim.first..=claim.last {
                if let Some(place) = owners.get_mut(usize::from(slot)) {
                    *place = owner;
                }
            }
        }
        (addresses, owners)
    }

    /// `ip:port@bus[,name[,more]]`; a node that does not know its own address leaves it out.
    fn address(&mut self, place: &str, asked: &Address) -> Option<Address> {
        let mut parts = place.split(',');
        let number = Address::parse(parts.next()?.split('@').next()?)?;
        if number.port == 0 {
            return None;
        }
        let host = |host: &str| Address { host: host.to_owned(), port: number.port };
        let name = parts.next().filter(|name| !name.is_empty()).map(host);
        if number.host.is_empty() {
            return name.filter(|_| self.by_name).or_else(|| Some(host(&asked.host)));
        }
        match name {
            Some(name) if self.by_name => {
                self.aliases.insert(number, name.clone());
                Some(name)
            }
            Some(name) => {
                self.aliases.insert(name, number.clone());
                Some(number)
            }
            None => Some(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "\
aaa :7000@17000 myself,master - 0 0 1 connected 0-8191 [93-<-bbb]
bbb 127.0.0.1:7001@17001,host master - 0 1 2 connected 8192-16382 16383
ccc 127.0.0.1:7002@17002 slave aaa 0 1 1 connected
ddd :0@0 master,noaddr - 0 1 9 disconnected 0-5
";
    const NEW: &str = "\
ccc 127.0.0.1:7002@17002 myself,master - 0 1 3 connected 0-8191
aaa 127.0.0.1:7000@17000 master,fail - 0 1 1 disconnected
";

    fn owner_of(told: Told, slot: usize) -> Option<u16> {
        let (addresses, owners) = told.owners();
        owners.get(slot).copied().flatten().and_then(|at| addresses.get(at)).map(|a| a.port)
    }

    #[test]
    fn a_node_that_does_not_know_its_address_has_the_one_it_was_asked_at() {
        let mut told = Told::default();
        let asked = Address { host: String::from("10.0.0.1"), port: 7000 };
        told.read(OLD, &asked);
        assert!(told.addresses.contains(&asked));
        assert_eq!(told.addresses.len(), 3);
        assert_eq!(owner_of(told.clone(), 16_383), Some(7001));
        assert_eq!(owner_of(told, 3), Some(7000));
    }

    #[test]
    fn a_node_is_dialled_by_name_only_where_certificates_are_for_names() {
        let at = |text: &str| Address::parse(text).expect("an address");
        for (by_name, dialled, alias) in
            [(false, "127.0.0.1:7001", "host:7001"), (true, "host:7001", "127.0.0.1:7001")]
        {
            let mut told = Told { by_name, ..Told::default() };
            told.read(OLD, &at("10.0.0.1:7000"));
            assert!(told.addresses.contains(&at(dialled)) && !told.addresses.contains(&at(alias)));
            assert_eq!(told.aliases.get(&at(alias)), Some(&at(dialled)));
            assert!(told.addresses.contains(&at("127.0.0.1:7002")), "it has no name");
        }
    }

    #[test]
    fn after_a_failover_the_newer_claim_wins_in_either_order() {
        let asked = Address { host: String::from("127.0.0.1"), port: 7000 };
        for order in [[OLD, NEW], [NEW, OLD]] {
            let mut told = Told::default();
            order.iter().for_each(|text| told.read(text, &asked));
            assert_eq!(owner_of(told, 100), Some(7002));
        }
    }
}
