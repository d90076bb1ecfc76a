//! Whom one organization's or one provider's trouble reaches, and whom it does not.

use super::*;
use crate::journal::Cancellation;
use crate::model::{Endpoint, OnUnknown, Secret, TargetPolicy};
use crate::store::Change;
use crate::vault::Owner;
use crate::work::encode_event;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

const HOOKED: &str = "hooked";

impl World {
    async fn hooks(
        script: impl Fn(&Delivery) -> Option<Outcome> + Send + Sync + 'static,
        policy: TargetPolicy,
    ) -> Self {
        let mut world = Self::new(1, Arc::new(NoRules), |_| Some(Outcome::Delivered)).await;
        world.dispatcher.take().expect("running").drain(Duration::ZERO).await;
        world.webhook = scripted(ProviderName::Webhook, script);
        let [mut hook] = <[_; 1]>::try_from(world.subscriptions().await).expect("one hook");
        hook.policy = policy;
        world.store.apply(vec![Change::PutSubscription(hook)]).await.expect("applied");
        world.start(Arc::new(NoRules));
        world
    }

    /// Ends the dispatcher and makes the hook one of Slack that takes several messages in one.
    async fn merging_slack(&mut self) -> Arc<Scripted> {
        self.dispatcher.take().expect("running").drain(Duration::ZERO).await;
        let [mut hook] = <[_; 1]>::try_from(self.subscriptions().await).expect("one hook");
        hook.policy.merges_overflow = true;
        let url = Secret::new("https://hooks.example.com/x");
        hook.endpoint = Endpoint::Slack {
            url: self.store.vault().seal(Owner(hook.org, hook.id), &url),
            team: String::from("t"),
            channel: String::from("c"),
        };
        self.store.apply(vec![Change::PutSubscription(hook)]).await.expect("applied");
        let slack = scripted(ProviderName::Slack, |_| Some(Outcome::Delivered));
        self.slack = Some(Arc::clone(&slack));
        slack
    }

    async fn subscriptions(&self) -> Vec<crate::model::Subscription> {
        self.store.subscriptions(ORG, HOOKED).await.expect("readable")
    }

    async fn hook(&self) -> NotificationId {
        self.accept(Audience::Subscriptions, HOOKED).await
    }

    fn called(&self) -> Vec<u16> {
        self.webhook.sent.lock().iter().map(|(_, attempt)| *attempt).collect()
    }

    async fn settled_after(&self, step: Duration) {
        self.until("everything is settled", step, async |w| {
            (0..w.journal.shards()).all(|s| w.journal.backlog(ShardId(s)).pending == 0)
        })
        .await;
    }
}

fn unknown() -> Outcome {
    Outcome::Unknown { cause: "timeout" }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_of_is_sent_again_held_or_given_up_as_the_target_says() {
    for (on_unknown, tries, letters) in
        [(OnUnknown::Resend, 10, 1), (OnUnknown::Hold, 1, 1), (OnUnknown::GiveUp, 1, 0)]
    {
        let policy = TargetPolicy { on_unknown, ..TargetPolicy::default() };
        let world = World::hooks(|_| Some(unknown()), policy).await;
        let id = world.hook().await;
        let step = Duration::from_mins(30);
        world.until("an end", step, async |w| !w.finals(id).await.is_empty()).await;
        assert_eq!(world.finals(id).await, [FinalState::Dead], "{on_unknown:?}");
        assert_eq!(world.called().len(), tries, "{on_unknown:?}");
        let kept = world.journal.dead_letters(10).await.expect("readable");
        assert_eq!(kept.len(), letters, "{on_unknown:?}");
        let events = world.events(id).await;
        let is_unknown = |event: &TimelineEvent| matches!(event, TimelineEvent::Attempted { outcome, .. } if outcome == "unknown");
        assert_eq!(events.iter().filter(|event| is_unknown(event)).count(), tries);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_tried_inside_a_gate_and_the_wait_costs_no_tries() {
    let first = AtomicBool::new(true);
    let hour = Duration::from_hours(1);
    let script = move |_: &Delivery| {
        let is_first = first.swap(false, SeqCst);
        Some(if is_first {
            Outcome::Retry { after: Some(hour), cause: "http_429" }
        } else {
            Outcome::Delivered
        })
    };
    let world = World::hooks(script, TargetPolicy::default()).await;
    world.hook().await;
    world.until("the first is tried", Duration::ZERO, async |w| w.called().len() == 1).await;
    let told = world.clock.now();
    // Until that answer is taken in, others may still go out.
    world
        .until("it waits for its time", Duration::ZERO, async |w| {
            (0..2).map(|s| w.journal.backlog(ShardId(s)).timers).sum::<u64>() == 1
        })
        .await;
    for _ in 0..20 {
        world.hook().await;
    }
    world
        .until("all wait in the journal", Duration::ZERO, async |w| {
            (0..2).map(|s| w.journal.backlog(ShardId(s)).timers).sum::<u64>() == 21
        })
        .await;
    assert_eq!(world.called().len(), 1);
    world.settled_after(Duration::from_secs(20)).await;
    assert!(world.clock.now().since(told) >= 3_600_000, "an hour passed");
    let tries = world.called();
    assert_eq!(tries.len(), 22);
    assert_eq!(tries.iter().filter(|attempt| **attempt == 2).count(), 1, "{tries:?}");
    assert_eq!(world.books().finals, [21, 0, 0, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_probed_and_not_hammered() {
    let is_dead = Arc::new(AtomicBool::new(true));
    let dead = Arc::clone(&is_dead);
    let script =
        move |_: &Delivery| Some(if dead.load(SeqCst) { retry() } else { Outcome::Delivered });
    let world = World::hooks(script, TargetPolicy::default()).await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(world.hook().await);
    }
    world
        .until("nobody is asked any more", Duration::ZERO, async |w| {
            (0..2).map(|s| w.journal.backlog(ShardId(s)).timers).sum::<u64>() == 40
        })
        .await;
    let before = world.called().len();
    assert!(before < 40, "the breaker opened after {before} tries");
    is_dead.store(false, SeqCst);
    world.settled_after(Duration::from_secs(1)).await;
    assert_eq!(world.books().finals, [40, 0, 0, 0, 0, 0]);
    assert_eq!(world.called().len(), 40 + before, "the open time costs no tries");
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_order_holds_across_a_restart() {
    let policy = TargetPolicy { keeps_order: true, ..TargetPolicy::default() };
    let order = Arc::new(Mutex::new(Vec::new()));
    let failures = Arc::new(AtomicUsize::new(0));
    let script = |order: &Arc<Mutex<Vec<NotificationId>>>, failures: &Arc<AtomicUsize>| {
        let (order, failures) = (Arc::clone(order), Arc::clone(failures));
        move |delivery: &Delivery| {
            if failures.fetch_add(1, SeqCst) == 0 {
                return Some(retry());
            }
            order.lock().push(delivery.notification.id);
            Some(Outcome::Delivered)
        }
    };
    let mut world = World::hooks(script(&order, &failures), policy).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.hook().await);
    }
    world
        .until("the others wait behind the first", Duration::ZERO, async |w| {
            (0..2).map(|s| w.journal.backlog(ShardId(s)).timers).sum::<u64>() == 5
        })
        .await;
    world.dispatcher.take().expect("running").drain(Duration::ZERO).await;
    world.start(Arc::new(NoRules));
    // Accepted after the restart, before the first is due again.
    ids.push(world.hook().await);
    world.settled_after(Duration::from_millis(100)).await;
    assert_eq!(*order.lock(), ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_with_one_collapse_key_only_the_newer_goes_out() {
    let world =
        World::hooks(|_| None, TargetPolicy { keeps_order: true, ..TargetPolicy::default() }).await;
    // One hangs, so that the others wait.
    world.hook().await;
    world.until("it is in flight", Duration::ZERO, async |w| w.called().len() == 1).await;
    let older = world.collapsing("k").await;
    world.until("it waits", Duration::ZERO, async |w| w.waits() == 1).await;
    let other = world.collapsing("other").await;
    world.until("it waits, too", Duration::ZERO, async |w| w.waits() == 2).await;
    world.collapsing("k").await;
    world.until("an end", Duration::ZERO, async |w| !w.finals(older).await.is_empty()).await;
    assert_eq!(world.finals(older).await, [FinalState::Suppressed]);
    let events = world.events(older).await;
    assert!(events.iter().any(|event| matches!(event,
        TimelineEvent::Settled { cause, .. } if cause == "collapsed")));
    assert!(world.finals(other).await.is_empty());
    assert_eq!(world.waits(), 2);
}

impl World {
    fn waits(&self) -> usize {
        self.dispatcher.as_ref().expect("running").waiting()
    }

    async fn collapsing(&self, key: &str) -> NotificationId {
        let id = NotificationId(Uuid::now_v7());
        let mut notification = self.notification(id, Audience::Subscriptions, HOOKED);
        notification.collapse_key = Some(key.to_owned());
        self.append(notification).await;
        id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_without_a_success_for_five_days_is_disabled_and_a_restart_does_not_forget() {
    let mut world = World::hooks(|_| Some(retry()), TargetPolicy::default()).await;
    world.hook().await;
    let ended = async |w: &World| w.books().finals.iter().sum::<u64>() == 1;
    world.until("given up", Duration::from_mins(20), ended).await;
    let failing = world.store.failing().await.expect("readable");
    assert_eq!(failing.len(), 1);
    world.dispatcher.take().expect("running").drain(Duration::ZERO).await;
    world.start(Arc::new(NoRules));
    world.clock.advance(Duration::from_hours(120));
    assert_eq!(world.subscriptions().await.len(), 1);
    let last = world.hook().await;
    world.until("the last", Duration::ZERO, async |w| !w.finals(last).await.is_empty()).await;
    assert_eq!(world.finals(last).await, [FinalState::Rejected]);
    assert!(world.subscriptions().await.is_empty(), "disabled");
    assert!(world.store.failing().await.expect("readable").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_holds_everything_and_uses_up_nobodys_tries() {
    let is_wrong = Arc::new(AtomicBool::new(true));
    let wrong = Arc::clone(&is_wrong);
    let world = World::new(20, Arc::new(NoRules), move |_| {
        let wrong = wrong.load(SeqCst);
        Some(if wrong { Outcome::Hold { cause: "forbidden" } } else { Outcome::Delivered })
    })
    .await;
    for user in 1..=20 {
        world.accept(users(&[user]), "x").await;
    }
    world.until("a try", Duration::ZERO, async |w| !w.sent().is_empty()).await;
    let start = world.clock.now();
    let half_a_day = async |w: &World| w.clock.now().since(start) > 12 * 3_600_000;
    world.until("half a day", Duration::from_secs(60), half_a_day).await;
    let tries = world.sent();
    // Those in flight at first, then a probe a minute and later one in ten minutes.
    assert!((5..=140).contains(&tries.len()), "{}", tries.len());
    assert!(tries.iter().all(|(_, attempt)| *attempt == 1), "no try is counted");
    is_wrong.store(false, SeqCst);
    world.settled_after(Duration::from_secs(20)).await;
    assert_eq!(world.books().finals, [20, 0, 0, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn overflow_of_a_slack_hook_goes_out_as_one_message_and_each_has_its_own_outcome() {
    let mut world = World::hooks(|_| Some(Outcome::Delivered), TargetPolicy::default()).await;
    let slack = world.merging_slack().await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(world.hook().await);
    }
    world.start(Arc::new(NoRules));
    world.settled().await;
    let bodies = slack.bodies.lock().clone();
    let merged: Vec<_> = bodies.iter().map(|body| body.lines().nth(2)).collect();
    assert_eq!(merged, [None, None, Some("7 more:")], "{bodies:?}");
    for id in ids {
        world.until("an outcome", Duration::ZERO, async |w| !w.finals(id).await.is_empty()).await;
        assert_eq!(world.finals(id).await, [FinalState::Delivered]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_canceled_while_it_waits_does_not_go_out_within_another() {
    let mut world = World::hooks(|_| Some(Outcome::Delivered), TargetPolicy::default()).await;
    let slack = world.merging_slack().await;
    world.start(Arc::new(NoRules));
    for sent in 1..=3 {
        world.hook().await;
        world.until("sent", Duration::ZERO, async |_| slack.sent.lock().len() == sent).await;
    }
    world.settled().await;
    let mut ids = Vec::new();
    for waiting in 1..=4 {
        ids.push(world.hook().await);
        world.until("it waits", Duration::ZERO, async |w| w.waits() == waiting).await;
    }
    let canceled = ids[2];
    let by = String::from("test");
    let event = encode_event(&TimelineEvent::Canceled { at: world.clock.now(), by });
    let cancellation = Cancellation { notification: canceled, org: ORG, event };
    let commit = world.journal.cancel(ShardId(0), cancellation).expect("taken");
    commit.await.expect("committed");
    // Just when the hook takes its next, which is the last for a while.
    world.clock.advance(Duration::from_secs(1));
    world.settled().await;
    let bodies = slack.bodies.lock().clone();
    let last = bodies.last().expect("sent");
    assert_eq!((bodies.len(), last.lines().nth(2)), (4, Some("2 more:")), "{bodies:?}");
    for id in ids {
        world.until("an end", Duration::ZERO, async |w| !w.finals(id).await.is_empty()).await;
        let is_canceled = id == canceled;
        let end = if is_canceled { FinalState::Suppressed } else { FinalState::Delivered };
        assert_eq!(world.finals(id).await, [end]);
    }
}

#[test]
fn a_merged_message_says_what_it_stands_for() {
    let shown = finish::merged_body("first", &["second", "third"].map(String::from));
    assert_eq!(shown, "first\n\n2 more:\n• second\n• third");
    let many: Vec<_> = (0..30).map(|n| n.to_string()).collect();
    assert!(finish::merged_body("", &many).ends_with("\n… and 10 others"));
}
