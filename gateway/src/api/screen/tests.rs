//! Refusals of new work in every dialect: a disk that is slow or full, a backlog at its quota.

use super::*;
use crate::api::route::endpoints;
use crate::api::{
    Api, ApiSettings, Blynk, BlynkSettings, Identity, IdentitySettings, NoHooks, NotificationStates,
};
use crate::auth::{Grant, KeyRing, Origin, PasswordPool, Scope, TokenMinter, TokenVerifier};
use crate::clock::{Clock, SystemClock};
use crate::intake::held::HeldJournal;
use crate::intake::{AdmissionLimits, BacklogQuota, Intake, Vitals};
use crate::journal::Journal;
use crate::model::OrganizationId;
use crate::server::{Body, RequestId, Response, Service};
use crate::store::disk::DiskStore;
use crate::store::{Store, directory};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Uri};
use http_body_util::BodyExt;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

const ACME: OrganizationId = OrganizationId(101);
const GLOBEX: OrganizationId = OrganizationId(202);
const HOUR: Duration = Duration::from_hours(1);
const QUOTA: u64 = 1_000;
const DIRECTORY: &[u8] = br#"{
    "organizations": [{"id": 101, "name": "Acme"}, {"id": 202, "name": "Globex"}],
    "users": [{"id": 7, "organization": 101, "email": "ada@example.com", "name": "Ada"},
              {"id": 8, "organization": 202, "email": "bob@example.com", "name": "Bob"}]}"#;
const NATIVE: &str = "/bugler/v1/notifications";
const BATCH: &str = "/bugler/v1/notifications:batch";
const LINE: &str = r#"{"to":{"organization":true},"title":"t"}"#;
const JSON: &str = "application/json";
const GRPC_CALL: &str = "/zitadel.management.v1.ManagementService/AddCustomNotificationPolicy";

struct World {
    _dir: tempfile::TempDir,
    api: Arc<Api>,
    journal: Arc<HeldJournal>,
    admission: Arc<crate::intake::Admission>,
    minter: TokenMinter,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let journal = HeldJournal::open(&dir.path().join("journal"));
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(dir.path()).unwrap());
    let changes = directory::changes(DIRECTORY, store.as_ref(), clock.now()).await.unwrap();
    store.apply(changes).await.unwrap();
    let keys = Arc::new(KeyRing::load_or_create(&dir.path().join("keys.json")).unwrap());
    let minter = TokenMinter::new(Arc::clone(&keys), "i", "a", Arc::clone(&clock)).unwrap();
    let backlog = BacklogQuota { entries: QUOTA, bytes: 0 };
    let shared_journal = Arc::clone(&journal) as Arc<dyn Journal>;
    let limits = AdmissionLimits { backlog };
    let intake = Intake::limited(shared_journal, Arc::clone(&clock), limits);
    let admission = Arc::clone(intake.admission());
    let settings = IdentitySettings { token_ttl: HOUR, client_failures: 5 };
    let api = Arc::new(Api::new(Shared {
        intake,
        store,
        verifier: TokenVerifier::new(keys, "i", "a", clock),
        settings: ApiSettings {
            max_body: 1 << 18,
            bulk_max_body: 1 << 20,
            region: String::from("us-east-1"),
            retention: HOUR,
        },
        limit: Arc::default(),
        identity: Identity::new(None, settings),
        jigx: NotificationStates::default(),
        hooks: Arc::new(NoHooks),
        passwords: PasswordPool::default(),
        rules: Arc::new(crate::rules::NoRules),
        deployments: None,
        blynk: Blynk::new(BlynkSettings::default()),
    }));
    World { _dir: dir, api, journal, admission, minter }
}

/// One request that adds work, in a dialect's form.
#[derive(Clone, Copy, Debug)]
struct Case {
    method: &'static str,
    path: &'static str,
    media: &'static str,
    body: &'static str,
    is_grpc: bool,
}

const fn case(method: &'static str, path: &'static str, body: &'static str) -> Case {
    Case { method, path, media: JSON, body, is_grpc: false }
}

/// An empty message in its frame.
const FRAME: &str = "\0\0\0\0\0";

const SENT: [Case; 3] = [
    case(
        "POST",
        "/v2.0/tool/organizations/101/notifications",
        r#"{"content":{"text":"t"},"scope":"ORG"}"#,
    ),
    case(
        "POST",
        "/api/v1/organization/users/send-push-notification",
        r#"{"userId":7,"title":"t"}"#,
    ),
    case("POST", NATIVE, LINE),
];
const CHANGES: [Case; 4] = [
    case("DELETE", "/v1/organizations/101/notifications/0123456789abcdef01234567", ""),
    case("POST", "/management/v1/policies/notification", r#"{"passwordChange":true}"#),
    Case { method: "POST", path: GRPC_CALL, media: "application/grpc", body: FRAME, is_grpc: true },
    Case {
        method: "POST",
        path: GRPC_CALL,
        media: "application/grpc-web+proto",
        body: FRAME,
        is_grpc: true,
    },
];

impl World {
    fn token(&self, organization: OrganizationId) -> String {
        let grant = Grant {
            organization,
            scope: Scope::Organization,
            subject: String::from("test"),
            lifetime: HOUR,
            limited_to: None,
            origin: Origin::default(),
        };
        self.minter.mint(&grant).unwrap()
    }

    fn request(&self, case: Case, org: OrganizationId) -> Request {
        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {}", self.token(org));
        headers.insert(AUTHORIZATION, HeaderValue::try_from(bearer).unwrap());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(case.media));
        Request {
            method: case.method.parse().unwrap(),
            uri: Uri::from_static(case.path),
            headers,
            body: Body::given(case.body),
            id: RequestId::mint(),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        }
    }

    async fn ask(&self, case: Case, org: OrganizationId) -> Response {
        self.api.call(self.request(case, org)).await
    }

    async fn status(&self, case: Case, org: OrganizationId) -> u16 {
        self.ask(case, org).await.status().as_u16()
    }

    /// Asks, without waiting for the answer: those that come in hang on the disk.
    fn begin(&self, asked: &mut JoinSet<Response>, case: Case) {
        let (api, request) = (Arc::clone(&self.api), self.request(case, ACME));
        asked.spawn(async move { api.call(request).await });
    }

    /// Asks until one is refused; answers it. Whoever came in before still waits.
    async fn refused(&self, asked: &mut JoinSet<Response>, case: Case) -> Response {
        loop {
            self.begin(asked, case);
            let patience = Duration::from_millis(20);
            if let Ok(Some(answer)) = tokio::time::timeout(patience, asked.join_next()).await {
                let answer = answer.unwrap();
                if answer.headers().get("bugler-error").is_some_and(|code| code == "BGL-5003") {
                    return answer;
                }
            }
        }
    }
}

async fn bytes(response: Response) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Seconds of `Retry-After`.
fn retry_after(response: &Response) -> u64 {
    let sent = response.headers().get(RETRY_AFTER).expect("Retry-After");
    sent.to_str().unwrap().parse().unwrap()
}

/// The code of a gRPC answer that failed, in its headers or in the last frame of gRPC-web.
async fn grpc_code(response: Response) -> i32 {
    if let Some(code) = response.headers().get("grpc-status") {
        return code.to_str().unwrap().parse().unwrap();
    }
    let body = bytes(response).await;
    let text = String::from_utf8_lossy(&body).into_owned();
    let code = text.split("grpc-status:").nth(1).and_then(|rest| rest.split("\r\n").next());
    code.unwrap().trim().parse().unwrap()
}

/// Checks that `response` refuses `case` as 503, in its dialect's own form.
async fn is_unavailable(case: Case, response: Response) {
    let text = format!("{case:?}");
    assert!((1..=12).contains(&retry_after(&response)), "{text}");
    assert_eq!(response.headers()["bugler-error"], "BGL-5003", "{text}");
    if case.is_grpc {
        assert_eq!((response.status().as_u16(), grpc_code(response).await), (200, 14), "{text}");
        return;
    }
    assert_eq!(response.status(), 503, "{text}");
    let body: Value = serde_json::from_slice(&bytes(response).await).unwrap();
    let place = match case.path {
        path if path.starts_with("/v2.0") => "/message",
        path if path.starts_with("/api/v1") => "/error/message",
        path if path.starts_with("/v1") => "/error/message",
        path if path.starts_with("/management") => "/message",
        _ => "/code",
    };
    assert!(body.pointer(place).is_some(), "{text}: {body}");
}

#[tokio::test]
async fn a_slow_disk_sheds_in_every_dialect_loses_nothing_and_recovers() {
    let world = world().await;
    let (mut hanging, native) = (JoinSet::new(), case("POST", NATIVE, LINE));
    let first = world.refused(&mut hanging, native).await;
    is_unavailable(native, first).await;
    for case in SENT.into_iter().chain(CHANGES) {
        let refused = world.refused(&mut hanging, case).await;
        is_unavailable(case, refused).await;
    }
    // The whole of a bulk request is refused before its first line is read.
    let bulk = Case { media: "application/x-ndjson", ..case("POST", BATCH, "no line") };
    let refused = world.refused(&mut hanging, bulk).await;
    assert_eq!(refused.status(), 503);
    let reads = case("GET", "/bugler/v1/organizations/101/keys", "");
    assert_eq!(world.status(reads, ACME).await, 200, "reading goes on");
    world.journal.hold(false);
    while let Some(answer) = hanging.join_next().await {
        let status = answer.unwrap().status().as_u16();
        assert!(matches!(status, 200 | 201 | 204 | 404 | 409 | 503), "{status}");
    }
    loop {
        match world.status(native, ACME).await {
            201 => break,
            status => assert_eq!(status, 503),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_disk_without_room_refuses_new_work_only_and_heals() {
    let world = world().await;
    world.journal.hold(false);
    world.admission.observe(Vitals { is_full: true, ..Vitals::default() });
    for case in SENT.into_iter().chain(CHANGES) {
        is_unavailable(case, world.ask(case, ACME).await).await;
    }
    let reads = case("GET", "/bugler/v1/organizations/101/keys", "");
    assert_eq!(world.status(reads, ACME).await, 200);
    world.admission.observe(Vitals::default());
    for case in SENT {
        assert!(matches!(world.status(case, ACME).await, 201 | 204), "{case:?}");
    }
}

#[tokio::test]
async fn a_backlog_at_its_quota_refuses_its_organization_until_there_is_room() {
    let world = world().await;
    world.journal.hold(false);
    world.journal.pretend(ACME, QUOTA);
    for case in SENT {
        let refused = world.ask(case, ACME).await;
        assert_eq!(
            (refused.status().as_u16(), retry_after(&refused) >= 5),
            (429, true),
            "{case:?}"
        );
        assert_eq!(refused.headers()["bugler-error"], "BGL-1429", "{case:?}");
        // Known by now: the body is not looked at any more.
        let unread = Case { body: "{", ..case };
        assert_eq!(world.status(unread, ACME).await, 429, "{case:?}");
    }
    let bulk = Case { media: "application/x-ndjson", ..case("POST", BATCH, LINE) };
    assert_eq!(world.status(bulk, ACME).await, 429);
    let native = case("POST", NATIVE, LINE);
    assert_eq!(world.status(native, GLOBEX).await, 201, "another organization's send");
    for case in CHANGES.into_iter().filter(|case| !case.is_grpc) {
        assert_ne!(world.status(case, ACME).await, 429, "{case:?} sends nothing");
    }
    world.journal.pretend(ACME, QUOTA - 1);
    for case in SENT {
        assert!(matches!(world.status(case, ACME).await, 201 | 204), "{case:?}");
    }
    assert!(!world.admission.is_pressed(), "room makes the organization forgotten");
}

#[tokio::test]
async fn lines_of_a_bulk_request_are_refused_one_by_one() {
    let world = world().await;
    world.journal.hold(false);
    world.journal.pretend(ACME, QUOTA);
    // The first of an organization to break the quota: nothing is known before it.
    let three = Box::leak(format!("{LINE}\nno json\n{LINE}\n").into_boxed_str());
    let bulk = Case { media: "application/x-ndjson", ..case("POST", BATCH, three) };
    let answer = world.ask(bulk, ACME).await;
    assert_eq!(answer.status(), 200);
    let body = bytes(answer).await;
    let lines: Vec<Value> =
        body.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let statuses: Vec<_> = lines.iter().filter_map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [429, 400, 429], "{lines:?}");
    assert!(lines[0]["retryAfter"].as_u64().is_some_and(|seconds| seconds >= 5), "{lines:?}");
    assert_eq!(lines[3]["accepted"], 0);
}

/// The statuses of the lines of a bulk request.
async fn batch(world: &World, lines: &str) -> Vec<u64> {
    let text = Box::leak(String::from(lines).into_boxed_str());
    let bulk = Case { media: "application/x-ndjson", ..case("POST", BATCH, text) };
    let body = bytes(world.ask(bulk, ACME).await).await;
    let lines = body.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let lines = lines.filter(|line: &Value| line["i"].is_number());
    lines.map(|line| line["status"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn lines_that_have_room_are_taken_and_only_the_rest_is_refused() {
    let world = world().await;
    world.journal.hold(false);
    // One below the quota, and nothing goes.
    let filled = batch(&world, &format!("{LINE}\n").repeat(999)).await;
    assert_eq!(filled, vec![201; 999]);
    assert_eq!(batch(&world, &format!("{LINE}\n{LINE}\n")).await, [201, 429]);
    assert_eq!(world.journal.backlog_of(crate::model::ShardId(0), ACME).pending, QUOTA);
}

#[tokio::test]
async fn what_ended_is_not_sent_again_over_a_known_quota() {
    let world = world().await;
    world.journal.hold(false);
    world.journal.pretend(ACME, QUOTA);
    let again = [
        case("POST", "/bugler/v1/dead-letters/replay", r#"{"filter":{}}"#),
        case("POST", "/bugler/v1/notifications/01a1fd6e-fb68-72ac-9927-eee12aaa98aa/resend", "{}"),
    ];
    for (case, status) in again.into_iter().zip([200, 404]) {
        assert_eq!(world.status(case, ACME).await, status, "nothing to send: {case:?}");
    }
    assert_eq!(world.status(case("POST", NATIVE, LINE), ACME).await, 429);
    for case in again {
        assert_eq!(world.status(case, ACME).await, 429, "{case:?}");
    }
}

#[test]
fn every_operation_that_sends_is_known_and_no_read_is_work() {
    let mut sends = Vec::new();
    for (dialect, endpoint) in endpoints() {
        for pattern in endpoint.patterns {
            match Load::of(dialect, &endpoint.method, pattern) {
                Load::Nothing => {
                    let is_get = endpoint.method == Method::GET;
                    assert!(is_get || pattern.starts_with("/zitadel."), "{pattern}");
                }
                Load::Change => assert_ne!(endpoint.method, Method::GET, "{pattern}"),
                Load::Sends | Load::Bulk => sends.push(*pattern),
            }
        }
    }
    sends.sort_unstable();
    assert_eq!(
        sends,
        [
            "/api/v1/organization/users/send-push-notification",
            "/bugler/v1/dead-letters/replay",
            "/bugler/v1/notifications",
            "/bugler/v1/notifications/{id}/resend",
            "/bugler/v1/notifications:batch",
            "/bugler/v1/organizations/{org}/events",
            "/tool/organizations/{org}/notifications",
            "/v2.0/tool/organizations/{org}/notifications",
        ]
    );
}

#[test]
fn a_request_is_of_the_class_it_says_or_of_its_operations() {
    let class = |said: Option<&'static str>, load| {
        let mut headers = HeaderMap::new();
        headers.extend(said.map(|said| (PRIORITY, HeaderValue::from_static(said))));
        class_of(&headers, load)
    };
    assert_eq!(class(None, Load::Sends), Class::Normal);
    assert_eq!(class(None, Load::Bulk), Class::Bulk);
    assert_eq!(class(Some("Critical"), Load::Bulk), Class::Critical);
    assert_eq!(class(Some("bulk"), Load::Change), Class::Bulk);
    assert_eq!(class(Some("now!"), Load::Change), Class::Normal);
}
