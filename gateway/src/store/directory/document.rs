//! The document as written: every field read and checked by itself, and against its neighbours.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::fields::{self, Fields};
use super::{Problem, Problems, names};
use crate::model::{
    ObjectId, OnUnknown, OrganizationId, Platform, RoleId, Secret, UserId, UserStatus,
};

const UUID: &str = "must be a uuid";
const OBJECT_ID: &str = "must be 24 hexadecimal digits";

#[derive(Debug)]
pub(super) struct Document {
    pub(super) organizations: Vec<OrganizationEntry>,
    pub(super) roles: Vec<RoleEntry>,
    pub(super) users: Vec<UserEntry>,
    pub(super) subscriptions: Vec<SubscriptionEntry>,
    pub(super) clients: Vec<ClientEntry>,
}

#[derive(Debug)]
pub(super) struct OrganizationEntry {
    pub(super) path: String,
    pub(super) id: OrganizationId,
    pub(super) name: String,
    pub(super) slug: Option<String>,
    pub(super) uuid: Option<Uuid>,
    pub(super) object_id: Option<ObjectId>,
    pub(super) numeric: Option<String>,
    pub(super) parent: Option<OrganizationId>,
    pub(super) tz: Option<String>,
}

#[derive(Debug)]
pub(super) struct RoleEntry {
    pub(super) path: String,
    pub(super) id: RoleId,
    pub(super) org: OrganizationId,
    pub(super) name: String,
    pub(super) permissions: Vec<String>,
}

#[derive(Debug)]
pub(super) struct UserEntry {
    pub(super) path: String,
    pub(super) id: UserId,
    pub(super) org: OrganizationId,
    pub(super) email: String,
    pub(super) name: String,
    pub(super) role: Option<RoleId>,
    pub(super) status: Option<UserStatus>,
    pub(super) uuid: Option<Uuid>,
    pub(super) tz: Option<String>,
    pub(super) locale: Option<String>,
    pub(super) prefs: Option<Vec<(String, String)>>,
    pub(super) devices: Vec<DeviceEntry>,
    pub(super) memberships: Vec<MembershipEntry>,
    pub(super) password_hash: Option<Secret>,
}

pub(super) struct DeviceEntry {
    pub(super) platform: Platform,
    pub(super) app: String,
    pub(super) token: String,
}

#[derive(Debug)]
pub(super) struct MembershipEntry {
    pub(super) solution: Uuid,
    pub(super) groups: Vec<String>,
}

#[derive(Debug)]
pub(super) struct ClientEntry {
    pub(super) path: String,
    pub(super) org: OrganizationId,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) secret: Secret,
    pub(super) limited_to: Option<Vec<String>>,
}

pub(super) struct SubscriptionEntry {
    pub(super) path: String,
    pub(super) org: OrganizationId,
    pub(super) id: Option<ObjectId>,
    pub(super) description: Option<String>,
    pub(super) events: Vec<String>,
    pub(super) enabled: Option<bool>,
    pub(super) on_unknown: Option<OnUnknown>,
    pub(super) merges_overflow: Option<bool>,
    pub(super) keeps_order: Option<bool>,
    pub(super) endpoint: EndpointEntry,
}

pub(super) enum EndpointEntry {
    Slack { url: String, team: Option<String>, channel: Option<String> },
    Webhook { url: String, secret: Option<String> },
}

// Tokens, secrets and Slack URLs are credentials: they stay out of every debug output.
impl std::fmt::Debug for DeviceEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceEntry").field("app", &self.app).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SubscriptionEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriptionEntry").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads `bytes`, or says everything that is wrong with them.
pub(super) fn parse(bytes: &[u8]) -> Result<Document, Problems> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| {
        let path = format!("line {} column {}", error.line(), error.column());
        Problems(vec![Problem { path, problem: String::from("is not valid JSON") }])
    })?;
    let mut problems = Vec::new();
    let document = Fields::of(&value, String::new(), &mut problems).map(|mut fields| {
        let document = Document {
            organizations: fields.each("organizations", organization),
            roles: fields.each("roles", role),
            users: fields.each("users", user),
            subscriptions: fields.each("subscriptions", subscription),
            clients: fields.each("clients", client),
        };
        fields.finish();
        document
    });
    if let Some(document) = &document {
        find_duplicates(document, &mut problems);
    }
    match document {
        Some(document) if problems.is_empty() => Ok(document),
        _ => Err(Problems(problems)),
    }
}

fn organization(fields: &mut Fields<'_>) -> Option<OrganizationEntry> {
    let id = fields.required("id", fields::positive).map(OrganizationId);
    let name = fields.required("name", fields::text);
    let slug = fields.optional("slug", checked(names::slug_problem));
    let uuid = fields.optional("uuid", fields::parsed(UUID));
    let object_id = fields.optional("objectId", fields::parsed(OBJECT_ID));
    let numeric = fields.optional("numeric", checked(names::numeric_problem));
    let parent = fields.optional("parent", fields::positive).map(OrganizationId);
    let tz = fields.optional("tz", time_zone);
    let path = String::from(fields.path());
    let (id, name) = (id?, name?);
    Some(OrganizationEntry { path, id, name, slug, uuid, object_id, numeric, parent, tz })
}

fn role(fields: &mut Fields<'_>) -> Option<RoleEntry> {
    let path = String::from(fields.path());
    let id = fields.required("id", fields::positive).map(RoleId);
    let org = fields.required("organization", fields::positive).map(OrganizationId);
    let name = fields.required("name", fields::text);
    let permissions = fields.required("permissions", fields::texts);
    Some(RoleEntry { path, id: id?, org: org?, name: name?, permissions: permissions? })
}

fn user(fields: &mut Fields<'_>) -> Option<UserEntry> {
    const STATUSES: [(&str, UserStatus); 3] = [
        ("pending", UserStatus::Pending),
        ("active", UserStatus::Active),
        ("suspended", UserStatus::Suspended),
    ];
    let path = String::from(fields.path());
    let id = fields.required("id", fields::positive).map(UserId);
    let org = fields.required("organization", fields::positive).map(OrganizationId);
    let email = fields.required("email", |value| Ok(names::email(&fields::text(value)?)?));
    let name = fields.required("name", fields::text);
    let role = fields.optional("role", fields::positive).map(RoleId);
    let status = fields.optional("status", fields::word(&STATUSES));
    let uuid = fields.optional("uuid", fields::parsed(UUID));
    let tz = fields.optional("tz", time_zone);
    let locale = fields.optional("locale", fields::text);
    let prefs = fields.optional("prefs", fields::pairs);
    let devices = fields.each("devices", device);
    let memberships = fields.each("memberships", membership);
    let password_hash = fields.optional("passwordHash", checked(names::password_hash_problem));
    let password_hash = password_hash.map(Secret::new);
    let (id, org, email, name) = (id?, org?, email?, name?);
    Some(UserEntry {
        path,
        id,
        org,
        email,
        name,
        role,
        status,
        uuid,
        tz,
        locale,
        prefs,
        devices,
        memberships,
        password_hash,
    })
}

fn device(fields: &mut Fields<'_>) -> Option<DeviceEntry> {
    const PLATFORMS: [(&str, Platform); 2] = [("apns", Platform::Apns), ("fcm", Platform::Fcm)];
    let platform = fields.required("platform", fields::word(&PLATFORMS));
    let app = fields.required("app", fields::text);
    let token = fields.required("token", fields::text);
    Some(DeviceEntry { platform: platform?, app: app?, token: token? })
}

fn membership(fields: &mut Fields<'_>) -> Option<MembershipEntry> {
    let solution = fields.required("solution", fields::parsed(UUID));
    let groups = fields.optional("groups", fields::texts).unwrap_or_default();
    Some(MembershipEntry { solution: solution?, groups })
}

fn client(fields: &mut Fields<'_>) -> Option<ClientEntry> {
    let path = String::from(fields.path());
    let org = fields.required("organization", fields::positive).map(OrganizationId);
    let id = fields.required("id", checked(names::client_id_problem));
    let name = fields.required("name", fields::text);
    let secret = fields.required("secret", checked(names::client_secret_problem));
    let limited_to = fields.optional("permissions", fields::texts);
    let (org, id, name, secret) = (org?, id?, name?, Secret::new(secret?));
    Some(ClientEntry { path, org, id, name, secret, limited_to })
}

const ON_UNKNOWN: [(&str, OnUnknown); 3] =
    [("resend", OnUnknown::Resend), ("hold", OnUnknown::Hold), ("giveUp", OnUnknown::GiveUp)];

fn subscription(fields: &mut Fields<'_>) -> Option<SubscriptionEntry> {
    let path = String::from(fields.path());
    let org = fields.required("organization", fields::positive).map(OrganizationId);
    let id = fields.optional("id", fields::parsed(OBJECT_ID));
    let description = fields.optional("description", fields::text);
    let events = fields.required("events", fields::texts);
    let enabled = fields.optional("enabled", fields::flag);
    let on_unknown = fields.optional("onUnknown", fields::word(&ON_UNKNOWN));
    let keeps_order = fields.optional("keepOrder", fields::flag);
    let slack = fields.required("type", fields::word(&[("slack", true), ("webhook", false)]));
    let url = fields.required("url", web_address);
    let (mut team, mut channel, mut secret) = (None, None, None);
    let mut merges_overflow = None;
    if slack != Some(false) {
        merges_overflow = fields.optional("mergeOverflow", fields::flag);
        team = fields.optional("team", fields::text);
        channel = fields.optional("channel", fields::text);
    }
    if slack != Some(true) {
        secret = fields.optional("secret", checked(names::secret_problem));
    }
    let (slack, url) = (slack?, url?);
    let endpoint = if slack {
        EndpointEntry::Slack { url, team, channel }
    } else {
        EndpointEntry::Webhook { url, secret }
    };
    let (org, events) = (org?, events?);
    Some(SubscriptionEntry {
        path,
        org,
        id,
        description,
        events,
        enabled,
        on_unknown,
        merges_overflow,
        keeps_order,
        endpoint,
    })
}

fn checked(
    problem_of: fn(&str) -> Option<&'static str>,
) -> impl FnOnce(&serde_json::Value) -> Result<String, String> {
    move |value| {
        let text = fields::text(value)?;
        problem_of(&text).map_or(Ok(text), |problem| Err(String::from(problem)))
    }
}

fn time_zone(value: &serde_json::Value) -> Result<String, String> {
    let name = fields::text(value)?;
    match jiff::tz::TimeZone::get(&name) {
        Ok(_) => Ok(name),
        Err(_) => Err(String::from("must be an IANA time zone such as Europe/Berlin")),
    }
}

fn web_address(value: &serde_json::Value) -> Result<String, String> {
    let text = fields::text(value)?;
    match url::Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "https" | "http") && url.has_host() => Ok(text),
        _ => Err(String::from("must be an https or http URL")),
    }
}

/// Two entries of one document must not claim the same id or name.
fn find_duplicates(document: &Document, problems: &mut Vec<Problem>) {
    let mut claims = Claims { first: HashMap::new(), problems };
    for org in &document.organizations {
        claims.claim("organization", Some(org.id), &org.path, "id");
        claims.claim("uuid", org.uuid, &org.path, "uuid");
        claims.claim("objectId", org.object_id, &org.path, "objectId");
        claims.claim("slug", org.slug.as_ref(), &org.path, "slug");
        claims.claim("numeric", org.numeric.as_ref(), &org.path, "numeric");
    }
    for role in &document.roles {
        claims.claim("role", Some(format!("{}/{}", role.org, role.id)), &role.path, "id");
    }
    for user in &document.users {
        claims.claim("user", Some(user.id), &user.path, "id");
        claims.claim("user uuid", user.uuid, &user.path, "uuid");
        claims.claim("email", Some(&user.email), &user.path, "email");
        let mut solutions = HashSet::new();
        for (index, membership) in user.memberships.iter().enumerate() {
            if !solutions.insert(membership.solution) {
                let path = format!("{}.memberships[{index}].solution", user.path);
                let problem = String::from("is named twice for this user");
                claims.problems.push(Problem { path, problem });
            }
        }
    }
    for client in &document.clients {
        claims.claim("client", Some(&client.id), &client.path, "id");
    }
    for subscription in &document.subscriptions {
        claims.claim("subscription", subscription.id, &subscription.path, "id");
    }
}

struct Claims<'a> {
    first: HashMap<(&'static str, String), String>,
    problems: &'a mut Vec<Problem>,
}

impl Claims<'_> {
    fn claim(&mut self, kind: &'static str, value: Option<impl ToString>, path: &str, field: &str) {
        let Some(value) = value else { return };
        let path = format!("{path}.{field}");
        match self.first.entry((kind, value.to_string())) {
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(path);
            }
            std::collections::hash_map::Entry::Occupied(taken) => {
                let problem = format!("is the same as {}", taken.get());
                self.problems.push(Problem { path, problem });
            }
        }
    }
}
