//! What a mail looks like to its reader, whatever was put into it.

use super::*;

#[tokio::test]
async fn a_mail_arrives_with_its_headers_its_text_and_its_page() {
    let world = World::new().await;
    let delivery = letter();
    let attempt = send_one(&world.provider(), delivery.clone()).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
    assert_eq!((attempt.status, attempt.provider_id.as_deref()), (Some(250), Some("T1")));
    let receipt = world.receipts().remove(0);
    assert_eq!(receipt.target, "jane@example.com");
    assert_eq!(receipt.key, format!("<{}@acme.example>", delivery.id));
    assert_eq!(receipt.notification, Some(delivery.notification.id.to_string()));
    let reason = receipt.reason.expect("a note of the envelope");
    assert!(reason.starts_with("from bugler@acme.example,"), "{reason}");
    let mail = world.received();
    for (name, expected) in [
        ("From", "\"Acme\" <bugler@acme.example>"),
        ("To", "jane@example.com"),
        ("Subject", "You are invited to Acme"),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
    ] {
        let found = mail.header(name).unwrap_or_default().replace('"', "");
        assert_eq!(found, expected.replace('"', ""), "{name}: {:?}", mail.headers);
    }
    let date = mail.header("Date").expect("a date");
    let date = jiff::fmt::rfc2822::parse(date).expect("in its form").timestamp().as_second();
    assert_eq!(u64::try_from(date).unwrap(), delivery.notification.created_at.0 / 1000);
    let text = mail.text.as_deref().expect("a text part");
    assert_eq!(
        text,
        "Welcome to Acme\n\nHello Jane,\n\nJohn invites you.\n\n\
         Accept:\nhttps://bugler.example/accept?token=t-1&lang=en\n\n\
         If you did not expect this, do nothing.\n"
    );
    assert_eq!(mail.link(), Some("https://bugler.example/accept?token=t-1&lang=en"));
    let html = mail.html.as_deref().expect("a page");
    assert!(html.contains("href=\"https://bugler.example/accept?token=t-1&amp;lang=en\""));
    assert!(html.contains("One click and you are in"), "{html}");
}

#[tokio::test]
async fn a_repeat_is_the_same_byte_for_byte() {
    let world = World::new().await;
    let (provider, delivery) = (world.provider(), letter());
    send_one(&provider, delivery.clone()).await;
    send_one(&provider, Delivery { attempt: 2, ..delivery }).await;
    let receipts = world.receipts();
    assert_eq!(receipts.len(), 2);
    assert_eq!(receipts[0].body_sha256, receipts[1].body_sha256);
    assert_eq!(receipts[0].key, receipts[1].key);
}

#[tokio::test]
async fn nothing_a_caller_writes_becomes_a_header() {
    let world = World::new().await;
    let provider = world.provider();
    for subject in [
        "Hi\r\nBcc: evil@example.com\r\n\r\nbody",
        "Hi\nBcc: evil@example.com",
        "Hi\rBcc: evil@example.com",
        "Hi\u{0}\u{b}\u{85}\u{2028}\u{2029}Bcc: evil@example.com",
        "Hi =?utf-8?b?DQpCY2M6IGV2aWxAZXhhbXBsZS5jb20=?=",
        "H\u{fc}gel\r\nBcc: evil@example.com",
    ] {
        world.twins.clear_receipts();
        let mail = Mail { subject: subject.to_owned(), ..invitation() };
        let attempt = send_one(&provider, letter_to("jane@example.com", mail)).await;
        assert_eq!(attempt.outcome, Outcome::Delivered, "{subject:?}");
        let mail = world.received();
        assert_eq!(mail.header("Bcc"), None, "{subject:?}");
        let shown = mail.header("Subject").expect("a subject");
        assert!(shown.starts_with('H') && !shown.contains(char::is_control), "{shown:?}");
        assert!(mail.text.expect("a text").starts_with("Welcome"), "{subject:?}");
    }
}

#[tokio::test]
async fn no_text_becomes_a_link_a_picture_or_a_line_of_the_dialogue() {
    let world = World::new().await;
    let evil = "<a href=\"https://evil.example\">x</a><img src='//evil.example'>\r\n.\r\nQUIT\r\n";
    let mail = Mail {
        subject: String::from("s"),
        pre_header: evil.to_owned(),
        title: evil.to_owned(),
        greeting: evil.to_owned(),
        text: format!("{evil}{}", "long ".repeat(4000)),
        button: Some((evil.to_owned(), String::from("javascript:alert(1)"))),
        footer: evil.to_owned(),
    };
    let attempt = send_one(&world.provider(), letter_to("jane@example.com", mail)).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
    let mail = world.received();
    let html = mail.html.expect("a page");
    assert!(!html.contains("<a") && !html.contains("<img") && !html.contains("javascript"));
    assert!(html.contains("&lt;a href=&quot;https://evil.example&quot;&gt;"), "{html}");
    assert!(mail.text.expect("a text").contains("\n.\nQUIT\n"));
}

#[tokio::test]
async fn a_long_subject_in_any_script_is_cut_and_shown_in_its_script() {
    let world = World::new().await;
    for subject in ["\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442} ".repeat(100), "x".repeat(5000)] {
        world.twins.clear_receipts();
        let mail = Mail { subject: subject.clone(), ..invitation() };
        let attempt = send_one(&world.provider(), letter_to("jane@example.com", mail)).await;
        assert_eq!(attempt.outcome, Outcome::Delivered);
        let shown = world.received().header("Subject").expect("a subject").to_owned();
        assert!(shown.chars().count() > 190 && subject.starts_with(&shown), "{shown}");
    }
}

#[tokio::test]
async fn without_a_subject_the_notifications_title_serves() {
    let world = World::new().await;
    let mail = Mail { subject: String::from(" \r\n"), button: None, ..invitation() };
    send_one(&world.provider(), letter_to("jane@example.com", mail)).await;
    let mail = world.received();
    assert_eq!((mail.header("Subject"), mail.link()), (Some("Title"), None));
}

#[tokio::test]
async fn addresses_nobody_can_have_are_refused_before_the_relay_sees_them() {
    let world = World::new().await;
    let provider = world.provider();
    for to in [
        "",
        "jane",
        "@example.com",
        "jane@",
        "jane@[127.0.0.1]",
        "jane@127.0.0.1",
        "jane>@example.com",
        "<jane@example.com>",
        "jane@example.com>\r\nRCPT TO:<evil@example.com",
        "jane doe@example.com",
        "\"jane\"@example.com",
        "jane@exa mple.com",
        "jane@example.com,evil@example.com",
    ] {
        let attempt = send_one(&provider, letter_to(to, invitation())).await;
        assert_eq!(attempt.outcome, Outcome::Rejected { cause: "bad_address" }, "{to:?}");
    }
    let no_mail = delivery(Target::Email { user: UserId(7), to: String::from("a@example.com") });
    let attempt = send_one(&provider, no_mail).await;
    assert_eq!(attempt.outcome, Outcome::Rejected { cause: "no_mail" });
    assert_eq!(world.connections(), 0);
}

#[tokio::test]
async fn addresses_outside_ascii_go_to_relays_that_take_them() {
    let world = World::new().await;
    let provider = world.provider();
    for to in ["jane@b\u{fc}cher.example", "j\u{f6}rg@b\u{fc}cher.example"] {
        let attempt = send_one(&provider, letter_to(to, invitation())).await;
        assert_eq!(attempt.outcome, Outcome::Delivered, "{to}");
    }
    let targets: Vec<_> = world.receipts().into_iter().map(|receipt| receipt.target).collect();
    assert_eq!(targets, ["jane@xn--bcher-kva.example", "j\u{f6}rg@xn--bcher-kva.example"]);

    let world = World::with(SmtpOptions { utf8: false, ..SmtpOptions::default() }).await;
    let provider = world.provider();
    let attempt = send_one(&provider, letter_to("j\u{f6}rg@example.com", invitation())).await;
    assert_eq!(attempt.outcome, Outcome::Rejected { cause: "address_not_ascii" });
    let attempt = send_one(&provider, letter_to("jane@b\u{fc}cher.example", invitation())).await;
    assert_eq!(attempt.outcome, Outcome::Delivered);
}
