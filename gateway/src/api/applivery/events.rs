//! The events subscriptions choose from: their keys, their words on the wire, what people read.

use crate::api::failure::Failure;
use crate::api::fields::{Faults, Fields};
use crate::model::{Content, Millis, Organization, Subscription};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Every key, in the order answers have them: the customer's page, then the newer three.
pub(super) const KEYS: [&str; 18] = [
    "buildCreated",
    "buildProcessed",
    "feedbackCreated",
    "certificateWillExpire",
    "applePushRenovation",
    "emmEnrollmentCreated",
    "emmDeviceCreated",
    "emmDeviceChangedMdmUser",
    "admEnrollmentCreated",
    "admDeviceCreated",
    "admDeviceChangedMdmUser",
    "winEnrollmentCreated",
    "winDeviceCreated",
    "winDeviceChangedMdmUser",
    "inventoryItemRegistered",
    "aosEnrollmentCreated",
    "aosDeviceCreated",
    "aosDeviceChangedMdmUser",
];

/// `action` on the wire, the key it belongs to, and what a Slack channel reads. Where two actions
/// share a key, the first one is its own.
#[rustfmt::skip]
const ACTIONS: [(&str, &str, &str); 19] = [
    ("build_created",                      "buildCreated",            "A build was created"),
    ("build_processed",                    "buildProcessed",          "A build was processed"),
    ("feedback_created",                   "feedbackCreated",         "Feedback was received"),
    ("bug_created",                        "feedbackCreated",         "A bug was reported"),
    ("certificate_will_expire",            "certificateWillExpire",   "A certificate will expire soon"),
    ("apple_push_certification_renovation", "applePushRenovation",    "The Apple push certificate must be renewed"),
    ("android_enrollment-token_created",   "emmEnrollmentCreated",    "An Android enrollment was created"),
    ("android_device_enrolled",            "emmDeviceCreated",        "An Android device was enrolled"),
    ("android_device_added_mdm_user",      "emmDeviceChangedMdmUser", "An Android device changed its user"),
    ("apple_enrollment-token_created",     "admEnrollmentCreated",    "An Apple enrollment was created"),
    ("apple_device_enrolled",              "admDeviceCreated",        "An Apple device was enrolled"),
    ("apple_device_added_mdm_user",        "admDeviceChangedMdmUser", "An Apple device changed its user"),
    ("windows_enrollment-token_created",   "winEnrollmentCreated",    "A Windows enrollment was created"),
    ("windows_device_enrolled",            "winDeviceCreated",        "A Windows device was enrolled"),
    ("windows_device_added_mdm_user",      "winDeviceChangedMdmUser", "A Windows device changed its user"),
    ("inventory_item_registered",          "inventoryItemRegistered", "An inventory item was registered"),
    ("aosp_enrollment-token_created",      "aosEnrollmentCreated",    "An AOSP enrollment was created"),
    ("aosp_device_enrolled",               "aosDeviceCreated",        "An AOSP device was enrolled"),
    ("aosp_device_added_mdm_user",         "aosDeviceChangedMdmUser", "An AOSP device changed its user"),
];

/// Characters of an event's name that is not one of the keys.
const NAME_MAX: usize = 100;
/// Members of `data`, and characters of each, that a Slack message shows.
const SHOWN_MAX: usize = 8;
const SHOWN_CHARS_MAX: usize = 200;

/// Which events a subscription wants, as they were sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) wanted: Vec<String>,
    pub(super) unwanted: Vec<String>,
}

impl Flags {
    /// Reads the required object `events`. Unknown names are left out.
    pub(super) fn read(fields: &Fields<'_>, faults: &mut Faults) -> Self {
        let mut flags = Self::default();
        if fields.get("events").is_none() && !faults.concern("events") {
            faults.add("events", "is required");
        }
        let Some(events) = fields.object("events", faults) else { return flags };
        events.refuse_null(&KEYS, faults);
        for key in KEYS {
            match events.get(key) {
                None => {}
                Some(Value::Bool(true)) => flags.wanted.push(key.to_owned()),
                Some(Value::Bool(false)) => flags.unwanted.push(key.to_owned()),
                Some(_) => faults.add(format!("events.{key}"), "must be true or false"),
            }
        }
        flags
    }
}

/// The flags an answer shows: those that were sent or are true.
pub(super) fn shown(subscription: &Subscription) -> Map<String, Value> {
    let wants = |key: &str| subscription.events.iter().any(|event| event == "*" || event == key);
    let named = |key: &str| subscription.unwanted.iter().any(|event| event == key);
    let flags = KEYS.into_iter().filter(|key| wants(key) || named(key));
    flags.map(|key| (key.to_owned(), wants(key).into())).collect()
}

/// An event that happened, by both its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    pub(crate) event: String,
    pub(crate) action: String,
    title: String,
}

impl Happened {
    /// The event called `event` or `action`; if it is called both, they must be of one event.
    ///
    /// Names that are no key are events of this server's own (`user.invited`); their action is the
    /// same word.
    pub(crate) fn named(event: Option<&str>, action: Option<&str>) -> Result<Self, Failure> {
        let row = |(action, event, title): (&str, &str, &str)| Self {
            event: event.to_owned(),
            action: action.to_owned(),
            title: title.to_owned(),
        };
        let fault = |path: &str, problem: &str| Err(Failure::field(path, problem));
        match (event, action) {
            (None, None) => fault("event", "is required, or action"),
            (event, Some(action)) => match ACTIONS.into_iter().find(|(name, ..)| *name == action) {
                Some(known) if event.is_none_or(|event| event == known.1) => Ok(row(known)),
                Some(_) => fault("action", "is not of this event"),
                None => fault("action", "is not a known action"),
            },
            (Some(event), None) => match ACTIONS.into_iter().find(|(_, key, _)| *key == event) {
                Some(known) => Ok(row(known)),
                None if is_name(event) => Ok(Self {
                    event: event.to_owned(),
                    action: event.to_owned(),
                    title: event.to_owned(),
                }),
                None => fault(
                    "event",
                    "must be a known key, or a small letter and up to 99 letters, digits, '.', '_', '-'",
                ),
            },
        }
    }

    /// A try-out that no subscription has to want.
    pub(super) fn test() -> Self {
        let name = String::from("test");
        Self { event: name.clone(), action: name, title: String::from("Test notification") }
    }

    /// What subscriptions are sent: webhooks the whole of `data` in Applivery's envelope, Slack
    /// the first plain members of it in words.
    pub(crate) fn content(
        &self,
        organization: &Organization,
        data: &RawValue,
        at: Millis,
    ) -> Result<Content, Failure> {
        let envelope = Envelope {
            action: &self.action,
            event: &self.event,
            organization: Sender {
                id: organization.object_id.to_string(),
                slug: &organization.slug,
            },
            data,
            created_at: at.to_rfc3339(),
        };
        let envelope = serde_json::to_string(&envelope)
            .map_err(|error| Failure::field("data", error.to_string()))?;
        let mut body = organization.name.clone();
        if let Ok(Value::Object(members)) = serde_json::from_str(data.get()) {
            for line in members.iter().filter_map(line).take(SHOWN_MAX) {
                body.push('\n');
                body.push_str(&line);
            }
        }
        Ok(Content { title: self.title.clone(), body, image_url: None, data: envelope })
    }
}

fn is_name(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(is_part)
}

/// `name: value` of a member that is no list or object.
fn line((name, value): (&String, &Value)) -> Option<String> {
    let value = match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    let plain = |text: &str| {
        let kept = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        kept.take(SHOWN_CHARS_MAX).collect::<String>()
    };
    Some(format!("{}: {}", plain(name), plain(&value)))
}

/// The body of every webhook delivery of an event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    action: &'a str,
    event: &'a str,
    organization: Sender<'a>,
    data: &'a RawValue,
    /// When the event was accepted: repeats are byte for byte the same.
    created_at: String,
}

#[derive(Serialize)]
struct Sender<'a> {
    id: String,
    slug: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::failure::FieldFault;

    fn fault(event: Option<&str>, action: Option<&str>) -> Vec<FieldFault> {
        Happened::named(event, action).expect_err("a fault").fields
    }

    #[test]
    fn every_key_has_an_action_and_every_action_a_key() {
        for key in KEYS {
            let happened = Happened::named(Some(key), None).expect(key);
            assert_eq!(happened.event, key);
            assert_ne!(happened.action, key, "a key is not its own action");
        }
        for (action, key, title) in ACTIONS {
            assert!(KEYS.contains(&key), "{action}");
            let happened = Happened::named(None, Some(action)).expect(action);
            assert_eq!((happened.event.as_str(), happened.title.as_str()), (key, title));
            assert_eq!(Happened::named(Some(key), Some(action)), Ok(happened));
        }
    }

    #[test]
    fn a_key_with_two_actions_has_one_of_its_own() {
        let of = |event, action| Happened::named(event, action).expect("known").action;
        assert_eq!(of(Some("feedbackCreated"), None), "feedback_created");
        assert_eq!(of(Some("feedbackCreated"), Some("bug_created")), "bug_created");
    }

    #[test]
    fn other_names_are_the_servers_own_events() {
        let happened = Happened::named(Some("user.password-changed_2"), None).expect("a name");
        assert_eq!(happened.action, "user.password-changed_2");
        let longest = format!("a{}", "b".repeat(99));
        assert!(Happened::named(Some(&longest), None).is_ok());
        for bad in ["", "User", "1st", ".a", "a b", "a\n", "é", "*", &format!("{longest}c")] {
            assert_eq!(fault(Some(bad), None)[0].path, "event", "{bad}");
        }
        assert_eq!(fault(None, None)[0].path, "event");
        for (event, action) in
            [(None, "buildCreated"), (None, ""), (Some("buildCreated"), "build_processed")]
        {
            assert_eq!(fault(event, Some(action))[0].path, "action", "{action}");
        }
    }

    #[test]
    fn lines_are_plain_and_short() {
        let value = Value::from("a\r\nb");
        assert_eq!(line((&String::from("k\n"), &value)).as_deref(), Some("k : a  b"));
        assert_eq!(line((&String::from("k"), &Value::from(7))).as_deref(), Some("k: 7"));
        assert_eq!(line((&String::from("k"), &Value::Null)), None);
        let long = Value::from("x".repeat(1000));
        assert_eq!(line((&String::from("k"), &long)).map(|l| l.len()), Some(203));
    }
}
