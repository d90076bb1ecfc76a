//! Checks of single records: names, constraints, atomicity, versions, subscriptions, reopening.

use std::sync::Arc;

use super::samples::{
    ACME, GLOBEX, device, member, object_id, organization, slack, two_organizations, user, webhook,
};
use super::{Checked, Place, apply, refused_as};
use crate::model::{
    Audience, Organization, OrganizationId, Role, RoleId, Subscription, User, UserId, UserStatus,
};
use crate::store::{Change, OrganizationRef, Store, UserRef};
use uuid::Uuid;

fn organization_refs(of: &Organization) -> [OrganizationRef; 5] {
    [
        OrganizationRef::Id(of.id),
        OrganizationRef::Uuid(of.uuid),
        OrganizationRef::ObjectId(of.object_id),
        OrganizationRef::Slug(of.slug.clone()),
        OrganizationRef::Numeric(of.numeric.clone()),
    ]
}

fn user_refs(of: &User) -> [UserRef; 3] {
    [UserRef::Id(of.id), UserRef::Uuid(of.uuid), UserRef::Email(of.email.clone())]
}

pub(super) async fn finds_organizations_and_users_by_every_name(store: &dyn Store) -> Checked {
    for which in organization_refs(&organization(ACME)) {
        assert_eq!(store.organization(which).await?, None, "an empty store knows nobody");
    }
    assert_eq!(store.first_organization().await?, None);
    let acme = Organization { parent: Some(GLOBEX), ..organization(ACME) };
    let admin = Role {
        id: RoleId(1),
        org: ACME,
        name: String::from("Admin"),
        permissions: vec![String::from("ORG_VIEW_USERS")],
    };
    apply(
        store,
        [
            Change::PutOrganization(organization(GLOBEX)),
            Change::PutOrganization(acme.clone()),
            Change::PutRole(admin.clone()),
            Change::PutUser(user(ACME, 7)),
            Change::PutUser(user(GLOBEX, -7)),
        ],
    )
    .await?;
    for which in organization_refs(&acme) {
        let found = store.organization(which.clone()).await?;
        assert_eq!(found.as_deref(), Some(&acme), "{which:?}");
    }
    assert_eq!(store.first_organization().await?, Some(ACME), "the smallest id, not the oldest");
    for expected in [user(ACME, 7), User { org: GLOBEX, ..user(GLOBEX, -7) }] {
        let found = store.user(UserRef::Id(expected.id)).await?;
        assert_eq!(found.as_ref(), Some(&expected));
    }
    for which in user_refs(&user(ACME, 7)).into_iter().skip(2) {
        assert_eq!(store.user(which).await?, Some(user(ACME, 7)));
    }
    assert_eq!(store.role(ACME, RoleId(1)).await?.as_deref(), Some(&admin));
    let changed = Role { permissions: Vec::new(), ..admin };
    apply(store, [Change::PutRole(changed.clone())]).await?;
    let found = store.role(ACME, RoleId(1)).await?;
    assert_eq!(found.as_deref(), Some(&changed), "not as it was read before");
    assert_eq!(store.role(ACME, RoleId(2)).await?, None);
    assert_eq!(store.role(GLOBEX, RoleId(1)).await?, None, "roles belong to one organization");
    Ok(())
}

pub(super) async fn keeps_names_unique_and_frees_replaced_ones(store: &dyn Store) -> Checked {
    let mut changes = two_organizations(2);
    changes.push(Change::PutUser(user(GLOBEX, 3)));
    apply(store, changes).await?;
    let (acme, globex) = (organization(ACME), organization(GLOBEX));
    let clashes = [
        ("organization uuid", Organization { uuid: acme.uuid, ..globex.clone() }),
        ("organization object id", Organization { object_id: acme.object_id, ..globex.clone() }),
        ("organization slug", Organization { slug: acme.slug.clone(), ..globex.clone() }),
        ("organization number", Organization { numeric: acme.numeric.clone(), ..globex.clone() }),
    ];
    for (field, clash) in clashes {
        let outcome = store.apply(vec![Change::PutOrganization(clash)]).await;
        refused_as(outcome, &format!("{field} is already in use"));
    }
    // E-mail addresses are unique on the server, not only inside an organization.
    let email = User { email: user(ACME, 1).email, ..user(GLOBEX, 3) };
    refused_as(store.apply(vec![Change::PutUser(email)]).await, "email is already in use");
    let uuid = User { uuid: user(ACME, 1).uuid, ..user(ACME, 2) };
    refused_as(store.apply(vec![Change::PutUser(uuid)]).await, "user uuid is already in use");

    // Replacing a record frees its old names, and only those.
    let renamed = Organization {
        slug: String::from("renamed"),
        numeric: String::from("42"),
        uuid: Uuid::from_u128(999),
        object_id: object_id(999),
        ..acme.clone()
    };
    let moved = User { email: String::from("new@example.com"), ..user(ACME, 1) };
    apply(store, [Change::PutOrganization(renamed.clone()), Change::PutUser(moved)]).await?;
    for which in organization_refs(&acme).into_iter().skip(1) {
        assert_eq!(store.organization(which.clone()).await?, None, "{which:?} still resolves");
    }
    for which in organization_refs(&renamed) {
        assert_eq!(store.organization(which).await?, Some(renamed.clone().into()));
    }
    let old_email = UserRef::Email(user(ACME, 1).email);
    assert_eq!(store.user(old_email.clone()).await?, None);
    let heir = User { email: user(ACME, 1).email, ..user(GLOBEX, 3) };
    apply(store, [Change::PutUser(heir.clone())]).await?;
    assert_eq!(store.user(old_email).await?, Some(heir));
    Ok(())
}

pub(super) async fn refuses_changes_that_name_missing_records(store: &dyn Store) -> Checked {
    apply(store, two_organizations(1)).await?;
    let nowhere = OrganizationId(999);
    let solution = Uuid::from_u128(1);
    let role = Role { id: RoleId(4), org: nowhere, name: String::new(), permissions: Vec::new() };
    let orphan = Organization { parent: Some(nowhere), ..organization(ACME) };
    let cases = [
        (Change::PutOrganization(orphan), "the parent organization does not exist"),
        (Change::PutUser(user(nowhere, 5)), "the organization does not exist"),
        (Change::PutRole(role), "the organization does not exist"),
        (Change::PutDevice(device(5, 1)), "the user does not exist"),
        (
            Change::PutMembership(ACME, member(solution, 5, &[])),
            "the user in this organization does not exist",
        ),
        (
            Change::PutMembership(GLOBEX, member(solution, 1, &[])),
            "the user in this organization does not exist",
        ),
        (Change::PutSubscription(webhook(nowhere, 1, &["*"])), "the organization does not exist"),
    ];
    for (change, expected) in cases {
        refused_as(store.apply(vec![change]).await, expected);
    }
    // Taking away what is not there is no error.
    let gone = device(1, 404).id;
    apply(
        store,
        [
            Change::RemoveDevice(gone),
            Change::DisableSubscription(object_id(404)),
            Change::RemoveSubscription(object_id(404)),
        ],
    )
    .await
}

pub(super) async fn makes_all_changes_of_an_apply_or_none(store: &dyn Store) -> Checked {
    let mut changes = two_organizations(2);
    changes.push(Change::PutDevice(device(1, 1)));
    changes.push(Change::PutMembership(ACME, member(Uuid::nil(), 1, &["ops"])));
    changes.push(Change::PutSubscription(webhook(ACME, 1, &["*"])));
    apply(store, changes).await?;

    // Every kind of change, then one that cannot be made.
    let outcome = store
        .apply(vec![
            Change::PutOrganization(organization(OrganizationId(303))),
            Change::PutOrganization(Organization {
                slug: String::from("other"),
                ..organization(ACME)
            }),
            Change::PutUser(user(ACME, 9)),
            Change::PutUser(User { email: String::from("x@example.com"), ..user(GLOBEX, 1) }),
            Change::PutDevice(device(2, 2)),
            Change::PutDevice(device(2, 1)),
            Change::PutMembership(ACME, member(Uuid::nil(), 2, &["ops"])),
            Change::PutSubscription(webhook(ACME, 2, &["*"])),
            Change::DisableSubscription(object_id(1)),
            Change::RemoveSubscription(object_id(1)),
            Change::PutUser(User { email: user(ACME, 2).email, ..user(ACME, 10) }),
        ])
        .await;
    refused_as(outcome, "email is already in use");

    assert_eq!(store.organization(OrganizationRef::Id(OrganizationId(303))).await?, None);
    assert_eq!(store.organization(OrganizationRef::Slug(String::from("other"))).await?, None);
    let acme = OrganizationRef::Slug(organization(ACME).slug);
    assert_eq!(store.organization(acme).await?, Some(organization(ACME).into()));
    assert_eq!(store.user(UserRef::Id(UserId(9))).await?, None);
    assert_eq!(store.user(UserRef::Email(String::from("x@example.com"))).await?, None);
    let email = UserRef::Email(user(ACME, 1).email);
    assert_eq!(store.user(email).await?, Some(user(ACME, 1)));
    assert_eq!(store.subscriptions(ACME, "any").await?, [webhook(ACME, 1, &["*"])]);
    let everybody = store.recipients(ACME, &Audience::Organization, None, 10).await?;
    let devices: Vec<_> = everybody.recipients.iter().map(|r| r.devices.clone()).collect();
    assert_eq!(devices, [vec![device(1, 1)], vec![]]);
    let groups = Audience::Groups { solution: Uuid::nil(), groups: vec![String::from("ops")] };
    let ops = store.recipients(ACME, &groups, None, 10).await?;
    let members: Vec<_> = ops.recipients.iter().map(|r| r.user.id).collect();
    assert_eq!(members, [UserId(1)]);
    Ok(())
}

pub(super) async fn never_stores_a_loop_of_parents(store: &dyn Store) -> Checked {
    let expected =
        "a parent organization outside the organization's own descendants does not exist";
    let child = Organization { parent: Some(ACME), ..organization(GLOBEX) };
    apply(store, [Change::PutOrganization(organization(ACME)), Change::PutOrganization(child)])
        .await?;
    for parent in [ACME, GLOBEX] {
        let looped = Organization { parent: Some(parent), ..organization(ACME) };
        refused_as(store.apply(vec![Change::PutOrganization(looped)]).await, expected);
    }
    let found = store.organization(OrganizationRef::Id(ACME)).await?;
    assert_eq!(found.and_then(|acme| acme.parent), None);
    Ok(())
}

pub(super) async fn answers_rising_versions_to_concurrent_applies(
    store: &Arc<dyn Store>,
) -> Checked {
    let first = store.apply(two_organizations(0)).await?;
    let tasks: Vec<_> = (1..=64)
        .map(|id| {
            let store = Arc::clone(store);
            // Every fourth one breaks a constraint and must harm none of its neighbours.
            let org = if id % 4 == 0 { OrganizationId(999) } else { ACME };
            let email = format!("User-{id}@example.com");
            let change = Change::PutUser(User { email, ..user(org, id) });
            tokio::spawn(async move { store.apply(vec![change]).await.ok() })
        })
        .collect();
    let mut versions = vec![first];
    for task in tasks {
        versions.extend(task.await?);
    }
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 1 + 48, "each apply has its own version");
    let everybody = store.recipients(ACME, &Audience::Organization, None, 100).await?;
    assert_eq!(everybody.recipients.len(), 48);
    let last = store.apply(vec![Change::PutUser(user(ACME, 200))]).await?;
    assert!(versions.iter().all(|version| *version < last), "versions rise");
    Ok(())
}

pub(super) async fn serves_no_value_older_than_the_last_answered_apply(
    store: &dyn Store,
) -> Checked {
    apply(store, two_organizations(1)).await?;
    for round in 0..50u32 {
        let slug = format!("acme-{round}");
        let status = if round % 2 == 0 { UserStatus::Suspended } else { UserStatus::Active };
        apply(
            store,
            [
                Change::PutOrganization(Organization { slug, ..organization(ACME) }),
                Change::PutUser(User { status, ..user(ACME, 1) }),
                Change::PutDevice(device(1, u128::from(round))),
                Change::PutSubscription(webhook(ACME, round, &["*"])),
            ],
        )
        .await?;
        // Twice: the second answer may come from a cache the first one filled.
        for _ in 0..2 {
            let found = store.organization(OrganizationRef::Id(ACME)).await?;
            assert_eq!(found.map(|acme| acme.slug.clone()), Some(format!("acme-{round}")));
            for which in user_refs(&user(ACME, 1)) {
                assert_eq!(store.user(which).await?.map(|user| user.status), Some(status));
            }
            let one = Audience::Users(vec![UserId(1)]);
            let page = store.recipients(ACME, &one, None, 10).await?;
            let devices: usize = page.recipients.iter().map(|r| r.devices.len()).sum();
            assert_eq!(u32::try_from(devices)?, round + 1);
            assert_eq!(u32::try_from(store.subscriptions(ACME, "any").await?.len())?, round + 1);
        }
    }
    Ok(())
}

pub(super) async fn matches_subscriptions_by_event_and_organization(store: &dyn Store) -> Checked {
    let off = Subscription { enabled: false, ..webhook(ACME, 4, &["*"]) };
    let mut changes = two_organizations(0);
    changes.extend(
        [
            webhook(ACME, 1, &["*"]),
            webhook(ACME, 2, &["buildCreated", "push.direct"]),
            slack(ACME, 3, &["push.direct"]),
            off.clone(),
            webhook(GLOBEX, 5, &["*"]),
        ]
        .map(Change::PutSubscription),
    );
    apply(store, changes).await?;
    let wanting = async |org, event: &str| {
        store.subscriptions(org, event).await.map(|mut found| {
            found.sort_unstable_by_key(|subscription| subscription.id);
            found
        })
    };
    let (first, third) = (webhook(ACME, 1, &["*"]), slack(ACME, 3, &["push.direct"]));
    let second = webhook(ACME, 2, &["buildCreated", "push.direct"]);
    let all = [first.clone(), second.clone(), third.clone()];
    assert_eq!(wanting(ACME, "push.direct").await?, all);
    assert_eq!(wanting(ACME, "buildCreated").await?, [first.clone(), second.clone()]);
    assert_eq!(wanting(ACME, "other").await?, [first]);
    assert_eq!(wanting(GLOBEX, "other").await?, [webhook(GLOBEX, 5, &["*"])]);

    assert_eq!(store.subscription(ACME, off.id).await?, Some(off), "disabled ones are readable");
    assert_eq!(store.subscription(GLOBEX, second.id).await?, None, "only their organization's");
    let stolen = Subscription { org: GLOBEX, ..second.clone() };
    let outcome = store.apply(vec![Change::PutSubscription(stolen)]).await;
    refused_as(outcome, "subscription id is already in use");

    apply(store, [Change::DisableSubscription(object_id(1)), Change::RemoveSubscription(third.id)])
        .await?;
    assert_eq!(wanting(ACME, "push.direct").await?, [second]);
    let disabled = store.subscription(ACME, object_id(1)).await?;
    assert_eq!(disabled, Some(Subscription { enabled: false, ..webhook(ACME, 1, &["*"]) }));
    assert_eq!(store.subscription(ACME, third.id).await?, None);
    Ok(())
}

pub(super) async fn keeps_everything_over_a_reopen(place: &dyn Place) -> Checked {
    let solution = Uuid::from_u128(77);
    let mut changes = two_organizations(2);
    changes.push(Change::PutDevice(device(1, 1)));
    changes.push(Change::PutMembership(ACME, member(solution, 1, &["ops"])));
    changes.push(Change::PutSubscription(slack(ACME, 1, &["*"])));
    let store = place.open().await;
    let written = store.apply(changes).await?;
    drop(store);

    let store = place.open().await;
    for which in organization_refs(&organization(ACME)) {
        assert_eq!(store.organization(which).await?, Some(organization(ACME).into()));
    }
    for which in user_refs(&user(ACME, 2)) {
        assert_eq!(store.user(which).await?, Some(user(ACME, 2)));
    }
    let groups = Audience::Groups { solution, groups: vec![String::from("ops")] };
    let ops = store.recipients(ACME, &groups, None, 10).await?;
    let found: Vec<_> =
        ops.recipients.into_iter().map(|r| (Arc::unwrap_or_clone(r.user), r.devices)).collect();
    assert_eq!(found, [(user(ACME, 1), vec![device(1, 1)])]);
    assert_eq!(store.subscriptions(ACME, "any").await?, [slack(ACME, 1, &["*"])]);
    let next = store.apply(vec![Change::PutUser(user(GLOBEX, 3))]).await?;
    assert!(next > written, "versions go on where they were");
    Ok(())
}
