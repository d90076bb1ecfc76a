//! Mail over the operator's relay: what a changed password causes, once, whatever fails on the way.

use bugler_loadtest::twins::{Receipt, ReceivedMail, TwinName, TwinSet};
use serde_json::Value;

use super::{World, attempts};
use crate::support::client::Ask;
use crate::support::eventually;
use crate::support::world::{add_device, apns_token};

/// User 102 has no device.
const USER: i64 = 102;
const ADDRESS: &str = "driver@example.com";

fn nothing(_: &mut Value, _: &TwinSet) {}

impl World {
    /// Sets a user's password as an administrator, of which the user is told.
    async fn set_password(&self, user: i64) {
        let ask = Ask::post(format!("/bugler/v1/users/{user}/password")).bearer(&self.token);
        let body = r#"{"password":"correct horse battery staple"}"#;
        let reply = self.gateway.ask(&ask.json(body)).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
    }

    fn mails(&self) -> Vec<Receipt> {
        self.twins.receipts_since(Some(TwinName::Smtp), 0)
    }

    /// The first mail the relay took for good.
    async fn taken(&self) -> ReceivedMail {
        let taken = eventually("the relay has a mail", async || {
            self.mails().into_iter().find(Receipt::succeeded)
        });
        taken.await.mail.expect("receipts of mail hold it")
    }

    /// The timeline of the notification that a mail says it belongs to.
    async fn timeline_of(&self, mail: &ReceivedMail) -> Value {
        let id = mail.header("Bugler-Notification-Id").expect("its notification").to_owned();
        self.done(&id).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_devices_is_told_by_mail_exactly_once() {
    let world = World::new(nothing, &[]).await;
    world.set_password(USER).await;
    let mail = world.taken().await;
    let timeline = world.timeline_of(&mail).await;
    assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
    assert_eq!(timeline["deliveries"]["total"], 1);
    let attempt = attempts(&timeline)[0];
    assert_eq!(attempt["target"], format!("email:{USER}"));
    assert_eq!(attempt["status"], 250);
    let delivery = attempt["delivery"].as_str().expect("an id");
    for (name, expected) in [
        ("From", "bugler@acme.example"),
        ("To", ADDRESS),
        ("Subject", "Your password was changed"),
        ("Message-ID", &format!("<{delivery}@acme.example>")),
        ("Auto-Submitted", "auto-generated"),
    ] {
        assert_eq!(mail.header(name), Some(expected), "{:?}", mail.headers);
    }
    assert!(mail.header("Date").is_some());
    let text = mail.text.expect("a text part");
    assert!(text.contains("Hello User 102,"), "{text}");
    assert!(mail.html.expect("a page").contains("Hello User 102,"));
    world.gateway.drained().await;
    assert_eq!(world.mails().len(), 1);
    assert!(!timeline.to_string().contains(ADDRESS), "an address is personal: {timeline:#}");
    let log = world.gateway.log().join("\n");
    assert!(!log.contains(ADDRESS), "{log}");
    let metrics = world.gateway.metrics().await;
    let labels = r#"channel="email",app="all",result="delivered""#;
    assert_eq!(metrics.count_where("bugler_provider_requests_total", labels), 1);
    let labels = r#"channel="email",outcome="delivered""#;
    assert_eq!(metrics.count_where("bugler_deliveries_total", labels), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_a_device_is_told_on_both() {
    let change = |directory: &mut Value, _: &TwinSet| {
        add_device(directory, USER, "apns", &apns_token(1));
    };
    let world = World::new(change, &[]).await;
    world.set_password(USER).await;
    let mail = world.taken().await;
    let timeline = world.timeline_of(&mail).await;
    assert_eq!(timeline["deliveries"]["delivered"], 2, "{timeline:#}");
    assert_eq!(world.receipts(TwinName::Apns, &timeline).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_on_the_way_is_tried_again_with_the_same_message_id() {
    for (fault, copies) in [
        ("match=connect&status=421:x1", 1),
        ("match=auth&status=454:x2", 1),
        ("match=rcpt&reset:x1", 1),
        ("match=dot&status=441:x1", 2),
        // The relay has it and says nothing: the repeat can be folded by its id.
        ("match=dot&reset:x1", 2),
    ] {
        let world = World::new(nothing, &[]).await;
        world.faults(&format!("smtp:{fault}"));
        world.set_password(USER).await;
        let mail = world.taken().await;
        let timeline = world.timeline_of(&mail).await;
        assert_eq!(timeline["deliveries"]["delivered"], 1, "{fault}: {timeline:#}");
        let mails = world.mails();
        assert_eq!(mails.len(), copies, "{fault}");
        assert!(mails.iter().all(|mail| mail.key == mails[0].key), "{fault}");
        assert!(mails.iter().all(|mail| mail.body_sha256 == mails[0].body_sha256), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_that_does_not_exist_ends_the_delivery_and_keeps_the_user() {
    let change = |directory: &mut Value, _: &TwinSet| {
        let users = directory["users"].as_array_mut().expect("users");
        let user = users.iter_mut().find(|user| user["id"] == USER).expect("there");
        user["email"] = "unregistered@example.com".into();
    };
    let world = World::new(change, &[]).await;
    let labels = r#"channel="email",outcome="rejected""#;
    for round in 1..=2 {
        world.set_password(USER).await;
        eventually("the delivery is rejected", async || {
            let metrics = world.gateway.metrics().await;
            (metrics.count_where("bugler_deliveries_total", labels) == round).then_some(())
        })
        .await;
    }
    assert!(world.mails().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_outlives_the_gateway_that_accepted_it() {
    let world = World::new(nothing, &[]).await;
    world.faults("smtp:match=connect&freeze");
    world.set_password(USER).await;
    eventually("the relay is called", async || {
        (world.twins.traffic(TwinName::Smtp).connections > 0).then_some(())
    })
    .await;
    // The session that hangs goes on hanging; the next gateway's will not.
    world.faults("");
    let world = world.restart().await;
    let mail = world.taken().await;
    let timeline = world.timeline_of(&mail).await;
    assert_eq!(timeline["deliveries"]["delivered"], 1, "{timeline:#}");
    assert_eq!(world.mails().len(), 1);
}
