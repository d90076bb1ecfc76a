//! Checks of audiences: who is in one, in which order, page by page, with which devices.

use uuid::Uuid;

use super::samples::{ACME, GLOBEX, device, member, two_organizations, user};
use super::{Checked, apply, refused_as};
use crate::model::{Audience, Device, OrganizationId, Platform, Secret, User, UserId};
use crate::store::{Change, Store, StoreError};

const SOLUTION: Uuid = Uuid::from_u128(0x5010);

/// Every page of `audience`: the user ids page by page, and the unknown counts.
async fn pages(
    store: &dyn Store,
    org: OrganizationId,
    audience: &Audience,
    limit: usize,
) -> Result<(Vec<Vec<i64>>, Vec<u32>), StoreError> {
    let (mut users, mut unknown, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = store.recipients(org, audience, after, limit).await?;
        assert!(page.recipients.len() <= limit, "a page over its limit");
        users.push(page.recipients.iter().map(|recipient| recipient.user.id.0).collect());
        unknown.push(page.unknown);
        let Some(next) = page.next else { return Ok((users, unknown)) };
        assert_eq!(page.recipients.last().map(|last| last.user.id), Some(next));
        assert!(after.is_none_or(|after| after < next), "pages do not move on");
        after = Some(next);
    }
}

async fn members(
    store: &dyn Store,
    org: OrganizationId,
    audience: &Audience,
) -> Result<Vec<i64>, StoreError> {
    Ok(pages(store, org, audience, 1000).await?.0.concat())
}

fn groups(names: &[&str]) -> Audience {
    let groups = names.iter().map(|name| String::from(*name)).collect();
    Audience::Groups { solution: SOLUTION, groups }
}

pub(super) async fn names_each_user_once_and_counts_the_unknown(store: &dyn Store) -> Checked {
    let mut changes = two_organizations(5);
    changes.push(Change::PutUser(user(GLOBEX, 6)));
    apply(store, changes).await?;

    let users = Audience::Users([5, 1, 404, 3, 1, 6, 404, 5].map(UserId).to_vec());
    let expected = (vec![vec![1, 3], vec![5]], vec![2, 0]);
    assert_eq!(pages(store, ACME, &users, 2).await?, expected, "404 and another's 6");

    let named = ["user-5", "USER-1", "nobody", "user-3", "user-1", "user-6", "Nobody"];
    let emails = Audience::Emails(named.map(|name| format!("{name}@example.com")).to_vec());
    assert_eq!(pages(store, ACME, &emails, 2).await?, expected);

    let none = Audience::Users(Vec::new());
    assert_eq!(pages(store, ACME, &none, 2).await?, (vec![vec![]], vec![0]));
    let unknown = Audience::Users(vec![UserId(404)]);
    assert_eq!(pages(store, ACME, &unknown, 2).await?, (vec![vec![]], vec![1]));

    // Long lists may take another way through the store than short ones.
    let long = Audience::Users((-100..=100).map(UserId).collect());
    let expected = (vec![vec![1, 2], vec![3, 4], vec![5]], vec![196, 0, 0]);
    assert_eq!(pages(store, ACME, &long, 2).await?, expected);
    Ok(())
}

pub(super) async fn pages_everybody_in_ascending_order(store: &dyn Store) -> Checked {
    // Ids around every place where bytes and numbers may sort differently.
    let ids = [-70_000, -1, 0, 1, 127, 128, 255, 256, 65_535, 65_536, i64::MIN, i64::MAX];
    let mut changes = two_organizations(0);
    for id in ids {
        changes.push(Change::PutUser(user(ACME, id)));
        changes.push(Change::PutMembership(ACME, member(SOLUTION, id, &["all"])));
    }
    apply(store, changes).await?;
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    for audience in [Audience::Organization, Audience::Solution(SOLUTION), groups(&["all"])] {
        for limit in [1, 5, ids.len() - 1, ids.len(), 1000] {
            let (found, unknown) = pages(store, ACME, &audience, limit).await?;
            assert_eq!(found.concat(), sorted, "{audience:?} by {limit}");
            assert_eq!(found.len(), ids.len().div_ceil(limit), "{audience:?} by {limit}");
            assert_eq!(unknown.iter().sum::<u32>(), 0);
        }
    }
    assert_eq!(members(store, ACME, &Audience::Subscriptions).await?, [0i64; 0]);
    assert_eq!(members(store, GLOBEX, &Audience::Organization).await?, [0i64; 0]);
    Ok(())
}

pub(super) async fn follows_users_and_devices_when_they_move(store: &dyn Store) -> Checked {
    let mut changes = two_organizations(3);
    changes.extend([device(1, 10), device(1, 11), device(2, 20)].map(Change::PutDevice));
    changes.extend((1..=3).map(|id| Change::PutMembership(ACME, member(SOLUTION, id, &["ops"]))));
    apply(store, changes).await?;
    let devices = async |org, user| {
        let one = Audience::Users(vec![UserId(user)]);
        let page = store.recipients(org, &one, None, 1).await?;
        let mut ids: Vec<_> =
            page.recipients.iter().flat_map(|r| &r.devices).map(|d| d.id.0.as_u128()).collect();
        ids.sort_unstable();
        Ok::<_, StoreError>(ids)
    };
    assert_eq!(devices(ACME, 1).await?, [10, 11]);

    // A device that is registered for another user leaves the first one.
    apply(store, [Change::PutDevice(device(2, 11)), Change::RemoveDevice(device(2, 20).id)])
        .await?;
    assert_eq!(devices(ACME, 1).await?, [10]);
    assert_eq!(devices(ACME, 2).await?, [11]);
    apply(store, [Change::RemoveDevice(device(2, 11).id)]).await?;
    assert_eq!(devices(ACME, 2).await?, [0u128; 0]);

    // A user who changes organization takes the devices along and leaves every audience.
    apply(store, [Change::PutUser(User { org: GLOBEX, ..user(ACME, 1) })]).await?;
    for audience in [Audience::Organization, Audience::Solution(SOLUTION), groups(&["ops"])] {
        let (found, _) = pages(store, ACME, &audience, 1).await?;
        assert_eq!(found.concat(), [2, 3], "{audience:?}");
    }
    assert_eq!(members(store, GLOBEX, &Audience::Organization).await?, [1]);
    assert_eq!(devices(GLOBEX, 1).await?, [10]);
    let late = Change::PutMembership(ACME, member(SOLUTION, 1, &["ops"]));
    refused_as(store.apply(vec![late]).await, "the user in this organization does not exist");
    Ok(())
}

pub(super) async fn gives_a_claimed_token_to_one_device(store: &dyn Store) -> Checked {
    let mut changes = two_organizations(3);
    let of = |user, number, platform| {
        let token = Secret::new("the same token");
        Device { token, platform, ..device(user, number) }
    };
    let (apns, fcm) = (Platform::Apns, Platform::Fcm);
    let shared = [of(1, 10, apns), of(2, 20, apns), of(2, 21, fcm), device(3, 30)];
    changes.extend(shared.map(Change::PutDevice));
    apply(store, changes).await?;
    let devices = async |user| {
        let found = store.devices(UserId(user)).await?;
        Ok::<_, StoreError>(found.iter().map(|d| d.id.0.as_u128()).collect::<Vec<_>>())
    };
    assert_eq!((devices(1).await?, devices(2).await?), (vec![10], vec![20, 21]));
    apply(store, [Change::ClaimDevice(of(3, 31, apns))]).await?;
    let now = (devices(1).await?, devices(2).await?, devices(3).await?);
    assert_eq!(now, (vec![], vec![21], vec![30, 31]), "other platforms and tokens stay");
    apply(store, [Change::ClaimDevice(of(3, 31, apns)), Change::ClaimDevice(of(1, 10, apns))])
        .await?;
    assert_eq!((devices(1).await?, devices(3).await?), (vec![10], vec![30]));
    Ok(())
}

pub(super) async fn unites_groups_of_one_solution(store: &dyn Store) -> Checked {
    let other = Uuid::from_u128(0x0777);
    let mut changes = two_organizations(6);
    let ops = [
        member(SOLUTION, 1, &["ops"]),
        member(SOLUTION, 2, &["ops", "dev"]),
        member(SOLUTION, 3, &["dev"]),
        member(SOLUTION, 4, &["op", "ops2", "entwicklung-ü"]),
        member(SOLUTION, 5, &[]),
        member(other, 6, &["ops"]),
    ];
    changes.extend(ops.map(|membership| Change::PutMembership(ACME, membership)));
    apply(store, changes).await?;
    assert_eq!(members(store, ACME, &groups(&["ops"])).await?, [1, 2]);
    assert_eq!(members(store, ACME, &groups(&["dev", "ops", "dev"])).await?, [1, 2, 3]);
    assert_eq!(members(store, ACME, &groups(&["entwicklung-ü"])).await?, [4]);
    assert_eq!(members(store, ACME, &groups(&["none"])).await?, [0i64; 0]);
    assert_eq!(members(store, ACME, &groups(&[])).await?, [0i64; 0]);
    assert_eq!(members(store, ACME, &Audience::Solution(SOLUTION)).await?, [1, 2, 3, 4, 5]);
    assert_eq!(members(store, ACME, &Audience::Solution(other)).await?, [6]);

    // A replaced membership leaves the groups it no longer names.
    apply(store, [Change::PutMembership(ACME, member(SOLUTION, 2, &["qa"]))]).await?;
    assert_eq!(members(store, ACME, &groups(&["ops", "dev"])).await?, [1, 3]);
    assert_eq!(members(store, ACME, &groups(&["qa"])).await?, [2]);
    Ok(())
}

pub(super) async fn keeps_organizations_apart(store: &dyn Store) -> Checked {
    let mut changes = two_organizations(1);
    changes.push(Change::PutUser(user(GLOBEX, 2)));
    changes.push(Change::PutMembership(ACME, member(SOLUTION, 1, &["ops"])));
    changes.push(Change::PutMembership(GLOBEX, member(SOLUTION, 2, &["ops"])));
    apply(store, changes).await?;
    for (org, own) in [(ACME, 1), (GLOBEX, 2)] {
        for audience in [Audience::Organization, Audience::Solution(SOLUTION), groups(&["ops"])] {
            assert_eq!(members(store, org, &audience).await?, [own], "{audience:?}");
        }
    }
    Ok(())
}
