//! Checks of lists and searches: what they find, in which order, and that they follow every change.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::samples::{ACME, GLOBEX, device, organization, two_organizations, user};
use super::{Checked, apply};
use crate::model::{
    AccountState, Address, DeviceId, Millis, Organization, OrganizationId, RoleId, User, UserId,
    UserProfile, UserStatus,
};
use crate::store::{Change, SortBy, Store, UserSearch};
use uuid::Uuid;

const TEXTS: [&str; 9] = ["", "A", "user", "USER 1", "49 ", "nick", "@example", "ÄÖ", "%"];
/// Far above what a store may answer without an index.
const MANY: i64 = 2_500;

/// The records a check made, answered from by plain filter and sort.
#[derive(Default)]
struct Model {
    orgs: BTreeMap<OrganizationId, Organization>,
    users: BTreeMap<UserId, User>,
    devices: BTreeMap<UserId, u32>,
}

impl Model {
    async fn make(&mut self, store: &dyn Store, changes: Vec<Change>) -> Checked {
        for change in &changes {
            match change {
                Change::PutOrganization(org) => {
                    self.orgs.insert(org.id, org.clone());
                }
                Change::PutUser(user) => {
                    self.users.insert(user.id, user.clone());
                }
                Change::PutDevice(device) => *self.devices.entry(device.user).or_default() += 1,
                _ => {}
            }
        }
        apply(store, changes).await
    }

    fn is_below(&self, org: OrganizationId, root: OrganizationId) -> bool {
        org == root || self.orgs[&org].parent.is_some_and(|parent| self.is_below(parent, root))
    }

    fn find(&self, root: OrganizationId, search: &UserSearch) -> Vec<UserId> {
        let text = search.text.to_lowercase();
        let holds = |field: &str| field.to_lowercase().contains(&text);
        let mut found: Vec<&User> = self
            .users
            .values()
            .filter(|user| self.is_below(user.org, root))
            .filter(|user| {
                let more = [&user.profile.nick_name, &user.profile.phone];
                holds(&user.name)
                    || holds(&user.email)
                    || more.into_iter().flatten().any(|field| holds(field))
            })
            .collect();
        found.sort_by(|a, b| {
            let order = self.compare(search.sort, a, b);
            let order = if search.descending { order.reverse() } else { order };
            order.then(a.id.cmp(&b.id))
        });
        found.into_iter().map(|user| user.id).collect()
    }

    fn compare(&self, sort: SortBy, a: &User, b: &User) -> Ordering {
        let text = |of: fn(&User) -> Option<&str>| {
            let key = |user| of(user).unwrap_or_default().to_lowercase();
            key(a).cmp(&key(b))
        };
        let devices = |user: &User| self.devices.get(&user.id).copied().unwrap_or_default();
        let org = |user: &User| self.orgs[&user.org].name.to_lowercase();
        match sort {
            SortBy::Id => a.id.cmp(&b.id),
            SortBy::Name => text(|user| Some(&user.name)),
            SortBy::Email => text(|user| Some(&user.email)),
            SortBy::Status => shown_status(a).cmp(shown_status(b)),
            SortBy::Role => a.role.cmp(&b.role),
            SortBy::OrganizationName => org(a).cmp(&org(b)),
            SortBy::DevicesCount => devices(a).cmp(&devices(b)),
            SortBy::Country => text(|user| user.profile.address.as_ref()?.country.as_deref()),
            SortBy::RegisteredAt => a.created_at.cmp(&b.created_at),
            SortBy::Phone => text(|user| user.profile.phone.as_deref()),
        }
    }

    /// Every search of `root` answers what the model does.
    async fn agrees(&self, store: &dyn Store, root: OrganizationId) -> Checked {
        for text in TEXTS {
            for (sort, descending) in
                SortBy::ALL.into_iter().flat_map(|sort| [(sort, false), (sort, true)])
            {
                let (text, offset, limit) = (String::from(text), 0, usize::MAX);
                let mut search = UserSearch { text, sort, descending, offset, limit };
                let expected = self.find(root, &search);
                (search.offset, search.limit) = (expected.len() as u64 / 3, 7);
                let page = store.search_users(root, search.clone()).await?;
                let found: Vec<UserId> = page.users.iter().map(|user| user.id).collect();
                let here = expected.iter().skip(expected.len() / 3).take(7);
                assert_eq!(found, here.copied().collect::<Vec<_>>(), "{root} {search:?}");
                assert_eq!(page.total, expected.len() as u64, "{root} {search:?}");
                for user in page.users {
                    assert_eq!(Some(&user), self.users.get(&user.id), "a user as stored");
                }
            }
        }
        Ok(())
    }
}

/// A user that never logged in is not inactive; one that did so long ago is.
fn shown_status(user: &User) -> &'static str {
    match (user.status, user.account.last_login_at) {
        (UserStatus::Active, Some(Millis(0))) => "Inactive",
        (UserStatus::Active, _) => "Active",
        (UserStatus::Pending, _) => "Pending",
        (UserStatus::Suspended, _) => "Suspended",
    }
}

/// Users that differ in everything they can be sorted by, with many equal values.
fn varied(org: OrganizationId, id: i64) -> User {
    let plain = user(org, id);
    let number = id.unsigned_abs();
    let (third, fifth) = (id % 3 == 0, id % 5 == 0);
    let country = ["japan", "Chile", "ägypten"][(number % 3) as usize];
    let address = Address { country: Some(String::from(country)), ..Address::default() };
    User {
        name: if fifth { format!("ÄöUser {}", id % 50) } else { plain.name },
        status: [UserStatus::Active, UserStatus::Pending, UserStatus::Suspended]
            [(number / 7 % 3) as usize],
        role: RoleId(if third { 1 } else { 3 }),
        created_at: Millis(number * 7_919 % 101),
        profile: UserProfile {
            nick_name: third.then(|| format!("Nick{}%", id % 10)),
            phone: fifth.then(|| format!("+49 {:06}", number * 31 % 1_000)),
            address: (id % 2 == 0).then_some(address),
            ..UserProfile::default()
        },
        account: AccountState {
            last_login_at: match id % 4 {
                0 => Some(Millis(0)),
                1 => Some(Millis(u64::MAX >> 16)),
                _ => None,
            },
            ..AccountState::default()
        },
        ..plain
    }
}

fn below(parent: OrganizationId, id: i32) -> Change {
    let parent = Some(parent);
    Change::PutOrganization(Organization { parent, ..organization(OrganizationId(id)) })
}

/// ACME with `users`, some of them in organizations below it, and GLOBEX with 20 users.
async fn grown(
    store: &dyn Store,
    users: i64,
) -> Result<Model, Box<dyn std::error::Error + Send + Sync>> {
    let mut model = Model::default();
    let mut changes = two_organizations(0);
    changes.extend([below(ACME, 301), below(OrganizationId(301), 302), below(ACME, 303)]);
    for id in 1..=users {
        let org = [ACME.0, ACME.0, 301, 302, 303][usize::try_from(id % 5)?];
        changes.push(Change::PutUser(varied(OrganizationId(org), id)));
        for number in 0..id % 3 {
            let key = u128::from(id.unsigned_abs()) * 10 + u128::from(number.unsigned_abs());
            changes.push(Change::PutDevice(device(id, key)));
        }
    }
    changes.extend((1..=20).map(|id| Change::PutUser(varied(GLOBEX, -id))));
    model.make(store, changes).await?;
    Ok(model)
}

pub(super) async fn finds_users_by_text_in_every_order(store: &dyn Store) -> Checked {
    let model = grown(store, 60).await?;
    for root in [ACME, GLOBEX, OrganizationId(301), OrganizationId(302)] {
        model.agrees(store, root).await?;
    }
    Ok(())
}

pub(super) async fn finds_users_among_many_while_they_change(store: &dyn Store) -> Checked {
    let mut model = grown(store, MANY).await?;
    model.agrees(store, ACME).await?;
    let inner = OrganizationId(301);
    let device_gone = DeviceId(Uuid::from_u128(20));
    let rounds: [Vec<Change>; 6] = [
        (1..=40).map(|id| Change::PutUser(varied(GLOBEX, id * 3))).collect(),
        (1..=20).map(|id| Change::PutUser(varied(inner, -id))).collect(),
        vec![
            Change::PutUser(User { name: String::from("a"), ..varied(ACME, MANY + 1) }),
            Change::PutUser(User { email: String::from("49 @a"), ..varied(ACME, 7) }),
            Change::PutDevice(device(MANY + 1, 1 << 80)),
        ],
        // With all its users to where nobody of ACME looks, and back.
        vec![below(GLOBEX, 302)],
        vec![below(inner, 302)],
        vec![Change::PutOrganization(Organization {
            name: String::from("aaa, renamed"),
            ..organization(ACME)
        })],
    ];
    for changes in rounds {
        model.make(store, changes).await?;
        for root in [ACME, GLOBEX, inner] {
            model.agrees(store, root).await?;
        }
    }
    apply(store, [Change::RemoveDevice(device_gone)]).await?;
    model.devices.entry(UserId(2)).and_modify(|count| *count -= 1);
    model.agrees(store, ACME).await
}

pub(super) async fn answers_searches_that_come_at_once(store: &Arc<dyn Store>) -> Checked {
    let model = Arc::new(grown(&**store, MANY).await?);
    let asked: Vec<_> = (0..16u64)
        .map(|number| {
            let store = Arc::clone(store);
            let (text, sort, descending) = (String::from("user"), SortBy::Name, false);
            let search = UserSearch { text, sort, descending, offset: number * 9, limit: 9 };
            tokio::spawn(async move { (store.search_users(ACME, search.clone()).await, search) })
        })
        .collect();
    // While the first of them may still be making ready.
    let newcomer = User { name: String::from("User 0"), ..user(ACME, MANY + 1) };
    apply(&**store, [Change::PutUser(newcomer.clone())]).await?;
    for search in asked {
        let (page, search) = search.await?;
        let page = page?;
        let old = model.find(ACME, &search).len() as u64;
        assert!((old..=old + 1).contains(&page.total), "{} is not {old}", page.total);
        assert_eq!(page.users.len(), 9);
    }
    let search = UserSearch {
        text: String::from("user 0"),
        sort: SortBy::Id,
        descending: true,
        offset: 0,
        limit: 1,
    };
    let page = store.search_users(ACME, search).await?;
    assert_eq!(page.users, [newcomer], "an answered change is found");
    Ok(())
}

pub(super) async fn lists_users_by_id_page_by_page(store: &dyn Store) -> Checked {
    for users in [60, MANY] {
        let model = grown(store, users).await?;
        for (below, all) in [(false, 2), (true, 5)] {
            let expected = |user: &&User| {
                if below { model.is_below(user.org, ACME) } else { user.org == ACME }
            };
            let expected: Vec<&User> = model.users.values().filter(expected).collect();
            assert_eq!(expected.len() as i64, users / 5 * all);
            let mut listed = Vec::new();
            loop {
                let page = store.users(ACME, below, listed.len() as u64, 47).await?;
                assert_eq!(page.total, expected.len() as u64);
                if page.users.is_empty() {
                    break;
                }
                listed.extend(page.users);
            }
            assert_eq!(listed.iter().collect::<Vec<_>>(), expected);
            for offset in [expected.len() as u64, u64::MAX] {
                let page = store.users(ACME, below, offset, 50).await?;
                assert_eq!((page.users.len(), page.total), (0, expected.len() as u64));
            }
        }
    }
    let nobody = store.users(OrganizationId(999), true, 0, 50).await?;
    assert_eq!((nobody.users.len(), nobody.total), (0, 0));
    Ok(())
}
