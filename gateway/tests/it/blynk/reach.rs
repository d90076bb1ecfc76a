//! Every operation by every kind of caller, at its own, lower, higher and foreign organizations.

use serde_json::{Value, json};

use super::{PASSWORD, World, message};
use crate::support::client::Ask;

/// 101 has 102 and 103 below it, and 201 is elsewhere. Roles 4 and 5 of 101 have rights of their
/// own: 4 edits users, 5 as well and may transfer them, 6 has other rights.
fn tree(directory: &mut Value) {
    let organizations = directory["organizations"].as_array_mut().expect("organizations");
    organizations.push(json!({ "id": 103, "name": "Acme Sister", "parent": 101 }));
    let role = |id: i32, permissions: &[&str]| {
        json!({ "id": id, "organization": 101, "name": format!("Role {id}"),
                "permissions": permissions })
    };
    directory["roles"] = json!([
        role(4, &["ORG_VIEW_USERS", "ORG_EDIT_USERS"]),
        role(5, &["ORG_VIEW_USERS", "ORG_EDIT_USERS", "TRANSFER_USER"]),
        role(6, &["ORG_VIEW", "ROLE_VIEW", "ORG_SWITCH", "ORG_EDIT"]),
    ]);
    let users = directory["users"].as_array_mut().expect("users");
    let user = |id: i64, org: i32, role: i32| {
        json!({ "id": id, "organization": org, "role": role, "status": "active",
                "email": format!("u{id}@example.com"), "name": format!("User {id}") })
    };
    users.extend([user(131, 103, 1), user(141, 101, 4), user(142, 101, 4), user(151, 101, 5)]);
    users.push(user(161, 101, 6));
}

#[tokio::test]
async fn each_operation_asks_for_its_own_rights() {
    let world = World::with(|directory, _| tree(directory), &[]).await;
    let (admin, staff, member) = (101, 103, 102);
    let operations: [(&str, String, Value, &[i64]); 10] = [
        ("GET", String::from("/users"), Value::Null, &[admin, staff, 141, 151]),
        ("GET", String::from("/user?userId=999"), Value::Null, &[admin, staff, 141, 151]),
        ("GET", String::from("/search/users?query=a"), Value::Null, &[admin, staff, 141, 151]),
        ("POST", String::from("/users/create"), json!({}), &[admin, staff]),
        ("POST", String::from("/users/create-in-org"), json!({}), &[admin, staff]),
        ("POST", String::from("/users/invite"), json!({}), &[admin, staff]),
        ("PUT", String::from("/users/role?userId=999&roleId=3"), Value::Null, &[admin, 141, 151]),
        ("POST", String::from("/users/transfer"), json!({}), &[admin, 151]),
        ("POST", String::from("/create"), json!({}), &[admin]),
        ("GET", String::from("/sub-organizations"), Value::Null, &[admin, staff, 161]),
    ];
    for user in [admin, staff, member, 141, 151, 161] {
        let token = world.home.user_token(101, user).await;
        for (method, path, body, allowed) in &operations {
            let mut ask = Ask::new(method, format!("/api/v1/organization{path}")).bearer(&token);
            if !body.is_null() {
                ask = ask.json(body.to_string());
            }
            let status = world.gateway.ask(&ask).await.status;
            assert_eq!(status != 403, allowed.contains(&user), "{user} {method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn a_token_reaches_down_and_nowhere_else() {
    let world = World::with(|directory, _| tree(directory), &[]).await;
    for (org, reached) in [(101, &[102, 121, 131][..]), (102, &[121]), (103, &[131]), (201, &[201])]
    {
        let token = world.home.token(org).await;
        let get = async |path: String| {
            world.gateway.ask(&Ask::get(format!("/api/v1/organization{path}")).bearer(&token)).await
        };
        for user in [102, 121, 131, 201] {
            let reply = get(format!("/user?userId={user}")).await;
            let expected = if reached.contains(&user) { 200 } else { 404 };
            assert_eq!(reply.status, expected, "{org} reads user {user}");
            let body = json!({ "userId": user, "token": "t" }).to_string();
            let path = "/api/v1/organization/users/fcm-token/register";
            let reply = world.gateway.ask(&Ask::post(path).bearer(&token).json(body)).await;
            let expected = if reached.contains(&user) { 204 } else { 404 };
            assert_eq!(reply.status, expected, "{org} registers a device of user {user}");
        }
        for (below, users) in [(101, 102), (102, 121), (103, 131), (201, 201)] {
            let is_reached = reached.contains(&users);
            let expected = if is_reached { 200 } else { 404 };
            assert_eq!(get(format!("?orgId={below}")).await.status, expected, "{org} {below}");
            let reply = get(format!("/sub-organizations?orgId={below}")).await;
            assert_eq!(reply.status, expected, "{org} {below}");
        }
        let found = get(String::from("/search/users?query=&size=1000")).await.json();
        let listed = get(String::from("/users?includeSubOrgUsers=true&size=1000")).await.json();
        let ids = |page: &Value| {
            let content = page["content"].as_array().expect("content").iter();
            let mut ids: Vec<_> = content.filter_map(|user| user["id"].as_i64()).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(&found), ids(&listed), "{org}");
        for user in [102, 121, 131, 201] {
            assert_eq!(ids(&listed).contains(&user), reached.contains(&user), "{org} lists {user}");
        }
    }
}

#[tokio::test]
async fn users_with_fewer_rights_change_no_one_with_more() {
    let world = World::with(|directory, _| tree(directory), &[]).await;
    let editor = world.home.user_token(101, 141).await;
    let role = async |user: i64, role: i32| {
        let path = format!("/api/v1/organization/users/role?userId={user}&roleId={role}");
        world.gateway.ask(&Ask::new("PUT", path).bearer(&editor)).await
    };
    for (user, new, sentence) in [
        (141, 3, "The authenticated user cannot modify their own role"),
        (
            102,
            5,
            "The authenticated user cannot assign a role with higher permissions than their own",
        ),
        (
            102,
            1,
            "The authenticated user cannot assign a role with higher permissions than their own",
        ),
        (
            151,
            3,
            "The authenticated user cannot change the role of a user with higher permissions than their own",
        ),
    ] {
        let refused = role(user, new).await;
        assert_eq!((refused.status, message(&refused).as_str()), (403, sentence), "{user} {new}");
    }
    // The same rights, fewer, or others are not higher.
    for (user, new) in [(102, 4), (142, 3), (161, 3), (102, 6), (102, 3)] {
        assert_eq!(role(user, new).await.status, 200, "{user} {new}");
    }
    let mover = world.home.user_token(101, 151).await;
    let transfer = async |user: i64, role: i32| {
        let body = json!({ "userId": user, "targetOrgId": 103, "roleId": role });
        let ask = Ask::post("/api/v1/organization/users/transfer").bearer(&mover);
        world.gateway.ask(&ask.json(body.to_string())).await
    };
    assert_eq!(transfer(101, 3).await.status, 403, "an administrator is above");
    let refused = transfer(102, 1).await;
    let sentence =
        "You don't have permissions to access this Role. Contact administrator for details.";
    assert_eq!((refused.status, message(&refused).as_str()), (400, sentence));
    assert_eq!(transfer(102, 3).await.status, 200);
}

#[tokio::test]
async fn a_transferred_user_leaves_everything_behind() {
    let world = World::with(|directory, _| tree(directory), &[]).await;
    let old = world.home.user_token(101, 103).await;
    let profile = async |token: &str| {
        let ask = Ask::get("/api/v1/organization/user/profile").bearer(token);
        world.gateway.ask(&ask).await
    };
    assert_eq!(profile(&old).await.status, 200);
    let body = json!({ "userId": 103, "targetOrgId": 102, "roleId": 1 });
    let moved = world.post("/users/transfer", &body).await;
    assert_eq!(moved.status, 200, "{}", moved.text());
    assert_eq!((&moved.json()["orgId"], &moved.json()["roleId"]), (&json!(102), &json!(1)));
    assert_eq!(profile(&old).await.status, 401);
    assert_eq!(world.total("/users").await, 8);
    // Back again, and the old token is still dead.
    let body = json!({ "userId": 103, "targetOrgId": 101, "roleId": 2 });
    assert_eq!(world.post("/users/transfer", &body).await.status, 200);
    let person = json!({ "email": "own@example.com", "password": PASSWORD });
    let made = world.post("/users/create", &person).await.json();
    // The only user of a personal organization may go, though an Admin.
    let body = json!({ "userId": made["id"], "targetOrgId": 102, "roleId": 3 });
    assert_eq!(world.post("/users/transfer", &body).await.status, 200);
    assert_eq!(world.role(121, 3).await.status, 403, "the last administrator of 102");
}

#[tokio::test]
async fn a_token_reaches_to_the_ground_of_the_deepest_tree() {
    let deep = |directory: &mut Value, _: &_| {
        let organizations = directory["organizations"].as_array_mut().expect("organizations");
        // With 101 at its root the tree has as many levels as one may have.
        organizations.extend((1..64).map(|level| {
            let parent = if level == 1 { 101 } else { 300 + level - 1 };
            json!({ "id": 300 + level, "name": format!("Level {level}"), "parent": parent })
        }));
    };
    let world = World::with(deep, &[]).await;
    for org in [301, 316, 317, 363] {
        assert_eq!(world.get(&format!("?orgId={org}")).await.status, 200, "{org}");
    }
    let below = world.get("/sub-organizations?orgId=362").await.json();
    assert_eq!((&below["totalElements"], &below["content"][0]["id"]), (&json!(1), &json!(363)));
}

#[tokio::test]
async fn organizations_below_are_listed_by_page_and_sorted_by_what_they_hold() {
    let wide = |directory: &mut Value, _: &_| {
        let organizations = directory["organizations"].as_array_mut().expect("organizations");
        organizations.extend((1..=25).map(|number| {
            json!({ "id": 300 + number, "name": format!("Field {number}"), "parent": 102 })
        }));
    };
    let world = World::with(wide, &[]).await;
    let mut listed = Vec::new();
    for page in 0..4 {
        let path = format!("/sub-organizations?orgId=102&size=10&page={page}");
        let reply = world.get(&path).await.json();
        assert_eq!(reply["totalElements"], 25);
        let content = reply["content"].as_array().expect("content").clone();
        listed.extend(content.iter().filter_map(|one| one["id"].as_i64()));
    }
    assert_eq!(listed, (301..=325).collect::<Vec<_>>());
    let body = json!({ "userId": 121, "token": "t" });
    assert_eq!(world.post("/users/fcm-token/register", &body).await.status, 204);
    for sort in ["Sub%20Organizations", "Device%20Count"] {
        let path = format!("/search?query=&sortBy={sort}&sortOrder=DESC&size=1");
        let first = world.get(&path).await.json();
        assert_eq!(first["content"][0]["id"], 102, "{sort}");
    }
}
