//! A real process on a bad disk: what it answers, what it keeps, and how it ends.

use std::path::PathBuf;

use crate::support::client::{Ask, Protocol};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Home};
use crate::support::world;

const NATIVE: &str = "/bugler/v1/notifications";
/// `EX_IOERR`.
const EXIT_IO: i32 = 74;

struct Scene {
    home: Home,
    token: String,
    orders: PathBuf,
}

impl Scene {
    async fn new() -> (Self, Gateway) {
        let home = Home::new(world::directory()).set("store.segment=1MiB");
        let token = home.token(101).await;
        let orders = home.path().join("faults");
        let faults = orders.to_string_lossy().into_owned();
        let gateway = home.attempt_with(&[("BUGLER_DISK_FAULTS", &faults)]).await;
        (Self { home, token, orders }, gateway.expect("it becomes ready"))
    }

    fn order(&self, fault: &str) {
        let new = self.orders.with_extension("new");
        std::fs::write(&new, fault).expect("orders are written");
        std::fs::rename(&new, &self.orders).expect("orders are given");
    }

    fn relieve(&self) {
        std::fs::remove_file(&self.orders).expect("orders are taken back");
    }

    fn ask(&self, bytes: usize) -> Ask {
        let filler = "x".repeat(bytes);
        let body = format!(r#"{{"to":{{"users":[101]}},"title":"t","data":{{"f":"{filler}"}}}}"#);
        Ask::post(NATIVE).bearer(&self.token).json(body)
    }

    /// Far more than a notification may hold, so that a few fill a segment.
    fn ask_much(&self) -> Ask {
        world::event_of(60_000).bearer(&self.token)
    }

    /// Everything in `ids` is there and done.
    async fn keeps(&self, gateway: &Gateway, ids: &[String]) {
        for id in ids {
            gateway.done(&self.token, id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_503_until_there_is_room_and_stops_nothing_else() {
    for fault in ["full", "read-only"] {
        let (scene, gateway) = Scene::new().await;
        let mut ids = vec![gateway.ask(&scene.ask(10)).await.id()];
        scene.order(fault);
        let refused = loop {
            let reply = gateway.ask(&scene.ask_much()).await;
            if reply.status != 202 {
                break reply;
            }
            ids.push(reply.id());
        };
        assert_eq!(refused.status, 503, "{fault}: {}", refused.text());
        assert!(refused.header("retry-after").is_some());
        eventually("readiness says why", async || {
            let ready = gateway.admin("/readyz").await;
            (ready.status == 503 && ready.text().contains("room")).then_some(())
        })
        .await;
        for id in &ids {
            // What ends is written down where settlements have room; a disk that takes nothing
            // has it wait, and be read.
            match fault {
                "full" => gateway.done(&scene.token, id).await,
                _ => gateway.timeline(&scene.token, id).await,
            };
        }
        scene.relieve();
        let id = eventually("it accepts again by itself", async || {
            let reply = gateway.ask(&scene.ask(10)).await;
            (reply.status == 201).then(|| reply.id())
        })
        .await;
        ids.push(id);
        scene.keeps(&gateway, &ids).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_sync_or_write_nothing_more_is_accepted_and_the_end_is_74() {
    for fault in ["sync-fails", "write-fails"] {
        let (scene, mut gateway) = Scene::new().await;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(gateway.ask(&scene.ask(10)).await.id());
        }
        scene.keeps(&gateway, &ids).await;
        scene.order(fault);
        let mut told_unknown = 0;
        for _ in 0..5 {
            // Nobody is told yes; whoever comes late finds nobody.
            let told = scene.ask(10).exchange(Protocol::Http1, gateway.api).await;
            told_unknown += usize::from(told.is_ok_and(|reply| {
                assert_eq!(reply.status, 503, "{fault}: {}", reply.text());
                let is_unknown = reply.header("bugler-error") == Some("BGL-5004");
                let outcome = reply.header("bugler-outcome");
                assert_eq!(outcome, is_unknown.then_some("unknown"), "{fault}");
                is_unknown
            }));
        }
        // The first met the failure; what came after it was not written.
        assert_eq!(told_unknown, 1, "{fault}");
        assert_eq!(gateway.ended().await.code(), Some(EXIT_IO), "{fault}: {:#?}", gateway.log());
        drop(gateway);
        let gateway = scene.home.start().await;
        scene.keeps(&gateway, &ids).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_interrupted_and_slow_writes_are_only_slow() {
    for fault in ["short", "slow:100"] {
        let (scene, gateway) = Scene::new().await;
        scene.order(fault);
        let asks = (0..32).map(|_| scene.ask(500));
        let asks: Vec<_> = asks.collect();
        let replies = asks.iter().map(|ask| gateway.ask(ask));
        let replies = futures_util::future::join_all(replies).await;
        let ids: Vec<_> = replies.iter().map(|reply| reply.id()).collect();
        scene.keeps(&gateway, &ids).await;
        gateway.kill();
        let gateway = scene.home.start().await;
        scene.keeps(&gateway, &ids).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_moved_away_is_missed_and_found_again() {
    let (scene, gateway) = Scene::new().await;
    let id = gateway.ask(&scene.ask(10)).await.id();
    let away = scene.home.path().join("away");
    std::fs::rename(scene.home.store(), &away).expect("moved away");
    eventually("new work is refused", async || {
        (gateway.ask(&scene.ask(10)).await.status == 503).then_some(())
    })
    .await;
    std::fs::rename(&away, scene.home.store()).expect("moved back");
    let again = eventually("new work is accepted", async || {
        let reply = gateway.ask(&scene.ask(10)).await;
        (reply.status == 201).then(|| reply.id())
    })
    .await;
    scene.keeps(&gateway, &[id, again]).await;
}
