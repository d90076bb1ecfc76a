//! The records of the simulated world: made once, read by every schedule.

use crate::model::{Audience, Device, Millis, OrganizationId, Platform, ProviderName, UserId};
use crate::store::Store;
use crate::store::directory;
use crate::store::disk::DiskStore;
use serde_json::json;
use std::sync::{Arc, LazyLock};

pub(crate) const ORGS: [OrganizationId; 2] = [OrganizationId(101), OrganizationId(102)];
const USERS_EACH: i64 = 3;

/// A user and the keys of all their targets.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) user: UserId,
    pub(crate) targets: Vec<String>,
}

pub(crate) struct Records {
    pub(crate) store: Arc<DiskStore>,
    /// By organization, in the order of `ORGS`.
    pub(crate) members: Vec<Vec<Member>>,
}

pub(crate) static RECORDS: LazyLock<Records> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(make())
});

async fn make() -> Records {
    // The open file outlives its directory.
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Arc::new(DiskStore::open(dir.path()).expect("store opens"));
    let users: Vec<_> = (0..2 * USERS_EACH).map(user).collect();
    let document = json!({
        "organizations": [
            {"id": ORGS[0].0, "name": "Acme", "slug": "acme"},
            {"id": ORGS[1].0, "name": "Globex", "slug": "globex"},
        ],
        "users": users,
    });
    let document = document.to_string();
    let changes = directory::changes(document.as_bytes(), store.as_ref(), Millis(1)).await;
    store.apply(changes.expect("valid document")).await.expect("directory applied");
    let mut members = Vec::new();
    for org in ORGS {
        let all = Audience::Organization;
        let page = store.recipients(org, &all, None, 100).await.expect("readable");
        let member = |found: crate::store::Recipient| Member {
            user: found.user.id,
            targets: found.devices.iter().map(key).collect(),
        };
        members.push(page.recipients.into_iter().map(member).collect());
    }
    Records { store, members }
}

fn key(device: &Device) -> String {
    let provider = match device.platform {
        Platform::Apns => ProviderName::Apns,
        Platform::Fcm => ProviderName::Fcm,
    };
    format!("{}:{}", provider.as_str(), device.id)
}

fn user(number: i64) -> serde_json::Value {
    let org = ORGS[usize::from(number >= USERS_EACH)];
    let devices: Vec<_> = (0..=number % 2)
        .map(|device| {
            let token = format!("{:064x}", number * 10 + device + 1);
            let platform = if device == 0 { "apns" } else { "fcm" };
            json!({"platform": platform, "app": "main", "token": token})
        })
        .collect();
    json!({
        "id": number + 1, "organization": org.0, "role": 3, "status": "active",
        "email": format!("user{number}@example.com"), "name": "A user", "devices": devices,
    })
}
