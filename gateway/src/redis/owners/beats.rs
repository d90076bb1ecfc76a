//! Who is alive: whose counter moved lately, by our own clock and while we could hear.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A node is struck off the list after it was dead for so many leases.
const FORGET_AFTER: u32 = 10;

#[derive(Debug)]
pub(super) struct Beats {
    /// A counter that stands still for this long is a dead node's.
    limit: Duration,
    /// After a silence as long as this nobody is blamed for having been silent in it.
    deaf: Duration,
    heard: BTreeMap<String, Heard>,
    last: Option<Instant>,
    changes: u64,
}

#[derive(Clone, Debug)]
struct Heard {
    /// The counter as it stood there.
    said: String,
    moved: Instant,
    is_listed: bool,
}

/// Ends the counter of a node that wants no shards any more.
pub(super) const LEAVING: char = '-';

impl Beats {
    pub(super) fn new(limit: Duration, deaf: Duration) -> Self {
        Self { limit, deaf, heard: BTreeMap::new(), last: None, changes: 0 }
    }

    /// Takes in all counters as read at `now`; true if a node came or went, or a shard changed
    /// hands (`changes` counts these).
    pub(super) fn hear(
        &mut self,
        counts: BTreeMap<String, String>,
        changes: u64,
        now: Instant,
    ) -> bool {
        let heard_last = self.last.unwrap_or(now);
        let before = self.live(heard_last);
        let was_deaf = self.last.is_none_or(|last| now - last > self.deaf);
        for heard in self.heard.values_mut() {
            heard.is_listed = false;
            // Who was dead before the silence stays dead.
            if was_deaf && heard_last.saturating_duration_since(heard.moved) <= self.limit {
                heard.moved = now;
            }
        }
        for (node, said) in counts {
            match self.heard.get_mut(&node) {
                Some(heard) => {
                    heard.is_listed = true;
                    if heard.said != said {
                        (heard.said, heard.moved) = (said, now);
                    }
                }
                None => {
                    self.heard.insert(node, Heard { said, moved: now, is_listed: true });
                }
            }
        }
        // Who left the list is remembered for as long as it could still own a shard.
        let limit = self.limit;
        self.heard.retain(|_, heard| heard.is_listed || now - heard.moved <= limit);
        self.last = Some(now);
        let is_news = changes != self.changes || before != self.live(now);
        self.changes = changes;
        is_news
    }

    /// Nodes that beat and want shards, in the order of their ids.
    pub(super) fn live(&self, now: Instant) -> Vec<String> {
        let alive = self.heard.iter().filter(|(_, heard)| {
            let is_silent = now.saturating_duration_since(heard.moved) > self.limit;
            heard.is_listed && !is_silent && !heard.said.ends_with(LEAVING)
        });
        alive.map(|(node, _)| node.clone()).collect()
    }

    /// True if the owner of a shard has not beaten for long enough, or was never heard of: an
    /// owner is noted here before it takes anything.
    pub(super) fn is_dead(&self, node: &str, now: Instant) -> bool {
        let heard = self.heard.get(node);
        heard.is_none_or(|heard| now.saturating_duration_since(heard.moved) > self.limit)
    }

    /// Nodes dead for so long that they can be struck off, with the counter they stopped at.
    pub(super) fn forgettable(&self, now: Instant) -> Vec<(String, String)> {
        let long = self.limit * FORGET_AFTER;
        let dead = self.heard.iter().filter(|(_, heard)| {
            heard.is_listed && now.saturating_duration_since(heard.moved) > long
        });
        dead.map(|(node, heard)| (node.clone(), heard.said.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(4);
    const STEP: Duration = Duration::from_secs(1);

    fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(node, count)| ((*node).to_owned(), count.to_string())).collect()
    }

    #[test]
    fn a_node_whose_counter_stands_still_is_dead_after_the_limit() {
        let start = Instant::now();
        let mut beats = Beats::new(LIMIT, STEP * 2);
        for second in 0..=5 {
            let now = start + STEP * second;
            beats.hear(counts(&[("a", u64::from(second)), ("b", 7)]), 0, now);
            assert_eq!(beats.is_dead("b", now), second > 4, "after {second} s");
            assert!(!beats.is_dead("a", now));
        }
        assert_eq!(beats.live(start + STEP * 5), ["a"]);
    }

    #[test]
    fn nobody_is_dead_for_a_time_in_which_nothing_could_be_heard() {
        let start = Instant::now();
        let mut beats = Beats::new(LIMIT, STEP * 2);
        beats.hear(counts(&[("a", 1), ("b", 7)]), 0, start);
        let late = start + STEP * 60;
        beats.hear(counts(&[("a", 2), ("b", 7)]), 0, late);
        assert!(!beats.is_dead("b", late));
    }

    #[test]
    fn who_was_dead_before_a_silence_is_dead_after_it() {
        let start = Instant::now();
        let mut beats = Beats::new(LIMIT, STEP * 2);
        for second in 0..=5 {
            let count = u64::from(second);
            beats.hear(counts(&[("a", count), ("b", 7)]), 0, start + STEP * second);
        }
        let late = start + STEP * 60;
        beats.hear(counts(&[("a", 9), ("b", 7)]), 0, late);
        assert!(beats.is_dead("b", late));
        assert_eq!(beats.live(late), ["a"]);
    }

    #[test]
    fn a_node_that_leaves_is_alive_and_gets_nothing_more() {
        let start = Instant::now();
        let mut beats = Beats::new(LIMIT, STEP * 2);
        beats.hear(counts(&[("a", 1), ("b", 1)]), 0, start);
        let mut heard = counts(&[("a", 2)]);
        heard.insert(String::from("b"), String::from("2-"));
        assert!(beats.hear(heard, 0, start + STEP));
        assert_eq!(beats.live(start + STEP), ["a"]);
        assert!(!beats.is_dead("b", start + STEP));
    }

    #[test]
    fn changes_are_news_and_beats_are_not() {
        let start = Instant::now();
        let mut beats = Beats::new(LIMIT, STEP * 2);
        assert!(beats.hear(counts(&[("a", 1)]), 0, start));
        assert!(!beats.hear(counts(&[("a", 2)]), 0, start + STEP));
        assert!(beats.hear(counts(&[("a", 3)]), 1, start + STEP));
        assert!(beats.hear(counts(&[("a", 4), ("b", 1)]), 1, start + STEP));
        assert!(beats.hear(counts(&[("a", 5)]), 1, start + STEP));
    }
}
