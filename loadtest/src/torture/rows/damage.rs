//! Damage to a data directory that nobody uses: a torn tail, flipped bits.
//!
//! The directory itself is left alone: copies are damaged, and started against twins of their own.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::{Order, Row, Shape, Stage, Suite, Trouble};
use crate::ledger::Outcome;
use crate::torture::ask::Asker;
use crate::torture::gateway::{Gateway, Launch, copy_dir, free_ports};
use crate::torture::stage::settle_in;
use crate::torture::world::Endpoints;
use crate::twins::{Receipt, TwinOptions, TwinSet};

/// Rust's exit code of a panic in `main`, and the shell's of an abort.
const PANICKED: [i32; 2] = [101, 134];
const STOP_MAX: Duration = Duration::from_secs(20);
/// How soon a log with a torn tail must be served again.
const START_MAX: Duration = Duration::from_secs(1);
/// Notifications sent one by one, each with its own commit.
const KNOWN: usize = 3;
/// The header of a log.
const HEADER: u64 = 64;

pub(super) const ROWS: &[Row] = &[
    Row::new("F19", "torn tail: the log cut at each byte of its last records", shape, |stage| {
        Box::pin(damage(stage, Kind::Torn))
    }),
    Row::new("F20", "one flipped byte anywhere in the log or its index", shape, |stage| {
        Box::pin(damage(stage, Kind::Flipped))
    }),
];

fn shape(shape: Shape) -> Shape {
    shape.devices_only().order(Order::InFlight).set("store.segment=1MiB").set("dispatch.lease=30s")
}

/// The journal's index.
const INDEX: &str = "index.redb";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Torn,
    Flipped,
}

/// A notification that was acknowledged before the damage.
struct Acked {
    org: usize,
    id: Uuid,
    /// Where the last log ended when its answer had come; 0 for what lies in an earlier file.
    end: u64,
}

/// What lies there before anything is damaged.
struct Whole {
    acked: Vec<Acked>,
    /// The logs that hold something, with their ends; the last one is being written.
    logs: Vec<(PathBuf, u64)>,
    /// Where the last log ended after each of the notifications sent one by one.
    ends: Vec<u64>,
}

/// One change to one file of a copy.
struct Spoiled {
    what: String,
    /// What the last log held before this byte must be there still; `u64::MAX` if all must be.
    intact_to: u64,
}

async fn damage(stage: &mut Stage, kind: Kind) -> Result<(), Trouble> {
    stage.wait(600..1_200).await;
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    keep_index(stage).await?;
    let mut whole = send_known(stage).await?;
    stage.crash();
    // What became of them was written meanwhile.
    let journal = stage.launch.store.join("journal");
    whole.logs = used(&journal).map_err(Trouble::io("a file of the journal"))?;
    let twins =
        TwinSet::start(TwinOptions { receipts_kept_max: 100_000, ..TwinOptions::default() });
    let twins = twins.await.map_err(|error| Trouble::Setup(error.to_string()))?;
    let (first, last) = (whole.ends.first(), whole.ends.last());
    let (first, last) = (first.copied().unwrap_or(0), last.copied().unwrap_or(0));
    let mut cuts: Vec<u64> = (first..last).collect();
    let count = match (kind, stage.shape.suite) {
        // Every byte; a start takes half a second, so a short run takes some of them.
        (Kind::Torn, Suite::Long) => cuts.len() as u64,
        (_, Suite::Short) => 24,
        (Kind::Flipped, Suite::Long) => 400,
    };
    let (mut started, mut refused) = (0, 0);
    for number in 0..count {
        let pick = match stage.shape.suite {
            Suite::Long => 0,
            Suite::Short => stage.draw(0..cuts.len().max(1) as u64),
        };
        let cut = match usize::try_from(pick) {
            Ok(pick) if kind == Kind::Torn && pick < cuts.len() => cuts.remove(pick),
            _ => 0,
        };
        match one(stage, &twins, &whole, (kind, number, cut)).await? {
            true => started += 1,
            false => refused += 1,
        }
    }
    stage.remarks.push(format!(
        "{started} damaged copies started, {refused} were refused with file and place; {} ids asked \
         for in each",
        whole.acked.len()
    ));
    stage.restart().await?;
    stage.wait(300..600).await;
    Ok(())
}

/// Keeps the index as it is before the notifications that are torn off: one that has come further
/// knows that they were acknowledged, and a log that ends before it is damaged, not torn.
async fn keep_index(stage: &mut Stage) -> Result<(), Trouble> {
    stage.stop().await?;
    let index = stage.launch.store.join("journal").join(INDEX);
    fs::copy(index, stage.dir.join(INDEX)).map_err(Trouble::io("the journal's index"))?;
    stage.restart().await
}

/// Sends three notifications one by one and notes where the log ended after each.
async fn send_known(stage: &mut Stage) -> Result<Whole, Trouble> {
    let cannot = || Trouble::io("a file of the journal");
    let journal = stage.launch.store.join("journal");
    let before = stage.accepted()?;
    let mut ends = Vec::new();
    for _ in 0..KNOWN {
        let outcome = stage.send_one(0).await?;
        if !matches!(outcome, Some(Outcome::Accepted(Some(_)))) {
            return Err(Trouble::Broken(format!(
                "a single notification was not taken: {outcome:?}"
            )));
        }
        ends.push(used(&journal).map_err(cannot())?.last().cloned());
    }
    let logs = used(&journal).map_err(cannot())?;
    let Some((last, _)) = logs.last().cloned() else {
        return Err(Trouble::Setup(String::from("the journal has no written segment")));
    };
    let in_last = |end: &Option<(PathBuf, u64)>| {
        end.as_ref().filter(|(log, _)| *log == last).map_or(0, |(_, end)| *end)
    };
    let ends: Vec<_> = ends.iter().map(in_last).collect();
    let all = stage.accepted()?;
    let known = all.len().saturating_sub(ends.len());
    let early = before.into_iter().map(|(org, id)| Acked { org, id, end: 0 });
    let late = all.get(known..).unwrap_or_default().iter().zip(&ends);
    let late = late.map(|((org, id), end)| Acked { org: *org, id: *id, end: *end });
    Ok(Whole { acked: early.chain(late).collect(), logs, ends })
}

/// Damages a copy and starts it; answers whether it became ready.
async fn one(
    stage: &mut Stage,
    twins: &TwinSet,
    whole: &Whole,
    (kind, number, cut): (Kind, u64, u64),
) -> Result<bool, Trouble> {
    let dir = stage.dir.join(format!("copy-{number}"));
    copy_dir(&stage.launch.store, &dir.join("store")).map_err(Trouble::io("the copy"))?;
    let (api, admin) = free_ports()?;
    let mut launch = Launch {
        config: dir.join("bugler.toml"),
        directory: None,
        store: dir.join("store"),
        api,
        admin,
        ..stage.launch.clone()
    };
    settle_in(&stage.world, twins, &Endpoints::of(twins), &launch)?;
    twins.clear_receipts();
    let journal = dir.join("store/journal");
    let spoiled = match kind {
        Kind::Torn => {
            let kept = stage.dir.join(INDEX);
            fs::copy(kept, journal.join(INDEX)).map_err(Trouble::io("the copy's index"))?;
            tear_at(stage, whole, &journal, cut)?
        }
        Kind::Flipped => flip_some(stage, whole, &journal)?,
    };
    let what = &spoiled.what;
    stage.note(what);
    let is_ready = match launch.attempt().await? {
        Ok(mut gateway) => {
            let ready_in = gateway.ready_in;
            let most = stage.allowed(START_MAX);
            stage.expect(kind != Kind::Torn || ready_in <= most, || {
                format!("{what}: ready after {} ms", ready_in.as_millis())
            });
            ask_for_all(stage, whole, &spoiled, &gateway).await?;
            gateway.signal("TERM").await?;
            let ended = gateway.ended(STOP_MAX).await;
            let code = ended.and_then(|status| status.code());
            stage.expect(code == Some(0), || format!("{what}: it ran, and ended with {ended:?}"));
            true
        }
        Err(ended) => {
            let panicked = ended.code.is_none_or(|code| PANICKED.contains(&code));
            let words = ended.last_words();
            let is_named = !panicked && names_a_place(&ended.stderr);
            stage.expect(kind == Kind::Flipped && is_named, || {
                format!("{what}: ended with {:?} and {words}", ended.code)
            });
            false
        }
    };
    for receipt in twins.receipts() {
        let is_whole = is_ours(stage, &receipt);
        stage.expect(is_whole, || format!("{what}: a damaged message was sent"));
    }
    fs::remove_dir_all(&dir).ok();
    Ok(is_ready)
}

/// Whatever was acknowledged before the damage is known to a copy that started.
async fn ask_for_all(
    stage: &mut Stage,
    whole: &Whole,
    spoiled: &Spoiled,
    gateway: &Gateway,
) -> Result<(), Trouble> {
    let cannot = || Trouble::io("a damaged copy that became ready does not answer");
    let mut asker = Asker::connect(gateway.api).await.map_err(cannot())?;
    let (mut missing, mut strange) = (0, 0);
    for acked in &whole.acked {
        let path = format!("/bugler/v1/notifications/{}", acked.id);
        let token = stage.clients.token(acked.org);
        let (status, _) = asker.get(&path, Some(token)).await.map_err(cannot())?;
        missing += u64::from(status != 200 && acked.end <= spoiled.intact_to);
        strange += u64::from(status != 200 && status != 404);
    }
    let what = &spoiled.what;
    stage.expect(missing == 0, || format!("{what}: it started, and {missing} accepted are lost"));
    stage.expect(strange == 0, || format!("{what}: {strange} cannot be asked for"));
    Ok(())
}

/// A refusal must say which file is damaged: an index, or a log and the byte.
fn names_a_place(stderr: &str) -> bool {
    let names_log = |line: &str| {
        let (before, after) = line.split_once(".log is damaged at byte ")?;
        let hex = before.rsplit('/').next()?;
        let is_hex = hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_hex && after.starts_with(|c: char| c.is_ascii_digit())).then_some(())
    };
    stderr.lines().any(|line| line.contains("index.redb") || names_log(line).is_some())
}

/// Whatever a damaged copy still sends must be what somebody sent, to whom it was sent.
fn is_ours(stage: &Stage, receipt: &Receipt) -> bool {
    if !receipt.twin.carries_notifications() {
        return true;
    }
    let sender = receipt.marker.and_then(|seq| stage.world.sender(seq)).map(|(org, _)| org);
    let owner = stage.world.owner(&receipt.target).map(|owner| owner.org);
    receipt.intact == Some(true) && sender.is_some() && sender == owner
}

/// Cuts the last log of a copy: from there on it holds nothing, or what was there before.
fn tear_at(stage: &mut Stage, whole: &Whole, journal: &Path, cut: u64) -> Result<Spoiled, Trouble> {
    let Some((last, end)) = whole.logs.last() else {
        return Err(Trouble::Setup(String::from("the journal has no written segment")));
    };
    let garbage = stage.draw(0..3) == 0;
    let copy = journal.join(name(last));
    tear(&copy, cut, *end, garbage).map_err(Trouble::io("a file of the copy"))?;
    let with = if garbage { "garbage" } else { "zeros" };
    Ok(Spoiled {
        what: format!("{} cut at {cut} of {end}, then {with}", name(last)),
        intact_to: cut,
    })
}

/// Flips one bit of a copy: anywhere in its logs, near the end of the last one, or in the index.
fn flip_some(stage: &mut Stage, whole: &Whole, journal: &Path) -> Result<Spoiled, Trouble> {
    let told = "a file of the copy";
    let last_known = whole.ends.len().saturating_sub(2);
    let settled_to = whole.ends.get(last_known).copied().unwrap_or(0);
    let index = journal.join("index.redb");
    let (file, range) = match stage.draw(0..4) {
        0 => {
            let length = fs::metadata(&index).map_err(Trouble::io(told))?.len();
            (index, 0..length)
        }
        1 | 2 => {
            let which = usize::try_from(stage.draw(0..whole.logs.len().max(1) as u64));
            let picked = which.ok().and_then(|which| whole.logs.get(which));
            let picked = picked.map(|(log, end)| (journal.join(name(log)), 0..*end));
            picked.unwrap_or((index, 0..1))
        }
        _ => {
            let last = whole.logs.last().map(|(log, end)| (journal.join(name(log)), *end));
            let from = whole.ends.first().copied().unwrap_or(0);
            last.map_or((index, 0..1), |(log, end)| (log, from..end))
        }
    };
    let at = stage.draw(range.start..range.end.max(range.start + 1));
    let bit = stage.draw(0..8);
    flip(&file, at, 1 << bit).map_err(Trouble::io(told))?;
    let is_last = whole.logs.last().is_some_and(|(log, _)| name(log) == name(&file));
    // What a later commit of the same log stands on was synced, so its damage is no torn tail.
    let intact_to = if is_last && at >= settled_to { at } else { u64::MAX };
    let what = format!("{} bit {bit} of byte {at} of {} flipped", name(&file), range.end);
    Ok(Spoiled { what, intact_to })
}

/// The logs that hold more than their header, in their order; those made ahead are empty.
fn used(journal: &Path) -> std::io::Result<Vec<(PathBuf, u64)>> {
    let mut logs = files(journal, ".log")?;
    logs.sort();
    let mut used = Vec::new();
    for log in logs {
        let end = end_of(&log)?;
        if end > HEADER {
            used.push((log, end));
        }
    }
    Ok(used)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn files(dir: &Path, ending: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if name(&path).ends_with(ending) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The length of a zero-filled file without its zeros.
fn end_of(path: &Path) -> std::io::Result<u64> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    Ok(end as u64)
}

fn tear(path: &Path, from: u64, to: u64, garbage: bool) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let fill = if garbage { 0xA5 } else { 0 };
    file.write_all(&vec![fill; usize::try_from(to - from).unwrap_or(0)])
}

fn flip(path: &Path, at: u64, mask: u8) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[byte[0] ^ mask])
}
