//! Damage to a data directory that nobody uses: a torn tail, flipped bits.
//!
//! The directory itself is left alone: copies are damaged, and started against twins of their own.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Order, Row, Shape, Stage, Trouble};
use crate::torture::gateway::{Launch, copy_dir, free_ports};
use crate::torture::stage::settle_in;
use crate::torture::world::Endpoints;
use crate::twins::{Receipt, TwinOptions, TwinSet};

/// Rust's exit code of a panic in `main`, and the shell's of an abort.
const PANICKED: [i32; 2] = [101, 134];
const STOP_MAX: Duration = Duration::from_secs(20);

pub(super) const ROWS: &[Row] = &[
    Row::new("F19", "torn tail: the log cut within its last records", shape, |stage| {
        Box::pin(damage(stage, Kind::Torn))
    }),
    Row::new("F20", "one flipped byte anywhere in the log or its index", shape, |stage| {
        Box::pin(damage(stage, Kind::Flipped))
    }),
];

fn shape(shape: Shape) -> Shape {
    shape.devices_only().order(Order::InFlight).set("store.segment=1MiB").set("dispatch.lease=30s")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Torn,
    Flipped,
}

async fn damage(stage: &mut Stage, kind: Kind) -> Result<(), Trouble> {
    stage.wait(600..1_200).await;
    stage.crash();
    let (mut started, mut refused) = (0, 0);
    for number in 0..stage.shape.times(8, 200) {
        match one(stage, kind, number).await? {
            true => started += 1,
            false => refused += 1,
        }
    }
    stage.remarks.push(format!("{started} damaged copies started, {refused} were refused by name"));
    stage.restart().await?;
    stage.wait(300..600).await;
    Ok(())
}

/// Damages a copy and starts it; answers whether it became ready.
async fn one(stage: &mut Stage, kind: Kind, number: u64) -> Result<bool, Trouble> {
    let dir = stage.dir.join(format!("copy-{number}"));
    copy_dir(&stage.launch.store, &dir.join("store")).map_err(Trouble::io("the copy"))?;
    let options = TwinOptions { receipts_kept_max: 100_000, ..TwinOptions::default() };
    let twins = TwinSet::start(options).await;
    let twins = twins.map_err(|error| Trouble::Setup(error.to_string()))?;
    let (api, admin) = free_ports()?;
    let mut launch = Launch {
        config: dir.join("bugler.toml"),
        directory: None,
        store: dir.join("store"),
        api,
        admin,
        ..stage.launch.clone()
    };
    settle_in(&stage.world, &twins, &Endpoints::of(&twins), &launch)?;
    let what = spoil(stage, kind, &dir.join("store/journal"))?;
    stage.note(&what);
    let is_ready = match launch.attempt().await? {
        Ok(mut gateway) => {
            gateway.signal("TERM").await?;
            let ended = gateway.ended(STOP_MAX).await;
            let code = ended.and_then(|status| status.code());
            stage.expect(code == Some(0), || format!("{what}: it ran, and ended with {ended:?}"));
            true
        }
        Err(ended) => {
            let panicked = ended.code.is_none_or(|code| PANICKED.contains(&code));
            let words = ended.last_words();
            stage.expect(!panicked && names_a_place(&ended.stderr), || {
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

/// A refusal must say which file is damaged.
fn names_a_place(stderr: &str) -> bool {
    [".log", "index.redb", "journal"].iter().any(|name| stderr.contains(name))
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

/// Damages one file of a journal; answers what was done.
fn spoil(stage: &mut Stage, kind: Kind, journal: &Path) -> Result<String, Trouble> {
    let told = "a file of the copy";
    let mut logs = files(journal, ".log").map_err(Trouble::io(told))?;
    logs.sort();
    // The last ones are prepared and empty.
    let mut used = Vec::new();
    for log in logs {
        let end = end_of(&log).map_err(Trouble::io(told))?;
        if end > 64 {
            used.push((log, end));
        }
    }
    let Some((last, end)) = used.last().cloned() else {
        return Err(Trouble::Setup(String::from("the journal has no written segment")));
    };
    match kind {
        Kind::Torn => {
            let reach = (end - 64).min(4_096);
            let cut = end - stage.draw(1..reach + 1);
            let garbage = stage.draw(0..3) == 0;
            tear(&last, cut, end, garbage).map_err(Trouble::io(told))?;
            let with = if garbage { "garbage" } else { "zeros" };
            Ok(format!("{} cut at {cut} of {end}, then {with}", name(&last)))
        }
        Kind::Flipped => {
            let picks_index = stage.draw(0..4) == 0;
            let (file, length) = if picks_index {
                let index = journal.join("index.redb");
                let length = fs::metadata(&index).map_err(Trouble::io(told))?.len();
                (index, length)
            } else {
                let which = stage.draw(0..used.len() as u64);
                let which = usize::try_from(which).unwrap_or(0);
                used.get(which).cloned().unwrap_or((last, end))
            };
            let at = stage.draw(0..length.max(1));
            let bit = stage.draw(0..8);
            flip(&file, at, 1 << bit).map_err(Trouble::io(told))?;
            Ok(format!("{} bit {bit} of byte {at} of {length} flipped", name(&file)))
        }
    }
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
