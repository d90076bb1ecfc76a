//! Data that is in use or damaged: said with the file, the byte and a way out, and never served.

use std::path::{Path, PathBuf};

use crate::support::client::Ask;
use crate::support::gateway::{Gateway, Home};
use crate::support::world;

const COUNT: usize = 40;

/// A data directory with some notifications, each in a commit of its own, after `kill -9`.
struct Stored {
    home: Home,
    token: String,
    ids: Vec<String>,
}

/// Notification `number`, with a key.
fn ask(token: &str, number: usize) -> Ask {
    let body = format!(r#"{{"to":{{"users":[101]}},"title":"n {number}"}}"#);
    let ask = Ask::post("/bugler/v1/notifications").bearer(token).json(body);
    ask.key(&format!("key-{number}"))
}

async fn stored() -> Stored {
    let home = Home::new(world::directory()).set("store.segment=1MiB");
    let gateway = home.start().await;
    let token = home.token(101).await;
    let mut ids = Vec::new();
    for number in 0..COUNT {
        ids.push(gateway.ask(&ask(&token, number)).await.id());
    }
    gateway.drained().await;
    gateway.kill();
    Stored { home, token, ids }
}

impl Stored {
    fn file(&self, name: &str) -> PathBuf {
        self.home.store().join(name)
    }

    /// The journal's segment that holds the first entries.
    fn segment(&self) -> PathBuf {
        let mut segments: Vec<_> = std::fs::read_dir(self.file("journal"))
            .expect("a journal")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .collect();
        segments.sort();
        segments.remove(0)
    }

    async fn refused(&self) -> String {
        let failed = self.home.fail().await;
        assert_eq!(failed.code, Some(1), "{}", failed.stderr);
        failed.stderr
    }

    /// Everything accepted is still there.
    async fn is_whole(&self, gateway: &Gateway) {
        for (number, id) in self.ids.iter().enumerate() {
            assert_eq!(gateway.timeline(&self.token, id).await["state"], "done");
            let again = gateway.ask(&ask(&self.token, number)).await;
            assert_eq!(again.id(), *id, "its key is remembered");
        }
    }
}

impl Stored {
    /// Which notifications can be asked for; whatever is answered is what was sent.
    async fn found(&self, gateway: &Gateway) -> Vec<bool> {
        let mut found = Vec::new();
        for (number, id) in self.ids.iter().enumerate() {
            let ask = Ask::get(format!("/bugler/v1/notifications/{id}")).bearer(&self.token);
            let reply = gateway.ask(&ask).await;
            assert!([200, 404].contains(&reply.status), "n {number}: {}", reply.text());
            found.push(reply.status == 200);
        }
        found
    }
}

type Damage = fn(&mut Vec<u8>);

fn change(path: &Path, with: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("the file can be read");
    with(&mut bytes);
    std::fs::write(path, bytes).expect("the file can be written");
}

fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_data() {
    let home = Home::new(world::directory());
    let gateway = home.start().await;
    let failed = home.fail().await;
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains(&gateway.pid().to_string()), "{}", failed.stderr);
    assert!(failed.stderr.contains("store.dir"), "{}", failed.stderr);
    // The first one is not disturbed, and its directory is free once it has gone.
    assert_eq!(gateway.admin("/readyz").await.status, 200);
    gateway.kill();
    home.start().await;
}

#[tokio::test]
async fn a_flipped_byte_in_the_journal_is_named_and_nothing_is_served() {
    let stored = stored().await;
    let segment = stored.segment();
    let whole = std::fs::read(&segment).expect("a segment");
    for part in [4, 2] {
        // Between blocks there is padding, where a flipped byte is no damage: padding is zero.
        let from = used(&whole) / part;
        let at = from + whole[from..].iter().position(|byte| *byte != 0).expect("a used byte");
        change(&segment, |bytes| bytes[at] ^= 0x40);
        let damaged = std::fs::read(&segment).expect("a segment");
        let said = stored.refused().await;
        let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(said.contains(&name), "{said}");
        assert!(said.contains("backup"), "{said}");
        // The damaged record begins at the byte it names, or a little before the flipped one.
        let said_at = said.split("byte ").nth(1).and_then(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest.split_at(end).0.parse::<usize>().ok()
        });
        let said_at = said_at.unwrap_or_else(|| unreachable!("no byte is named in {said}"));
        assert!(said_at <= at && at - said_at < 8192, "{said_at} for {at}");
        assert!(std::fs::read(&segment).expect("a segment") == damaged, "evidence is kept");
        change(&segment, |bytes| bytes[at] ^= 0x40);
    }
    let gateway = stored.home.start().await;
    stored.is_whole(&gateway).await;
}

#[tokio::test]
async fn what_is_damaged_is_given_up_only_if_asked_and_all_the_rest_can_be_read_from_then_on() {
    let stored = stored().await;
    let segment = stored.segment();
    let whole = std::fs::read(&segment).expect("a segment");
    let from = used(&whole) / 2;
    let at = from + whole[from..].iter().position(|byte| *byte != 0).expect("a used byte");
    change(&segment, |bytes| bytes[at] ^= 0x40);
    // The header of the file, too.
    change(&segment, |bytes| bytes[3] ^= 0x40);
    let said = stored.refused().await;
    assert!(said.contains("--salvage"), "{said}");
    let mut serve = stored.home.serve();
    serve.arg("--salvage");
    let mut gateway = Gateway::start(serve).await.expect("it starts when asked to");
    let told = gateway.log().join("\n");
    assert!(told.contains("given up") && told.contains("\"salvaged_bytes\""), "{told}");
    let kept: Vec<_> = std::fs::read_dir(stored.file("journal"))
        .expect("a journal")
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .filter(|name| name.ends_with(".damaged"))
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let before = stored.found(&gateway).await;
    let count = before.iter().filter(|found| **found).count();
    assert!(count >= COUNT - 8, "{count} of {COUNT} are left");
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let gateway = stored.home.start().await;
    assert_eq!(stored.found(&gateway).await, before, "the next start needs no leave");
    assert!(gateway.ask(&ask(&stored.token, COUNT)).await.status == 201, "and accepts");
}

#[tokio::test]
async fn a_torn_last_commit_is_cut_and_everything_before_it_stays() {
    let stored = stored().await;
    let gateway = stored.home.start().await;
    let body = r#"{"to":{"users":[101]},"title":"torn","startAt":99999999999}"#;
    let at = crate::support::now_ms() + 3_600_000;
    let body = body.replace("99999999999", &at.to_string());
    let ask = Ask::post("/bugler/v1/notifications").bearer(&stored.token).json(body);
    let torn = gateway.ask(&ask).await.id();
    gateway.kill();
    // As if the power had failed halfway through writing the last commit.
    let segment = stored.segment();
    change(&segment, |bytes| {
        let end = used(bytes);
        bytes[end - 40..end].fill(0);
    });
    let gateway = stored.home.start().await;
    stored.is_whole(&gateway).await;
    let ask = Ask::get(format!("/bugler/v1/notifications/{torn}")).bearer(&stored.token);
    assert_eq!(gateway.ask(&ask).await.status, 404);
    // And the journal goes on behind the cut.
    let ask = Ask::post("/bugler/v1/notifications").bearer(&stored.token);
    let ask = ask.json(r#"{"to":{"users":[101]},"title":"after"}"#);
    let after = gateway.ask(&ask).await.id();
    gateway.done(&stored.token, &after).await;
    gateway.kill();
    let gateway = stored.home.start().await;
    gateway.done(&stored.token, &after).await;
}

#[tokio::test]
async fn damaged_records_are_named_and_not_served() {
    let stored = stored().await;
    let records = stored.file("records.redb");
    let whole = std::fs::read(&records).expect("records");
    let damages: [(&str, Damage); 4] = [
        ("text", |bytes| *bytes = b"this is no database".to_vec()),
        ("zeroed start", |bytes| bytes[..4096].fill(0)),
        ("half a file", |bytes| bytes.truncate(bytes.len() / 2)),
        ("noise", |bytes| bytes[4096..].fill(0xa5)),
    ];
    for (what, damage) in damages {
        change(&records, damage);
        let said = stored.refused().await;
        assert!(said.contains("records.redb"), "{what}: {said}");
        assert!(said.contains("backup"), "{what}: {said}");
        std::fs::write(&records, &whole).expect("the records are restored");
    }
    let gateway = stored.home.start().await;
    stored.is_whole(&gateway).await;
}

#[tokio::test]
async fn a_damaged_index_is_built_again_from_the_log_at_worst_by_hand() {
    let stored = stored().await;
    let index = stored.file("journal/index.redb");
    let whole = std::fs::read(&index).expect("an index");
    let damages: [Damage; 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes[..4096].fill(0),
        |bytes| bytes[4096..].fill(0xa5),
        |bytes| bytes.fill(0xa5),
    ];
    for damage in damages {
        std::fs::write(&index, &whole).expect("the index is restored");
        change(&index, damage);
        // Whatever the damage is: rebuilt whole from the log, or refused with a way out.
        let gateway = match stored.home.attempt().await {
            Ok(gateway) => gateway,
            Err(failure) => {
                let said = failure.stderr;
                assert_eq!(failure.code, Some(1), "{said}");
                assert!(said.contains("index.redb"), "{said}");
                assert!(said.contains("move it away"), "{said}");
                std::fs::remove_file(&index).expect("it can be moved away");
                stored.home.start().await
            }
        };
        stored.is_whole(&gateway).await;
        gateway.kill();
    }
}

#[tokio::test]
async fn other_shards_than_the_data_has_are_refused_with_the_right_number() {
    let Stored { home, .. } = stored().await;
    let home = home.set("store.shards=4");
    let failed = home.fail().await;
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("store.shards = 8"), "{}", failed.stderr);
}

#[tokio::test]
async fn a_key_file_that_others_can_read_or_nobody_understands_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let stored = stored().await;
    let keys = stored.file("keys.json");
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&keys, permissions).expect("the mode is set");
    };
    mode(0o644);
    let failed = stored.home.fail().await;
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    assert!(failed.stderr.contains("keys.json"), "{}", failed.stderr);
    mode(0o600);
    let whole = std::fs::read(&keys).expect("the keys");
    std::fs::write(&keys, r#"{"keys":[]}"#).expect("it is written");
    assert_eq!(stored.home.fail().await.code, Some(3));
    std::fs::write(&keys, whole).expect("it is written");
    stored.home.start().await;
}
