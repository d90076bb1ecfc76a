//! What is kept of a notification and for how long, and reading it a few blocks at a time.

use super::nodes::{ORG, SHARD, World, claim, delivery, done, entry, put, settle};
use super::*;
use crate::journal::Resolution;
use crate::redis::RedisOptions;

/// Progress on an entry, told in `event`.
fn progress(claim: &Claim, event: Bytes) -> Settlement {
    let resolved = vec![(delivery(claim), Resolution::Moved)];
    Settlement { resolved, events: vec![event], done: false, ..done(claim) }
}

async fn all_after(journal: &RedisJournal, id: NotificationId, limit: usize) -> Vec<Bytes> {
    let (mut events, mut after) = (Vec::new(), None);
    loop {
        let page = journal.events_after(ORG, id, after, limit).await.expect("readable");
        assert!(page.len() <= limit);
        let Some((last, _)) = page.last() else { return events };
        after = Some(*last);
        events.extend(page.into_iter().map(|(_, event)| event));
    }
}

async fn all_before(journal: &RedisJournal, id: NotificationId, limit: usize) -> Vec<Bytes> {
    let (mut events, mut before) = (Vec::new(), None);
    loop {
        let page = journal.events_before(ORG, id, before, limit).await.expect("readable");
        assert!(page.len() <= limit);
        let Some((last, _)) = page.last() else { return events };
        before = Some(*last);
        events.extend(page.into_iter().map(|(_, event)| event));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_events_are_read_out_of_a_few_blocks() {
    let world = World::new(RedisOptions::default()).await;
    let owner = world.owner().await;
    put(&owner, vec![entry("a", world.clock.now())]).await;
    let claims = claim(&owner).await;
    let id = claims[0].notification;
    let told: Vec<_> = (0..60).map(|n| Bytes::from(format!("event {n}"))).collect();
    for event in &told {
        settle(&owner, progress(&claims[0], event.clone())).await.expect("settled");
    }
    assert_eq!(all_after(&owner, id, 7).await, told);
    let mut newest: Vec<_> = told.clone();
    newest.reverse();
    assert_eq!(all_before(&owner, id, 7).await, newest);
    let timeline = owner.timeline(ORG, id).await.expect("readable").expect("known");
    assert_eq!((timeline.root, timeline.events), (Some(Bytes::from_static(b"a")), told));
    world.server.ask(&["CONFIG", "RESETSTAT"]).expect("reset");
    assert_eq!(owner.events_after(ORG, id, None, 1).await.expect("readable").len(), 1);
    let stats = world.server.ask(&["INFO", "commandstats"]).expect("told").text();
    let reads = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xrange:calls="));
    let reads = reads.and_then(|line| line.split(',').next()?.parse::<u32>().ok());
    assert!(reads.is_some_and(|reads| reads < 30), "of 60 blocks: {reads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_outcomes_ends_when_it_is_large() {
    let world = World::new(RedisOptions::default()).await;
    let owner = world.owner().await;
    let large = Bytes::from(vec![b'e'; 1 << 20]);
    for n in 0..10 {
        put(&owner, vec![entry(&n.to_string(), world.clock.now())]).await;
        let claims = claim(&owner).await;
        let ended = Settlement { events: vec![large.clone()], ..done(&claims[0]) };
        settle(&owner, ended).await.expect("settled");
    }
    let (from, to) = (Millis(0), world.clock.now());
    let mut query = SettledQuery { org: ORG, from, to, states: u8::MAX, before: None };
    let (mut pages, mut places) = (0, Vec::new());
    loop {
        let page = owner.settled(query, 100).await.expect("readable");
        places.extend(page.blocks.iter().map(|block| block.place));
        pages += 1;
        let Some(next) = page.next else { break };
        query.before = Some(next);
    }
    assert!(pages > 1, "all of it at once");
    assert_eq!(places.len(), 10);
    assert!(places.is_sorted_by(|newer, older| newer > older), "each once: {places:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tells_of_an_open_entry_stays_as_long_as_the_entry() {
    let world = World::new(RedisOptions::default()).await;
    // Finished blocks go at once.
    let owner = world.node(RedisJournalOptions { log_bytes_max: 1, ..small_options() }).await;
    own(&world.redis, &owner).await;
    let now = world.clock.now();
    put(&owner, vec![entry("open", now)]).await;
    let open = claim(&owner).await;
    let plan = Bytes::from_static(b"plan");
    settle(&owner, progress(&open[0], plan.clone())).await.expect("settled");
    put(&owner, vec![entry("over", now)]).await;
    let over = claim(&owner).await;
    settle(&owner, done(&over[0])).await.expect("settled");
    let key = String::from_utf8(world.redis.key(SHARD, "q")).expect("text");
    let length = async || world.server.ask(&["XLEN", &key]).expect("answers").number();
    until("what is finished goes", async || length().await == 2).await;
    assert_eq!(all_after(&owner, open[0].notification, 10).await, [plan]);
    settle(&owner, done(&open[0])).await.expect("settled");
    until("all goes with the entry", async || length().await == 0).await;
    let later = String::from_utf8(world.redis.key(SHARD, "later")).expect("text");
    assert_eq!(world.server.ask(&["EXISTS", &later]).expect("answers").number(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_planned_beyond_retention_is_found_until_it_is_over() {
    let world = World::new(RedisOptions::default()).await;
    let owner = world.owner().await;
    let month = Duration::from_hours(30 * 24);
    let ms = u64::try_from(month.as_millis()).expect("small");
    let planned = entry("planned", world.clock.now().plus(ms));
    let id = planned.notification;
    put(&owner, vec![planned]).await;
    let key = world.redis.key(SHARD, &format!("w:{}", rows::bucket(id)));
    let key = String::from_utf8(key).expect("text");
    let kept = || world.server.ask(&["PTTL", &key]).expect("answers").number();
    assert!(kept() > i64::try_from(ms).expect("small"), "gone before it is sent");
    let wish = Cancellation { notification: id, org: ORG, event: Bytes::from_static(b"told") };
    owner.cancel(SHARD, wish).expect("accepted").await.expect("committed");
    assert!(kept() > i64::try_from(ms).expect("small"), "what is told of it later ends it earlier");
}
