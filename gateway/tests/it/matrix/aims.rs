//! Requests made from the document's own examples, with the ids of what they are aimed at.

use super::rules::{At, Dialect, Rule, Thing};
use super::world::{Side, World};
use crate::support::client::{Ask, Reply};
use crate::support::world::SOLUTION;
use serde_json::{Value, json};

/// Whose organization or object a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Own,
    ForeignOrganization,
    AbsentOrganization,
    /// In the caller's own organization's path.
    ForeignObject,
    AbsentObject,
}

impl Whose {
    pub(super) const ALL: [Self; 5] = [
        Self::Own,
        Self::ForeignOrganization,
        Self::AbsentOrganization,
        Self::ForeignObject,
        Self::AbsentObject,
    ];

    /// Whether an operation that names its target there can be aimed so.
    pub(super) fn is_at(self, at: At) -> bool {
        match self {
            Self::Own => true,
            Self::ForeignOrganization | Self::AbsentOrganization => match at {
                At::Caller | At::Server | At::User | At::Object(Thing::Timeline) => false,
                At::Organization | At::Object(_) | At::OrganizationField(_) => true,
            },
            Self::ForeignObject | Self::AbsentObject => matches!(at, At::Object(_) | At::User),
        }
    }

    fn organization(self) -> Side {
        match self {
            Self::Own | Self::ForeignObject | Self::AbsentObject => Side::Own,
            Self::ForeignOrganization => Side::Foreign,
            Self::AbsentOrganization => Side::Absent,
        }
    }

    fn object(self) -> Side {
        match self {
            Self::Own => Side::Own,
            Self::ForeignOrganization | Self::ForeignObject => Side::Foreign,
            Self::AbsentOrganization | Self::AbsentObject => Side::Absent,
        }
    }
}

/// One operation of the document.
pub(super) struct Operation<'a> {
    pub(super) id: &'a str,
    method: &'a str,
    path: &'a str,
    operation: &'a Value,
    parameters: Vec<&'a Value>,
}

pub(super) fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in ["get", "post", "put", "patch", "delete"] {
            let operation = &item[method];
            let Some(id) = operation["operationId"].as_str() else { continue };
            let lists = [&item["parameters"], &operation["parameters"]];
            let parameters = lists.into_iter().filter_map(Value::as_array).flatten().collect();
            found.push(Operation { id, method, path, operation, parameters });
        }
    }
    found
}

/// A request without its token.
pub(super) struct Aim {
    pub(super) ask: Ask,
    /// What answers may repeat.
    ids: Vec<String>,
}

impl Aim {
    /// An answer without what differs by nature: ids that were sent, and the request's own.
    pub(super) fn anonymous(&self, reply: &Reply) -> Value {
        let without = |text: String| {
            self.ids
                .iter()
                .filter(|id| !id.is_empty())
                .fold(text, |text, id| text.replace(id, "<id>"))
        };
        let mut headers: Vec<_> = reply
            .headers
            .iter()
            .filter(|(name, _)| {
                !matches!(
                    name.as_str(),
                    "x-request-id" | "bugler-request-id" | "date" | "content-length"
                )
            })
            .map(|(name, value)| {
                format!(
                    "{name}: {}",
                    without(String::from_utf8_lossy(value.as_bytes()).into_owned())
                )
            })
            .collect();
        headers.sort();
        json!({ "status": reply.status, "headers": headers, "body": without(reply.text()) })
    }
}

/// A request of `operation` for something of `whose`; a fresh one may be changed.
pub(super) async fn aim(
    world: &World,
    operation: &Operation<'_>,
    rule: &Rule,
    (whose, fresh): (Whose, bool),
) -> Aim {
    let organization = World::organization(rule.dialect, whose.organization());
    let mut ids = vec![organization.to_owned()];
    let user = match rule.at {
        At::User => world.user(whose.object(), fresh).await,
        _ => String::new(),
    };
    ids.push(user.clone());
    let object = match rule.at {
        At::Object(thing) => world.thing(thing, whose.object(), fresh).await,
        _ => String::new(),
    };
    ids.push(object.clone());
    let member = World::member(whose.object());
    ids.push(member.to_owned());
    let mut path = operation.path.to_owned();
    let mut query = Vec::new();
    let mut headers = Vec::new();
    for parameter in &operation.parameters {
        let name = parameter["name"].as_str().expect("a name");
        let value = match name {
            "org" => organization.to_owned(),
            "orgId" | "organization" if rule.at == At::OrganizationField(name_of(name)) => {
                organization.to_owned()
            }
            "x-zitadel-orgid" => organization.to_owned(),
            "user" => member.to_owned(),
            "solution" => String::from(SOLUTION),
            "userId" | "user_id" => user.clone(),
            "id" if rule.at == At::User => user.clone(),
            "id" | "notification" if !object.is_empty() => object.clone(),
            "roleId" => String::from("2"),
            _ => text_of(&parameter["example"]),
        };
        match parameter["in"].as_str() {
            Some("path") => path = path.replace(&format!("{{{name}}}"), &value),
            Some("query") if parameter["required"] == true || value == organization => {
                query.push(format!("{name}={value}"));
            }
            Some("header") if rule.at == At::Organization => headers.push((name.to_owned(), value)),
            _ => {}
        }
    }
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    let mut ask = Ask::new(&operation.method.to_uppercase(), path);
    for (name, value) in headers {
        ask = ask.header(&name, &value);
    }
    if let Some(body) = body(world, operation, rule, (organization, &user)) {
        ask = ask.json(body.to_string());
    }
    Aim { ask, ids }
}

/// The first example of the body, aimed.
fn body(
    world: &World,
    operation: &Operation<'_>,
    rule: &Rule,
    (organization, user): (&str, &str),
) -> Option<Value> {
    let examples =
        operation.operation["requestBody"]["content"]["application/json"].get("examples");
    let mut body = examples?.as_object()?.values().next()?["value"].clone();
    let Some(members) = body.as_object_mut() else { return Some(json!({})) };
    if members.contains_key("email") {
        let email = format!("new{}@example.com", world.number());
        members.insert(String::from("email"), email.into());
    }
    let number = |text: &str| text.parse::<i64>().ok();
    if let (Some(user), true) = (number(user), members.contains_key("userId")) {
        members.insert(String::from("userId"), user.into());
    }
    if let At::OrganizationField(name) = rule.at {
        members.insert(name.to_owned(), number(organization).into());
    }
    if rule.dialect == Dialect::Blynk && members.contains_key("roleId") {
        members.insert(String::from("roleId"), 3.into());
    }
    Some(body)
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn name_of(name: &str) -> &'static str {
    if name == "orgId" { "orgId" } else { "organization" }
}
