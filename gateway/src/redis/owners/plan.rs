//! How shards are spread over nodes: evenly, and moving no more than that takes.

use std::collections::BTreeMap;

/// The node that each shard is to be with, given who has it now; nobody if there are no nodes.
///
/// Every node computes this for itself. The same nodes and owners give the same plan, and a plan
/// carried out in part gives the same plan again, so that nodes need not agree on anything.
#[must_use]
pub fn spread<'a>(nodes: &'a [String], owners: &[Option<&str>]) -> Vec<Option<&'a str>> {
    let mut plan: Vec<Option<&str>> = vec![None; owners.len()];
    if nodes.is_empty() {
        return plan;
    }
    let mut kept: BTreeMap<&str, Vec<usize>> =
        nodes.iter().map(|node| (node.as_str(), Vec::new())).collect();
    for (shard, owner) in owners.iter().enumerate() {
        if let Some(shards) = owner.and_then(|owner| kept.get_mut(owner)) {
            shards.push(shard);
        }
    }
    // Who has most keeps the odd ones.
    let mut order: Vec<_> = kept.keys().copied().collect();
    order.sort_by_key(|node| std::cmp::Reverse(kept.get(node).map_or(0, Vec::len)));
    let (each, odd) = (owners.len() / nodes.len(), owners.len() % nodes.len());
    let mut room: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, node) in order.iter().enumerate() {
        let quota = each + usize::from(place < odd);
        let mut shards = kept.remove(node).unwrap_or_default();
        shards.sort_by_key(|shard| std::cmp::Reverse(score(node, *shard)));
        shards.truncate(quota);
        for shard in &shards {
            if let Some(planned) = plan.get_mut(*shard) {
                *planned = nodes.iter().map(String::as_str).find(|known| known == node);
            }
        }
        room.insert(node, quota - shards.len());
    }
    for (shard, planned) in plan.iter_mut().enumerate() {
        if planned.is_some() {
            continue;
        }
        let able = nodes.iter().map(String::as_str).filter(|node| room.get(node) > Some(&0));
        *planned = able.max_by_key(|node| score(node, shard));
        if let Some(left) = planned.and_then(|node| room.get_mut(node)) {
            *left -= 1;
        }
    }
    plan
}

/// The same on every machine and in every release: nodes of two releases share shards too.
fn score(node: &str, shard: usize) -> u64 {
    let bytes = node.bytes().chain(shard.to_string().into_bytes());
    // FNV-1a, then one round of mixing: its last byte alone would decide the order otherwise.
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|node| format!("node{node}")).collect()
    }

    fn loads(plan: &[Option<&str>]) -> Vec<usize> {
        let mut loads = BTreeMap::new();
        plan.iter().flatten().for_each(|node| *loads.entry(*node).or_insert(0) += 1);
        let mut loads: Vec<_> = loads.into_values().collect();
        loads.sort_unstable();
        loads
    }

    #[test]
    fn every_node_has_its_share_to_within_one() {
        for nodes in 1..=9 {
            let nodes = names(nodes);
            let plan = spread(&nodes, &vec![None; 64]);
            let loads = loads(&plan);
            assert_eq!(loads.iter().sum::<usize>(), 64);
            assert_eq!(loads.len(), nodes.len());
            assert!(loads.last().expect("nodes") - loads.first().expect("nodes") <= 1);
        }
    }

    #[test]
    fn a_plan_carried_out_in_any_part_stays_the_plan() {
        let nodes = names(3);
        let old = spread(nodes.split_at(2).0, &[None; 16]);
        let new = spread(&nodes, &old);
        for done in 0..=16 {
            // The first ones moved; among the others some are released and not yet taken.
            let between: Vec<_> = (0..16)
                .map(|shard| match shard {
                    _ if shard < done || old[shard] == new[shard] => new[shard],
                    _ if shard % 2 == 0 => None,
                    _ => old[shard],
                })
                .collect();
            assert_eq!(spread(&nodes, &between), new, "after {done}");
        }
    }

    #[test]
    fn a_node_that_joins_takes_its_share_and_nothing_else_moves() {
        let nodes = names(5);
        let old = spread(nodes.split_at(4).0, &[None; 60]);
        let new = spread(&nodes, &old);
        let moved = old.iter().zip(&new).filter(|(old, new)| old != new).count();
        assert_eq!(moved, 12);
    }

    #[test]
    fn what_a_lost_node_had_is_shared_by_the_others_and_nothing_else_moves() {
        let nodes = names(4);
        let old = spread(&nodes, &[None; 60]);
        let left = nodes.split_at(3).0;
        let new = spread(left, &old);
        let moved = old.iter().zip(&new).filter(|(old, new)| old != new).count();
        assert_eq!((moved, loads(&new)), (15, vec![20, 20, 20]));
    }
}
