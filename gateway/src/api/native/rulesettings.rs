//! Settings of one organization for a rule, over those of the rule's manifest.

use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::Faults;
use crate::api::native::rules::{Access, access_with, noted, refused};
use crate::api::route::Call;
use crate::api::{Answered, json, reply};
use crate::model::OrganizationId;
use crate::rules::{RuleChange, SetError};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const KEY_BYTES_MAX: usize = 128;

async fn entered(call: &Call) -> Result<Access, Failure> {
    let mut faults = Faults::default();
    let aim = (&call.request.uri, call.params.get("org"));
    let asked = access_with(&call.shared, &call.request.headers, aim, (&[], &mut faults)).await?;
    faults.into_result()?;
    Ok(asked.0)
}

/// Whose rule of this name it is: the organization's own goes first, then everybody's.
fn owner(access: &Access, name: &str) -> Result<Option<OrganizationId>, Failure> {
    let set = access.deployments.set();
    let scopes = [Some(access.organization.id), None];
    let found = scopes.into_iter().find(|scope| set.rule(*scope, name).is_some());
    found.ok_or_else(|| Failure::new(FailureClass::NotFound, SetError::NoRule.to_string()))
}

/// `GET /bugler/v1/organizations/{org}/rules/{rule}/config`
pub(super) async fn get(call: Call) -> Result<Answered, Failure> {
    let access = entered(&call).await?;
    let name = call.params.get("rule");
    let scope = owner(&access, name)?;
    Ok(shown(&access, scope, name))
}

/// `PATCH /bugler/v1/organizations/{org}/rules/{rule}/config`
pub(super) async fn change(call: Call) -> Result<Answered, Failure> {
    let access = entered(&call).await?;
    let Call { shared, request, params, .. } = call;
    let name = params.get("rule");
    let (head, body) = shared.json_body(request).await?;
    let body = json::body(&body)?;
    let settings = wanted(&body)?;
    let (org, scope) = (access.organization.id, owner(&access, name)?);
    let change = RuleChange::Configure { org, settings };
    let by = (access.caller.name(), String::new());
    access.deployments.change((scope, name), change, by).await.map_err(refused)?;
    let note = shared.note(&head, &access.caller, org, "rule.config", format!("rule:{name}"));
    noted(&shared, note).await;
    Ok(shown(&access, scope, name))
}

/// Text, numbers and truths as text; null takes a setting away.
fn wanted(body: &Value) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let Value::Object(members) = body else {
        return Err(Failure::field("config", "must be an object"));
    };
    let mut faults = Faults::default();
    let mut settings = BTreeMap::new();
    for (key, value) in members {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains(char::is_control) {
            faults.add("config", "has a name that is not 1 to 128 printable bytes");
            continue;
        }
        let text = match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            Value::Null => None,
            Value::Array(_) | Value::Object(_) => {
                faults.add(key, "must be text, a number, true, false or null");
                continue;
            }
        };
        settings.insert(key.clone(), text);
    }
    faults.into_result()?;
    Ok(settings)
}

fn shown(access: &Access, scope: Option<OrganizationId>, name: &str) -> Answered {
    let set = access.deployments.set();
    let rule = set.rule(scope, name);
    let own = rule.and_then(|rule| rule.settings.get(&access.organization.id.0));
    let defaults = rule.map(|rule| access.deployments.defaults(rule)).unwrap_or_default();
    let body = json!({ "config": own.cloned().unwrap_or_default(), "defaults": defaults });
    Answered::Other(reply::json(200, body.to_string()))
}
