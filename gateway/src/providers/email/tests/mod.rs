//! The provider against the relay's twin: real sockets, real TLS, faults at every step.

mod dialogue;
mod letters;
mod trust;

use super::*;
use crate::model::{Mail, UserId};
use crate::providers::fixture::{delivery, patient, send_all, send_one};
use bugler_loadtest::twins::{
    FaultPlan, Receipt, ReceivedMail, SmtpOptions, TwinName, TwinOptions, TwinSet,
};

/// A relay and settings that fit it.
struct World {
    twins: TwinSet,
    config: EmailConfig,
}

impl World {
    async fn new() -> Self {
        Self::with(SmtpOptions::default()).await
    }

    async fn with(smtp: SmtpOptions) -> Self {
        let options = TwinOptions { smtp, ..TwinOptions::default() };
        let twins = TwinSet::start(options).await.expect("twins start on free ports");
        let credentials = twins.credentials();
        let password = Secret::new(credentials.smtp_password.clone());
        let config = EmailConfig {
            host: String::from("127.0.0.1"),
            port: twins.smtp_address().port(),
            security: Security::Starttls,
            ca_pem: Some(twins.ca_pem().as_bytes().to_vec()),
            credentials: Some((credentials.smtp_user.clone(), password)),
            from: String::from("bugler@acme.example"),
            from_name: String::from("Acme"),
            sessions_max: 4,
            deadlines: patient(),
        };
        Self { twins, config }
    }

    async fn showing(faults: &str) -> Self {
        let world = Self::new().await;
        world.faults(faults);
        world
    }

    fn faults(&self, faults: &str) {
        self.twins.set_faults(FaultPlan::parse(faults).expect("a plan in its notation"));
    }

    fn provider(&self) -> Email {
        Email::new(self.config.clone()).expect("settings that fit")
    }

    fn receipts(&self) -> Vec<Receipt> {
        self.twins.receipts_since(Some(TwinName::Smtp), 0)
    }

    /// The only mail the relay got.
    fn received(&self) -> ReceivedMail {
        let mut receipts = self.receipts();
        assert_eq!(receipts.len(), 1, "{receipts:#?}");
        receipts.remove(0).mail.expect("receipts of mail hold it")
    }

    fn connections(&self) -> u64 {
        self.twins.traffic(TwinName::Smtp).connections
    }
}

fn invitation() -> Mail {
    Mail {
        subject: String::from("You are invited to Acme"),
        pre_header: String::from("One click and you are in"),
        title: String::from("Welcome to Acme"),
        greeting: String::from("Hello Jane,"),
        text: String::from("John invites you."),
        button: Some((
            String::from("Accept"),
            String::from("https://bugler.example/accept?token=t-1&lang=en"),
        )),
        footer: String::from("If you did not expect this, do nothing."),
    }
}

/// A delivery of `mail` to `to`.
fn letter_to(to: &str, mail: Mail) -> Delivery {
    let target = Target::Email { user: UserId(7), to: to.to_owned() };
    let mut delivery = delivery(target);
    Arc::make_mut(&mut delivery.notification).mail = Some(mail);
    delivery
}

fn letter() -> Delivery {
    letter_to("jane@example.com", invitation())
}

fn retry(cause: &'static str) -> Outcome {
    Outcome::Retry { after: None, cause }
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let good = EmailConfig {
        host: String::from("smtp.example.com"),
        port: 587,
        security: Security::Starttls,
        ca_pem: None,
        credentials: Some((String::from("user"), Secret::new("topsecret"))),
        from: String::from("bugler@example.com"),
        from_name: String::new(),
        sessions_max: 1,
        deadlines: patient(),
    };
    let provider = Email::new(good.clone()).expect("good settings");
    for shown in [format!("{provider:?}"), format!("{good:?}")] {
        assert!(!shown.contains("topsecret"), "{shown}");
    }
    let problem = |config| Email::new(config).expect_err("bad settings").to_string();
    let of = |from: &str| problem(EmailConfig { from: from.to_owned(), ..good.clone() });
    for from in ["", "bugler", "a b@example.com", "a@example.com\r\nBcc: b@example.com"] {
        assert!(of(from).starts_with("from must be"), "{from:?}");
    }
    let host = problem(EmailConfig { host: String::from("a b"), ..good.clone() });
    assert!(host.starts_with("host must be"), "{host}");
    let from_name = String::from("Acme\r\nBcc: b@example.com");
    let name = problem(EmailConfig { from_name, ..good.clone() });
    assert!(name.starts_with("from_name must be"), "{name}");
    let ca = problem(EmailConfig { ca_pem: Some(b"none".to_vec()), ..good });
    assert_eq!(ca, "ca_pem cannot be used");
}
