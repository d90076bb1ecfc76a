//! Who gets an entry in the inbox, and that nobody else pays for inboxes.

use super::*;
use crate::model::InboxState;
use crate::store::Inboxes;

impl World {
    async fn entry(&self, user: i64, id: NotificationId) -> Option<InboxState> {
        let row = self.store.inbox_entry(UserId(user), id).await.expect("readable");
        row.map(|row| row.entry.state)
    }

    async fn noted(&self, id: NotificationId) -> Option<(u32, u32, u32)> {
        self.events(id).await.into_iter().find_map(|event| match event {
            TimelineEvent::Noted { entries, alone, deliveries, .. } => {
                Some((entries, alone, deliveries))
            }
            _ => None,
        })
    }
}

fn verdicts(answer: impl Fn(&str) -> Verdict + Send + Sync + 'static) -> Arc<dyn RuleEngine> {
    Arc::new(Told(Box::new(move |item| answer(&item.recipient.id))))
}

fn all() -> Verdict {
    Verdict::Deliver(Plan::all_targets(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_rule_drops_gets_no_entry() {
    let drop = || Verdict::Drop { rule: String::from("r"), code: String::from("c") };
    let rules = verdicts(move |id| if id == "1" { drop() } else { all() });
    let world = World::new(2, rules, |_| Some(Outcome::Delivered)).await;
    let id = world.accept(users(&[1, 2, 77]), INBOXED).await;
    world.settled().await;
    assert_eq!(world.entry(1, id).await, None);
    assert_eq!(world.entry(2, id).await, Some(InboxState::Sent));
    world.until("noted", Duration::ZERO, async |w| w.noted(id).await.is_some()).await;
    assert_eq!(world.noted(id).await, Some((1, 0, 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_rule_holds_gets_its_entry_when_it_is_let_go() {
    let until = START.plus(60_000);
    let held = std::sync::atomic::AtomicBool::new(true);
    let rules = verdicts(move |_| {
        if held.swap(false, std::sync::atomic::Ordering::Relaxed) {
            Verdict::HoldUntil(until)
        } else {
            all()
        }
    });
    let world = World::new(1, rules, |_| Some(Outcome::Delivered)).await;
    let id = world.accept(users(&[1]), INBOXED).await;
    world.until("held", Duration::ZERO, async |w| w.events(id).await.len() >= 2).await;
    assert_eq!(world.entry(1, id).await, None);
    let step = Duration::from_secs(10);
    world.until("sent", step, async |w| w.entry(1, id).await == Some(InboxState::Sent)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_notifications_leave_no_trace_in_inboxes() {
    let world = World::new(1, Arc::new(NoRules), |_| Some(Outcome::Delivered)).await;
    let id = world.accept(users(&[1]), "x").await;
    world.settled().await;
    assert_eq!(world.entry(1, id).await, None);
    let head = world.store.inbox_head(UserId(1)).await.expect("readable");
    assert_eq!(head.revision, 0);
    assert_eq!(world.noted(id).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_settled_again_after_a_restart_moves_its_entry_once() {
    let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mute = Arc::clone(&first);
    let push = move |_: &Delivery| {
        let is_mute = mute.load(std::sync::atomic::Ordering::Relaxed);
        (!is_mute).then_some(Outcome::Delivered)
    };
    let mut world = World::new(1, Arc::new(NoRules), push).await;
    let id = world.accept(users(&[1]), INBOXED).await;
    let queued = Some(InboxState::Queued);
    world.until("queued", Duration::ZERO, async |w| w.entry(1, id).await == queued).await;
    world.dispatcher.take().expect("running").drain(Duration::ZERO).await;
    first.store(false, std::sync::atomic::Ordering::Relaxed);
    // The lease of the first run must end before the second can claim.
    world.clock.advance(Duration::from_hours(10_001));
    world.start(Arc::new(NoRules));
    let ended =
        async |w: &World| w.entry(1, id).await.is_some_and(|state| state != InboxState::Queued);
    world.until("an end", Duration::from_millis(600), ended).await;
    let head = world.store.inbox_head(UserId(1)).await.expect("readable");
    assert_eq!(head.revision, 2, "made once, moved once");
}
