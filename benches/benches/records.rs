//! The record store: what changes and reads cost, and how group commit spreads the sync.
//!
//! `cargo bench -p bugler-benches --bench records`. Rates belong to the machine; compare lines.

use bugler_gateway::model::{Audience, Millis, OrganizationId, User, UserId};
use bugler_gateway::store::disk::DiskStore;
use bugler_gateway::store::{Change, Store, UserRef, directory};
use serde_json::json;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

const USERS: u32 = 100_000;
const USERS_PER_APPLY: u32 = 1_000;
const ORG: OrganizationId = OrganizationId(1);

type Failed = Box<dyn Error + Send + Sync>;

fn show(what: &str, elapsed: Duration, count: u32) -> Result<(), Failed> {
    let micros = elapsed.as_secs_f64() * 1e6 / f64::from(count.max(1));
    writeln!(std::io::stdout(), "{what:<44} {:>10.0} /s {micros:>9.1} us each", 1e6 / micros)?;
    Ok(())
}

async fn user(store: &DiskStore, id: u32) -> Result<User, Failed> {
    let email = UserRef::Email(format!("user{id}@example.com"));
    Ok(store.user(email).await?.ok_or("the user is missing")?)
}

async fn load(store: &DiskStore) -> Result<(), Failed> {
    let document = json!({"organizations": [{"id": ORG.0, "name": "Acme"}]}).to_string();
    store.apply(directory::changes(document.as_bytes(), store, Millis(0)).await?).await?;
    for first in (1..=USERS).step_by(USERS_PER_APPLY as usize) {
        let users: Vec<_> = (first..first + USERS_PER_APPLY)
            .map(|id| {
                json!({
                    "id": id, "organization": ORG.0, "role": 3, "status": "active",
                    "email": format!("user{id}@example.com"), "name": "A user",
                    "devices": [{"platform": "apns", "app": "main", "token": format!("{id:064x}")}],
                })
            })
            .collect();
        let document = json!({ "users": users }).to_string();
        store.apply(directory::changes(document.as_bytes(), store, Millis(0)).await?).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let home = tempfile::tempdir_in(".")?;
    let store = Arc::new(DiskStore::open(home.path())?);
    let started = Instant::now();
    load(&store).await?;
    show("import users with a device, 1,000 at once", started.elapsed(), USERS)?;
    for callers in [1, 16, 64, 256] {
        let rounds = 2_048 / callers;
        let started = Instant::now();
        let mut tasks = Vec::new();
        for caller in 1..=callers {
            let store = Arc::clone(&store);
            let record = user(&store, caller).await?;
            tasks.push(tokio::spawn(async move {
                for _ in 0..rounds {
                    store.apply(vec![Change::PutUser(record.clone())]).await?;
                }
                Ok::<_, Failed>(())
            }));
        }
        for task in tasks {
            task.await??;
        }
        show(&format!("apply one change, {callers} callers"), started.elapsed(), 2_048)?;
    }
    for pass in ["first read", "second read"] {
        let started = Instant::now();
        for id in 50_000..60_000 {
            user(&store, id).await?;
        }
        show(&format!("user by e-mail, {pass}"), started.elapsed(), 10_000)?;
    }
    let (mut after, mut pages, started) = (None::<UserId>, 0, Instant::now());
    loop {
        let page = store.recipients(ORG, &Audience::Organization, after, 1_000).await?;
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    show("page of 1,000 recipients", started.elapsed(), pages)
}
