//! A Redis Cluster of our own: three primaries, each with one replica.

use super::RedisTrouble;
use super::server::{Server, ServerOptions};
use std::time::{Duration, Instant};

const PRIMARIES: usize = 3;
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const RANGES: [(&str, &str); PRIMARIES] = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];

/// Six nodes: the first three began as primaries, the node three places on as the replica.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    /// Starts six nodes with `options` and waits until all of them see a whole cluster.
    ///
    /// # Errors
    /// A node does not start, or the nodes do not find each other.
    pub fn start(options: &ServerOptions) -> Result<Self, RedisTrouble> {
        let start = || Server::start_as(options.clone(), true);
        let nodes = (0..2 * PRIMARIES).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
        let cluster = Self { nodes };
        cluster.form()?;
        Ok(cluster)
    }

    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    pub fn nodes_mut(&mut self) -> &mut [Server] {
        &mut self.nodes
    }

    /// Of all nodes, as the gateway's configuration wants them.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("redis://127.0.0.1:{}", node.known_port())).collect()
    }

    /// The place among the nodes of the primary that has the slot of `key`, as the first node that
    /// answers sees it.
    ///
    /// # Errors
    /// No node answers, or nobody has the slot.
    pub fn primary_of(&self, key: &str) -> Result<usize, RedisTrouble> {
        let lost = || RedisTrouble::NoCluster { what: format!("nobody has the slot of {key}") };
        let answers = self.nodes.iter().filter(|node| node.pid().is_some()).map(|node| {
            let slot = node.ask(&["CLUSTER", "KEYSLOT", key])?.number();
            Ok::<_, RedisTrouble>((slot, node.ask(&["CLUSTER", "NODES"])?.text()))
        });
        let mut answers = answers.filter_map(Result::ok);
        let (slot, text) = answers.next().ok_or_else(lost)?;
        let line = text.lines().find(|line| has_slot(line, slot)).ok_or_else(lost)?;
        let at = self.nodes.iter().position(|node| is_of(line, node));
        at.ok_or_else(lost)
    }

    /// Waits until every running node sees all slots served.
    ///
    /// # Errors
    /// It takes longer than a minute.
    pub fn wait_until_whole(&self) -> Result<(), RedisTrouble> {
        self.wait("all slots served", |node| {
            let state = node.ask(&["CLUSTER", "INFO"]).map(|reply| reply.text());
            state.is_ok_and(|text| {
                text.contains("cluster_state:ok") && text.contains("cluster_slots_ok:16384")
            })
        })
    }

    /// Waits until every running node knows all others by the ports they announce, and replicas
    /// follow their primaries there.
    ///
    /// # Errors
    /// It takes longer than a minute.
    pub fn wait_until_announced(&self) -> Result<(), RedisTrouble> {
        self.wait("every port announced", |node| {
            let text = node.ask(&["CLUSTER", "NODES"]).map(|reply| reply.text());
            let is_known = |text: &str, of: &Server| text.lines().any(|line| is_of(line, of));
            text.is_ok_and(|text| self.nodes.iter().all(|of| is_known(&text, of)))
        })?;
        self.wait_until_in_step()
    }

    fn wait_until_in_step(&self) -> Result<(), RedisTrouble> {
        self.wait("every replica in step", |node| {
            let text = node.ask(&["INFO", "replication"]).map(|reply| reply.text());
            text.is_ok_and(|text| {
                text.contains("master_link_status:up") || text.contains("state=online")
            })
        })
    }

    fn form(&self) -> Result<(), RedisTrouble> {
        let (primaries, replicas) = self.nodes.split_at(PRIMARIES);
        for (epoch, node) in (1..).zip(&self.nodes) {
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()])?;
        }
        for (node, (first, last)) in primaries.iter().zip(RANGES) {
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", first, last])?;
        }
        let Some((first, others)) = self.nodes.split_first() else { return Ok(()) };
        for node in others {
            let (port, bus) = (node.port().to_string(), node.bus().to_string());
            first.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
        let count = format!("cluster_known_nodes:{}", self.nodes.len());
        self.wait("every node known", |node| {
            let is_known = node.ask(&["CLUSTER", "INFO"]).is_ok_and(|r| r.text().contains(&count));
            let nodes = node.ask(&["CLUSTER", "NODES"]).map(|reply| reply.text());
            is_known && nodes.is_ok_and(|text| !text.contains("handshake"))
        })?;
        for (replica, primary) in replicas.iter().zip(primaries) {
            let id = primary.ask(&["CLUSTER", "MYID"])?.text();
            replica.ask(&["CLUSTER", "REPLICATE", &id])?;
        }
        self.wait_until_whole()?;
        self.wait_until_in_step()?;
        // A failover needs all primaries to know whose replica is whose.
        self.wait("every node sees three replicas", |node| {
            let text = node.ask(&["CLUSTER", "NODES"]).map(|reply| reply.text());
            text.is_ok_and(|text| text.matches("slave ").count() == PRIMARIES)
        })
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Server) -> bool) -> Result<(), RedisTrouble> {
        let started = Instant::now();
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            while !is_so(node) {
                if started.elapsed() > READY_WITHIN {
                    return Err(RedisTrouble::NoCluster { what: what.to_owned() });
                }
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }
}

/// True for a line of `CLUSTER NODES` that is of `node`.
fn is_of(line: &str, node: &Server) -> bool {
    line.contains(&format!(":{}@", node.known_port()))
}

/// True for a line of `CLUSTER NODES` of the primary that has `slot`.
fn has_slot(line: &str, slot: i64) -> bool {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let is_primary = fields.get(2).is_some_and(|flags| flags.contains("master"));
    let mut slots = fields.iter().skip(8).filter(|range| !range.starts_with('['));
    is_primary
        && slots.any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<i64>(), last.parse::<i64>());
            matches!((first, last), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_found_in_ranges_and_alone() {
        let line = "aaa 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-10 12 [13-<-bbb]";
        assert!(has_slot(line, 10) && has_slot(line, 12));
        assert!(!has_slot(line, 11) && !has_slot(line, 13));
    }
}
