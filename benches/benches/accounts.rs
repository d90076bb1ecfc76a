//! Account reads, writes, lists and searches over HTTP in an organization of a million users.
//!
//! `cargo bench -p bugler-benches --bench accounts [-- users=100000]`. Every case runs over one
//! kept connection in turn with a server that answers a constant body; ratios are to its median.

use bugler_benches::{Constant, Failed, Times, api, person, scatter, serve};
use bugler_gateway::model::{
    AccountState, Address, Device, DeviceId, Millis, OrganizationId, Platform, RoleId, Secret,
    User, UserId, UserProfile, UserStatus,
};
use bugler_gateway::server::Service;
use bugler_gateway::store::disk::DiskStore;
use bugler_gateway::store::{Accounts, Change, SortBy, Store, UserRef, UserSearch, directory};
use bugler_loadtest::process;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BIG: OrganizationId = OrganizationId(101);
const SMALL: OrganizationId = OrganizationId(102);
const SMALL_USERS: u32 = 1_000;
const USERS_PER_APPLY: u32 = 2_000;
const ROUNDS: u32 = 400;
const PAGE: usize = 50;
/// Search p99 may exceed the median of a simple read by so much.
const SEARCH_GOAL_MS: f64 = 20.0;

fn main() -> Result<(), Failed> {
    let argument =
        |name: &str| std::env::args().find_map(|arg| arg.strip_prefix(name).map(String::from));
    let users = argument("users=").map_or(Ok(1_000_000), |users| users.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match argument("role=").as_deref() {
        Some("constant") => runtime.block_on(serve(Arc::new(Constant("{\"content\":[]}")))),
        Some("accounts") => {
            let home = PathBuf::from(argument("home=").ok_or("no home")?);
            runtime.block_on(async { serve(accounts(&home, users).await?).await })
        }
        _ => compare(users),
    }
}

fn user(id: u32, org: OrganizationId) -> User {
    let (person, number) = (person(id), scatter(id));
    let address = |country| Address { country: Some(String::from(country)), ..Address::default() };
    User {
        id: UserId(i64::from(id)),
        uuid: uuid_of(id),
        org,
        email: person.email,
        name: person.name,
        role: RoleId(3),
        status: if number.is_multiple_of(9) { UserStatus::Pending } else { UserStatus::Active },
        tz: None,
        locale: None,
        prefs: Vec::new(),
        created_at: Millis(1_700_000_000_000 + u64::from(number)),
        profile: UserProfile {
            nick_name: person.nick_name,
            phone: person.phone,
            address: person.country.map(address),
            ..UserProfile::default()
        },
        account: AccountState::default(),
    }
}

fn device(id: u32) -> Change {
    Change::PutDevice(Device {
        id: DeviceId(uuid_of(id)),
        user: UserId(i64::from(id)),
        platform: Platform::Apns,
        app: String::from("main"),
        token: Secret::new(format!("{id:064x}")),
        registered_at: Millis(0),
    })
}

fn uuid_of(id: u32) -> uuid::Uuid {
    let (a, b) = (u64::from(scatter(id)), u64::from(id));
    uuid::Uuid::from_u64_pair(a << 32 | 0x4000, 1 << 63 | b)
}

async fn load(store: &DiskStore, users: u32) -> Result<(), Failed> {
    let document = br#"{"organizations":[{"id":101,"name":"Acme"},{"id":102,"name":"Globex"}]}"#;
    store.apply(directory::changes(document, store, Millis(0)).await?).await?;
    for first in (1..=users + SMALL_USERS).step_by(USERS_PER_APPLY as usize) {
        let last = (first + USERS_PER_APPLY - 1).min(users + SMALL_USERS);
        let org = |id| if id <= users { BIG } else { SMALL };
        let all = (first..=last).map(|id| Change::PutUser(user(id, org(id))));
        // Every fourth has a device.
        let devices = (first..=last).filter(|id| id.is_multiple_of(4)).map(device);
        store.apply(all.chain(devices).collect()).await?;
    }
    Ok(())
}

fn note(what: &str, value: &str) -> Result<(), Failed> {
    writeln!(std::io::stdout(), "note {what:<42} {value}")?;
    Ok(())
}

fn search_of(text: &str, sort: SortBy) -> UserSearch {
    UserSearch { text: String::from(text), sort, descending: false, offset: 0, limit: PAGE }
}

/// What the store itself costs, without HTTP.
async fn store_costs(store: &DiskStore, home: &Path, users: u32) -> Result<(), Failed> {
    let rss = || process::sample(std::process::id()).map(|sample| sample.rss_bytes);
    let idle = rss()?;
    let started = Instant::now();
    load(store, users).await?;
    let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(users);
    note("import users, every fourth with a device", &format!("{each:.1} us each"))?;
    let file = std::fs::metadata(home.join("records.redb"))?.len();
    note("disk", &format!("{} bytes a user", file / u64::from(users)))?;
    let loaded = rss()?;
    note("memory after the import", &format!("{} MiB above idle", (loaded - idle) >> 20))?;
    let started = Instant::now();
    let page = store.search_users(BIG, search_of("petrov", SortBy::Name)).await?;
    let seconds = started.elapsed().as_secs_f64();
    note("first search: builds the index", &format!("{seconds:.2} s, {} found", page.total))?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let grown = rss()?.saturating_sub(loaded) / u64::from(users);
    note("memory of the index", &format!("{grown} bytes a user, sorted by every column"))?;
    let mut times = Times::default();
    for round in 0..ROUNDS {
        let started = Instant::now();
        let id = UserId(i64::from(scatter(round) % users + 1));
        store.user(UserRef::Id(id)).await?.ok_or("a user is missing")?;
        times.add(started.elapsed());
    }
    note("user by id in the store", &shown(&times))?;
    for sort in [SortBy::Id, SortBy::Name, SortBy::Status, SortBy::RegisteredAt] {
        let mut times = Times::default();
        for round in 0..100 {
            let search = search_of(&format!("chen {round}"), sort);
            let started = Instant::now();
            store.search_users(BIG, search).await?;
            times.add(started.elapsed());
        }
        note(&format!("search in the store, by {sort:?}"), &shown(&times))?;
    }
    for offset in [0, 500, u64::from(users) / 2, u64::from(users) - 100] {
        for (org, name) in [(SMALL, "1 k users"), (BIG, "all users")] {
            let mut times = Times::default();
            for _ in 0..50 {
                let started = Instant::now();
                store.users(org, false, offset, PAGE).await?;
                times.add(started.elapsed());
            }
            note(&format!("list in the store from {offset}, {name}"), &shown(&times))?;
        }
    }
    Ok(())
}

async fn accounts(home: &Path, users: u32) -> Result<Arc<dyn Service>, Failed> {
    let store = Arc::new(DiskStore::open(home)?);
    store_costs(&store, home, users).await?;
    api(home, store, &[BIG, SMALL])
}

/// A server in a process of its own, and one connection to it.
struct Role {
    child: Child,
    tokens: Vec<String>,
    address: String,
    connection: BufReader<TcpStream>,
}

impl Role {
    fn start(role: &str, home: &Path, users: u32) -> Result<Self, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([format!("role={role}"), format!("users={users}")])
            .arg(format!("home={}", home.display()))
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no standard output")?;
        let mut tokens = Vec::new();
        for line in BufReader::new(out).lines() {
            let line = line?;
            match line.split_once(' ') {
                Some(("token", token)) => tokens.push(String::from(token)),
                Some(("note", note)) => writeln!(std::io::stdout(), "{note}")?,
                Some(("address", address)) => {
                    let connection = connect(address)?;
                    return Ok(Self { child, tokens, address: String::from(address), connection });
                }
                _ => {}
            }
        }
        Err(format!("the {role} server ended early").into())
    }

    /// True if the request succeeds, on a connection of its own: a refusal may end it.
    fn serves(&mut self, ask: &Ask) -> Result<bool, Failed> {
        self.connection = connect(&self.address)?;
        let (status, ..) = self.ask(ask)?;
        self.connection = connect(&self.address)?;
        Ok((200..300).contains(&status))
    }

    /// Status and body of one request, and how long it took.
    fn ask(&mut self, ask: &Ask) -> Result<(u16, String, Duration), Failed> {
        let token = self.tokens.get(ask.token).map_or("none", String::as_str);
        let request = format!(
            "{} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
            ask.line,
            ask.body.len(),
            ask.body
        );
        let started = Instant::now();
        self.connection.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (0, 0);
        for number in 0.. {
            let mut line = String::new();
            self.connection.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if number == 0 {
                status = line.split(' ').nth(1).ok_or("no status")?.parse()?;
            } else if line.is_empty() {
                break;
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.connection.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body)?, started.elapsed()))
    }
}

fn connect(address: &str) -> Result<BufReader<TcpStream>, Failed> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

impl Drop for Role {
    fn drop(&mut self) {
        // A server that already ended needs no killing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A request line without version, the organization that sends it, and its body.
struct Ask {
    line: String,
    token: usize,
    body: String,
}

struct Case {
    name: &'static str,
    ask: Box<dyn Fn(u32) -> Ask>,
}

fn get(name: &'static str, token: usize, path: impl Fn(u32) -> String + 'static) -> Case {
    let line = move |round| format!("GET /api/v1/organization/{}", path(round));
    Case { name, ask: Box::new(move |n| Ask { line: line(n), token, body: String::new() }) }
}

fn shown(times: &Times) -> String {
    format!("p50 {:>8.3} ms   p99 {:>8.3} ms", times.percentile(50), times.percentile(99))
}

fn cases(users: u32) -> Vec<Case> {
    let sorts = ["Name", "Email", "Status", "Registered%20At", "Phone%20Number", "Devices%20Count"];
    let sort = move |round: u32| sorts[(scatter(round) % 6) as usize];
    let some = move |round: u32| scatter(round) % users + 1;
    let letters = |n: u32| char::from(b'a' + u8::try_from(n % 26).unwrap_or(0));
    vec![
        get("authenticated read: user", 0, move |n| format!("user?userId={}", some(n))),
        Case {
            name: "authenticated write: role",
            ask: Box::new(move |n| Ask {
                line: format!(
                    "PUT /api/v1/organization/users/role?userId={}&roleId={}",
                    some(n),
                    n % 2 + 2
                ),
                token: 0,
                body: String::new(),
            }),
        },
        Case {
            name: "authenticated write: push",
            ask: Box::new(move |n| Ask {
                line: String::from("POST /api/v1/organization/users/send-push-notification"),
                token: 0,
                body: format!(r#"{{"userId":{},"title":"bench"}}"#, some(n)),
            }),
        },
        get("list from page n, 1 k users", 1, |n| format!("users?page={}", n % 10)),
        get("list from page n, all users", 0, |n| format!("users?page={}", n % 10)),
        get("search: one user", 0, move |n| {
            format!("search/users?query=.{}%40&sortBy={}", some(n), sort(n))
        }),
        get("search: name and digits", 0, move |n| {
            format!("search/users?query=chen%20{}&sortBy={}", n % 900, sort(n))
        }),
        get("search: three digits", 0, move |n| {
            format!("search/users?query={:03}&sortBy={}", some(n) % 1_000, sort(n))
        }),
        get("search: two letters", 0, move |n| {
            let (a, b) = (letters(n), letters(scatter(n) >> 3));
            format!("search/users?query={a}{b}&sortBy={}", sort(n))
        }),
        get("search: one letter, any page", 0, move |n| {
            format!("search/users?query={}&page={}&sortBy={}", letters(n), n * 31 % 9_000, sort(n))
        }),
    ]
}

fn compare(users: u32) -> Result<(), Failed> {
    let mut out = std::io::stdout();
    // On the disk that builds use, and gone with this process: servers are killed.
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut constant = Role::start("constant", home.path(), users)?;
    let mut accounts = Role::start("accounts", home.path(), users)?;
    let plain = Ask { line: String::from("GET /"), token: 0, body: String::new() };
    let (mut constants, mut read) = (Times::default(), None);
    for case in cases(users) {
        if !accounts.serves(&(case.ask)(0))? {
            writeln!(out, "{:<42} not served", case.name)?;
            continue;
        }
        // A connection that was silent for long is closed.
        constant.serves(&plain)?;
        let (mut floor, mut times) = (Times::default(), Times::default());
        for round in 0..ROUNDS {
            let time = constant.ask(&plain)?.2;
            floor.add(time);
            constants.add(time);
            let (status, body, time) = accounts.ask(&(case.ask)(round))?;
            if !(200..300).contains(&status) {
                return Err(format!("{}: {status} {body}", case.name).into());
            }
            times.add(time);
        }
        let ratio = times.percentile(50) / floor.percentile(50);
        writeln!(out, "{:<42} {}   {ratio:>7.1} x constant", case.name, shown(&times))?;
        let read = *read.get_or_insert(times.percentile(50));
        if case.name.starts_with("search") {
            let over = times.percentile(99) - read;
            let mark = if over <= SEARCH_GOAL_MS { "ok" } else { "MISSED" };
            writeln!(
                out,
                "  p99 over the median read {over:.2} ms   goal {SEARCH_GOAL_MS}   {mark}"
            )?;
        }
    }
    writeln!(out, "{:<42} {}", "constant body", shown(&constants))?;
    Ok(())
}
