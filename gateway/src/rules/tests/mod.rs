//! The rule engine with real components: the shipped rules and one that breaks every promise.

mod abi;
mod builtin;
mod compiled;
mod deploying;
mod gating;
mod guests;
mod hooks;
mod hostile;
mod loading;
mod packed;
mod random;
mod recording;
mod shipped;

use super::*;
use crate::model::{Audience, Content, NotificationId, OrganizationId, Source};
use guests::component;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Noon UTC on Saturday, 10 January 2026.
const NOON: Millis = Millis(1_768_046_400_000);
const HOUR: u64 = 3_600_000;

/// The rule `guest` under its own name, with `settings`.
fn rule(guest: &str, settings: &[(&str, &str)]) -> RuleConfig {
    let setting = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    RuleConfig {
        name: guest.to_owned(),
        version: "1.0.0".to_owned(),
        path: component(guest),
        config: settings.iter().map(setting).collect(),
        ..RuleConfig::default()
    }
}

fn start(rules: Vec<RuleConfig>) -> Arc<WasmRules> {
    WasmRules::start(RuleSettings { rules, threads: 2, ..RuleSettings::default() }).unwrap()
}

/// A notification to a user with an APNs (0) and a Slack target (1).
fn item(org: i32, title: &str) -> RouteItem {
    let notification = Notification {
        id: NotificationId(Uuid::now_v7()),
        org: OrganizationId(org),
        source: Source::Native,
        event: "build".into(),
        audience: Audience::Organization,
        content: Content { title: title.into(), ..Content::default() },
        priority: Priority::Normal,
        collapse_key: None,
        created_at: NOON,
        created_by: "test".into(),
        start_at: NOON,
        expires_at: Some(NOON.plus(72 * HOUR)),
        dialect_fields: String::new(),
        mail: None,
        inbox: false,
    };
    let target = |provider: ProviderName| TargetView {
        provider,
        handle: format!("{}:1", provider.as_str()),
        app: "main".into(),
        last_ok_at: None,
        recent_failures: 0,
    };
    let recipient = RecipientView {
        kind: RecipientKind::User,
        id: "7".into(),
        org: org.to_string(),
        email: None,
        tz: Some("Europe/Kyiv".into()),
        locale: None,
        status: "active",
        roles: vec!["User".into()],
        prefs: Vec::new(),
        targets: vec![target(ProviderName::Apns), target(ProviderName::Slack)],
    };
    RouteItem { notification: Arc::new(notification), recipient, attempt: 1, last_outcome: None }
}

async fn ask_one(rules: &WasmRules, item: RouteItem) -> Routed {
    rules.route(NOON, vec![item]).await.swap_remove(0)
}

/// `decision/code` of every rule that was asked.
fn words(routed: &Routed) -> Vec<String> {
    routed.decisions.iter().map(|d| format!("{}/{}", d.decision, d.code)).collect()
}

fn steps(routed: &Routed) -> Vec<Vec<usize>> {
    let Verdict::Deliver(plan) = &routed.verdict else { panic!("{routed:?}") };
    plan.steps.iter().map(|step| step.targets.clone()).collect()
}
