//! The native notification as callers write it, and the checks it must pass.

use crate::api::failure::{Failure, FieldFault};
use crate::api::fields::{is_email, text_problem, whole};
use crate::api::json;
use crate::model::{
    Audience, Content, Millis, Notification, NotificationId, OrganizationId, Priority, Source,
    UserId,
};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use uuid::Uuid;

const RECIPIENTS_MAX: usize = 1_000;
const TITLE_MAX: usize = 200;
const BODY_MAX: usize = 2_000;
const DATA_BYTES_MAX: usize = 3 << 10;
const NAME_MAX: usize = 100;
/// Push providers keep a message for 28 days at most.
const TTL_S_MAX: u64 = 28 * 24 * 3_600;

/// `{"to": {…}, "title": …}`: one line of a batch, or the body of a single request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Wire<'a> {
    /// Defaults to the organization of the token.
    #[serde(default)]
    pub(super) organization: Option<Whole<i32>>,
    #[serde(borrow, default)]
    to: Option<To<'a>>,
    #[serde(borrow, default)]
    title: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    body: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    image_url: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(default)]
    priority: Option<Priority>,
    #[serde(borrow, default)]
    collapse_key: Option<Cow<'a, str>>,
    /// Milliseconds since 1970.
    #[serde(default)]
    start_at: Option<Whole<u64>>,
    /// Seconds after the start.
    #[serde(default)]
    ttl: Option<Whole<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct To<'a> {
    #[serde(default)]
    users: Option<Vec<Whole<i64>>>,
    #[serde(borrow, default)]
    emails: Option<Vec<Cow<'a, str>>>,
    #[serde(default)]
    organization: Option<bool>,
    #[serde(default)]
    solution: Option<Uuid>,
    #[serde(borrow, default)]
    groups: Option<Vec<Cow<'a, str>>>,
    #[serde(default)]
    subscriptions: Option<bool>,
}

/// A whole number in the range of `T`, in any spelling JSON has for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole<T>(pub(super) T);

impl<'de, T: TryFrom<i64>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(from)?;
        // The usual spelling needs no more than this.
        let number = number.as_i64().or_else(|| whole(&Value::from(number)));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.map(Self).ok_or_else(|| de::Error::custom("a number is not an integer in range"))
    }
}

impl<'a> Wire<'a> {
    /// Reads one notification. Strict like every body: no duplicate or unknown names.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Failure> {
        json::check_numbers(bytes).map_err(|fault| Failure::field("", fault.to_string()))?;
        let wire: Self =
            serde_json::from_slice(bytes).map_err(|error| Failure::field("", error.to_string()))?;
        if let Some(data) = wire.data {
            let nested = json::parse(data.get().as_bytes());
            let nested = nested.map_err(|fault| Failure::field("data", fault.to_string()))?;
            if !nested.is_object() {
                return Err(Failure::field("data", "must be an object"));
            }
        }
        Ok(wire)
    }

    /// The checked notification of `org`.
    pub(super) fn into_notification(
        self,
        id: NotificationId,
        org: OrganizationId,
        created_by: &str,
        now: Millis,
    ) -> Result<Notification, Failure> {
        let mut faults = Vec::new();
        self.check(now, &mut faults);
        let audience = self.to.unwrap_or_default().audience(&mut faults);
        if !faults.is_empty() {
            return Err(Failure::invalid(faults));
        }
        let start_at = self.start_at.map_or(now, |at| Millis(at.0).max(now));
        let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned).unwrap_or_default();
        Ok(Notification {
            id,
            org,
            source: Source::Native,
            event: self.event.map_or_else(|| String::from("notification"), Cow::into_owned),
            audience,
            content: Content {
                title: owned(self.title),
                body: owned(self.body),
                image_url: self.image_url.map(Cow::into_owned),
                data: self.data.map(|data| data.get().to_owned()).unwrap_or_default(),
            },
            priority: self.priority.unwrap_or_default(),
            collapse_key: self.collapse_key.map(Cow::into_owned),
            created_at: now,
            created_by: created_by.to_owned(),
            start_at,
            expires_at: self.ttl.map(|ttl| start_at.plus(ttl.0.saturating_mul(1000))),
            dialect_fields: String::new(),
            mail: None,
            inbox: false,
        })
    }

    fn check(&self, now: Millis, faults: &mut Vec<FieldFault>) {
        let mut fault = |path: &str, problem: String| {
            faults.push(FieldFault { path: path.to_owned(), problem });
        };
        if self.title.as_deref().unwrap_or_default().is_empty()
            && self.body.as_deref().unwrap_or_default().is_empty()
            && self.data.is_none()
        {
            fault("title", String::from("is required, unless there is a body or data"));
        }
        let texts = [
            ("title", &self.title, TITLE_MAX),
            ("body", &self.body, BODY_MAX),
            ("imageUrl", &self.image_url, 1024),
            ("event", &self.event, NAME_MAX),
            ("collapseKey", &self.collapse_key, 64),
        ];
        for (path, text, max) in texts {
            if let Some(problem) = text.as_deref().and_then(|text| text_problem(text, max)) {
                fault(path, problem);
            }
        }
        let is_https = |url: &str| url::Url::parse(url).is_ok_and(|url| url.scheme() == "https");
        if self.image_url.as_deref().is_some_and(|url| !is_https(url)) {
            fault("imageUrl", String::from("must be an https URL"));
        }
        if self.data.is_some_and(|data| data.get().len() > DATA_BYTES_MAX) {
            fault("data", format!("takes more than {DATA_BYTES_MAX} bytes"));
        }
        if self.start_at.is_some_and(|at| Millis(at.0) > now.year_ahead()) {
            fault("startAt", String::from("is more than a year ahead"));
        }
        if self.ttl.is_some_and(|ttl| ttl.0 == 0 || ttl.0 > TTL_S_MAX) {
            fault("ttl", format!("must be 1 to {TTL_S_MAX} seconds"));
        }
    }
}

impl To<'_> {
    fn audience(self, faults: &mut Vec<FieldFault>) -> Audience {
        let mut fault = |path: &str, problem: &str| {
            faults.push(FieldFault { path: path.to_owned(), problem: problem.to_owned() });
        };
        let (everybody, subscriptions) =
            (self.organization == Some(true), self.subscriptions == Some(true));
        let named = [
            self.users.is_some(),
            self.emails.is_some(),
            everybody,
            self.solution.is_some(),
            subscriptions,
        ];
        if named.iter().filter(|is_named| **is_named).count() != 1 {
            fault(
                "to",
                "needs exactly one of users, emails, organization, solution, subscriptions",
            );
            return Audience::Subscriptions;
        }
        let is_size_wrong = |len: usize| len == 0 || len > RECIPIENTS_MAX;
        if let Some(users) = self.users {
            if is_size_wrong(users.len()) {
                fault("to.users", "needs 1 to 1000 user ids");
            }
            return Audience::Users(users.into_iter().map(|user| UserId(user.0)).collect());
        }
        if let Some(emails) = self.emails {
            if is_size_wrong(emails.len()) || !emails.iter().all(|email| is_email(email)) {
                fault("to.emails", "needs 1 to 1000 e-mail addresses");
            }
            return Audience::Emails(
                emails.into_iter().map(|email| email.to_lowercase()).collect(),
            );
        }
        match (self.solution, self.groups) {
            (Some(solution), Some(groups)) => {
                if groups.is_empty()
                    || groups.len() > NAME_MAX
                    || groups.iter().any(|group| text_problem(group, NAME_MAX).is_some())
                {
                    fault("to.groups", "needs 1 to 100 group names");
                }
                let groups = groups.into_iter().map(Cow::into_owned).collect();
                Audience::Groups { solution, groups }
            }
            (Some(solution), None) => Audience::Solution(solution),
            (None, _) if everybody => Audience::Organization,
            (None, _) => Audience::Subscriptions,
        }
    }
}
