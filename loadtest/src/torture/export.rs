//! The third ledger: what the gateway itself says became of every notification it took.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Trouble;
use super::ask::Asker;
use super::books::State;
use super::stage::Stage;
use super::world::World;
use crate::jsonl::{self, JsonLines};
use crate::ledger::{ClientLine, Outcome};
use crate::twins::Receipt;

const ASKERS: usize = 8;
const WAITING_MAX: usize = 1_024;

/// A notification to ask for.
struct Wanted {
    seq: u64,
    id: Uuid,
    token: Arc<str>,
}

/// Asks for every notification that was accepted, or that arrived without an answer, and writes
/// what is said about it to a file.
pub(super) async fn export(stage: &Stage) -> Result<PathBuf, Trouble> {
    let path = stage.dir.join("states.jsonl");
    let file = JsonLines::open(&path).map_err(Trouble::io("the state export cannot be opened"))?;
    let file = Arc::new(file);
    let (give, take) = mpsc::channel::<Wanted>(WAITING_MAX);
    let take = Arc::new(tokio::sync::Mutex::new(take));
    let failed = Arc::<Mutex<Option<String>>>::default();
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..ASKERS {
        let (take, file, failed) = (Arc::clone(&take), Arc::clone(&file), Arc::clone(&failed));
        let api = stage.gateway.api;
        askers.spawn(async move {
            let mut asker = None;
            loop {
                let wanted = take.lock().await.recv().await;
                let Some(wanted) = wanted else { return };
                match ask(&mut asker, api, &wanted).await {
                    Ok(state) => file.append(&state),
                    Err(error) => *failed.lock() = Some(error),
                }
            }
        });
    }
    let tokens: Vec<Arc<str>> = (0..stage.world.size.organizations)
        .map(|org| Arc::from(stage.clients.token(org)))
        .collect();
    let (client, receipts) = (stage.dir.join("client.jsonl"), stage.receipts_path());
    let unknown: HashSet<u64> = stage.sent.unknown_seqs.iter().map(|(_, seq)| *seq).collect();
    let world = stage.world.clone();
    let listing = tokio::task::spawn_blocking(move || {
        list(&world, &tokens, &client, &receipts, &unknown, &give)
    });
    let listed = listing.await.map_err(|error| Trouble::Setup(error.to_string()))?;
    listed.map_err(Trouble::io("a ledger cannot be read back"))?;
    while askers.join_next().await.is_some() {}
    if let Some(error) = failed.lock().take() {
        return Err(Trouble::Broken(format!("the state export failed: {error}")));
    }
    file.sync().map_err(Trouble::io("the state export cannot be written"))?;
    Ok(path)
}

fn list(
    world: &World,
    tokens: &[Arc<str>],
    client: &Path,
    receipts: &Path,
    unknown: &HashSet<u64>,
    give: &mpsc::Sender<Wanted>,
) -> std::io::Result<()> {
    let send = |seq: u64, id: Uuid| {
        let token = world.sender(seq).and_then(|(org, _)| tokens.get(org));
        if let Some(token) = token {
            // The askers end after us, and only then.
            give.blocking_send(Wanted { seq, id, token: Arc::clone(token) }).ok();
        }
    };
    let mut answered = HashSet::new();
    jsonl::each(client, |line| {
        if let ClientLine::Outcome { seq, outcome: Outcome::Accepted(Some(id)), .. } = line {
            if unknown.contains(&seq) {
                answered.insert(seq);
            }
            send(seq, id);
        }
    })?;
    let mut seen = HashSet::new();
    jsonl::each(receipts, |receipt: Receipt| {
        let id = receipt.notification.as_deref().and_then(|id| Uuid::try_parse(id).ok());
        if let (Some(seq), Some(id)) = (receipt.marker, id)
            && unknown.contains(&seq)
            && !answered.contains(&seq)
            && seen.insert(seq)
        {
            send(seq, id);
        }
    })
}

async fn ask(
    asker: &mut Option<Asker>,
    api: std::net::SocketAddr,
    wanted: &Wanted,
) -> Result<State, String> {
    let path = format!("/bugler/v1/notifications/{}", wanted.id);
    let mut last = String::new();
    for _ in 0..3 {
        if asker.is_none() {
            let connected = Asker::connect(api).await;
            *asker = Some(connected.map_err(|error| error.to_string())?);
        }
        let Some(connection) = asker.as_mut() else { continue };
        match connection.get(&path, Some(&wanted.token)).await {
            Ok((200, body)) => return read(&body, wanted),
            Ok((404, _)) => {
                return Ok(State {
                    seq: wanted.seq,
                    id: wanted.id,
                    unknown: true,
                    ..State::default()
                });
            }
            Ok((status, _)) => last = format!("status {status}"),
            Err(error) => last = error.to_string(),
        }
        *asker = None;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err(format!("n-{}: {last}", wanted.seq))
}

fn read(body: &[u8], wanted: &Wanted) -> Result<State, String> {
    let timeline: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let counts = &timeline["deliveries"];
    let count = |name: &str| counts[name].as_u64().unwrap_or(0);
    let otherwise = ["rejected", "expired", "suppressed", "canceled", "dead"];
    let is_open = timeline["state"] != "done";
    let pending = count("pending").max(u64::from(is_open));
    Ok(State {
        seq: wanted.seq,
        id: wanted.id,
        total: count("total"),
        pending,
        delivered: count("delivered"),
        otherwise: otherwise.iter().map(|name| count(name)).sum(),
        twice: ended_twice(&timeline),
        unknown: false,
    })
}

/// Deliveries with more than one final state in their timeline.
fn ended_twice(timeline: &Value) -> u64 {
    let mut ended = HashSet::new();
    let mut twice = 0;
    for event in timeline["timeline"].as_array().into_iter().flatten() {
        if event["state"].is_string()
            && let Some(delivery) = event["delivery"].as_str()
        {
            twice += u64::from(!ended.insert(delivery));
        }
    }
    twice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_read_with_its_pending_and_doubled_deliveries() {
        let wanted = Wanted { seq: 7, id: Uuid::from_u128(7), token: Arc::from("") };
        let body =
            br#"{"state":"sending","deliveries":{"total":3,"pending":1,"delivered":1,"dead":1},
            "timeline":[{"type":"attempted","delivery":"a","state":"delivered"},
                        {"type":"settled","delivery":"a","state":"dead"},
                        {"type":"attempted","delivery":"b"}]}"#;
        let state = read(body, &wanted).expect("a right body");
        let State { total, pending, delivered, otherwise, twice, .. } = state;
        assert_eq!((total, pending, delivered, otherwise, twice), (3, 1, 1, 1, 1));
        assert!(read(b"{", &wanted).is_err());
    }
}
