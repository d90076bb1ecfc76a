//! Tests of the fault notation and of how rules hit.

use super::*;

fn rule(twin: Option<TwinName>, share: Share, action: Action) -> FaultRule {
    FaultRule { twin, matching: None, share, action }
}

fn status(code: u16) -> Action {
    Action::Status { code, reason: None, retry_after: Vec::new() }
}

#[test]
fn the_notation_reads_as_documented() {
    let fcm = Some(TwinName::Fcm);
    let cases = [
        ("", vec![]),
        (
            "fcm:status=503:5,429:1&delay=150ms",
            vec![
                rule(fcm, Share::Percent(5.0), status(503)),
                rule(fcm, Share::Percent(1.0), status(429)),
                rule(fcm, Share::Always, Action::Delay { ms: 150 }),
            ],
        ),
        ("status=500", vec![rule(None, Share::Always, status(500))]),
        (
            "apns:goaway=every:5000;fcm:freeze",
            vec![
                rule(Some(TwinName::Apns), Share::Every(5000), Action::GoAway { reason: None }),
                rule(fcm, Share::Always, Action::Freeze),
            ],
        ),
        (
            "delay=150us:10,2ms:5",
            vec![
                rule(None, Share::Percent(10.0), Action::Delay { ms: 1 }),
                rule(None, Share::Percent(5.0), Action::Delay { ms: 2 }),
            ],
        ),
        ("unregistered:2%", vec![rule(None, Share::Percent(2.0), status(410))]),
        ("huge=5000", vec![rule(None, Share::Always, Action::HugeBody { bytes: 5000 })]),
        ("html:5", vec![rule(None, Share::Percent(5.0), Action::Html)]),
        ("fcm:no-id:x1", vec![rule(fcm, Share::First(1), Action::NoId)]),
        ("streams=1", vec![rule(None, Share::Always, Action::StreamLimit { streams: 1 })]),
        ("window=0:x3", vec![rule(None, Share::First(3), Action::Window { bytes: 0 })]),
        ("fcm:reset:x3", vec![rule(fcm, Share::First(3), Action::Reset)]),
        (
            "fcm:redirect=http://a.example:80/x,y",
            vec![rule(
                fcm,
                Share::Always,
                Action::Redirect { to: "http://a.example:80/x,y".into() },
            )],
        ),
    ];
    for (text, rules) in cases {
        assert_eq!(FaultPlan::parse(text), Ok(FaultPlan { rules, seed: 0 }), "{text}");
    }
}

#[test]
fn match_reason_and_retry_after_hold_for_the_whole_section() {
    let plan = FaultPlan::parse("apns:status=503&reason=Shutdown&retry-after=30,abc&match=/hot")
        .expect("the notation is right");
    let action = Action::Status {
        code: 503,
        reason: Some("Shutdown".into()),
        retry_after: vec!["30".into(), "abc".into()],
    };
    assert_eq!(plan.rules[0].matching.as_deref(), Some("/hot"));
    assert_eq!(plan.rules[0].action, action);
}

#[test]
fn what_is_not_in_the_notation_is_named() {
    for (text, part) in [
        ("fax:reset", "fax"),
        ("explode", "explode"),
        ("status=abc", "abc"),
        ("status=99", "99"),
        ("status=503:often", "often"),
        ("status=503:101", "101"),
        ("delay=5", "5"),
        ("delay", "delay"),
        ("streams=many", "many"),
        ("goaway=every:0", "every:0"),
    ] {
        let error = FaultPlan::parse(text).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_plan_survives_json() {
    let plan = FaultPlan::parse("fcm:status=503:5&delay=1s;webhook:drip-head=10ms&match=/a;cut:x2")
        .expect("the notation is right");
    let json = serde_json::to_string(&plan).expect("a plan is JSON");
    assert_eq!(serde_json::from_str::<FaultPlan>(&json).expect("its own JSON"), plan);
}

#[test]
fn shares_count_out_as_written() {
    let hits = |share: &str, asked: usize| {
        let plan = FaultPlan::parse(&format!("fcm:reset:{share}")).expect("the notation is right");
        let faults = Faults::new(plan);
        let decide = || faults.decide(TwinName::Fcm, "token", "/path", None).action.is_some();
        (0..asked).filter(|_| decide()).count()
    };
    assert_eq!(hits("x3", 10), 3);
    assert_eq!(hits("every:5", 20), 4);
    assert_eq!(hits("0", 100), 0);
    assert_eq!(hits("100", 100), 100);
    assert!((300..700).contains(&hits("50", 1000)), "half of a thousand, seeded");
}

#[test]
fn rules_hit_their_twin_and_match_only_and_the_first_action_wins() {
    let faults = Faults::new(
        FaultPlan::parse("fcm:status=503&match=hot;delay=1s;fcm:status=500;delay=2s")
            .expect("the notation is right"),
    );
    let decided = |twin, target| {
        let decision = faults.decide(twin, target, "/path", Some(Action::Freeze));
        (decision.delay.as_secs(), decision.action)
    };
    assert_eq!(decided(TwinName::Fcm, "hot-token"), (3, Some(status(503))));
    assert_eq!(decided(TwinName::Fcm, "token"), (3, Some(status(500))));
    assert_eq!(decided(TwinName::Apns, "hot-token"), (3, Some(Action::Freeze)));
}

#[test]
fn counted_actions_follow_one_another() {
    let plan = FaultPlan::parse("status=503:x2,429:x1&reset:x1").expect("the notation is right");
    let faults = Faults::new(plan);
    let mut decide = || faults.decide(TwinName::Fcm, "token", "/path", None).action;
    let shown: Vec<_> = std::iter::repeat_with(&mut decide).take(5).collect();
    let expected = [status(503), status(503), status(429), Action::Reset].map(Some);
    assert_eq!(shown, [&expected[..], &[None]].concat());
}
