//! What a rule decided and logged about an organization's items, and captures of what it was asked.

use crate::api::failure::{Failure, FailureClass};
use crate::api::fields::{Faults, Fields};
use crate::api::native::rules::{Access, access_with, noted};
use crate::api::native::select::instant;
use crate::api::query::Query;
use crate::api::route::Call;
use crate::api::{Answered, Shared, json, reply};
use crate::model::Millis;
use crate::rules::{Capture, Kept, LogLevel, Page, Place, Recorder, Search, SetError};
use serde_json::{Value, json};
use std::sync::Arc;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: i32 = 1_000;
const PLACE_MAX: usize = 40;
const WORDS_MAX: usize = 200;
const SHARE_MAX: usize = 16;
const LEVELS: [(&str, LogLevel); 4] = [
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("warn", LogLevel::Warn),
    ("error", LogLevel::Error),
];

/// Who asks, and what is recorded of the rule they name.
struct Asked {
    shared: Arc<Shared>,
    access: Access,
    rule: String,
    recorder: Arc<Recorder>,
}

/// The same rights as for the rule itself; records are those of the organization in the path.
async fn asked(
    call: &Call,
    known: &[&str],
    faults: &mut Faults,
) -> Result<(Asked, Query), Failure> {
    let Call { shared, request, params, .. } = call;
    let aim = (&request.uri, params.get("org"));
    let (access, query) = access_with(shared, &request.headers, aim, (known, faults)).await?;
    Ok((found(shared, access, params.get("rule"))?, query))
}

/// What is recorded of `rule`, if there is such a rule.
fn found(shared: &Arc<Shared>, access: Access, rule: &str) -> Result<Asked, Failure> {
    let rule = rule.to_owned();
    let engine = access.deployments.engine();
    let is_known = engine.has_rule(access.organization.id, &rule)
        || access.deployments.set().rule(Some(access.organization.id), &rule).is_some()
        || access.deployments.set().rule(None, &rule).is_some();
    let absent = || Failure::new(FailureClass::NotFound, SetError::NoRule.to_string());
    let recorder = engine.recorder().filter(|_| is_known).cloned().ok_or_else(absent)?;
    Ok(Asked { shared: Arc::clone(shared), access, rule, recorder })
}

impl Asked {
    fn search(&self, query: &Query, faults: &mut Faults) -> Search {
        let after = query.text("after", PLACE_MAX, faults).map(str::parse::<Place>);
        if matches!(after, Some(Err(()))) {
            faults.add("after", "must be the `next` of an answer");
        }
        let limit = query.integer("limit", 1..=PAGE_MAX, faults);
        let words = query.text("decision", WORDS_MAX, faults).unwrap_or_default();
        Search {
            org: self.access.organization.id,
            rule: self.rule.clone(),
            after: after.and_then(Result::ok).unwrap_or_default(),
            since: instant("since", query.get("since"), faults).unwrap_or(Millis(0)),
            decisions: words.split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect(),
            level: query.choice("level", &LEVELS, faults).unwrap_or(LogLevel::Debug),
            limit: limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE_DEFAULT),
        }
    }

    async fn page(&self, kept: Kept, search: Search) -> Result<Page, Failure> {
        let recorder = Arc::clone(&self.recorder);
        let read = tokio::task::spawn_blocking(move || recorder.read(kept, &search)).await;
        let read = read.map_err(|error| error.to_string());
        read.and_then(|page| page.map_err(|error| error.to_string())).map_err(|error| {
            tracing::error!(%error, "what rules decided cannot be read");
            Failure::new(FailureClass::Internal, "the records cannot be read; see the log")
        })
    }
}

/// `GET /bugler/v1/organizations/{org}/rules/{rule}/decisions`
pub(super) async fn decisions(call: Call) -> Result<Answered, Failure> {
    let known = ["after", "since", "limit", "decision"];
    listed(&call, &known, (Kept::Decisions, "decisions")).await
}

/// `GET /bugler/v1/organizations/{org}/rules/{rule}/logs`
pub(super) async fn logs(call: Call) -> Result<Answered, Failure> {
    listed(&call, &["after", "since", "limit", "level"], (Kept::Logs, "lines")).await
}

/// `GET /bugler/v1/organizations/{org}/rules/{rule}/capture`
pub(super) async fn captured(call: Call) -> Result<Answered, Failure> {
    let known = ["after", "since", "limit", "decision"];
    listed(&call, &known, (Kept::Captures, "decisions")).await
}

async fn listed(
    call: &Call,
    known: &[&str],
    (kept, name): (Kept, &str),
) -> Result<Answered, Failure> {
    let mut faults = Faults::default();
    let (asked, query) = asked(call, known, &mut faults).await?;
    let search = asked.search(&query, &mut faults);
    faults.into_result()?;
    let Page { lines, next, is_end } = asked.page(kept, search).await?;
    let mut body = json!({
        name: lines,
        "next": next.to_string(),
        "end": is_end,
        "lost": asked.recorder.lost(kept, &asked.rule),
    });
    if kept == Kept::Captures {
        let now = asked.shared.intake.now();
        let org = asked.access.organization.id;
        let running = asked.recorder.captured(org, &asked.rule, now);
        body["running"] = running.as_ref().map_or(Value::Null, shown);
    }
    Ok(Answered::Other(reply::json(200, body.to_string())))
}

fn shown(capture: &Capture) -> Value {
    json!({ "percent": f64::from(capture.share) / 100.0, "until": capture.until.to_rfc3339() })
}

/// `POST /bugler/v1/organizations/{org}/rules/{rule}/capture`
pub(super) async fn capture(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, params, .. } = call;
    let mut faults = Faults::default();
    let aim = (&request.uri, params.get("org"));
    let (access, _) = access_with(&shared, &request.headers, aim, (&[], &mut faults)).await?;
    let (head, body) = shared.json_body(request).await?;
    let body = json::body(&body)?;
    let fields = Fields::of_body(&body)?;
    fields.only(&["share", "seconds"], &mut faults);
    let share = fields.required_text("share", SHARE_MAX, &mut faults).unwrap_or_default();
    let seconds = fields.required_integer::<u32>("seconds", &mut faults).unwrap_or_default();
    faults.into_result()?;
    let Asked { shared, access, rule, recorder } = found(&shared, access, params.get("rule"))?;
    let org = access.organization.id;
    let capture = recorder
        .capture((org, &rule), share, (shared.intake.now(), u64::from(seconds)))
        .map_err(|error| Failure::field("share", error.to_string()))?;
    let note = shared.note(&head, &access.caller, org, "rule.capture", format!("rule:{rule}"));
    noted(&shared, note).await;
    Ok(Answered::Other(reply::json(201, shown(&capture).to_string())))
}

/// `DELETE /bugler/v1/organizations/{org}/rules/{rule}/capture`
pub(super) async fn end_capture(call: Call) -> Result<Answered, Failure> {
    let mut faults = Faults::default();
    let (asked, _) = asked(&call, &[], &mut faults).await?;
    faults.into_result()?;
    asked.recorder.end_capture(asked.access.organization.id, &asked.rule);
    Ok(Answered::Other(reply::empty(204)))
}
