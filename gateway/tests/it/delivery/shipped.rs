//! Shipped rules: on by name, with an organization's own settings, paused for a time by command.

use bugler_loadtest::twins::TwinSet;
use serde_json::{Value, json};

use super::World;
use crate::support::client::Ask;
use crate::support::eventually;
use crate::support::gateway::{Failure, run};
use crate::support::world::{add_device, apns_token};

const RULES: &str = "/bugler/v1/organizations/101/rules";

fn phone(directory: &mut Value, _: &TwinSet) {
    add_device(directory, 101, "apns", &apns_token(1));
}

impl World {
    async fn rule(&self, arguments: &[&str]) -> Failure {
        let (url, mut command) = (self.gateway.url(), self.home.command());
        command.arg("rule").args(arguments).args(["--global", "--org", "101"]);
        run({
            command.args(["--url", &url, "--token", &self.token]);
            command
        })
        .await
    }

    /// How many deliveries of a new notification were made, and the code of the first rule's decision.
    async fn sent_as(&self) -> (u64, String) {
        let id = self.send_to_user(101).await;
        let timeline = self.done(&id).await;
        let events = timeline["timeline"].as_array().expect("a timeline");
        let ruled = events.iter().find(|event| event["type"] == "ruled");
        let code = ruled.and_then(|ruled| ruled["decisions"][0]["code"].as_str());
        let delivered = timeline["deliveries"]["delivered"].as_u64().unwrap_or_default();
        (delivered, code.unwrap_or("not asked").to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_is_switched_on_by_name_judges_until_it_is_paused_for_a_time() {
    let world = World::new(phone, &["rules.builtin=[\"event-routing\"]"]).await;
    assert_eq!(world.sent_as().await, (1, "no_rule".into()));
    let body = json!({ "route.*": "none" }).to_string();
    let path = format!("{RULES}/event-routing/config");
    let set = world.gateway.ask(&Ask::new("PATCH", path).bearer(&world.token).json(body)).await;
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(world.sent_as().await, (0, "event_off".into()));

    let paused = world.rule(&["pause", "event-routing", "--for", "1h"]).await;
    assert_eq!(paused.code, Some(0), "{}", paused.stderr);
    assert!(paused.stdout.contains("shipped") && paused.stdout.contains("PAUSED until"));
    assert_eq!(world.sent_as().await, (1, "not asked".into()));
    let shorter = world.rule(&["pause", "event-routing", "--for", "1s"]).await;
    assert_eq!(shorter.code, Some(0), "{}", shorter.stderr);
    eventually("the pause ends by itself", async || {
        let listed = world.gateway.ask(&Ask::get(RULES).bearer(&world.token)).await.json();
        (listed["rules"][0]["paused"] == false).then_some(())
    })
    .await;
    assert_eq!(world.sent_as().await, (0, "event_off".into()));
    for wrong in ["0s", "31d", "10"] {
        let refused = world.rule(&["pause", "event-routing", "--for", wrong]).await;
        assert_ne!(refused.code, Some(0), "{wrong}: {}", refused.stdout);
    }
}
