//! Native unit tests of a rule: a gateway whose clock, settings and counters the test writes, and samples.

use crate::bindings::authorizer::Request as RequestRow;
use crate::bindings::bugler::rules::clock::{LocalTime, TzError};
use crate::bindings::bugler::rules::counters::CounterError;
use crate::bindings::bugler::rules::kv::KvError;
use crate::bindings::bugler::rules::log::Level;
use crate::bindings::bugler::rules::types::{
    Channel, Notification, Plan, Principal, PrincipalKind, Priority, Recipient, RecipientKind,
    Step, Target, UserStatus, Verdict,
};
use crate::bindings::router::{Batch, Item as Row, Routed};
use crate::bindings::transformer::{Batch as Payloads, Item as PayloadRow, Transformed};
use crate::guest::{Authorize, Route, Transform, answer_with, authorize_with, transform_with};
use crate::{Authorized, Host, TimeOfDay};
use std::cell::RefCell;
use std::collections::BTreeMap;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

/// A gateway in which it is `hour:minute` on Thursday 1 January 1970, in the only zone it knows: `UTC`.
#[derive(Clone, Debug)]
pub struct FakeHost {
    pub time: TimeOfDay,
    pub settings: Vec<(String, String)>,
    /// What was counted under each key; time stands still, so nothing leaves a window.
    pub counts: RefCell<BTreeMap<String, u64>>,
    /// Tokens taken from each bucket; none comes back.
    pub taken: RefCell<BTreeMap<String, u32>>,
    pub values: RefCell<BTreeMap<String, Vec<u8>>>,
}

impl FakeHost {
    /// A gateway where it is `time` (`HH:MM`; anything else panics) and the rule has `settings`.
    #[must_use]
    pub fn at(time: &str, settings: &[(&str, &str)]) -> Self {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Self {
            time: time.parse().expect("the test writes the time as HH:MM"),
            settings: settings.iter().map(own).collect(),
            counts: RefCell::default(),
            taken: RefCell::default(),
            values: RefCell::default(),
        }
    }

    /// The rule's answer to one item.
    #[must_use]
    pub fn ask(&self, route: Route, notification: Notification, recipient: Recipient) -> Routed {
        let batch = one(notification, recipient);
        answer_with(self, &batch, route).swap_remove(0)
    }

    /// The rule's answer to one request.
    #[must_use]
    pub fn may(&self, authorize: Authorize, request: RequestRow) -> Authorized {
        authorize_with(self, &[request], authorize).swap_remove(0)
    }

    /// The rule's answer to one payload for `recipient` on `channel`.
    #[must_use]
    pub fn show(
        &self,
        transform: Transform,
        (notification, recipient): (Notification, Recipient),
        (channel, payload_json): (Channel, &str),
    ) -> Transformed {
        let payload_json = payload_json.to_owned();
        let row = PayloadRow { notification: 0, recipient: 0, channel, payload_json };
        let batch = Payloads {
            notifications: vec![notification],
            recipients: vec![recipient],
            items: vec![row],
        };
        transform_with(self, &batch, transform).swap_remove(0)
    }
}

impl Host for FakeHost {
    fn now(&self) -> u64 {
        millis(self.time)
    }

    fn local(&self, at: u64, tz: &str) -> Result<LocalTime, TzError> {
        if tz != "UTC" {
            return Err(TzError::UnknownZone);
        }
        let part = |divisor: u64, modulus: u64| {
            u8::try_from(at / divisor % modulus).map_err(|_| TzError::OutOfRange)
        };
        Ok(LocalTime {
            year: 1970,
            month: 1,
            day: part(DAY, 31)? + 1,
            weekday: (part(DAY, 7)? + 3) % 7 + 1,
            hour: part(60 * MINUTE, 24)?,
            minute: part(MINUTE, 60)?,
            second: part(1000, 60)?,
            utc_offset_seconds: 0,
        })
    }

    fn next_local(&self, after: u64, tz: &str, at: TimeOfDay) -> Result<u64, TzError> {
        if tz != "UTC" {
            return Err(TzError::UnknownZone);
        }
        let today = after - after % DAY + millis(at);
        Ok(if today > after { today } else { today + DAY })
    }

    fn config_for(&self, _org_id: &str, key: &str) -> Option<String> {
        self.settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn log(&self, _level: Level, _message: &str) {}

    fn count(&self, key: &str, by: u32, _window_ms: u32) -> Result<u64, CounterError> {
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(key.to_owned()).or_default();
        *count += u64::from(by);
        Ok(*count)
    }

    fn peek(&self, key: &str, _window_ms: u32) -> Result<u64, CounterError> {
        Ok(self.counts.borrow().get(key).copied().unwrap_or_default())
    }

    fn take(
        &self,
        key: &str,
        _per_window: u32,
        _window_ms: u32,
        burst: u32,
    ) -> Result<bool, CounterError> {
        let mut taken = self.taken.borrow_mut();
        let taken = taken.entry(key.to_owned()).or_default();
        let is_left = *taken < burst;
        *taken += u32::from(is_left);
        Ok(is_left)
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.values.borrow().get(key).cloned()
    }

    fn set(&self, key: &str, value: &[u8], _ttl_ms: u32) -> Result<(), KvError> {
        self.values.borrow_mut().insert(key.to_owned(), value.to_vec());
        Ok(())
    }
}

/// A request of a user of organization 101 with `permissions`, which the built-in check allows if
/// `required` is among them.
#[must_use]
pub fn request(action: &str, permissions: &[&str], required: &str) -> RequestRow {
    let permissions: Vec<String> = permissions.iter().map(ToString::to_string).collect();
    let is_granted = permissions.iter().any(|own| own == required);
    RequestRow {
        principal: Principal {
            kind: PrincipalKind::User,
            id: "7".into(),
            org_id: "101".into(),
            roles: Vec::new(),
            permissions,
        },
        action: action.into(),
        org_id: "101".into(),
        resource_id: None,
        required: vec![required.into()],
        baseline: if is_granted { Verdict::Allow } else { Verdict::Deny },
    }
}

/// An ordinary notification of event `event`.
#[must_use]
pub fn notification(event: &str) -> Notification {
    Notification {
        id: "0191d4c0-0000-7000-8000-000000000001".into(),
        org_id: "101".into(),
        event_type: event.into(),
        title: "Hello".into(),
        body: "World".into(),
        priority: Priority::Normal,
        created_at: 0,
        expires_at: None,
        collapse_key: None,
        attrs: Vec::new(),
    }
}

/// An active user in zone `UTC` with one target on each of `channels`.
#[must_use]
pub fn user(channels: &[Channel]) -> Recipient {
    let target = |(number, channel): (usize, &Channel)| Target {
        channel: *channel,
        handle: format!("t{number}"),
        app: "main".into(),
        last_ok_at: None,
        recent_failures: 0,
    };
    Recipient {
        kind: RecipientKind::User,
        id: "7".into(),
        org_id: "101".into(),
        email: None,
        tz: Some("UTC".into()),
        locale: None,
        status: UserStatus::Active,
        roles: Vec::new(),
        prefs: Vec::new(),
        targets: channels.iter().enumerate().map(target).collect(),
    }
}

/// A batch of one item whose plan is every target at once.
#[must_use]
pub fn one(notification: Notification, recipient: Recipient) -> Batch {
    let targets = (0u32..).zip(&recipient.targets).map(|(index, _)| index).collect();
    let plan = Plan {
        steps: vec![Step { targets, within_ms: 0 }],
        priority: None,
        collapse_key: None,
        expires_at: None,
    };
    let row = Row { notification: 0, recipient: 0, attempt: 1, last_outcome: None, plan };
    Batch { notifications: vec![notification], recipients: vec![recipient], items: vec![row] }
}

fn millis(time: TimeOfDay) -> u64 {
    (u64::from(time.hour()) * 60 + u64::from(time.minute())) * MINUTE
}
