//! Applivery's bodies: what is sent to make and change a notification, and what is answered.

use super::events::{Flags, shown};
use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields};
use crate::api::{Hooks, json};
use crate::model::{Endpoint, Organization, Secret, Subscription};
use crate::vault::{Owner, Vault};
use serde_json::{Map, Value, json};

const DESCRIPTION_MAX: usize = 128;
const CODE_MAX: usize = 256;
const REDIRECT_MAX: usize = 500;
const URL_MAX: usize = 500;

/// The body of a create.
#[derive(Debug)]
pub(super) struct Create {
    pub(super) description: Option<String>,
    pub(super) flags: Flags,
    pub(super) setup: Setup,
}

/// Where a new subscription's events go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Setup {
    Slack { code: String, redirect_uri: String },
    Webhook { url: String },
}

impl Create {
    pub(super) fn parse(body: &[u8], hooks: &dyn Hooks) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        fields.refuse_null(&["type", "events", "setup"], &mut faults);
        let kind = match fields.get("type") {
            Some(Value::String(kind)) if matches!(kind.as_str(), "slack" | "webhook") => {
                Some(kind.as_str())
            }
            Some(_) => {
                faults.add("type", "must be slack or webhook");
                None
            }
            None => {
                required(&mut faults, "type");
                None
            }
        };
        let description = fields.text("description", DESCRIPTION_MAX, &mut faults);
        let flags = Flags::read(&fields, &mut faults);
        let setup = setup(&fields, kind, &mut faults);
        if let Some(Setup::Webhook { url }) = &setup {
            check_url(url, hooks, &mut faults);
        }
        faults.into_result()?;
        let description = description.map(str::to_owned);
        match setup {
            Some(setup) => Ok(Self { description, flags, setup }),
            // Every way to have none is a fault.
            None => Err(Failure::field("setup", "is required")),
        }
    }
}

/// Adds the fault unless the member has one already.
fn required(faults: &mut Faults, path: &str) {
    if !faults.concern(path) {
        faults.add(path, "is required");
    }
}

/// The branch of `setup` that `kind` needs. The other one is read too, since the schema is for
/// both, and then left alone: the customer's own example sends both.
fn setup(fields: &Fields<'_>, kind: Option<&str>, faults: &mut Faults) -> Option<Setup> {
    let Some(setup) = fields.object("setup", faults) else {
        required(faults, "setup");
        return None;
    };
    setup.refuse_null(&["slack", "webhook"], faults);
    let slack = setup.object("slack", faults).and_then(|slack| {
        let code = slack.required_text("code", CODE_MAX, faults);
        let redirect_uri = slack.required_text("redirectUri", REDIRECT_MAX, faults);
        let (code, redirect_uri) = (code?.to_owned(), redirect_uri?.to_owned());
        Some(Setup::Slack { code, redirect_uri })
    });
    let webhook = setup.object("webhook", faults).and_then(|webhook| {
        let url = webhook.required_text("url", URL_MAX, faults)?.to_owned();
        Some(Setup::Webhook { url })
    });
    let (chosen, path) = match kind? {
        "slack" => (slack, "setup.slack"),
        _ => (webhook, "setup.webhook"),
    };
    if chosen.is_none() {
        required(faults, path);
    }
    chosen
}

fn check_url(url: &str, hooks: &dyn Hooks, faults: &mut Faults) {
    // A parser of URLs drops these in silence; what was judged would not be what is shown.
    let problem = if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Some(String::from("the URL has white space in it"))
    } else {
        hooks.check_url(url).err()
    };
    if let Some(problem) = problem {
        faults.add("setup.webhook.url", format!("is refused: {problem}"));
    }
}

/// The body of an update.
#[derive(Debug)]
pub(super) struct Update {
    /// Absent leaves it as it is.
    pub(super) description: Option<String>,
    pub(super) flags: Flags,
    pub(super) url: Option<String>,
}

impl Update {
    /// `old` is what is to be changed: neither its type nor a Slack channel can be.
    pub(super) fn parse(
        body: &[u8],
        old: &Subscription,
        hooks: &dyn Hooks,
    ) -> Result<Self, Failure> {
        let body = json::body(body)?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        if fields.is_sent("type") {
            faults.add("type", "cannot be changed");
        }
        fields.refuse_null(&["events"], &mut faults);
        let description = fields.text("description", DESCRIPTION_MAX, &mut faults);
        let flags = Flags::read(&fields, &mut faults);
        let mut url = None;
        if let Some(setup) = fields.object("setup", &mut faults) {
            if setup.is_sent("slack") {
                faults.add("setup.slack", "cannot be changed");
            }
            setup.only(&["slack", "webhook"], &mut faults);
            setup.refuse_null(&["webhook"], &mut faults);
            if let Some(webhook) = setup.object("webhook", &mut faults) {
                url = webhook.required_text("url", URL_MAX, &mut faults);
                if matches!(old.endpoint, Endpoint::Slack { .. }) {
                    faults.add("setup.webhook", "is not of this notification: its type is slack");
                }
            }
        }
        if let Some(url) = url {
            check_url(url, hooks, &mut faults);
        }
        faults.into_result()?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Self { description: owned(description), flags, url: owned(url) })
    }
}

/// A subscription as answers show it.
pub(super) fn data(
    subscription: &Subscription,
    organization: &Organization,
    vault: &Vault,
) -> Value {
    let (kind, config) = match &subscription.endpoint {
        Endpoint::Slack { team, channel, .. } => {
            ("slack", json!({ "slack": { "team": team, "channel": channel } }))
        }
        Endpoint::Webhook { url, secret, .. } => {
            // Null where the server's keys were lost: the dialect shows the token it signs with.
            let token = vault.open(Owner(subscription.org, subscription.id), secret).ok();
            let token = token.as_ref().map(Secret::reveal);
            ("webhook", json!({ "webhook": { "url": url, "token": token } }))
        }
    };
    let mut data = Map::new();
    let mut put = |name: &str, value: Value| drop(data.insert(name.to_owned(), value));
    put("id", subscription.id.to_string().into());
    put("organization", organization.object_id.to_string().into());
    if let Some(description) = &subscription.description {
        put("description", description.as_str().into());
    }
    put("type", kind.into());
    put("config", config);
    put("events", shown(subscription).into());
    put("updatedAt", subscription.updated_at.to_rfc3339().into());
    put("createdAt", subscription.created_at.to_rfc3339().into());
    data.into()
}

/// The answer around `data`.
pub(super) fn answer(data: &Value) -> String {
    json!({ "status": true, "data": data }).to_string()
}
