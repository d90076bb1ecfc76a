//! The shipped rules and the order of the chain.

use super::*;
use crate::model::Millis;

fn at(text: &str) -> Millis {
    let ms = text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    Millis(u64::try_from(ms).unwrap())
}

/// A notification that lives three days from `now`.
fn item_at(now: Millis, tz: &str) -> RouteItem {
    let mut asked = item(1, "night");
    asked.recipient.tz = Some(tz.into());
    Arc::get_mut(&mut asked.notification).unwrap().expires_at = Some(now.plus(72 * HOUR));
    asked
}

#[tokio::test]
async fn quiet_hours_end_by_the_recipients_own_clock() {
    let rules = start(vec![rule("quiet-hours", &[])]);
    for (now, tz, wake) in [
        ("2026-03-29T01:30:00Z", "Europe/Kyiv", "2026-03-29T04:00:00Z"),
        ("2026-03-08T06:30:00Z", "America/New_York", "2026-03-08T11:00:00Z"),
        ("2026-11-01T05:45:00Z", "America/New_York", "2026-11-01T12:00:00Z"),
        ("2026-01-10T20:00:00Z", "Europe/Kyiv", "2026-01-11T05:00:00Z"),
    ] {
        let now = at(now);
        let routed = rules.route(now, vec![item_at(now, tz)]).await.swap_remove(0);
        assert_eq!(routed.verdict, Verdict::HoldUntil(at(wake)), "{tz}");
        assert_eq!(words(&routed), ["hold-until/quiet_hours"]);
    }
    for now in ["2026-01-10T19:59:59Z", "2026-01-11T05:00:00Z"] {
        let now = at(now);
        let routed = rules.route(now, vec![item_at(now, "Europe/Kyiv")]).await.swap_remove(0);
        assert_eq!(words(&routed), ["abstain/awake"]);
    }
}

#[tokio::test]
async fn quiet_hours_may_end_in_a_gap_of_the_clock() {
    let rules = start(vec![rule("quiet-hours", &[("to", "02:30")])]);
    let now = at("2026-03-08T06:30:00Z");
    let routed = rules.route(now, vec![item_at(now, "America/New_York")]).await.swap_remove(0);
    assert_eq!(routed.verdict, Verdict::HoldUntil(at("2026-03-08T07:00:00Z")));
}

#[tokio::test]
async fn a_hold_or_drop_ends_the_chain() {
    let quiet = rule("quiet-hours", &[("from", "00:00"), ("to", "23:59")]);
    let off = rule("event-routing", &[("route.build", "none")]);
    let held = ask_one(&start(vec![quiet.clone(), off.clone()]), item(1, "x")).await;
    assert_eq!(words(&held), ["hold-until/quiet_hours"]);
    let dropped = ask_one(&start(vec![off, quiet]), item(1, "x")).await;
    assert_eq!(words(&dropped), ["drop/event_off"]);
    let expected = Verdict::Drop { rule: "event-routing".into(), code: "event_off".into() };
    assert_eq!(dropped.verdict, expected);
}

#[tokio::test]
async fn each_rule_sees_the_plan_of_the_one_before() {
    let first = rule("event-routing", &[("route.*", "slack")]);
    let second =
        RuleConfig { name: "second".into(), ..rule("event-routing", &[("route.*", "apns,fcm")]) };
    let routed = ask_one(&start(vec![first, second]), item(1, "x")).await;
    assert_eq!(words(&routed), ["deliver/routed", "drop/no_such_target"]);
}

#[tokio::test]
async fn a_mailbox_is_no_webhook_to_rules_that_know_mail_and_to_the_settings() {
    let mail = || {
        let mut asked = item(1, "x");
        let (provider, app) = (ProviderName::Email, String::from("email"));
        let handle = String::from("email:7");
        let view = TargetView { provider, handle, app, last_ok_at: None, recent_failures: 0 };
        asked.recipient.targets.push(view);
        asked
    };
    for (route, expected) in [("email", vec![2]), ("apns,email", vec![0, 2]), ("slack", vec![1])] {
        let rules = start(vec![rule("event-routing", &[("route.*", route)])]);
        assert_eq!(steps(&ask_one(&rules, mail()).await), [expected], "{route}");
    }
    let rules = start(vec![rule("event-routing", &[("route.*", "webhook")])]);
    assert_eq!(words(&ask_one(&rules, mail()).await), ["drop/no_such_target"]);
    let mut only = rule("event-routing", &[("route.*", "none")]);
    only.matches = RuleMatch { channels: vec![ProviderName::Email], ..RuleMatch::default() };
    let rules = start(vec![only]);
    assert_eq!(words(&ask_one(&rules, mail()).await), ["drop/event_off"]);
    assert_eq!(words(&ask_one(&rules, item(1, "x")).await), ["skipped/no_match"]);
}

#[tokio::test]
async fn an_organizations_own_setting_wins() {
    let mut routing = rule("event-routing", &[("route.*", "slack")]);
    let own = BTreeMap::from([("route.*".to_owned(), "apns".to_owned())]);
    routing.config_for_org.insert("2".into(), own);
    let rules = start(vec![routing]);
    let routed = rules.route(NOON, vec![item(1, "x"), item(2, "x"), item(1, "y")]).await;
    assert_eq!(routed.iter().map(steps).collect::<Vec<_>>(), [[[1]], [[0]], [[1]]]);
}

#[tokio::test]
async fn a_rule_is_not_asked_where_it_does_not_apply() {
    let matches = RuleMatch {
        events: vec!["*".into(), "!security.*".into()],
        channels: vec![ProviderName::Slack],
        priorities: vec![Priority::Normal],
        recipients: vec![RecipientKind::User],
        ..RuleMatch::default()
    };
    let off = RuleConfig { matches, ..rule("event-routing", &[("route.*", "none")]) };
    let rules = start(vec![off]);
    let changed = |change: fn(&mut RouteItem, &mut Notification)| {
        let mut asked = item(1, "x");
        let mut notification = (*asked.notification).clone();
        change(&mut asked, &mut notification);
        asked.notification = Arc::new(notification);
        asked
    };
    let items = vec![
        changed(|_, _| {}),
        changed(|_, notification| notification.event = "security.login".into()),
        changed(|_, notification| notification.priority = Priority::Critical),
        changed(|asked, _| asked.recipient.kind = RecipientKind::Subscription),
        changed(|asked, _| drop(asked.recipient.targets.pop())),
    ];
    let routed = rules.route(NOON, items).await;
    assert_eq!(words(&routed[0]), ["drop/event_off"]);
    for skipped in &routed[1..] {
        assert_eq!(words(skipped), ["skipped/no_match"]);
        assert_eq!(steps(skipped).len(), 1);
    }
}

#[tokio::test]
async fn more_items_than_one_batch_holds_are_answered_in_order() {
    let rules =
        start(vec![rule("event-routing", &[("route.odd", "apns"), ("route.even", "slack")])]);
    let named = |n: usize| {
        let mut asked = item(i32::try_from(n % 7).unwrap(), "x");
        let event = if n.is_multiple_of(2) { "even" } else { "odd" };
        Arc::get_mut(&mut asked.notification).unwrap().event = event.into();
        asked
    };
    let routed = rules.route(NOON, (0..3000).map(named).collect()).await;
    assert_eq!(routed.len(), 3000);
    for (n, routed) in routed.iter().enumerate() {
        assert_eq!(steps(routed), [[(n + 1) % 2]], "{n}");
    }
}

#[tokio::test]
async fn decisions_say_which_version_decided_and_what_it_used() {
    let rules = start(vec![rule("event-routing", &[("route.*", "slack")])]);
    let routed = ask_one(&rules, item(1, "x")).await;
    let decision = &routed.decisions[0];
    assert_eq!((decision.rule.as_str(), decision.version.as_str()), ("event-routing", "1.0.0"));
    assert!((1_000..1_000_000).contains(&decision.fuel), "{decision:?}");
}

#[tokio::test]
async fn without_rules_every_target_gets_the_notification() {
    let routed = start(Vec::new()).route(NOON, vec![item(1, "x"), item(2, "y")]).await;
    assert!(routed.iter().all(|r| steps(r) == [[0, 1]] && r.decisions.is_empty()));
}
