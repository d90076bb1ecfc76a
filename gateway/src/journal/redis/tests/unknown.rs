//! Requests of which nobody knows whether they happened, and what their callers are told.

use super::nodes::{
    ORG, SHARD, World, claim, done, entry, hasty, nothing_to_claim, put, settle, texts,
};
use super::*;
use crate::journal::IdempotencyRecord;
use crate::redis::RedisOptions;

/// Appends an entry under a key.
fn keyed(world: &World, journal: &RedisJournal, text: &str, key: u8) -> Commit {
    let now = world.clock.now();
    let answer = Bytes::copy_from_slice(text.as_bytes());
    let record = IdempotencyRecord { key: [key; 16], body: [9; 16], created: now, answer };
    let append = Append { entries: vec![entry(text, now)], idempotency: vec![record] };
    journal.append(SHARD, append).expect("accepted")
}

async fn answer_of(world: &World, journal: &RedisJournal, key: u8) -> Option<Bytes> {
    match journal.remembered([key; 16], world.clock.now()).await.expect("readable") {
        Remembered::Yes { answer, .. } => Some(answer),
        Remembered::No => None,
    }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let work = tokio::time::timeout(Duration::from_secs(20), work).await;
    work.unwrap_or_else(|_| panic!("never happened: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_for_each_key_is_stored_and_its_neighbours_are_too() {
    let world = World::new(RedisOptions::default()).await;
    let owner = world.owner().await;
    let cell = Arc::clone(&owner.core.cells[0]);
    let log = cell.log.lock().await;
    let first = keyed(&world, &owner, "first", 1);
    until("the lane has it", async || cell.waiting.lock().plain.is_empty()).await;
    // These go together.
    let again = keyed(&world, &owner, "again", 1);
    let other = keyed(&world, &owner, "other", 2);
    drop(log);
    let used = Err(JournalError::KeyUsed);
    assert_eq!(tokio::join!(first, again, other), (Ok(()), used, Ok(())));
    let mut found = Vec::new();
    while found.len() < 2 {
        found.extend(texts(&claim(&owner).await));
    }
    assert_eq!(found, ["first", "other"]);
    nothing_to_claim(&owner).await;
    assert_eq!(answer_of(&world, &owner, 1).await, Some(Bytes::from_static(b"first")));
    assert_eq!(owner.books().accepted, 2);
    // Its time is over by the clock of the nodes, though Redis has it still.
    world.clock.advance(Duration::from_hours(25));
    assert_eq!(keyed(&world, &owner, "later", 1).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_nothing_and_asks_again_does_not_get_a_second_one() {
    let (world, owner) = hasty(Duration::from_millis(300)).await;
    world.server.freeze();
    assert_eq!(keyed(&world, &owner, "first", 1).await, Err(JournalError::Unknown));
    world.server.thaw();
    // Refused behind the first while that does not get through, and for its key afterwards.
    loop {
        match keyed(&world, &owner, "again", 1).await {
            Err(JournalError::KeyUsed) => break,
            Err(JournalError::Full | JournalError::Unknown) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(texts(&claim(&owner).await), ["first"]);
    nothing_to_claim(&owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_work_does_not_wait_for_additions_that_redis_has_no_memory_for() {
    let world = World::new(RedisOptions::default()).await;
    let patience = Duration::from_hours(1);
    let owner = world.node(RedisJournalOptions { patience, ..small_options() }).await;
    own(&world.redis, &owner).await;
    put(&owner, vec![entry("a", world.clock.now())]).await;
    let claims = claim(&owner).await;
    world.server.ask(&["CONFIG", "SET", "maxmemory", "1"]).expect("set");
    let refused = within("an answer", keyed(&world, &owner, "b", 1)).await;
    assert_eq!(refused, Err(JournalError::Full));
    within("an end", settle(&owner, done(&claims[0]))).await.expect("settled");
    world.server.ask(&["CONFIG", "SET", "maxmemory", "0"]).expect("set");
    put(&owner, vec![entry("c", world.clock.now())]).await;
    assert_eq!(texts(&claim(&owner).await), ["c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_what_was_taken_is_told_when_nobody_knows() {
    let (world, owner) = hasty(Duration::from_millis(300)).await;
    let later = entry("later", world.clock.now().plus(60_000));
    let id = later.notification;
    put(&owner, vec![later]).await;
    let taken = owner.take(SHARD, ORG, id).await.expect("readable").expect("waiting");
    world.server.freeze();
    let answer = within("an answer", settle(&owner, done(&taken))).await;
    assert_eq!(answer, Err(JournalError::Unknown));
    world.server.thaw();
    until("it is ended", async || owner.backlog(SHARD) == Backlog::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_and_not_answered_when_a_node_stops_is_unknown() {
    let options = RedisOptions { timeout: Duration::from_millis(100), ..RedisOptions::default() };
    let world = World::new(options).await;
    let patience = Duration::from_hours(1);
    let owner = world.node(RedisJournalOptions { patience, ..small_options() }).await;
    own(&world.redis, &owner).await;
    world.server.freeze();
    let sent = keyed(&world, &owner, "sent", 1);
    until("writing fails", async || owner.core.cells[0].failing.lock().is_some()).await;
    owner.close().await;
    assert_eq!(within("an answer", sent).await, Err(JournalError::Unknown));
    let append = Append { entries: vec![entry("b", world.clock.now())], idempotency: Vec::new() };
    assert!(matches!(owner.append(SHARD, append), Err(JournalError::Closed)));
    world.server.thaw();
}
