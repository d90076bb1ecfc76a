//! How many connections each peer address holds.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Counts connections by address; holds one entry per connected peer.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    open: Arc<Mutex<HashMap<IpAddr, u32>>>,
    limit: u32,
}

/// One connection's place; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    peers: Peers,
    address: IpAddr,
}

impl Peers {
    pub(super) fn new(limit: u32) -> Self {
        Self { open: Arc::default(), limit }
    }

    /// A place for one more connection from `address`, or `None` at its limit.
    pub(super) fn try_place(&self, address: IpAddr) -> Option<Place> {
        // ::ffff:a.b.c.d is the same peer as a.b.c.d.
        let address = address.to_canonical();
        let mut open = self.open.lock();
        let count = open.entry(address).or_insert(0);
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.peers.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_limit_and_leaves_nothing_behind() {
        let peers = Peers::new(1);
        let (one, mapped, two) = ("127.0.0.1", "::ffff:127.0.0.1", "127.0.0.2");
        let place = peers.try_place(one.parse().unwrap()).unwrap();
        assert!(peers.try_place(one.parse().unwrap()).is_none());
        assert!(peers.try_place(mapped.parse().unwrap()).is_none());
        assert!(peers.try_place(two.parse().unwrap()).is_some());
        drop(place);
        assert!(peers.try_place(mapped.parse().unwrap()).is_some());
        assert!(peers.open.lock().is_empty());
    }
}
