//! The sample notifications: the customers' own bodies, and one of every other way in.

/// One request and what must come of it.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) title: &'static str,
    pub(super) path: &'static str,
    pub(super) media: &'static str,
    pub(super) body: &'static str,
    pub(super) status: u16,
    /// Notifications accepted, and deliveries of each.
    pub(super) notifications: usize,
    pub(super) deliveries: u64,
    /// Sent with a user's token instead of the organization's.
    pub(super) by_user: bool,
    pub(super) is_bulk: bool,
}

const JSON: &str = "application/json";

/// Jigx's documented body, as its page prints it.
const JIGX_USR: &str = r#"{
  "content": {
    "title": "Approved",
    "text": "Your overtime for this month has been approved",
    "screen":"jig"
    
  },
  "scope": "USR",
  "emails": [
    "username@jigx.com"
  ]
}"#;

const JIGX_SLN_GRP: &str = r#"{
  "content": {"title": "Shift plan", "text": "The plan for next week is out", "inputs": {"week": 48}},
  "scope": "SLN_GRP",
  "solutionId": "0f3f2f0a-6c0e-4d0f-9d51-0b8f4f3c2a10",
  "groups": ["drivers"]
}"#;

const JIGX_ORG: &str = r#"{
  "content": {"title": "Fire drill", "text": "At noon, everybody"},
  "scope": "ORG"
}"#;

/// Blynk's documented example values.
const BLYNK_PUSH: &str = r#"{
  "userId": 101,
  "title": "Device Alert",
  "body": "Your device temperature is too high!",
  "imageUrl": "https://example.com/alert.png"
}"#;

const NATIVE_EVENT: &str = r#"{
  "to": {"subscriptions": true},
  "event": "buildCreated",
  "title": "Build 42 is ready",
  "data": {"build": 42}
}"#;

const NATIVE_BULK: &str = concat!(
    r#"{"to":{"users":[101]},"title":"One of three","body":"Line 0"}"#,
    "\n",
    r#"{"to":{"users":[101]},"title":"Two of three","body":"Line 1"}"#,
    "\n",
    r#"{"to":{"users":[101]},"title":"Three of three","body":"Line 2"}"#,
    "\n",
);

pub(super) fn all() -> Vec<Sample> {
    let jigx = |title, body, deliveries| Sample {
        title,
        path: "/v2.0/tool/organizations/09e431b3-1e59-4c2d-9a35-6a3f4d1b7c55/notifications",
        media: JSON,
        body,
        status: 201,
        notifications: 1,
        deliveries,
        by_user: true,
        is_bulk: false,
    };
    let native = |title, path, media, body, deliveries| Sample {
        title,
        path,
        media,
        body,
        status: 201,
        notifications: 1,
        deliveries,
        by_user: false,
        is_bulk: false,
    };
    vec![
        // Two devices of one user, and a Slack channel and a webhook that want this event.
        jigx("Jigx: send to users (the customer's own sample)", JIGX_USR, 4),
        jigx("Jigx: send to a group of a solution", JIGX_SLN_GRP, 3),
        jigx("Jigx: send to the organization", JIGX_ORG, 5),
        Sample {
            status: 204,
            ..native(
                "Blynk: push to a user's devices",
                "/api/v1/organization/users/send-push-notification",
                JSON,
                BLYNK_PUSH,
                2,
            )
        },
        native(
            "Native: an event for subscriptions",
            "/bugler/v1/notifications",
            JSON,
            NATIVE_EVENT,
            1,
        ),
        Sample {
            status: 200,
            notifications: 3,
            is_bulk: true,
            ..native(
                "Native: three notifications in one bulk request",
                "/bugler/v1/notifications:batch",
                "application/x-ndjson",
                NATIVE_BULK,
                2,
            )
        },
    ]
}
