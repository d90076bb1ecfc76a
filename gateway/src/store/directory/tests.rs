//! The import document against a real store.

use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::model::{
    Audience, Organization, Secret, Subscription, Target, User, UserId, UserStatus,
};
use crate::store::disk::DiskStore;
use crate::store::{OrganizationRef, Recipient, UserRef};
use std::sync::Arc;

const ACME: OrganizationId = OrganizationId(101);
const SECRET: &str = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";

fn store() -> (TempDir, DiskStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path()).unwrap();
    (dir, store)
}

async fn plan(store: &DiskStore, document: &Value, now: u64) -> Result<Vec<Change>, String> {
    let text = document.to_string();
    changes(text.as_bytes(), store, Millis(now)).await.map_err(|error| error.to_string())
}

async fn import(store: &DiskStore, document: &Value, now: u64) -> usize {
    let changes = plan(store, document, now).await.unwrap();
    let count = changes.len();
    store.apply(changes).await.unwrap();
    count
}

async fn organization(store: &DiskStore, id: OrganizationId) -> Organization {
    let found = store.organization(OrganizationRef::Id(id)).await.unwrap().unwrap();
    Arc::unwrap_or_clone(found)
}

async fn user(store: &DiskStore, email: &str) -> User {
    store.user(UserRef::Email(String::from(email))).await.unwrap().unwrap()
}

async fn everybody(store: &DiskStore, audience: Audience) -> Vec<Recipient> {
    store.recipients(ACME, &audience, None, 100).await.unwrap().recipients
}

async fn subscriptions(store: &DiskStore) -> Vec<Subscription> {
    store.subscriptions(ACME, "buildCreated").await.unwrap()
}

fn full() -> Value {
    json!({
        "organizations": [
            {"id": 102, "name": "Acme Labs", "parent": 101},
            {"id": 101, "name": "Acme", "slug": "acme", "tz": "Europe/Berlin",
             "uuid": "09e431b3-3e5b-4a4f-9d8e-0a1b2c3d4e5f",
             "objectId": "5f1d00000000000000000abc", "numeric": "69629023906488334"},
        ],
        "roles": [{"id": 4, "organization": 101, "name": "Auditor", "permissions": ["ORG_VIEW"]}],
        "users": [
            {"id": 7, "organization": 101, "email": "Ada@Example.com", "name": "Ada", "role": 4,
             "status": "pending", "tz": "Asia/Tokyo", "locale": "ja", "prefs": {"quiet": "22-07"},
             "devices": [{"platform": "apns", "app": "main", "token": "aa"},
                         {"platform": "fcm", "app": "main", "token": "aa"}],
             "memberships": [{"solution": Uuid::from_u128(1), "groups": ["ops"]}]},
            {"id": 8, "organization": 102, "email": "bob@example.com", "name": "Bob"},
        ],
        "subscriptions": [
            {"organization": 101, "type": "webhook", "url": "https://hooks.example.com/1",
             "events": ["*"]},
            {"organization": 101, "type": "slack", "url": "https://hooks.slack.example.com/T/B/X",
             "events": ["buildCreated"], "team": "T", "channel": "#builds"},
        ],
    })
}

#[tokio::test]
async fn a_document_becomes_records_that_every_dialect_finds() {
    let (_dir, store) = store();
    import(&store, &full(), 1000).await;
    let acme = organization(&store, ACME).await;
    assert_eq!((acme.slug.as_str(), acme.tz.as_str()), ("acme", "Europe/Berlin"));
    assert_eq!(acme.object_id.to_string(), "5f1d00000000000000000abc");
    assert_eq!((acme.numeric.as_str(), acme.created_at), ("69629023906488334", Millis(1000)));
    let labs = organization(&store, OrganizationId(102)).await;
    assert_eq!((labs.slug.as_str(), labs.parent), ("acme-labs", Some(ACME)));
    assert_eq!(names::numeric_problem(&labs.numeric), None);
    assert_ne!(labs.uuid, Uuid::nil());

    let ada = user(&store, "ada@example.com").await;
    assert_eq!((ada.id, ada.role, ada.status), (UserId(7), RoleId(4), UserStatus::Pending));
    assert_eq!(ada.prefs, [(String::from("quiet"), String::from("22-07"))]);
    let bob = user(&store, "bob@example.com").await;
    assert_eq!((bob.role, bob.status), (RoleId(3), UserStatus::Active));
    let groups = vec![String::from("ops")];
    let ops = everybody(&store, Audience::Groups { solution: Uuid::from_u128(1), groups }).await;
    assert_eq!(ops.iter().map(|r| r.devices.len()).collect::<Vec<_>>(), [2]);
    for role in built_in_roles(ACME) {
        assert_eq!(store.role(ACME, role.id).await.unwrap().as_deref(), Some(&role));
    }
    assert_eq!(store.role(ACME, RoleId(4)).await.unwrap().unwrap().permissions, ["ORG_VIEW"]);
    let minted = secrets(&store).await;
    assert_eq!(names::secret_problem(&minted[0].0), None);
}

/// The present secrets of all webhooks, with the one before, and until when it counts.
async fn secrets(store: &DiskStore) -> Vec<(String, Option<(String, Millis)>)> {
    let text = |secret: Secret| secret.reveal().to_owned();
    let all = subscriptions(store).await;
    let targets = all.iter().map(|one| store.vault().target(one));
    targets
        .filter_map(|target| match target {
            Target::Webhook { secret, retired, .. } => {
                Some((text(secret), retired.map(|(old, until)| (text(old), until))))
            }
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn another_secret_retires_the_one_before_for_a_day() {
    let (_dir, store) = store();
    let with = |secret: &str| {
        let mut document = full();
        document["subscriptions"][0]["secret"] = secret.into();
        document
    };
    let [old, new] =
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"];
    let day = 24 * 3_600_000;
    import(&store, &with(old), 1000).await;
    assert_eq!(secrets(&store).await, [(old.into(), None)]);
    for now in [2000, 3000] {
        import(&store, &with(new), now).await;
        let retired = Some((old.into(), Millis(2000 + day)));
        assert_eq!(secrets(&store).await, [(new.into(), retired)]);
    }
}

#[tokio::test]
async fn importing_a_document_again_changes_nothing() {
    let (_dir, store) = store();
    import(&store, &full(), 1000).await;
    let before = (organization(&store, OrganizationId(102)).await, subscriptions(&store).await);
    let devices = everybody(&store, Audience::Organization).await.remove(0).devices;
    let again = plan(&store, &full(), 2000).await.unwrap();
    assert!(matches!(again.as_slice(), [Change::PutMembership(..)]), "{again:?}");
    store.apply(again).await.unwrap();
    assert_eq!(before.0, organization(&store, OrganizationId(102)).await);
    assert_eq!(before.1, subscriptions(&store).await);
    assert_eq!(devices, everybody(&store, Audience::Organization).await.remove(0).devices);
}

#[tokio::test]
async fn what_a_document_leaves_out_stays_as_it_was() {
    let (_dir, store) = store();
    import(&store, &full(), 1000).await;
    let (acme, ada) = (organization(&store, ACME).await, user(&store, "ada@example.com").await);
    let document = json!({
        "organizations": [{"id": 101, "name": "Acme SE"}],
        "users": [{"id": 7, "organization": 101, "email": "ada@new.example.com", "name": "Ada L.",
                   "devices": [{"platform": "apns", "app": "other", "token": "aa"}]}],
    });
    assert_eq!(import(&store, &document, 2000).await, 3);
    let renamed = Organization { name: String::from("Acme SE"), ..acme };
    assert_eq!(organization(&store, ACME).await, renamed);
    let email = String::from("ada@new.example.com");
    let expected = User { email: email.clone(), name: String::from("Ada L."), ..ada };
    assert_eq!(user(&store, &email).await, expected);
    let devices = everybody(&store, Audience::Organization).await.remove(0).devices;
    let mut apps: Vec<_> = devices.iter().map(|d| (d.app.as_str(), d.registered_at.0)).collect();
    apps.sort_unstable();
    assert_eq!(apps, [("main", 1000), ("other", 1000)], "same token, same device");
}

#[tokio::test]
async fn every_problem_is_reported_at_once_with_its_path() {
    let (_dir, store) = store();
    let document = json!({
        "organisations": [],
        "organizations": [
            {"id": 0, "name": "A"},
            {"id": 1, "name": "A", "slug": "12345", "tz": "Mars/Base", "uuid": "no", "x": 1},
            {"id": 1, "name": "B", "numeric": "12x", "objectId": "zz"},
            "not an object",
        ],
        "roles": {"id": 1},
        "users": [
            {"id": 1, "organization": 1, "email": "ada", "name": 5, "status": "gone",
             "devices": [{"platform": "sms", "app": "", "token": null}],
             "memberships": [{"groups": ["a", 1]}]},
            {"id": 2, "organization": 1, "email": "b@example.com", "name": "B"},
            {"id": 3, "organization": 1, "email": "B@example.com", "name": "C", "prefs": {"a": 1}},
        ],
        "subscriptions": [
            {"organization": 1, "type": "webhook", "url": "ftp://x", "secret": "topsecret",
             "events": "all"},
            {"organization": 1, "type": "pigeon", "url": "https://a.example.com", "events": []},
        ],
    });
    let problems = plan(&store, &document, 0).await.unwrap_err();
    let expected = "\
organizations[0].id: must be a whole number from 1 to 2147483647
organizations[1].slug: must not look like a number, a uuid or 24 hexadecimal digits
organizations[1].uuid: must be a uuid
organizations[1].tz: must be an IANA time zone such as Europe/Berlin
organizations[1].x: is not a field here; known are id, name, slug, uuid, objectId, numeric, parent, tz
organizations[2].objectId: must be 24 hexadecimal digits
organizations[2].numeric: must be 1 to 20 digits
organizations[3]: must be an object
roles: must be a list
users[0].email: must be an e-mail address
users[0].name: must be a string
users[0].status: must be one of pending, active, suspended
users[0].devices[0].platform: must be one of apns, fcm
users[0].devices[0].app: must not be empty
users[0].devices[0].token: is required
users[0].memberships[0].solution: is required
users[0].memberships[0].groups: an element must be a string
users[2].prefs: must be an object of strings
subscriptions[0].events: must be a list of strings
subscriptions[0].url: must be an https or http URL
subscriptions[0].secret: must be whsec_ and the base64 of 24 to 64 bytes
subscriptions[1].type: must be one of slack, webhook
organisations: is not a field here; known are organizations, roles, users, subscriptions, clients
organizations[2].id: is the same as organizations[1].id
users[2].email: is the same as users[1].email";
    assert_eq!(problems, expected);
    assert!(!problems.contains("topsecret"));
}

#[tokio::test]
async fn clashes_with_the_store_are_reported_at_once() {
    let (_dir, store) = store();
    import(&store, &full(), 1000).await;
    let document = json!({
        "organizations": [
            {"id": 1, "name": "X", "slug": "acme", "numeric": "69629023906488334", "parent": 999},
            {"id": 2, "name": "Y", "parent": 3},
            {"id": 3, "name": "Z", "parent": 2},
        ],
        "roles": [{"id": 4, "organization": 998, "name": "R", "permissions": []}],
        "users": [{"id": 9, "organization": 101, "email": "ADA@example.com", "name": "A",
                   "role": 5}],
        "subscriptions": [
            {"organization": 101, "type": "webhook", "url": "https://a.example.com",
             "secret": SECRET, "events": ["*"]},
            {"organization": 101, "type": "webhook", "url": "https://a.example.com",
             "events": ["*"]},
        ],
    });
    let expected = "\
organizations[0].parent: organization 999 is neither in this document nor stored
organizations[0].slug: already names organization 101
organizations[0].numeric: already names organization 101
organizations[1].parent: is below this organization itself
organizations[2].parent: is below this organization itself
roles[0].organization: organization 998 is neither in this document nor stored
users[0].email: already belongs to user 7
users[0].role: role 5 is neither in this document nor stored for 101
subscriptions[1].url: is the subscription of an entry above";
    assert_eq!(plan(&store, &document, 0).await.unwrap_err(), expected);
}

#[tokio::test]
async fn namesakes_get_numbered_slugs() {
    let (_dir, store) = store();
    let one = |id: i32| json!({"id": id, "name": "Acme!"});
    import(&store, &json!({"organizations": [one(1), one(2)]}), 0).await;
    let third = json!({"organizations": [one(3), {"id": 4, "name": "4", "slug": "acme-3"}]});
    import(&store, &third, 0).await;
    let mut slugs = Vec::new();
    for id in 1..=4 {
        slugs.push(organization(&store, OrganizationId(id)).await.slug);
    }
    assert_eq!(slugs, ["acme", "acme-2", "acme-4", "acme-3"]);
}

#[tokio::test]
async fn text_that_is_not_json_names_the_place() {
    let (_dir, store) = store();
    let error = changes(b"{\n  \"users\": [,]}", &store, Millis(0)).await.unwrap_err();
    assert_eq!(error.to_string(), "line 2 column 13: is not valid JSON");
    let error = changes(b"[]", &store, Millis(0)).await.unwrap_err();
    assert_eq!(error.to_string(), "document: must be an object");
}

#[test]
fn a_flood_of_problems_is_cut_short() {
    let problem = Problem { path: String::from("users[0]"), problem: String::from("is wrong") };
    let shown = Problems(vec![problem; 150]).to_string();
    assert_eq!(shown.lines().count(), 101);
    assert!(shown.ends_with("and 50 more"), "{shown}");
}
