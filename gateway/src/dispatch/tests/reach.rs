//! What rules are told of targets: when one answered last, and how often it failed since.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_told_how_a_target_did_of_late() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    let rules = Told(Box::new(move |item: &RouteItem| {
        let target = &item.recipient.targets[0];
        log.lock().push((target.last_ok_at.is_some(), target.recent_failures, item.attempt));
        Verdict::Deliver(Plan::all_targets(item.recipient.targets.len()))
    }));
    let is_well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answers = Arc::clone(&is_well);
    let world = World::new(1, Arc::new(rules), move |_| {
        let is_well = answers.load(std::sync::atomic::Ordering::SeqCst);
        Some(if is_well { Outcome::Delivered } else { Outcome::Rejected { cause: "bad" } })
    })
    .await;
    for (round, well) in [(1, false), (2, false), (3, true), (4, true)] {
        is_well.store(well, std::sync::atomic::Ordering::SeqCst);
        let id = world.accept(users(&[1]), "x").await;
        world.until("it ends", Duration::ZERO, async |w| w.finals(id).await.len() == 1).await;
        assert_eq!(told.lock().len(), round);
    }
    let expected = [(false, 0, 1), (false, 1, 1), (false, 2, 1), (true, 0, 1)];
    assert_eq!(*told.lock(), expected);
    world.settled().await;
}
