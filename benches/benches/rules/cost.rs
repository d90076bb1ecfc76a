//! `case=cost`: processor time for each item of a batch of 64, of every shipped rule in its hook.
//!
//! Through the engine that the gateway starts, with its threads, tables, decisions and recorder: what
//! making the items took is measured beside it and taken off.

use crate::guests;
use crate::say;
use bugler_benches::{Failed, judge, median, micros_each};
use bugler_gateway::auth::Permission;
use bugler_gateway::model::{
    Audience, Content, Millis, Notification, NotificationId, OrganizationId, ProviderName, Source,
};
use bugler_gateway::rules::{
    AuthorizeItem, PrincipalKind, PrincipalView, RecipientKind, RecipientView, Recorder, RouteItem,
    RuleConfig, RuleEngine, RuleSettings, TargetView, TransformItem, WasmRules, payload,
};
use bugler_loadtest::process;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub(crate) const BATCH: usize = 64;
const ROUNDS: usize = 5;
/// Batches of a round.
const REPEATS: usize = 1_500;
const WARM_UP: usize = 300;
/// Noon and night of Saturday, 10 January 2026, in Kyiv.
const NOON: Millis = Millis(1_768_039_200_000);
const NIGHT: Millis = Millis(1_768_082_400_000);
const AUTHORIZE_US_MAX: f64 = 2.0;
const ROUTE_US_MAX: f64 = 4.0;
const TRANSFORM_US_MAX: f64 = 3.0;
const ORG: OrganizationId = OrganizationId(101);
const PLAIN: &str = "The boiler of the second floor reports a pressure of 2.9 bar, which is above what \
                     was set; somebody should look at it today.";
const PRIVATE: &str = "Oleh asked to be called back about the boiler: +380 44 123 45 67, or write to \
                       oleh@example.com if nobody answers by noon.";

/// A rule asked about something.
struct Row {
    rule: &'static str,
    what: &'static str,
    now: Millis,
    settings: &'static [(&'static str, &'static str)],
}

const ROUTES: [Row; 6] = [
    Row { rule: "event-routing", what: "", now: NOON, settings: &[("route.*", "apns")] },
    Row { rule: "quiet-hours", what: "by day", now: NOON, settings: &[] },
    Row { rule: "quiet-hours", what: "at night", now: NIGHT, settings: &[] },
    Row { rule: "fallback", what: "", now: NOON, settings: &[] },
    Row {
        rule: "throttle-digest",
        what: "under the limit",
        now: NOON,
        settings: &[("max", "1000000")],
    },
    Row { rule: "throttle-digest", what: "over the limit", now: NOON, settings: &[("max", "1")] },
];

pub(crate) async fn compare(batch: usize) -> Result<bool, Failed> {
    say(&format!("processor time for each item of a batch of {batch}, in microseconds:"))?;
    let home = tempfile::tempdir()?;
    let mut holds = true;
    let row = Row { rule: "permissions", what: "", now: NOON, settings: &[] };
    let engine = engine(&row, home.path())?;
    let ask = async |items| drop(engine.authorize(row.now, items).await);
    holds &= show(&row, AUTHORIZE_US_MAX, measure(requests(batch), ask).await?)?;
    for row in ROUTES {
        let engine = self::engine(&row, home.path())?;
        let ask = async |items| drop(engine.route(row.now, items).await);
        holds &= show(&row, ROUTE_US_MAX, measure(routes(batch), ask).await?)?;
    }
    for (what, body) in [("nothing to hide", PLAIN), ("two finds", PRIVATE)] {
        let row = Row { rule: "pii-redaction", what, now: NOON, settings: &[("except", "")] };
        let engine = self::engine(&row, home.path())?;
        let ask = async |items| drop(engine.transform(row.now, items).await);
        holds &= show(&row, TRANSFORM_US_MAX, measure(payloads(body, batch), ask).await?)?;
    }
    Ok(holds)
}

fn engine(row: &Row, home: &Path) -> Result<Arc<WasmRules>, Failed> {
    let setting = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let rule = RuleConfig {
        name: row.rule.to_owned(),
        path: guests::shipped(row.rule, home)?,
        config: row.settings.iter().map(setting).collect::<BTreeMap<_, _>>(),
        ..RuleConfig::default()
    };
    let recorder = Some(Recorder::start(home.join("rules"))?);
    let settings =
        RuleSettings { rules: vec![rule], recorder, threads: 2, ..RuleSettings::default() };
    Ok(WasmRules::start(settings)?)
}

/// Processor time that `ask` takes for each item.
async fn measure<I: Clone>(items: Vec<I>, ask: impl AsyncFn(Vec<I>)) -> Result<f64, Failed> {
    for _ in 0..WARM_UP {
        ask(items.clone()).await;
    }
    let mut each = Vec::new();
    for _ in 0..ROUNDS {
        let begun = process::sample_self()?.cpu;
        for _ in 0..REPEATS {
            ask(items.clone()).await;
        }
        let asked = process::sample_self()?.cpu;
        for _ in 0..REPEATS {
            drop(std::hint::black_box(items.clone()));
        }
        let made = process::sample_self()?.cpu;
        let cost = asked.saturating_sub(begun).saturating_sub(made.saturating_sub(asked));
        each.push(micros_each(cost, REPEATS * items.len()));
    }
    // The threads of the engine before end meanwhile.
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(median(each))
}

fn show(row: &Row, most: f64, each: f64) -> Result<bool, Failed> {
    let what = format!("{} {}", row.rule, row.what);
    judge(what.trim(), each, &format!("<= {most}"), each <= most)
}

/// Of somebody who may do everything.
fn requests(batch: usize) -> Vec<AuthorizeItem> {
    let held = Permission::ALL.map(|permission| permission.as_str().to_owned());
    let request = |n: usize| AuthorizeItem {
        principal: PrincipalView {
            kind: PrincipalKind::User,
            id: n.to_string(),
            org: ORG.to_string(),
            roles: vec![String::from("Admin")],
            permissions: held.to_vec(),
        },
        action: String::from("notification.send"),
        org: ORG,
        resource: None,
        required: vec![String::from("notification.send")],
        is_allowed: true,
    };
    (0..batch).map(request).collect()
}

/// Each item is of another notification: nothing is shared.
fn routes(batch: usize) -> Vec<RouteItem> {
    let route = |n: usize| RouteItem {
        notification: Arc::new(notification(n, PLAIN)),
        recipient: recipient(n),
        attempt: 1,
        last_outcome: None,
    };
    (0..batch).map(route).collect()
}

fn payloads(body: &str, batch: usize) -> Vec<TransformItem> {
    let shown = |n: usize| {
        let notification = Arc::new(notification(n, body));
        let channel = ProviderName::Apns;
        let payload = payload(&notification, channel)?;
        Some(TransformItem { notification, recipient: recipient(n), channel, payload })
    };
    (0..batch).filter_map(shown).collect()
}

fn notification(n: usize, body: &str) -> Notification {
    let id = NotificationId(Uuid::now_v7());
    let blank = Notification::due(id, ORG, Source::Native, "device.alert", NOON);
    Notification {
        audience: Audience::Organization,
        content: Content {
            title: String::from("Pressure is high"),
            body: body.to_owned(),
            data: format!(r#"{{"device":{{"id":{n},"name":"Boiler"}},"severity":"high"}}"#),
            ..Content::default()
        },
        expires_at: Some(NOON.plus(3 * 24 * 3_600_000)),
        ..blank
    }
}

fn recipient(n: usize) -> RecipientView {
    let target = |provider: ProviderName| TargetView {
        provider,
        handle: format!("{}:{n}", provider.as_str()),
        app: String::from("main"),
        last_ok_at: Some(NOON),
        recent_failures: 0,
    };
    RecipientView {
        kind: RecipientKind::User,
        id: (1_000 + n).to_string(),
        org: ORG.to_string(),
        email: Some(format!("user{n}@example.com")),
        tz: Some(String::from("Europe/Kyiv")),
        locale: Some(String::from("uk")),
        status: "active",
        roles: vec![String::from("User")],
        prefs: Vec::new(),
        targets: vec![target(ProviderName::Apns), target(ProviderName::Slack)],
    }
}
