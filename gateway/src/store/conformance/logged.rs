//! Checks of logged changes: the log comes first, a refusal leaves nothing, making again is exact.

use std::error::Error;
use std::sync::Arc;

use parking_lot::Mutex;

use super::samples::{
    ACME, GLOBEX, device, member, object_id, organization, two_organizations, user, webhook,
};
use super::{Checked, Place, apply, refused_as};
use crate::model::{
    ApiKey, AuditNote, Client, Invitation, MemberRole, Membership, Millis, NotificationPolicy,
    PolicyOwner, RefreshToken, RoleId, SecretHash, User, UserId,
};
use crate::store::{Change, Expectation, LogStep, Store, UserRef, Version};
use uuid::Uuid;

/// A log that keeps what it was given, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Vec<Made>>>);

pub(super) type Made = (Version, Vec<Change>);

impl Log {
    pub(super) fn step(&self, changes: &[Change]) -> LogStep {
        let (log, changes) = (self.clone(), changes.to_vec());
        Box::new(move |version| {
            log.0.lock().push((version, changes));
            Ok(Box::pin(async { Ok(()) }))
        })
    }

    pub(super) fn taken(&self) -> Vec<Made> {
        self.0.lock().clone()
    }
}

fn note(action: &str) -> Change {
    Change::Audit(AuditNote {
        at: Millis(1_700_000_000_009),
        org: ACME,
        actor: String::from("organization:101"),
        peer: None,
        action: String::from(action),
        object: String::from("user:1"),
    })
}

fn policy(password_change: bool) -> NotificationPolicy {
    let at = Millis(1_700_000_000_000);
    NotificationPolicy { password_change, created_at: at, changed_at: at, sequence: 0 }
}

pub(super) async fn logs_what_it_makes_and_nothing_it_refuses(store: &dyn Store) -> Checked {
    apply(store, two_organizations(2)).await?;
    let log = Log::default();
    let taken = vec![Change::PutUser(User { email: user(ACME, 1).email, ..user(ACME, 3) })];
    refused_as(
        store.apply_logged(taken.clone(), log.step(&taken)).await,
        "email is already in use",
    );
    assert_eq!(log.taken().len(), 0, "a refused change reached the log");
    let good = vec![Change::PutUser(user(ACME, 3))];
    let version = store.apply_logged(good.clone(), log.step(&good)).await?;
    assert_eq!(log.taken().iter().map(|(v, _)| *v).collect::<Vec<_>>(), [version]);
    assert_eq!(store.user(UserRef::Id(UserId(3))).await?, Some(user(ACME, 3)));
    Ok(())
}

pub(super) async fn makes_logged_changes_again_exactly_once(place: &impl Place) -> Checked {
    let log = Log::default();
    let store = place.open().await;
    apply(&*store, two_organizations(2)).await?;
    let owner = PolicyOwner::Organization(ACME);
    for change in [
        vec![Change::Count(owner), note("a")],
        vec![Change::PutPolicy(owner, Some(policy(true))), note("b")],
        vec![
            Change::Expect(Expectation::Sequence(owner, 2)),
            Change::PutPolicy(owner, Some(policy(false))),
            note("c"),
        ],
    ] {
        store.apply_logged(change.clone(), log.step(&change)).await?;
    }
    let (sequence, trail) = (store.sequence(owner).await?, store.audit(ACME, 0, 10).await?);
    assert_eq!((sequence, trail.len()), (3, 3));
    let mut shuffled = log.taken();
    shuffled.reverse();
    store.redo(shuffled.clone()).await?;
    drop(store);
    let store = place.open().await;
    store.redo(shuffled).await?;
    assert_eq!(store.sequence(owner).await?, 3);
    assert_eq!(store.audit(ACME, 0, 10).await?, trail);
    assert_eq!(
        store.policy(owner).await?.map(|p| (p.password_change, p.sequence)),
        Some((false, 3))
    );
    Ok(())
}

const SOLUTION: Uuid = Uuid::from_u128(77);

/// One client and one key of ACME.
fn credentials() -> (Client, ApiKey) {
    let (secret, created_at, name) = (SecretHash([3; 32]), Millis(1), String::from("shop"));
    let client = Client {
        id: String::from("oa2-client-id_1"),
        org: ACME,
        name: name.clone(),
        secret,
        limited_to: None,
        created_at,
    };
    let key = ApiKey {
        id: object_id(5),
        token: secret,
        org: ACME,
        user: None,
        name,
        limited_to: None,
        created_at,
        expires_at: None,
    };
    (client, key)
}

pub(super) async fn decides_expectations_with_the_changes(store: &Arc<dyn Store>) -> Checked {
    apply(&**store, two_organizations(3)).await?;
    let admin = |id| Change::PutUser(User { role: RoleId(1), ..user(ACME, id) });
    let hook = webhook(ACME, 7, &["*"]);
    apply(&**store, [admin(1), Change::PutSubscription(hook.clone())]).await?;
    let (held, phone) = (member(SOLUTION, 1, &["ops"]), |number| device(1, number));
    let maker = Membership { role: MemberRole::Maker, ..held.clone() };
    let (client, key) = credentials();
    apply(
        &**store,
        [
            Change::PutClient(client),
            Change::PutKey(key),
            Change::PutDevice(phone(1)),
            Change::PutDevice(phone(2)),
            Change::PutMembership(ACME, held.clone()),
        ],
    )
    .await?;
    let unmet = |what: &str| format!("the records are not as the change expects them: {what}");
    for (expectation, holds) in [
        (Expectation::UserRevision(UserId(1), 0), true),
        (Expectation::UserRevision(UserId(1), 1), false),
        (Expectation::UserRevision(UserId(99), 0), false),
        (Expectation::Seats(ACME, 4), true),
        (Expectation::Seats(ACME, 3), false),
        (Expectation::RoleBesides(ACME, RoleId(1), UserId(2)), true),
        (Expectation::RoleBesides(ACME, RoleId(1), UserId(1)), false),
        (Expectation::Sequence(PolicyOwner::Instance, 0), true),
        (Expectation::Sequence(PolicyOwner::Instance, 1), false),
        (Expectation::Subscriptions(ACME, 2), true),
        (Expectation::Subscriptions(ACME, 1), false),
        (Expectation::Children(ACME, 1), true),
        (Expectation::Children(ACME, 0), false),
        (Expectation::Subscription(ACME, hook.id, hook.updated_at), true),
        (Expectation::Subscription(ACME, hook.id, Millis(1)), false),
        (Expectation::Subscription(GLOBEX, hook.id, hook.updated_at), false),
        (Expectation::Subscription(ACME, object_id(8), hook.updated_at), false),
        (Expectation::Clients(ACME, 2), true),
        (Expectation::Clients(ACME, 1), false),
        (Expectation::Clients(GLOBEX, 1), true),
        (Expectation::Keys(ACME, 2), true),
        (Expectation::Keys(ACME, 1), false),
        (Expectation::Keys(GLOBEX, 1), true),
        (Expectation::Devices(UserId(1), phone(3).id, 3), true),
        (Expectation::Devices(UserId(1), phone(3).id, 2), false),
        (Expectation::Devices(UserId(1), phone(2).id, 2), true),
        (Expectation::Devices(UserId(2), phone(2).id, 1), true),
        (Expectation::Membership(ACME, SOLUTION, UserId(1), Some(held.clone())), true),
        (Expectation::Membership(ACME, SOLUTION, UserId(1), Some(maker)), false),
        (Expectation::Membership(ACME, SOLUTION, UserId(1), None), false),
        (Expectation::Membership(ACME, SOLUTION, UserId(2), None), true),
        (Expectation::Membership(ACME, SOLUTION, UserId(2), Some(held)), false),
    ] {
        let word = expectation.word();
        let outcome = store.apply(vec![Change::Expect(expectation.clone())]).await;
        match outcome {
            Ok(_) => assert!(holds, "{expectation:?}"),
            Err(error) => {
                assert!(!holds, "{expectation:?}");
                assert_eq!(error.to_string(), unmet(word));
            }
        }
    }
    // One seat is left and many want it.
    let mut callers = tokio::task::JoinSet::new();
    for id in 10..40 {
        let store = Arc::clone(store);
        callers.spawn(async move {
            let changes =
                vec![Change::Expect(Expectation::Seats(ACME, 4)), Change::PutUser(user(ACME, id))];
            let log = Log::default();
            let step = log.step(&changes);
            store.apply_logged(changes, step).await.is_ok()
        });
    }
    let seated = callers.join_all().await.into_iter().filter(|seated| *seated).count();
    assert_eq!((seated, store.count_users(ACME).await?), (1, 4));
    Ok(())
}

pub(super) async fn chains_the_audit_trail_of_each_organization(store: &dyn Store) -> Checked {
    apply(store, two_organizations(1)).await?;
    for name in ["Ada", "Bob", "Eve"] {
        let renamed = User { name: String::from(name), ..user(ACME, 1) };
        apply(store, [Change::PutUser(renamed), note("user.rename")]).await?;
    }
    let trail = store.audit(ACME, 0, 10).await?;
    assert_eq!(trail.len(), 3);
    let links: Vec<_> = trail.windows(2).map(|pair| pair[1].previous == pair[0].hash).collect();
    assert_eq!(links, [true, true]);
    assert_eq!(trail[0].previous, [0; 32], "the first line has none before it");
    assert!(trail.iter().all(|line| line.before != line.after && line.hash != [0; 32]));
    assert!(trail.windows(2).all(|pair| pair[0].version < pair[1].version));
    let rest = store.audit(ACME, trail[0].version, 1).await?;
    assert_eq!(rest, trail[1..2]);
    assert_eq!(store.audit(GLOBEX, 0, 10).await?, []);
    Ok(())
}

pub(super) async fn gives_out_ids_beyond_every_imported_one(place: &impl Place) -> Checked {
    let store = place.open().await;
    apply(&*store, [Change::PutOrganization(organization(ACME))]).await?;
    apply(&*store, [Change::PutUser(user(ACME, 5_000_000_000))]).await?;
    let (user_id, org) = (store.next_user(), store.next_organization());
    assert_eq!((user_id, org.0), (UserId(5_000_000_001), ACME.0 + 1));
    assert_ne!(store.next_user(), user_id);
    apply(&*store, [Change::PutUser(user(ACME, user_id.0))]).await?;
    drop(store);
    let store = place.open().await;
    assert!(store.next_user() > user_id, "no stored id is given out after a restart");
    Ok::<_, Box<dyn Error + Send + Sync>>(())
}

pub(super) async fn forgets_what_ended_and_nothing_else(store: &dyn Store) -> Checked {
    apply(store, two_organizations(1)).await?;
    let refresh = |number: u8, expires_at| RefreshToken {
        token: SecretHash([number; 32]),
        family: Uuid::from_u128(7),
        client: String::from("client"),
        org: ACME,
        user: None,
        epoch: 0,
        expires_at: Millis(expires_at),
        is_used: false,
    };
    let invitation = |number: u8, expires_at| Invitation {
        token: SecretHash([number; 32]),
        user: UserId(1),
        org: ACME,
        role: RoleId(3),
        created_at: Millis(0),
        expires_at: Millis(expires_at),
    };
    apply(
        store,
        [
            Change::PutRefresh(refresh(1, 100)),
            Change::PutRefresh(refresh(2, 300)),
            Change::PutInvitation(invitation(3, 100)),
            Change::PutInvitation(invitation(4, 300)),
            Change::Revoke(String::from("old"), Millis(100)),
            Change::Revoke(String::from("new"), Millis(300)),
        ],
    )
    .await?;
    assert!(store.is_revoked("old") && store.is_revoked("new"));
    apply(store, [Change::Forget(Millis(200))]).await?;
    let (first, second) = (SecretHash([1; 32]), SecretHash([2; 32]));
    assert_eq!(store.refresh(first).await?, None);
    assert_eq!(store.refresh(second).await?, Some(refresh(2, 300)));
    assert_eq!(store.invitation(SecretHash([3; 32])).await?, None);
    assert_eq!(store.invitation(SecretHash([4; 32])).await?, Some(invitation(4, 300)));
    assert!(!store.is_revoked("old") && store.is_revoked("new"));
    apply(store, [Change::UseRefresh(second)]).await?;
    refused_as(
        store.apply(vec![Change::UseRefresh(second)]).await,
        "the refresh token was used before or is not there",
    );
    apply(store, [Change::TakeInvitation(SecretHash([4; 32]))]).await?;
    refused_as(
        store.apply(vec![Change::TakeInvitation(SecretHash([4; 32]))]).await,
        "the invitation was used before or is not there",
    );
    Ok(())
}
