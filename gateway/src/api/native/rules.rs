//! Rules of an organization, or of everybody: deploy one, see them, move one through its stages.

use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::native::account::administered;
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::signed::Signed;
use crate::api::{Answered, Shared, json, reply};
use crate::model::{AuditNote, Millis, Organization, OrganizationId};
use crate::rules::{
    DeployError, DeployedRule, Deployment, Deployments, RuleChange, RuleError, SetError, Stage,
};
use crate::store::Change;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

const TEXT_MAX: usize = 256;
const STAGE_MAX: usize = 32;
const DIGEST_LENGTH: usize = 64;
const ORDER_MAX: u32 = 1_000_000;
/// Longest pause that ends by itself: 30 days.
const PAUSE_SECONDS_MAX: u32 = 2_592_000;
/// JSON around a component.
const WRAPPING_BYTES: u64 = 4 << 10;

/// Who may, for whose rules, and where they are kept.
pub(super) struct Access {
    pub(super) caller: Signed,
    pub(super) organization: Arc<Organization>,
    /// Whose rules; `None`: everybody's.
    scope: Option<OrganizationId>,
    pub(super) deployments: Arc<Deployments>,
}

/// Authenticates, counts, finds the organization, checks the rights, in this order.
async fn access(
    shared: &Shared,
    headers: &http::HeaderMap,
    (uri, named): (&Uri, &str),
) -> Result<Access, Failure> {
    let mut faults = Faults::default();
    let aim = (uri, named);
    let (access, _) = access_with(shared, headers, aim, (&["global"], &mut faults)).await?;
    faults.into_result()?;
    Ok(access)
}

/// The same for a query that has more to say; what it says wrongly is in the faults.
pub(super) async fn access_with(
    shared: &Shared,
    headers: &http::HeaderMap,
    (uri, named): (&Uri, &str),
    (known, faults): (&[&str], &mut Faults),
) -> Result<(Access, Query), Failure> {
    let caller = shared.caller(headers).await?;
    shared.throttle(caller.organization)?;
    let organization = administered(shared, &caller, named).await?;
    let query = Query::of_uri(uri)?;
    query.only(known, faults);
    let is_global = query.boolean("global", faults).unwrap_or_default();
    if is_global {
        // As for everything that belongs to the whole server.
        let first = shared.store.first_organization().await?;
        if first != Some(organization.id) || caller.organization != organization.id {
            let text = "rules of everybody are managed by the organization that was there first";
            return Err(Failure::new(FailureClass::Forbidden, text));
        }
    }
    let scope = (!is_global).then_some(organization.id);
    let absent = || Failure::new(FailureClass::NotFound, "this gateway takes no rules");
    let deployments = shared.deployments.clone().ok_or_else(absent)?;
    Ok((Access { caller, organization, scope, deployments }, query))
}

/// `GET /bugler/v1/organizations/{org}/rules`
pub(super) async fn list(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let aim = (&request.uri, params.get("org"));
    let Access { scope, deployments, .. } = access(&shared, &request.headers, aim).await?;
    let set = deployments.set();
    let own = scope.map(|org| org.0);
    // An organization also sees what judges it from above.
    let mut rules: Vec<_> =
        set.rules.iter().filter(|rule| rule.org == own || rule.org.is_none()).collect();
    rules.sort_by_key(|rule| (rule.order, rule.name.clone()));
    let rules: Vec<_> = rules.into_iter().map(|rule| summary(rule, &deployments)).collect();
    let body = json!({ "revision": set.revision, "rules": rules });
    Ok(Answered::Other(reply::json(200, body.to_string())))
}

/// `GET /bugler/v1/organizations/{org}/rules/{rule}`
pub(super) async fn get(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let aim = (&request.uri, params.get("org"));
    let Access { scope, deployments, .. } = access(&shared, &request.headers, aim).await?;
    shown(&deployments, scope, params.get("rule"), 200)
}

/// `GET /bugler/v1/organizations/{org}/rules/{rule}/component`
pub(super) async fn component(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let mut faults = Faults::default();
    let (aim, known) = ((&request.uri, params.get("org")), ["global", "digest"]);
    let (access, query) =
        access_with(&shared, &request.headers, aim, (&known, &mut faults)).await?;
    let digest = query.text("digest", DIGEST_LENGTH, &mut faults).map(str::to_owned);
    faults.into_result()?;
    let Access { scope, deployments, .. } = access;
    let found = deployments.component((scope, params.get("rule")), digest).await;
    let (version, component) = found.map_err(refused)?;
    let body = json!({
        "digest": version.digest,
        "version": version.version,
        "component": STANDARD.encode(component),
    });
    Ok(Answered::Other(reply::json(200, body.to_string())))
}

/// `POST /bugler/v1/organizations/{org}/rules`
pub(super) async fn deploy(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let aim = (&request.uri, params.get("org"));
    let access = access(&shared, &request.headers, aim).await?;
    let most = u64::try_from(access.deployments.component_bytes()).unwrap_or(u64::MAX);
    let most = most.saturating_mul(4) / 3 + WRAPPING_BYTES;
    let (head, body) = Shared::json_body_of(request, most).await?;
    let body = json::body(&body)?;
    let fields = Fields::of_body(&body)?;
    let mut faults = Faults::default();
    fields.only(&["component", "stage", "message", "gates", "expectChange"], &mut faults);
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    let component = fields.required_text("component", limit, &mut faults).unwrap_or_default();
    let component = STANDARD.decode(component).ok();
    if component.is_none() {
        faults.add("component", "must be base64");
    }
    let stage = fields.text("stage", STAGE_MAX, &mut faults).unwrap_or("shadow").parse();
    if let Err(error) = &stage {
        faults.add("stage", SetError::to_string(error));
    }
    let message = fields.text("message", TEXT_MAX, &mut faults).unwrap_or_default().to_owned();
    let gates = match fields.get("gates") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(Value::Object(gates)) => gates.clone().into_iter().collect(),
        Some(_) => {
            faults.add("gates", "must be an object like {\"max_diff\": \"1%\"}");
            BTreeMap::new()
        }
    };
    let expects_change = truth(&fields, "expectChange", &mut faults).unwrap_or_default();
    faults.into_result()?;
    let (Some(component), Ok(stage)) = (component, stage) else {
        return Err(Failure::field("component", "must be base64"));
    };
    let Access { caller, organization, scope, deployments } = access;
    let by = caller.name();
    let home = organization.id;
    let deployment =
        Deployment { component, org: scope, home, stage, by, message, gates, expects_change };
    let (manifest, version) = deployments.deploy(deployment).await.map_err(refused)?;
    let object = format!("rule:{}@{} {}", manifest.name, version.version, version.digest);
    let note = shared.note(&head, &caller, organization.id, "rule.deploy", object);
    noted(&shared, note).await;
    shown(&deployments, scope, &manifest.name, 201)
}

/// `PATCH /bugler/v1/organizations/{org}/rules/{rule}`
pub(super) async fn change(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let aim = (&request.uri, params.get("org"));
    let access = access(&shared, &request.headers, aim).await?;
    let (head, body) = shared.json_body(request).await?;
    let (change, message) = wanted(&body, shared.intake.now())?;
    let Access { caller, organization, scope, deployments } = access;
    let name = params.get("rule");
    let (action, by) = (action(&change), caller.name());
    deployments.change((scope, name), change, (by, message)).await.map_err(refused)?;
    let note = shared.note(&head, &caller, organization.id, action, format!("rule:{name}"));
    noted(&shared, note).await;
    shown(&deployments, scope, name, 200)
}

fn truth(fields: &Fields<'_>, name: &str, faults: &mut Faults) -> Option<bool> {
    match fields.get(name) {
        None => None,
        Some(Value::Bool(truth)) => Some(*truth),
        Some(_) => {
            faults.add(name, "must be true or false");
            None
        }
    }
}

fn wanted(body: &[u8], now: Millis) -> Result<(RuleChange, String), Failure> {
    let body = json::body(body)?;
    let fields = Fields::of_body(&body)?;
    let mut faults = Faults::default();
    let known = ["stage", "digest", "rollback", "paused", "seconds", "force", "order", "message"];
    fields.only(&known, &mut faults);
    let message = fields.text("message", TEXT_MAX, &mut faults).unwrap_or_default().to_owned();
    let truth = |name: &str, faults: &mut Faults| truth(&fields, name, faults);
    let is_forced = truth("force", &mut faults).unwrap_or_default();
    let mut changes = Vec::new();
    if let Some(stage) = fields.text("stage", STAGE_MAX, &mut faults) {
        let digest = fields.text("digest", DIGEST_LENGTH, &mut faults).map(str::to_owned);
        match stage.parse() {
            Ok(to) => changes.push(RuleChange::Promote { to, digest, is_forced }),
            Err(error) => faults.add("stage", SetError::to_string(&error)),
        }
    }
    match truth("rollback", &mut faults) {
        Some(true) => changes.push(RuleChange::RollBack),
        Some(false) => faults.add("rollback", "must be true, or left out"),
        None => {}
    }
    let paused = truth("paused", &mut faults);
    let seconds = fields.integer::<u32>("seconds", &mut faults);
    if seconds.is_some_and(|seconds| !(1..=PAUSE_SECONDS_MAX).contains(&seconds)) {
        faults.add("seconds", "must be from 1 to 2592000");
    }
    if seconds.is_some() && paused != Some(true) {
        faults.add("seconds", "is for paused: true");
    }
    let until = seconds.map(|seconds| now.plus(u64::from(seconds) * 1_000));
    match paused {
        Some(true) => changes.push(RuleChange::Pause { is_forced, until }),
        Some(false) => changes.push(RuleChange::Resume),
        None => {}
    }
    match fields.integer::<u32>("order", &mut faults) {
        Some(order) if order > ORDER_MAX => faults.add("order", "must be at most 1000000"),
        Some(order) => changes.push(RuleChange::Order(order)),
        None => {}
    }
    faults.into_result()?;
    let one = changes.pop().filter(|_| changes.is_empty());
    let text = "must be one of stage, rollback, paused and order";
    one.map(|change| (change, message)).ok_or_else(|| Failure::field("stage", text))
}

fn action(change: &RuleChange) -> &'static str {
    match change {
        RuleChange::Promote { .. } => "rule.promote",
        RuleChange::Withdraw { .. } => "rule.withdraw",
        RuleChange::RollBack => "rule.rollback",
        RuleChange::Pause { .. } => "rule.pause",
        RuleChange::Resume => "rule.resume",
        RuleChange::Order(_) => "rule.order",
        RuleChange::Configure { .. } => "rule.config",
    }
}

/// The change is made and in its history; a line less in the trail must not undo it.
pub(super) async fn noted(shared: &Shared, note: AuditNote) {
    if let Err(error) = shared.store.apply(vec![Change::Audit(note)]).await {
        tracing::error!(error = %crate::telemetry::chain(&error), "a change of the rules is missing in the audit trail");
    }
}

fn shown(
    deployments: &Deployments,
    scope: Option<OrganizationId>,
    name: &str,
    status: u16,
) -> Result<Answered, Failure> {
    let set = deployments.set();
    let absent = || Failure::new(FailureClass::NotFound, SetError::NoRule.to_string());
    let rule = set.rule(scope, name).ok_or_else(absent)?;
    let mut body = summary(rule, deployments);
    body["history"] = json!(rule.history);
    Ok(Answered::Other(reply::json(status, body.to_string())))
}

fn summary(rule: &DeployedRule, deployments: &Deployments) -> Value {
    let version = |digest: &str, stage: Stage| {
        let found = rule.versions.iter().find(|version| version.digest == digest);
        let counts = deployments.counts(rule, digest, stage);
        json!({
            "digest": digest,
            "version": found.map(|version| &version.version),
            "items": counts.items,
            "errors": counts.errors,
            "deadlines": counts.deadlines,
            "withheld": counts.withheld,
            "fuelP99": counts.fuel_p99,
            "microsP99": counts.micros_p99,
        })
    };
    let tried = |tried: &Option<(String, u16)>, stage: fn(u16) -> Stage| {
        let (digest, share) = tried.as_ref()?;
        let mut shown = version(digest, stage(*share));
        shown["percent"] = json!(f64::from(*share) / 100.0);
        shown["missing"] = json!(deployments.missing(rule, digest, stage(*share)));
        Some(shown)
    };
    let mut shadow = tried(&rule.shadow, Stage::Shadow);
    if let (Some(shown), Some((digest, share))) = (&mut shadow, &rule.shadow) {
        let counts = deployments.counts(rule, digest, Stage::Shadow(*share));
        shown["compared"] = json!(counts.compared);
        shown["same"] = json!(counts.same);
        shown["shed"] = json!(counts.shed);
    }
    json!({
        "name": rule.name,
        "organization": rule.org,
        "order": rule.order,
        "required": rule.required,
        "paused": rule.is_paused,
        "pausedUntil": rule.paused_until,
        "shipped": rule.shipped.is_some(),
        "active": rule.active.as_deref().map(|digest| version(digest, Stage::Active)),
        "canary": tried(&rule.canary, Stage::Canary),
        "shadow": shadow,
        "versions": rule.versions,
    })
}

pub(super) fn refused(error: DeployError) -> Failure {
    match error {
        DeployError::Rule(RuleError::Engine(_) | RuleError::Thread(_) | RuleError::Probe(_))
        | DeployError::Shelf(_)
        | DeployError::Damaged { .. } => {
            tracing::error!(error = %crate::telemetry::chain(&error), "a rule could not be deployed");
            Failure::new(FailureClass::Internal, "the rule could not be deployed; see the log")
        }
        DeployError::Rule(error) => Failure::field("component", chain(&error)),
        DeployError::Set(error @ (SetError::NoRule | SetError::NotInForce)) => {
            Failure::new(FailureClass::NotFound, error.to_string())
        }
        DeployError::Set(
            error @ (SetError::Changed | SetError::Gates { .. } | SetError::SameVersion { .. }),
        ) => Failure::new(FailureClass::Exists, error.to_string()),
        DeployError::Set(error @ (SetError::Settings | SetError::Setting(_))) => {
            Failure::field("config", error.to_string())
        }
        DeployError::Set(error @ SetError::GateText(_)) => {
            Failure::field("gates", error.to_string())
        }
        DeployError::Set(error @ SetError::Shipped) => Failure::field("order", error.to_string()),
        DeployError::Set(error) => Failure::field("stage", error.to_string()),
    }
}

/// All that was said, in one line: what is wrong with a component is for its author.
fn chain(error: &dyn Error) -> String {
    let text = crate::telemetry::chain(error);
    text.chars().filter(|character| !character.is_control()).take(1_000).collect()
}
