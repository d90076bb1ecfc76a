//! Invitations and keys, from a store that holds some: good in their time and for whom they are.

mod again;

use crate::api::{
    Api, ApiSettings, Blynk, BlynkSettings, Identity, IdentitySettings, NoHooks,
    NotificationStates, Shared,
};
use crate::auth::{Fresh, KeyRing, PasswordPool, TokenVerifier, invitation_token, opaque_key};
use crate::clock::{Clock, TestClock};
use crate::intake::Intake;
use crate::journal::Journal;
use crate::journal::disk::{DiskJournal, DiskOptions};
use crate::model::{
    ApiKey, Invitation, Millis, ObjectId, OrganizationId, RoleId, Secret, SecretHash, ShardId,
    User, UserId, UserStatus,
};
use crate::server::{Body, ReplyBody, Request, RequestId, Service};
use crate::store::disk::DiskStore;
use crate::store::{Change, Store, UserRef, directory};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Uri};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const ORG: OrganizationId = OrganizationId(101);
const ADA: UserId = UserId(7);
const PASSWORD: &str = "kV7-pLq2-new";
const MONTH: Duration = Duration::from_hours(30 * 24);
const DIRECTORY: &[u8] = br#"{
    "organizations": [{"id": 101, "name": "Acme"}],
    "users": [{"id": 7, "organization": 101, "email": "ada@example.com", "name": "Ada",
               "status": "pending"}]}"#;

struct World {
    _dir: tempfile::TempDir,
    api: Api,
    store: Arc<dyn Store>,
    journal: Arc<dyn Journal>,
    shard: ShardId,
    clock: TestClock,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(Millis(1_800_000_000_000));
    let shared_clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let options = DiskOptions { segment_bytes: 1 << 20, ..DiskOptions::default() };
    let journal = DiskJournal::open(&dir.path().join("journal"), options, shared_clock.clone());
    let journal: Arc<dyn Journal> = Arc::new(journal.unwrap());
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(dir.path()).unwrap());
    let changes = directory::changes(DIRECTORY, store.as_ref(), clock.now()).await.unwrap();
    store.apply(changes).await.unwrap();
    let keys = Arc::new(KeyRing::load_or_create(&dir.path().join("keys.json")).unwrap());
    let settings = IdentitySettings { token_ttl: MONTH, client_failures: 5 };
    let region = String::from("us-east-1");
    let intake = Intake::new(Arc::clone(&journal), Arc::clone(&shared_clock));
    let shard = intake.shard(ORG);
    let api = Api::new(Shared {
        intake,
        store: Arc::clone(&store),
        verifier: TokenVerifier::new(keys, "i", "a", shared_clock),
        settings: ApiSettings {
            max_body: 1 << 18,
            bulk_max_body: 1 << 20,
            region,
            retention: MONTH,
        },
        limit: Arc::default(),
        identity: Identity::new(None, settings),
        jigx: NotificationStates::default(),
        hooks: Arc::new(NoHooks),
        passwords: PasswordPool::default(),
        rules: Arc::new(crate::rules::NoRules),
        deployments: None,
        blynk: Blynk::new(BlynkSettings::default()),
    });
    World { _dir: dir, api, store, journal, shard, clock }
}

impl World {
    async fn invite(&self) -> Secret {
        let Fresh { text, hash } = invitation_token();
        let created_at = self.clock.now();
        let expires_at = created_at.plus(u64::try_from(MONTH.as_millis()).unwrap());
        let invitation = Invitation {
            token: hash,
            user: ADA,
            org: ORG,
            role: RoleId(3),
            created_at,
            expires_at,
        };
        self.store.apply(vec![Change::PutInvitation(invitation)]).await.unwrap();
        text
    }

    async fn user(&self) -> User {
        self.store.user(UserRef::Id(ADA)).await.unwrap().unwrap()
    }

    async fn accept(&self, key: Option<&'static str>, body: Value) -> (u16, Value) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = key {
            headers.insert("idempotency-key", HeaderValue::from_static(key));
        }
        let request = Request {
            method: Method::POST,
            uri: Uri::from_static("/bugler/v1/invitations/accept"),
            headers,
            body: Body::given(body.to_string()),
            id: RequestId::mint(),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        let response = self.api.call(request).await;
        let ReplyBody::Full(bytes) = response.body() else { unreachable!("a whole body") };
        (response.status().as_u16(), serde_json::from_slice(bytes).unwrap())
    }

    /// The status of a read with a key of Ada's.
    async fn read_with(&self, key: &Secret) -> u16 {
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::try_from(format!("Bearer {}", key.reveal())).unwrap();
        headers.insert(AUTHORIZATION, bearer);
        let request = Request {
            method: Method::GET,
            uri: Uri::from_static("/bugler/v1/organizations/101/keys"),
            headers,
            body: Body::given(""),
            id: RequestId::mint(),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        self.api.call(request).await.status().as_u16()
    }

    async fn has_password(&self) -> bool {
        self.store.password(ADA).await.unwrap().is_some()
    }
}

fn with(token: &Secret) -> Value {
    json!({ "token": token.reveal(), "password": PASSWORD, "name": "Ada Lovelace" })
}

#[tokio::test]
async fn an_invitation_is_accepted_once_and_makes_the_user_active() {
    let world = world().await;
    let token = world.invite().await;
    let (status, body) = world.accept(None, with(&token)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        body,
        json!({"id": 7, "organization": 101, "email": "ada@example.com", "name": "Ada Lovelace",
               "status": "active"})
    );
    assert_eq!(world.user().await.status, UserStatus::Active);
    let stored = world.store.password(ADA).await.unwrap();
    assert!(PasswordPool::default().verify(PASSWORD, stored.as_ref()).await.unwrap());
    let (status, body) = world.accept(None, with(&token)).await;
    assert_eq!((status, &body["code"]), (404, &json!("BGL-1404")));
    let trail = world.store.audit(ORG, 0, 10).await.unwrap();
    assert_eq!(trail.len(), 1);
    assert_eq!(trail[0].note.action, "invitation.accept");
    assert_eq!(trail[0].hash, trail[0].computed_hash());
}

#[tokio::test]
async fn a_repeat_with_its_key_gets_the_first_answer() {
    let world = world().await;
    let token = world.invite().await;
    let first = world.accept(Some("once"), with(&token)).await;
    assert_eq!(first.0, 200, "{}", first.1);
    assert_eq!(world.accept(Some("once"), with(&token)).await, first);
}

#[tokio::test]
async fn of_many_at_once_one_accepts() {
    let world = world().await;
    let token = world.invite().await;
    let all = (0..6).map(|_| world.accept(None, with(&token)));
    let statuses: Vec<_> =
        futures_util::future::join_all(all).await.into_iter().map(|(status, _)| status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 404).count(), 5, "{statuses:?}");
}

#[tokio::test]
async fn too_late_suspended_or_without_its_role_nothing_is_accepted() {
    let late = world().await;
    let token = late.invite().await;
    late.clock.advance(MONTH);
    let suspended = world().await;
    let other = suspended.invite().await;
    let user = User { status: UserStatus::Suspended, ..suspended.user().await };
    suspended.store.apply(vec![Change::PutUser(user)]).await.unwrap();
    let roleless = world().await;
    let third = roleless.invite().await;
    let user = User { role: RoleId(44), ..roleless.user().await };
    roleless.store.apply(vec![Change::PutUser(user)]).await.unwrap();
    for (world, token, expected) in
        [(late, token, 404), (suspended, other, 404), (roleless, third, 409)]
    {
        let before = world.user().await;
        let (status, body) = world.accept(None, with(&token)).await;
        assert_eq!(status, expected, "{body}");
        assert_eq!(world.user().await, before);
        assert!(!world.has_password().await);
    }
}

#[tokio::test]
async fn the_address_is_no_password_and_guesses_are_counted() {
    let world = world().await;
    let token = world.invite().await;
    let body = json!({ "token": token.reveal(), "password": "Ada@Example.com" });
    let (status, body) = world.accept(None, body).await;
    assert_eq!((status, &body["errors"][0]["path"]), (400, &json!("password")));
    for _ in 0..20 {
        let guess = json!({ "token": "bgi_guess", "password": PASSWORD });
        assert_eq!(world.accept(None, guess).await.0, 404);
    }
    assert_eq!(world.accept(None, with(&token)).await.0, 429);
    assert!(world.store.invitation(SecretHash([0; 32])).await.unwrap().is_none());
    assert!(!world.has_password().await);
}

#[tokio::test]
async fn a_users_key_ends_with_its_time_and_with_the_user() {
    let world = world().await;
    let user = User { status: UserStatus::Active, role: RoleId(1), ..world.user().await };
    let Fresh { text, hash } = opaque_key();
    let created_at = world.clock.now();
    let key = ApiKey {
        id: ObjectId([7; 12]),
        token: hash,
        org: ORG,
        user: Some(ADA),
        name: String::from("hers"),
        limited_to: None,
        created_at,
        expires_at: Some(created_at.plus(60_000)),
    };
    let put = async |change| world.store.apply(vec![change]).await.unwrap();
    put(Change::PutUser(user.clone())).await;
    put(Change::PutKey(key)).await;
    assert_eq!(world.read_with(&text).await, 200);
    put(Change::PutUser(User { role: RoleId(2), ..user.clone() })).await;
    assert_eq!(world.read_with(&text).await, 403, "her role was lowered");
    put(Change::PutUser(User { status: UserStatus::Suspended, ..user.clone() })).await;
    assert_eq!(world.read_with(&text).await, 401, "she was suspended");
    put(Change::PutUser(user)).await;
    assert_eq!(world.read_with(&text).await, 200);
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.read_with(&text).await, 401, "its time is over");
}
