//! Each answer of the relay, each way to lose one, and sessions that serve more than one mail.

use super::*;
use crate::providers::fixture::hasty;
use std::collections::HashSet;
use std::time::Duration;

/// What an answer with this code at this step means.
#[tokio::test]
async fn each_answer_has_its_outcome() {
    let deferred = || Outcome::Retry { after: Some(Duration::from_secs(60)), cause: "deferred" };
    let hold = |cause| Outcome::Hold { cause };
    let rejected = |cause| Outcome::Rejected { cause };
    let rows = [
        ("connect", 421, retry("relay_closing")),
        ("connect", 450, retry("relay_busy")),
        ("connect", 554, hold("relay_refused")),
        ("ehlo", 451, retry("relay_busy")),
        ("ehlo", 550, hold("relay_refused")),
        ("starttls", 454, retry("tls_unavailable")),
        ("starttls", 502, hold("no_starttls")),
        ("auth", 454, retry("auth_unavailable")),
        ("auth", 535, hold("auth_refused")),
        ("auth", 504, hold("auth_refused")),
        ("mail", 421, retry("relay_closing")),
        ("mail", 451, deferred()),
        ("mail", 452, deferred()),
        ("mail", 455, retry("relay_busy")),
        ("mail", 530, hold("auth_required")),
        ("mail", 550, hold("sender_refused")),
        ("mail", 553, hold("sender_refused")),
        ("rcpt", 421, retry("relay_closing")),
        ("rcpt", 450, deferred()),
        ("rcpt", 451, deferred()),
        ("rcpt", 452, deferred()),
        ("rcpt", 441, retry("relay_busy")),
        ("rcpt", 530, hold("auth_required")),
        ("rcpt", 550, rejected("mailbox_refused")),
        ("rcpt", 551, rejected("mailbox_refused")),
        ("rcpt", 552, rejected("mailbox_refused")),
        ("rcpt", 553, rejected("mailbox_refused")),
        ("rcpt", 554, rejected("mailbox_refused")),
        ("rcpt", 354, retry("unexpected_answer")),
        ("data", 451, deferred()),
        ("data", 554, rejected("message_refused")),
        ("data", 250, retry("unexpected_answer")),
        ("dot", 421, retry("relay_closing")),
        ("dot", 451, deferred()),
        ("dot", 452, deferred()),
        ("dot", 441, retry("relay_busy")),
        ("dot", 552, rejected("message_refused")),
        ("dot", 554, rejected("message_refused")),
        ("dot", 354, retry("unexpected_answer")),
    ];
    let world = World::new().await;
    for (step, code, expected) in rows {
        world
            .faults(&format!("smtp:match={step}&status={code}&reason=4.9.9 <jane@example.com> no"));
        let attempt = send_one(&world.provider(), letter()).await;
        assert_eq!(attempt.outcome, expected, "{step} {code}");
        assert_eq!(attempt.status, Some(code), "{step} {code}");
        let is_negative = code >= 400;
        let expected = is_negative.then_some("4.9.9");
        assert_eq!(attempt.reason.as_deref(), expected, "{step} {code}: no address");
    }
    assert!(world.receipts().iter().all(|receipt| !receipt.succeeded()));
}

#[tokio::test]
async fn recipients_the_relay_does_not_know_are_rejected_and_busy_ones_wait() {
    let world = World::new().await;
    let provider = world.provider();
    let attempt = send_one(&provider, letter_to("unregistered@example.com", invitation())).await;
    assert_eq!(attempt.outcome, Outcome::Rejected { cause: "mailbox_refused" });
    assert_eq!((attempt.status, attempt.reason.as_deref()), (Some(550), Some("5.1.1")));
    let attempt = send_one(&provider, letter_to("throttle@example.com", invitation())).await;
    assert!(matches!(attempt.outcome, Outcome::Retry { after: Some(_), .. }));
}

#[tokio::test]
async fn what_breaks_before_the_final_dot_was_not_sent_and_after_it_nobody_knows() {
    let lost = |cause| Outcome::Unknown { cause };
    for (fault, expected) in [
        ("match=connect&reset", retry("connection_lost")),
        ("match=ehlo&cut", retry("connection_lost")),
        ("match=auth&reset", retry("connection_lost")),
        ("match=mail&reset", retry("connection_lost")),
        ("match=rcpt&cut", retry("connection_lost")),
        ("match=data&reset", retry("connection_lost")),
        ("match=body&reset", retry("connection_lost")),
        ("match=rcpt&bad-json", retry("bad_answer")),
        ("match=rcpt&endless", retry("connection_lost")),
        ("match=connect&endless", retry("bad_answer")),
        ("match=ehlo&bad-json", retry("bad_answer")),
        ("match=dot&reset", lost("connection_lost")),
        ("match=dot&cut", lost("connection_lost")),
        ("match=dot&endless", lost("connection_lost")),
        ("match=dot&bad-json", lost("bad_answer")),
    ] {
        let mut world = World::showing(&format!("smtp:{fault}")).await;
        // More than the system takes at once, so that its end is still here when it breaks.
        let words = if fault.contains("body") { 3_000_000 } else { 10 };
        let mail = Mail { text: "long ".repeat(words), ..invitation() };
        world.config.sessions_max = 1;
        let attempt = send_one(&world.provider(), letter_to("jane@example.com", mail)).await;
        assert_eq!(attempt.outcome, expected, "{fault}");
        assert_eq!(world.receipts().len(), usize::from(fault.contains("=dot")), "{fault}");
    }
}

#[tokio::test]
async fn silence_ends_with_the_timeout_of_one_mail() {
    for (step, expected) in [
        ("connect", retry("timeout")),
        ("rcpt", retry("timeout")),
        ("dot", Outcome::Unknown { cause: "timeout" }),
    ] {
        let mut world = World::new().await;
        // Long enough to come as far as the silence.
        let total = if step == "dot" { Duration::from_secs(3) } else { hasty().total };
        world.config.deadlines.total = total;
        world.faults(&format!("smtp:match={step}&freeze"));
        let attempt = send_one(&world.provider(), letter()).await;
        assert_eq!(attempt.outcome, expected, "{step}");
    }
}

#[tokio::test]
async fn an_answer_that_drips_is_waited_for() {
    let world = World::showing("smtp:match=rcpt&drip=1ms;smtp:match=dot&drip=1ms").await;
    assert_eq!(send_one(&world.provider(), letter()).await.outcome, Outcome::Delivered);
}

#[tokio::test]
async fn nobody_there_is_tried_again() {
    let mut world = World::new().await;
    // Bound and let go: nothing listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    world.config.port = free.local_addr().expect("an address").port();
    drop(free);
    assert_eq!(send_one(&world.provider(), letter()).await.outcome, retry("connect"));
    world.config.host = String::from("no-such-host.invalid");
    assert_eq!(send_one(&world.provider(), letter()).await.outcome, retry("dns"));
}

#[tokio::test]
async fn one_session_serves_many_mails_refused_ones_among_them() {
    let world = World::new().await;
    let provider = world.provider();
    for round in 0..3 {
        assert_eq!(send_one(&provider, letter()).await.outcome, Outcome::Delivered);
        let to = "unregistered@example.com";
        let refused = send_one(&provider, letter_to(to, invitation())).await;
        assert!(matches!(refused.outcome, Outcome::Rejected { .. }), "{round}");
    }
    world.faults("smtp:match=dot&status=554:x1");
    let refused = send_one(&provider, letter()).await;
    assert_eq!(refused.outcome, Outcome::Rejected { cause: "message_refused" });
    assert_eq!(send_one(&provider, letter()).await.outcome, Outcome::Delivered);
    assert_eq!(world.connections(), 1);
}

#[tokio::test]
async fn a_session_the_relay_left_meanwhile_costs_no_try() {
    for fault in ["match=mail&status=421:x1", "match=mail&reset:x1"] {
        let world = World::new().await;
        let provider = world.provider();
        assert_eq!(send_one(&provider, letter()).await.outcome, Outcome::Delivered);
        world.faults(&format!("smtp:{fault}"));
        assert_eq!(send_one(&provider, letter()).await.outcome, Outcome::Delivered, "{fault}");
        assert_eq!((world.connections(), world.receipts().len()), (2, 2), "{fault}");
    }
}

#[tokio::test]
async fn a_session_whose_fate_is_unknown_is_not_used_again_and_nothing_sent_twice() {
    let world = World::new().await;
    let provider = world.provider();
    assert_eq!(send_one(&provider, letter()).await.outcome, Outcome::Delivered);
    world.faults("smtp:match=dot&reset:x1");
    let attempt = send_one(&provider, letter()).await;
    assert_eq!(attempt.outcome, Outcome::Unknown { cause: "connection_lost" });
    assert_eq!(world.receipts().len(), 2, "one delivered, one of unknown fate");
    assert_eq!(send_one(&provider, letter()).await.outcome, Outcome::Delivered);
}

#[tokio::test]
async fn a_batch_uses_no_more_sessions_than_allowed() {
    let mut world = World::new().await;
    world.config.sessions_max = 3;
    let provider = world.provider();
    assert_eq!((provider.in_flight_max(), provider.batch_max()), (3, 3));
    let batch: Vec<_> =
        (0..30).map(|n| letter_to(&format!("user{n}@example.com"), invitation())).collect();
    let attempts = send_all(&provider, &batch).await;
    assert!(attempts.iter().all(|attempt| attempt.outcome == Outcome::Delivered));
    let receipts = world.receipts();
    let targets: HashSet<_> = receipts.iter().map(|receipt| &receipt.target).collect();
    assert_eq!((receipts.len(), targets.len()), (30, 30));
    assert!(world.connections() <= 3, "{}", world.connections());
}
