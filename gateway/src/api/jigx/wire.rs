//! Jigx's bodies: the closed schema of a create request and the shape of its answer.

use super::members::{GROUP_MAX, GROUPS_MAX};
use super::time;
use super::who::uuid_of;
use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields, is_email, text_problem, whole};
use crate::api::signed::WHOLE_ORGANIZATION;
use crate::model::{Audience, Content, Millis, Notification, Organization};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const EMAILS_MAX: usize = 1_000;
/// A push payload is at most 4,096 bytes, and inputs travel in it.
const INPUTS_BYTES_MAX: usize = 3 << 10;

/// A checked create request.
#[derive(Debug)]
pub(super) struct Create {
    pub(super) audience: Audience,
    /// Never before the time of the request.
    pub(super) start_at: Option<Millis>,
    scope: &'static str,
    /// Content as it is echoed: text, title, screen, jigId, inputs.
    content: Map<String, Value>,
    /// Other members as they are echoed.
    emails: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    solution: Option<Uuid>,
    description: Option<String>,
}

impl Create {
    pub(super) fn of(body: &Value, now: Millis) -> Result<Self, Failure> {
        let fields = Fields::of_body(body)?;
        let mut faults = Faults::default();
        fields.only(
            &["content", "scope", "emails", "groups", "solutionId", "description", "startAt"],
            &mut faults,
        );
        let content = content(&fields, &mut faults);
        let emails = emails(&fields, &mut faults);
        let groups = fields
            .get("groups")
            .and_then(|_| fields.texts("groups", GROUPS_MAX, GROUP_MAX, &mut faults));
        let groups = groups.map(|g| g.into_iter().map(str::to_owned).collect::<Vec<_>>());
        let solution = solution(&fields, &mut faults);
        let description = fields.text("description", 100, &mut faults).map(str::to_owned);
        let start_at = start_at(&fields, now, &mut faults);
        let chosen = audience(&fields, emails.as_ref(), groups.as_ref(), solution, &mut faults);
        faults.into_result()?;
        let (scope, audience) = chosen.ok_or_else(|| Failure::field("scope", "is required"))?;
        Ok(Self { audience, start_at, scope, content, emails, groups, solution, description })
    }

    /// What is shown, in the gateway's own terms.
    pub(super) fn content(&self) -> Content {
        let text = |name| {
            let value = self.content.get(name).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let mut data = Map::new();
        for name in ["screen", "jigId", "inputs"] {
            if let Some(value) = self.content.get(name) {
                data.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(solution) = self.solution {
            data.insert(String::from("solutionId"), solution.to_string().into());
        }
        Content {
            title: text("title"),
            body: text("text"),
            image_url: None,
            data: Value::Object(data).to_string(),
        }
    }

    /// What later reads of this dialect need and nobody else does.
    pub(super) fn own_fields(&self) -> String {
        let mut own = Map::new();
        own.insert(String::from("scope"), self.scope.into());
        own.insert(String::from("content"), self.content.clone().into());
        self.put_selectors(&mut own);
        Value::Object(own).to_string()
    }

    fn put_selectors(&self, into: &mut Map<String, Value>) {
        if let Some(emails) = &self.emails {
            into.insert(String::from("emails"), json!(emails));
        }
        if let Some(groups) = &self.groups {
            into.insert(String::from("groups"), json!(groups));
        }
        if let Some(solution) = self.solution {
            into.insert(String::from("solutionId"), solution.to_string().into());
        }
        if let Some(description) = &self.description {
            into.insert(String::from("description"), description.clone().into());
        }
    }
}

/// A notification as its sender sees it, members in the order of the product's documents.
pub(super) fn shown(
    notification: &Notification,
    (organization, region): (&Organization, &str),
    (state, updated_at): (&str, Millis),
) -> Value {
    let own: Map<String, Value> =
        serde_json::from_str(&notification.dialect_fields).unwrap_or_default();
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| {
        shown.insert(name.to_owned(), value);
    };
    let of = |name: &str| own.get(name).cloned();
    let author = Value::from(notification.created_by.as_str());
    put("organizationId", organization.uuid.to_string().into());
    put("region", region.into());
    put("notificationId", notification.id.to_string().into());
    put("scope", of("scope").unwrap_or_default());
    for name in ["emails", "groups", "solutionId", "description"] {
        if let Some(value) = of(name) {
            put(name, value);
        }
    }
    put("state", state.into());
    put("startAt", notification.start_at.to_rfc3339().into());
    put("content", of("content").unwrap_or_default());
    put("createdAt", notification.created_at.to_rfc3339().into());
    put("createdBy", author.clone());
    put("updatedAt", updated_at.to_rfc3339().into());
    put("updatedBy", author);
    Value::Object(shown)
}

fn content(fields: &Fields<'_>, faults: &mut Faults) -> Map<String, Value> {
    let mut echoed = Map::new();
    if fields.get("content").is_none() {
        faults.add("content", "is required");
        return echoed;
    }
    let Some(content) = fields.object("content", faults) else { return echoed };
    content.only(&["text", "title", "screen", "jigId", "inputs"], faults);
    let mut echo = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            echoed.insert(name.to_owned(), value.into());
        }
    };
    echo("text", content.required_text("text", 200, faults));
    echo("title", content.text("title", 100, faults));
    echo("screen", Some(content.text("screen", 50, faults).unwrap_or("jig")));
    echo("jigId", content.text("jigId", 50, faults));
    let inputs = match content.get("inputs") {
        None => Value::Object(Map::new()),
        Some(inputs @ Value::Object(_)) => inputs.clone(),
        Some(_) => {
            faults.add("content.inputs", "must be an object");
            Value::Null
        }
    };
    if inputs.to_string().len() > INPUTS_BYTES_MAX {
        faults.add("content.inputs", format!("takes more than {INPUTS_BYTES_MAX} bytes"));
    }
    echoed.insert(String::from("inputs"), inputs);
    echoed
}

/// An array, or one string of addresses separated by commas.
fn emails(fields: &Fields<'_>, faults: &mut Faults) -> Option<Vec<String>> {
    // With its place in the request, which is not the one among those that are looked at.
    let mut listed: Vec<(usize, &str)> = Vec::new();
    match fields.get("emails")? {
        Value::String(list) => {
            let parts = list.split(',').enumerate();
            listed.extend(parts.filter(|(_, email)| !email.trim().is_empty()));
        }
        Value::Array(items) if items.len() > EMAILS_MAX => return too_many_emails(faults),
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                match item.as_str() {
                    Some(email) => listed.push((number, email)),
                    None => faults.add(format!("emails[{number}]"), "must be a string"),
                }
            }
        }
        _ => {
            faults.add("emails", "must be an array of e-mail addresses, or one string of them");
            return None;
        }
    }
    if listed.len() > EMAILS_MAX {
        return too_many_emails(faults);
    }
    for (number, email) in &mut listed {
        *email = email.trim();
        if let Some(problem) = text_problem(email, 100) {
            faults.add(format!("emails[{number}]"), problem);
        } else if !is_email(email) {
            faults.add(format!("emails[{number}]"), "is not an e-mail address");
        }
    }
    Some(listed.into_iter().map(|(_, email)| email.to_owned()).collect())
}

fn too_many_emails(faults: &mut Faults) -> Option<Vec<String>> {
    faults.add("emails", format!("has more than {EMAILS_MAX} items"));
    None
}

fn solution(fields: &Fields<'_>, faults: &mut Faults) -> Option<Uuid> {
    let text = fields.text("solutionId", 36, faults)?;
    let parsed = uuid_of(text).filter(|id| *id != WHOLE_ORGANIZATION);
    if parsed.is_none() {
        faults.add("solutionId", "must be an uuid, and not the nil uuid");
    }
    parsed
}

fn audience(
    fields: &Fields<'_>,
    emails: Option<&Vec<String>>,
    groups: Option<&Vec<String>>,
    solution: Option<Uuid>,
    faults: &mut Faults,
) -> Option<(&'static str, Audience)> {
    let mut require = |name: &str, is_there: bool, problem: &str| {
        // A selector that is there and wrong has its own fault already.
        if !is_there && !faults.concern(name) {
            faults.add(name, problem);
        }
    };
    match fields.get("scope").and_then(Value::as_str) {
        Some("USR") => {
            let some = emails.is_some_and(|emails| !emails.is_empty());
            require("emails", some, "needs at least one address for scope USR");
            let emails = emails.into_iter().flatten().map(|e| e.to_lowercase()).collect();
            Some(("USR", Audience::Emails(emails)))
        }
        Some("SLN") => {
            require("solutionId", solution.is_some(), "is required for scope SLN");
            Some(("SLN", Audience::Solution(solution.unwrap_or_default())))
        }
        Some("SLN_GRP") => {
            require("solutionId", solution.is_some(), "is required for scope SLN_GRP");
            let some = groups.is_some_and(|groups| !groups.is_empty());
            require("groups", some, "needs at least one group for scope SLN_GRP");
            let groups = groups.cloned().unwrap_or_default();
            let solution = solution.unwrap_or_default();
            Some(("SLN_GRP", Audience::Groups { solution, groups }))
        }
        Some("ORG") => Some(("ORG", Audience::Organization)),
        _ => {
            faults.add("scope", "must be USR, SLN, SLN_GRP or ORG");
            None
        }
    }
}

/// RFC 3339 text, or an integer: milliseconds since the epoch, small ones seconds.
fn start_at(fields: &Fields<'_>, now: Millis, faults: &mut Faults) -> Option<Millis> {
    let value = fields.get("startAt")?;
    let asked = match value {
        Value::String(text) => time::of_text(text),
        Value::Number(number) => number
            .as_u64()
            .or_else(|| whole(value).and_then(|n| u64::try_from(n).ok()))
            .map(time::of_number),
        _ => None,
    };
    match asked {
        None => faults.add("startAt", "must be an RFC 3339 time or milliseconds since 1970"),
        Some(at) if at > now.year_ahead() => faults.add("startAt", "is more than a year ahead"),
        Some(at) => return Some(at.max(now)),
    }
    None
}
