//! Jigx's bodies: the closed schema of a create request and the shape of its answer.

use super::not_before;
use crate::api::failure::{Failure, FieldFault};
use crate::api::fields::{Faults, Fields, is_email, text_problem, whole};
use crate::api::json;
use crate::model::{Audience, Content, Millis, NotificationId, Organization};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const EMAILS_MAX: usize = 1_000;
const GROUPS_MAX: usize = 100;
/// A push payload is at most 4,096 bytes, and inputs travel in it.
const INPUTS_BYTES_MAX: usize = 3 << 10;
/// Integers below this are seconds: as milliseconds they would all be before 1973.
const SECONDS_BELOW: u64 = 100_000_000_000;

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
    pub(super) fn parse(body: &[u8], now: Millis) -> Result<Self, Failure> {
        let body = json::parse(body).map_err(|fault| Failure::field("", fault.to_string()))?;
        let fields = Fields::of_body(&body)?;
        let mut faults = Faults::default();
        fields.only(
            &["content", "scope", "emails", "groups", "solutionId", "description", "startAt"],
            &mut faults,
        );
        let content = content(&fields, &mut faults);
        let emails = emails(&fields, &mut faults);
        let groups =
            fields.get("groups").and_then(|_| fields.texts("groups", GROUPS_MAX, 100, &mut faults));
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

    /// The 201 body, members in the order of the product's documents.
    pub(super) fn answer(
        &self,
        id: NotificationId,
        organization: &Organization,
        region: &str,
        author: Uuid,
        now: Millis,
    ) -> String {
        let mut answer = Map::new();
        let created = now.to_rfc3339();
        answer.insert(String::from("organizationId"), organization.uuid.to_string().into());
        answer.insert(String::from("region"), region.into());
        answer.insert(String::from("notificationId"), id.to_string().into());
        answer.insert(String::from("scope"), self.scope.into());
        self.put_selectors(&mut answer);
        answer.insert(String::from("state"), "QUEUED".into());
        let start_at = self.start_at.unwrap_or(now).to_rfc3339();
        answer.insert(String::from("startAt"), start_at.into());
        answer.insert(String::from("content"), self.content.clone().into());
        answer.insert(String::from("createdAt"), created.clone().into());
        answer.insert(String::from("createdBy"), author.to_string().into());
        answer.insert(String::from("updatedAt"), created.into());
        answer.insert(String::from("updatedBy"), author.to_string().into());
        Value::Object(answer).to_string()
    }
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
    let emails: Vec<String> = match fields.get("emails")? {
        Value::String(list) => {
            list.split(',').map(|e| e.trim().to_owned()).filter(|e| !e.is_empty()).collect()
        }
        Value::Array(_) => {
            let items = fields.texts("emails", EMAILS_MAX, 100, faults)?;
            items.into_iter().map(|e| e.trim().to_owned()).collect()
        }
        _ => {
            faults.add("emails", "must be an array of e-mail addresses, or one string of them");
            return None;
        }
    };
    if emails.len() > EMAILS_MAX {
        faults.add("emails", format!("has more than {EMAILS_MAX} items"));
        return None;
    }
    for (number, email) in emails.iter().enumerate() {
        if let Some(problem) = text_problem(email, 100) {
            faults.add(format!("emails[{number}]"), problem);
        } else if !is_email(email) {
            faults.add(format!("emails[{number}]"), "is not an e-mail address");
        }
    }
    Some(emails)
}

fn solution(fields: &Fields<'_>, faults: &mut Faults) -> Option<Uuid> {
    let text = fields.text("solutionId", 36, faults)?;
    let parsed = (text.len() == 36).then(|| Uuid::parse_str(text).ok()).flatten();
    if parsed.is_none() {
        faults.add("solutionId", "must be an uuid");
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
        Value::String(text) => parse_rfc3339(text),
        Value::Number(number) => number
            .as_u64()
            .or_else(|| whole(value).and_then(|n| u64::try_from(n).ok()))
            .map(|n| Millis(if n < SECONDS_BELOW { n.saturating_mul(1000) } else { n })),
        _ => None,
    };
    match asked {
        None => faults.add("startAt", "must be an RFC 3339 time or milliseconds since 1970"),
        Some(at) if at > now.year_ahead() => faults.add("startAt", "is more than a year ahead"),
        Some(at) => return Some(not_before(now, at)),
    }
    None
}

fn parse_rfc3339(text: &str) -> Option<Millis> {
    // RFC 3339 wants a full date, a full time and an offset; parsers also take less.
    let has_offset = text.ends_with(['Z', 'z'])
        || text.len() > 6
            && text
                .get(text.len() - 6..)
                .is_some_and(|tail| tail.starts_with(['+', '-']) && tail.get(3..4) == Some(":"));
    // The product's schema also takes the space that RFC 3339 section 5.6 leaves to agreement.
    let is_complete = matches!(
        text.as_bytes(),
        [_, _, _, _, b'-', _, _, b'-', _, _, b'T' | b't' | b' ', _, _, b':', _, _, b':', ..]
    );
    if !text.is_ascii() || text.len() > 40 || !has_offset || !is_complete {
        return None;
    }
    let parsed: jiff::Timestamp = text.to_ascii_uppercase().parse().ok()?;
    u64::try_from(parsed.as_millisecond().max(0)).ok().map(Millis)
}

impl From<FieldFault> for Failure {
    fn from(fault: FieldFault) -> Self {
        Self::invalid(vec![fault])
    }
}
