//! A second start uses the machine code of the first, and only what was sealed for that component.

use super::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A new engine with two rules, as a start of the gateway makes it.
fn start_in(dir: &Path, key: u8) -> Arc<WasmRules> {
    let rules = vec![rule("event-routing", &[("route.*", "slack")]), rule("quiet-hours", &[])];
    let code = Some((dir.to_owned(), CodeKey::new([key; 32])));
    WasmRules::start(RuleSettings { rules, threads: 1, code, ..RuleSettings::default() }).unwrap()
}

/// What tells a file that was written from one that was only read.
fn files(dir: &Path) -> BTreeMap<String, (u64, Vec<u8>)> {
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, (entry.metadata().unwrap().ino(), fs::read(entry.path()).unwrap()))
    };
    fs::read_dir(dir).unwrap().map(|entry| read(entry.unwrap())).collect()
}

#[tokio::test]
async fn a_second_start_finds_what_the_first_compiled_and_its_rules_decide_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let first = start_in(dir.path(), 1);
    let kept = files(dir.path());
    assert_eq!(kept.len(), 2);
    let second = start_in(dir.path(), 1);
    assert!(files(dir.path()) == kept, "what was kept was enough");
    let (one, other) = (ask_one(&first, item(1, "x")).await, ask_one(&second, item(1, "x")).await);
    assert_eq!((words(&one), steps(&one)), (words(&other), steps(&other)));
    let fuel = |routed: &Routed| routed.decisions.iter().map(|one| one.fuel).collect::<Vec<_>>();
    assert_eq!(fuel(&one), fuel(&other), "the same code burns the same fuel");
}

#[tokio::test]
async fn code_that_is_damaged_swapped_or_sealed_by_another_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    start_in(dir.path(), 1);
    let names: Vec<_> = files(dir.path()).into_keys().map(|name| dir.path().join(name)).collect();
    // A part of the code of one is changed; the other's file is a third one's.
    let mut bytes = fs::read(&names[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&names[0], &bytes).unwrap();
    fs::copy(&names[0], &names[1]).unwrap();
    let spoilt = files(dir.path());
    let is_other = |before: &BTreeMap<String, (u64, Vec<u8>)>| {
        files(dir.path()).iter().all(|(name, file)| before[name].1 != file.1)
    };
    let rules = start_in(dir.path(), 1);
    assert_eq!(steps(&ask_one(&rules, item(1, "x")).await), [[1]]);
    assert!(is_other(&spoilt), "both are written again");
    let whole = files(dir.path());
    start_in(dir.path(), 1);
    assert!(files(dir.path()) == whole, "and are good");
    start_in(dir.path(), 2);
    assert!(is_other(&whole), "another key seals its own");
}
