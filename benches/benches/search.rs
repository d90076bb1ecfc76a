//! Search over a million users of one organization: what a query costs, and what a user weighs.
//!
//! `cargo bench -p bugler-benches --bench search`. Times belong to the machine; compare lines.

use bugler_benches::{Times, person, scatter};
use bugler_gateway::model::{Millis, UserId, UserStatus};
use bugler_gateway::store::SortBy;
use bugler_gateway::store::disk::search::{Query, SearchIndex, SearchRow};
use bugler_loadtest::process;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USERS: u32 = 1_000_000;
const PAGE: usize = 50;
const ROUNDS: u32 = 200;
const NOW: u64 = 1_800_000_000_000;

type Failed = Box<dyn Error + Send + Sync>;

fn row(id: u32, org_name: &Arc<str>) -> SearchRow {
    let (number, person) = (scatter(id), person(id));
    SearchRow {
        user: UserId(i64::from(id)),
        org_name: Arc::clone(org_name),
        name: person.name,
        email: person.email,
        nick_name: person.nick_name,
        phone: person.phone,
        status: if number.is_multiple_of(9) { UserStatus::Pending } else { UserStatus::Active },
        inactive_from: number.is_multiple_of(2).then(|| Millis(u64::from(number) * 1000)),
        role: i32::try_from(number % 3).unwrap_or(0) + 1,
        devices: number % 5,
        country: person.country.map(Arc::from),
        registered_at: Millis(1_700_000_000_000 + u64::from(number)),
    }
}

fn resident() -> Result<u64, Failed> {
    Ok(process::sample(std::process::id())?.rss_bytes)
}

fn show(what: &str, rounds: u32, work: impl FnMut(u32)) -> Result<(), Failed> {
    let times = Times::of(rounds, work);
    let (p50, p99) = (times.percentile(50), times.percentile(99));
    writeln!(std::io::stdout(), "{what:<44} p50 {p50:>8.2} ms   p99 {p99:>8.2} ms")?;
    Ok(())
}

fn main() -> Result<(), Failed> {
    let mut out = std::io::stdout();
    let org_name: Arc<str> = Arc::from("Acme");
    let (idle, started) = (resident()?, Instant::now());
    let mut index = SearchIndex::build((1..=USERS).map(|id| row(id, &org_name)));
    let weight = |out: &mut std::io::Stdout, index: &SearchIndex, what: &str| {
        let each = |bytes: u64| bytes / u64::from(USERS);
        let (counted, held) = (each(index.bytes() as u64), each(resident()?.saturating_sub(idle)));
        writeln!(out, "{what:<44} {counted} bytes a user, {held} resident")?;
        Ok::<_, Failed>(())
    };
    writeln!(out, "{:<44} {:.2} s", "build from rows", started.elapsed().as_secs_f64())?;
    weight(&mut out, &index, "memory, sorted by user id only")?;
    let started = Instant::now();
    index.warm();
    writeln!(out, "{:<44} {:.2} s", "sort by every other column", started.elapsed().as_secs_f64())?;
    weight(&mut out, &index, "memory, sorted by every column")?;

    let page = |index: &SearchIndex, text: &str, sort, offset| {
        let query = Query { text, sort, descending: false, offset, limit: PAGE, now: Millis(NOW) };
        std::hint::black_box(index.search(&query));
    };
    // Every round asks something new, so that none finds its hits kept.
    show("one user: e-mail's number", ROUNDS, |n| {
        page(&index, &format!(".{}@", scatter(n) % USERS), SortBy::Name, 0);
    })?;
    show("some users: name and two digits", ROUNDS, |n| {
        let last = ["Chen", "Müller", "García", "Petrov"][(n % 4) as usize];
        page(&index, &format!("{last} {}", n % 100), SortBy::Name, 0);
    })?;
    show("three digits anywhere", ROUNDS, |n| {
        page(&index, &format!("{:03}", scatter(n) % 1_000), SortBy::Name, 0);
    })?;
    show("nobody", ROUNDS, |n| page(&index, &format!("nobody{n}"), SortBy::Name, 0))?;
    show("two digits anywhere", 100, |n| page(&index, &format!("{n:02}"), SortBy::Name, 0))?;
    // More different queries than the index keeps hits of: none is found kept.
    let common = [
        "an", "er", "ma", "ko", "io", "in", "ex", "am", "mp", "pl", "le", "co", "om", "49", "15",
        "al", "ar", "ch", "on", "ri", "na", "iv",
    ];
    show("common pairs", ROUNDS, |n| {
        page(&index, common[n as usize % common.len()], SortBy::Name, 0);
    })?;
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    show("single letters", ROUNDS, |n| {
        page(&index, &letters[n as usize % letters.len()], SortBy::Name, 0);
    })?;
    let domain = "@example.com";
    let parts: Vec<&str> = (0..9)
        .flat_map(|from| (from + 3..=12).filter_map(move |to| domain.get(from..to)))
        .collect();
    show("parts of everybody's domain", ROUNDS, |n| {
        page(&index, parts[n as usize % parts.len()], SortBy::Name, 0);
    })?;
    for column in SortBy::ALL {
        show(&format!("page on of a kept search, by {column:?}"), ROUNDS, |n| {
            page(&index, "e", column, u64::from(n) * 50);
        })?;
        show(&format!("page anywhere of it, by {column:?}"), ROUNDS, |n| {
            page(&index, "e", column, u64::from(scatter(n) % USERS));
        })?;
    }
    let mut changed = 0;
    let mut change = |index: &mut SearchIndex| {
        changed += 1;
        index.put(&row(scatter(changed) % USERS, &org_name));
    };
    show("put one user", ROUNDS, |_| change(&mut index))?;
    while !index.is_fold_due() {
        change(&mut index);
    }
    show("common, with changes up to a fold", ROUNDS, |n| {
        page(&index, common[n as usize % common.len()], SortBy::Name, 0);
    })?;
    let mut folded = None;
    show("fold", 3, |_| folded = Some(index.folded()))?;
    folded.into_iter().for_each(|folded| index.adopt(folded));
    weight(&mut out, &index, "memory after a fold")
}
