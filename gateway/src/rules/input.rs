//! One question to a rule as people and files write it: in test cases, captures, and by hand.

use crate::model::{
    Audience, Content, Millis, Notification, NotificationId, OrganizationId, Priority,
    ProviderName, Source,
};
use crate::rules::at::At;
use crate::rules::bench::Batch;
use crate::rules::hooks::{AuthorizeItem, Hook, PrincipalKind, PrincipalView, TransformItem};
use crate::rules::payload::payload;
use crate::rules::seen::Seen;
use crate::rules::state::State;
use crate::rules::{LastOutcome, Plan, RecipientKind, RecipientView, RouteItem, Step, TargetView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// What is missing or cannot be used of an input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InputError(String);

/// Everything a rule sees of one item. What is left out has a plain default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Input {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
    /// What the rule's clock says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<At>,
    /// Settings over those of the manifest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, Value>,
    /// What was counted and kept before.
    #[serde(skip_serializing_if = "is_default")]
    pub state: Before,
    #[serde(skip_serializing_if = "is_default")]
    pub notification: NotificationText,
    #[serde(skip_serializing_if = "is_default")]
    pub recipient: RecipientText,
    /// Route: the plan so far; left out, every target at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_outcome: Option<LastOutcome>,
    /// Transform: where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<ProviderName>,
    /// Transform: what is shown; left out, what the notification shows. Text is taken as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// Authorize: who asks, for what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<PrincipalText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Authorize: what the built-in check says, `allow` or `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Baseline {
    Allow,
    Deny,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Before {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub taken: BTreeMap<String, u32>,
    /// Values as text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kv: BTreeMap<String, String>,
    /// What a gateway's rule found, as captures write it.
    #[serde(skip_serializing_if = "is_default")]
    pub seen: Seen,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotificationText {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub title: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub priority: Priority,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<At>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<At>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// The caller's custom data, which rules see flattened as attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipientText {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<RecipientKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// `active` (default), `pending` or `suspended`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prefs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetText>,
}

/// `apns:d1`, or with everything there is to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetText {
    Short(String),
    Whole(WholeTarget),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WholeTarget {
    pub channel: ProviderName,
    pub handle: String,
    #[serde(default = "main_app")]
    pub app: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ok_at: Option<At>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub recent_failures: u16,
}

fn main_app() -> String {
    String::from("main")
}

/// Steps alone, or with what else a plan may say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PlanText {
    Steps(Vec<StepText>),
    Whole {
        steps: Vec<StepText>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priority: Option<Priority>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        collapse_key: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<At>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StepText {
    Targets(Vec<usize>),
    Whole { targets: Vec<usize>, within_ms: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrincipalText {
    #[serde(default = "user_kind")]
    pub kind: PrincipalKind,
    pub id: String,
    #[serde(default = "sample_org")]
    pub org_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
}

fn user_kind() -> PrincipalKind {
    PrincipalKind::User
}

/// The organization of an input that names none.
fn sample_org() -> String {
    String::from("101")
}

/// Noon UTC on 10 January 2026: the clock of an input that names no time.
const NOON: Millis = Millis(1_768_046_400_000);

impl Input {
    /// What a route rule was asked.
    #[must_use]
    pub fn of_route(now: Millis, item: &RouteItem, plan: &Plan) -> Self {
        Self {
            hook: Some(Hook::Route),
            now: Some(At(now)),
            notification: NotificationText::of(&item.notification),
            recipient: RecipientText::of(&item.recipient),
            plan: Some(PlanText::of(plan)),
            attempt: Some(item.attempt),
            last_outcome: item.last_outcome,
            ..Self::default()
        }
    }

    /// What a transform rule was asked.
    #[must_use]
    pub fn of_transform(now: Millis, item: &TransformItem) -> Self {
        Self {
            hook: Some(Hook::Transform),
            now: Some(At(now)),
            notification: NotificationText::of(&item.notification),
            recipient: RecipientText::of(&item.recipient),
            channel: Some(item.channel),
            payload: Some(Value::String(item.payload.clone())),
            ..Self::default()
        }
    }

    /// What an authorize rule was asked.
    #[must_use]
    pub fn of_authorize(now: Millis, item: &AuthorizeItem) -> Self {
        Self {
            hook: Some(Hook::Authorize),
            now: Some(At(now)),
            principal: Some(PrincipalText {
                kind: item.principal.kind,
                id: item.principal.id.clone(),
                org_id: item.principal.org.clone(),
                roles: item.principal.roles.clone(),
                permissions: item.principal.permissions.clone(),
            }),
            action: Some(item.action.clone()),
            org_id: Some(item.org.to_string()),
            resource_id: item.resource.clone(),
            required: item.required.clone(),
            baseline: Some(if item.is_allowed { Baseline::Allow } else { Baseline::Deny }),
            ..Self::default()
        }
    }

    /// What the rule's clock says.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.now.map_or(NOON, |at| at.0)
    }

    /// The organization of the question.
    #[must_use]
    pub fn org(&self) -> String {
        let own = self.org_id.clone().or_else(|| self.notification.org_id.clone());
        own.unwrap_or_else(sample_org)
    }

    /// Settings as a rule reads them.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.config.iter().map(|(key, value)| (key.clone(), text(value))).collect()
    }

    #[must_use]
    pub fn state(&self) -> State {
        let bytes = |(key, value): (&String, &String)| (key.clone(), value.clone().into_bytes());
        State {
            counts: self.state.counts.clone(),
            taken: self.state.taken.clone(),
            kv: self.state.kv.iter().map(bytes).collect(),
            seen: self.state.seen.clone(),
        }
    }

    /// A batch of this input and `others`, for `hook`.
    ///
    /// # Errors
    /// Something the hook needs is missing or cannot be read.
    pub fn batch<'a>(
        hook: Hook,
        inputs: impl IntoIterator<Item = &'a Self>,
    ) -> Result<Batch, InputError> {
        let mut inputs = inputs.into_iter();
        Ok(match hook {
            Hook::Authorize => {
                Batch::Authorize(inputs.map(Self::request).collect::<Result<_, _>>()?)
            }
            Hook::Route => Batch::Route(inputs.map(Self::item).collect::<Result<_, _>>()?),
            Hook::Transform => {
                let items: Result<_, _> = inputs.by_ref().map(Self::shown).collect();
                Batch::Transform(items?)
            }
        })
    }

    fn request(&self) -> Result<AuthorizeItem, InputError> {
        let Some(principal) = self.principal.clone() else {
            return Err(bad("an authorize rule needs a principal: principal = { id = \"7\" }"));
        };
        Ok(AuthorizeItem {
            principal: PrincipalView {
                kind: principal.kind,
                id: principal.id,
                org: principal.org_id,
                roles: principal.roles,
                permissions: principal.permissions,
            },
            action: self.action.clone().unwrap_or_else(|| String::from("notification.send")),
            org: org(&self.org())?,
            resource: self.resource_id.clone(),
            required: self.required.clone(),
            is_allowed: self.baseline != Some(Baseline::Deny),
        })
    }

    fn item(&self) -> Result<(RouteItem, Plan), InputError> {
        let notification = self.notification.read(self.now())?;
        let recipient = self.recipient.read(&self.org())?;
        let all = Plan::all_targets(recipient.targets.len());
        let plan = self.plan.as_ref().map_or(all, PlanText::read);
        let (attempt, last_outcome) = (self.attempt.unwrap_or(1), self.last_outcome);
        Ok((
            RouteItem { notification: Arc::new(notification), recipient, attempt, last_outcome },
            plan,
        ))
    }

    fn shown(&self) -> Result<TransformItem, InputError> {
        let notification = self.notification.read(self.now())?;
        let recipient = self.recipient.read(&self.org())?;
        let first = recipient.targets.first().map(|target| target.provider);
        let Some(channel) = self.channel.or(first) else {
            return Err(bad("a transform rule needs a channel: channel = \"slack\""));
        };
        let own = || payload(&notification, channel);
        let payload = match &self.payload {
            Some(Value::String(text)) => Some(text.clone()),
            Some(value) => Some(value.to_string()),
            None => own(),
        };
        let Some(payload) = payload else {
            return Err(bad(
                "a mail needs its payload: payload = { subject = \"…\", text = \"…\" }",
            ));
        };
        Ok(TransformItem { notification: Arc::new(notification), recipient, channel, payload })
    }
}

impl NotificationText {
    fn of(notification: &Notification) -> Self {
        let Content { title, body, image_url, data } = notification.content.clone();
        Self {
            id: Some(notification.id.0.to_string()),
            org_id: Some(notification.org.to_string()),
            event_type: Some(notification.event.clone()),
            title,
            body,
            image_url,
            priority: notification.priority,
            created_at: Some(At(notification.created_at)),
            expires_at: notification.expires_at.map(At),
            collapse_key: notification.collapse_key.clone(),
            data: serde_json::from_str(&data).ok(),
        }
    }

    fn read(&self, now: Millis) -> Result<Notification, InputError> {
        let id = self.id.as_deref().map_or(Ok(Uuid::nil()), |id| {
            id.parse().map_err(|_| bad(format!("notification.id: {id:?} is no uuid")))
        })?;
        let created_at = self.created_at.map_or(now, |at| at.0);
        Ok(Notification {
            id: NotificationId(id),
            org: org(&self.org_id.clone().unwrap_or_else(sample_org))?,
            source: Source::Native,
            event: self.event_type.clone().unwrap_or_else(|| String::from("push.direct")),
            audience: Audience::Organization,
            content: Content {
                title: self.title.clone(),
                body: self.body.clone(),
                image_url: self.image_url.clone(),
                data: self.data.as_ref().map(Value::to_string).unwrap_or_default(),
            },
            priority: self.priority,
            collapse_key: self.collapse_key.clone(),
            created_at,
            created_by: String::new(),
            start_at: created_at,
            expires_at: self.expires_at.map(|at| at.0),
            dialect_fields: String::new(),
            mail: None,
            inbox: false,
        })
    }
}

impl RecipientText {
    fn of(view: &RecipientView) -> Self {
        Self {
            kind: Some(view.kind),
            id: Some(view.id.clone()),
            org_id: Some(view.org.clone()),
            email: view.email.clone(),
            tz: view.tz.clone(),
            locale: view.locale.clone(),
            status: Some(view.status.to_owned()),
            roles: view.roles.clone(),
            prefs: view.prefs.iter().cloned().collect(),
            targets: view.targets.iter().map(TargetText::of).collect(),
        }
    }

    fn read(&self, org: &str) -> Result<RecipientView, InputError> {
        // Inactive is who was removed meanwhile.
        let known = ["active", "pending", "suspended", "inactive"];
        let said = self.status.as_deref().unwrap_or("active");
        let status = known.into_iter().find(|known| *known == said);
        let status = status.ok_or_else(|| {
            bad(format!("recipient.status: {said:?} is none of {}", known.join(", ")))
        })?;
        Ok(RecipientView {
            kind: self.kind.unwrap_or(RecipientKind::User),
            id: self.id.clone().unwrap_or_else(|| String::from("7")),
            org: self.org_id.clone().unwrap_or_else(|| org.to_owned()),
            email: self.email.clone(),
            tz: self.tz.clone(),
            locale: self.locale.clone(),
            status,
            roles: self.roles.clone(),
            prefs: self.prefs.clone().into_iter().collect(),
            targets: self.targets.iter().map(TargetText::read).collect::<Result<_, _>>()?,
        })
    }
}

impl TargetText {
    fn of(view: &TargetView) -> Self {
        Self::Whole(WholeTarget {
            channel: view.provider,
            handle: view.handle.clone(),
            app: view.app.clone(),
            last_ok_at: view.last_ok_at.map(At),
            recent_failures: view.recent_failures,
        })
    }

    fn read(&self) -> Result<TargetView, InputError> {
        match self {
            Self::Short(text) => {
                let name = text.split(':').next().unwrap_or_default();
                let known = ProviderName::ALL.into_iter().find(|known| known.as_str() == name);
                let provider = known.ok_or_else(|| {
                    bad(format!("target {text:?} does not begin with a channel, as apns:d1 does"))
                })?;
                let app = if provider == ProviderName::Email { "email" } else { "main" };
                Ok(TargetView {
                    provider,
                    handle: text.clone(),
                    app: app.to_owned(),
                    last_ok_at: None,
                    recent_failures: 0,
                })
            }
            Self::Whole(whole) => Ok(TargetView {
                provider: whole.channel,
                handle: whole.handle.clone(),
                app: whole.app.clone(),
                last_ok_at: whole.last_ok_at.map(|at| at.0),
                recent_failures: whole.recent_failures,
            }),
        }
    }
}

impl PlanText {
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let steps: Vec<_> = plan.steps.iter().map(StepText::of).collect();
        if (plan.priority, &plan.collapse_key, plan.expires_at) == (None, &None, None) {
            return Self::Steps(steps);
        }
        Self::Whole {
            steps,
            priority: plan.priority,
            collapse_key: plan.collapse_key.clone(),
            expires_at: plan.expires_at.map(At),
        }
    }

    fn read(&self) -> Plan {
        let (steps, priority, collapse_key, expires_at) = match self {
            Self::Steps(steps) => (steps, None, None, None),
            Self::Whole { steps, priority, collapse_key, expires_at } => {
                (steps, *priority, collapse_key.clone(), expires_at.map(|at| at.0))
            }
        };
        Plan {
            steps: steps.iter().map(StepText::read).collect(),
            priority,
            collapse_key,
            expires_at,
        }
    }
}

impl StepText {
    fn of(step: &Step) -> Self {
        let targets = step.targets.clone();
        if step.within_ms == 0 {
            Self::Targets(targets)
        } else {
            Self::Whole { targets, within_ms: step.within_ms }
        }
    }

    fn read(&self) -> Step {
        match self {
            Self::Targets(targets) => Step { targets: targets.clone(), within_ms: 0 },
            Self::Whole { targets, within_ms } => {
                Step { targets: targets.clone(), within_ms: *within_ms }
            }
        }
    }
}

fn org(text: &str) -> Result<OrganizationId, InputError> {
    let number = text.parse().map(OrganizationId);
    number.map_err(|_| bad(format!("organization {text:?} is no number")))
}

fn bad(text: impl Into<String>) -> InputError {
    InputError(text.into())
}
