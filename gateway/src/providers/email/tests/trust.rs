//! Whom mail and passwords are given to: only a relay that proves who it is, or this machine.

use super::*;
use bugler_loadtest::twins::Certificate;

async fn outcome(world: &World) -> Outcome {
    send_one(&world.provider(), letter()).await.outcome
}

#[tokio::test]
async fn each_way_to_secure_the_connection_works() {
    let mut world = World::with(SmtpOptions { auth_required: true, ..Default::default() }).await;
    assert_eq!(outcome(&world).await, Outcome::Delivered);
    world.config.security = Security::Implicit;
    world.config.port = world.twins.smtp_tls_address().port();
    assert_eq!(outcome(&world).await, Outcome::Delivered);
    world.config.host = String::from("localhost");
    assert_eq!(outcome(&world).await, Outcome::Delivered);

    let mut world = World::with(SmtpOptions { starttls: false, ..Default::default() }).await;
    world.config.security = Security::None;
    assert_eq!(outcome(&world).await, Outcome::Delivered);
    world.config.credentials = None;
    assert_eq!(outcome(&world).await, Outcome::Delivered);
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_gets_no_mail() {
    for certificate in [
        Certificate::WrongHost,
        Certificate::UnknownAuthority,
        Certificate::SelfSigned,
        Certificate::Expired,
        Certificate::NotYetValid,
    ] {
        let mut world = World::with(SmtpOptions { certificate, ..Default::default() }).await;
        let hold = Outcome::Hold { cause: "tls_certificate" };
        assert_eq!(outcome(&world).await, hold, "{certificate:?}");
        world.config.security = Security::Implicit;
        world.config.port = world.twins.smtp_tls_address().port();
        assert_eq!(outcome(&world).await, hold, "{certificate:?}");
        assert!(world.receipts().is_empty());
    }
    // The relay's authority must be named: no public one vouches for it.
    let mut world = World::new().await;
    world.config.ca_pem = None;
    assert_eq!(outcome(&world).await, Outcome::Hold { cause: "tls_certificate" });
}

#[tokio::test]
async fn tls_that_fails_for_another_reason_is_tried_again() {
    let mut world = World::new().await;
    // A relay that speaks in the clear where TLS is expected.
    world.config.security = Security::Implicit;
    assert_eq!(outcome(&world).await, retry("tls"));
}

#[tokio::test]
async fn a_relay_without_starttls_gets_neither_mail_nor_password() {
    let world = World::with(SmtpOptions { starttls: false, ..Default::default() }).await;
    assert_eq!(outcome(&world).await, Outcome::Hold { cause: "no_starttls" });
    assert!(world.receipts().is_empty());
}

#[tokio::test]
async fn an_answer_slipped_in_before_tls_is_not_taken_for_one_after_it() {
    let world = World::showing("smtp:match=starttls&bad-json").await;
    assert_eq!(outcome(&world).await, Outcome::Hold { cause: "unasked_answer" });
    assert!(world.receipts().is_empty());
}

#[tokio::test]
async fn a_password_that_is_wrong_or_missing_holds_the_mail() {
    let mut world = World::with(SmtpOptions { auth_required: true, ..Default::default() }).await;
    world.config.credentials = Some((String::from("gateway"), Secret::new("wrong")));
    assert_eq!(outcome(&world).await, Outcome::Hold { cause: "auth_refused" });
    world.config.credentials = None;
    assert_eq!(outcome(&world).await, Outcome::Hold { cause: "auth_required" });
    assert!(world.receipts().is_empty());
}
