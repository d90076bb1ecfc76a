//! One schedule: lives of a process on one disk, each with its faults and its end, then the drain.

use crate::clock::Clock;
use crate::dispatch::retry::RetryPolicy;
use crate::dispatch::{DispatchSettings, Dispatcher, DispatcherParts, Providers};
use crate::journal::disk::drive::Driver;
use crate::journal::disk::{DiskOptions, OpenError};
use crate::journal::{Append, Cancellation, IdempotencyRecord, Journal, Remembered};
use crate::model::{
    Audience, Content, Millis, Notification, NotificationId, Priority, ProviderName, ShardId,
    Source, TimelineEvent,
};
use crate::sim::dice::Dice;
use crate::sim::disk::{Faults, SimDisk};
use crate::sim::ledger::{Found, Ledger, Submitted, Told};
use crate::sim::parts::{SimClock, SimProvider, SimRules, Temper};
use crate::sim::records::{ORGS, RECORDS};
use crate::work::{Work, decode_event, encode_event};
use bytes::Bytes;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use uuid::Uuid;

const START: Millis = Millis(1_700_000_000_000);
const LEASE: Duration = Duration::from_secs(5);
const SHARDS: u16 = 2;
/// Steps after which a drain that has not ended never will.
const DRAIN_STEPS: u32 = 20_000;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    PowerCut,
    Drained,
}

/// What came of a schedule.
#[derive(Debug)]
pub(crate) struct Tale {
    pub(crate) breaches: Vec<String>,
    /// What happened, line by line.
    pub(crate) story: Vec<String>,
}

struct World {
    seed: u64,
    dice: Dice,
    /// For what some schedules do besides, so that the others stay what they were.
    besides: Option<Dice>,
    disk: SimDisk,
    ledger: Arc<Mutex<Ledger>>,
    now: Millis,
    life: u64,
    options: DiskOptions,
    temper: Temper,
    meddling: u64,
    queue: usize,
    story: Vec<String>,
}

/// Runs the schedule of `seed`.
pub(crate) fn run(seed: u64) -> Tale {
    // Made outside of the schedule, whose time stands still.
    LazyLock::force(&RECORDS);
    let mut dice = Dice::new(seed);
    let is_calm = dice.chance(30);
    let mut percent = |most| if is_calm { 0 } else { dice.below(most) };
    let temper = Temper {
        retries: percent(30),
        unknown: percent(20),
        rejects: percent(10),
        slow: percent(20),
    };
    let meddling = percent(40);
    let options = DiskOptions {
        shards: SHARDS,
        segment_bytes: (16 << 10) << dice.below(3),
        lease: LEASE,
        places: 4usize << dice.below(8),
        ..DiskOptions::default()
    };
    let queue = if dice.chance(30) { 4 + dice.below(12) } else { 4096 };
    let ledger = Ledger {
        max_in_flight: 2 + dice.below(14),
        keeps_order: meddling == 0 && queue > 16,
        ..Ledger::default()
    };
    let disk = SimDisk::new(dice.split());
    let lives = 1 + dice.below(4);
    let mut world = World {
        seed,
        dice,
        besides: (seed % 2 == 1).then(|| Dice::new(!seed)),
        disk,
        ledger: Arc::new(Mutex::new(ledger)),
        now: START,
        life: 0,
        options,
        temper,
        meddling,
        queue: usize::try_from(queue).unwrap_or(usize::MAX),
        story: Vec::new(),
    };
    for _ in 0..lives {
        if let Err(error) = world.live() {
            return world.end(vec![error], None);
        }
    }
    match world.drain() {
        Ok(found) => world.end(Vec::new(), Some(&found)),
        Err(error) => world.end(vec![error], None),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime needs nothing")
}

/// A running process.
struct Process {
    driver: Driver,
    dispatcher: Option<Dispatcher>,
    clock: Arc<SimClock>,
}

impl Process {
    fn now() -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }

    fn write(&mut self) {
        self.driver.write(Self::now());
    }
}

impl World {
    fn tell(&mut self, line: String) {
        self.story.push(line);
    }

    fn end(mut self, mut breaches: Vec<String>, found: Option<&Found>) -> Tale {
        let ledger = self.ledger.lock();
        if let Some(found) = found {
            breaches.extend(ledger.judge(found));
        }
        for receipt in &ledger.receipts {
            self.story.push(format!(
                "{} {} {} attempt {} life {} accepted {}",
                receipt.at.0,
                receipt.notification,
                receipt.target,
                receipt.attempt,
                receipt.life,
                receipt.accepted
            ));
        }
        for submitted in &ledger.submitted {
            let (id, told) = (submitted.id, submitted.told);
            self.story.push(format!("{id} at {} {told:?}", submitted.start_at.0));
            let events = found.and_then(|found| found.timelines.get(&id));
            self.story.extend(events.into_iter().flatten().map(|event| format!("{id} {event:?}")));
        }
        drop(ledger);
        Tale { breaches, story: self.story }
    }

    fn start(&mut self) -> Result<Process, OpenError> {
        let clock = Arc::new(SimClock::new(self.now, self.dice.split()));
        let driver = Driver::open(
            &self.disk.mount(),
            Path::new("/data"),
            self.options.clone(),
            Arc::clone(&clock) as Arc<dyn Clock>,
            Process::now(),
        )?;
        let pending: u64 = (0..SHARDS).map(|s| driver.journal().backlog(ShardId(s)).pending).sum();
        let recovered = driver.journal().recovered();
        self.tell(format!(
            "life {} starts at {}: {recovered:?}, {pending} pending",
            self.life, self.now.0
        ));
        let provider = |name, dice: Dice| {
            Arc::new(SimProvider {
                name,
                temper: self.temper,
                dice: Mutex::new(dice),
                ledger: Arc::clone(&self.ledger),
                clock: Arc::clone(&clock),
                life: self.life,
            })
        };
        let mut providers = Providers::default();
        for name in [ProviderName::Apns, ProviderName::Fcm] {
            let push = provider(name, self.dice.split());
            providers.push.insert((name, String::from("main")), push);
        }
        let max_in_flight = self.ledger.lock().max_in_flight;
        let settings = DispatchSettings {
            max_in_flight: usize::try_from(max_in_flight).unwrap_or(usize::MAX),
            claim_batch: 4,
            queue: self.queue,
            lease: LEASE,
            retry: RetryPolicy {
                base: Duration::from_millis(50),
                cap: Duration::from_secs(1),
                ..RetryPolicy::default()
            },
            ..DispatchSettings::default()
        };
        let dispatcher = Dispatcher::start(DispatcherParts {
            journal: Arc::clone(driver.journal()) as Arc<dyn Journal>,
            store: Arc::clone(&RECORDS.store) as Arc<dyn crate::store::Store>,
            rules: Arc::new(SimRules { seed: self.seed, meddling: self.meddling }),
            providers,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            settings,
        });
        Ok(Process { driver, dispatcher: Some(dispatcher), clock })
    }

    /// One life from start to end.
    fn live(&mut self) -> Result<(), String> {
        let runtime = runtime();
        if self.dice.chance(10) {
            let power_at = Some(self.dice.below(40));
            self.disk.set_faults(Faults { power_at, ..Faults::default() });
        }
        let end = runtime.block_on(async {
            let mut process = match self.start() {
                Ok(process) => process,
                Err(_) if self.disk.is_off() => return Ok(End::PowerCut),
                Err(error) => return Err(format!("does not start: {}", chain(&error))),
            };
            let end = self.act(&mut process).await;
            self.now = process.clock.now();
            Ok(end)
        })?;
        drop(runtime);
        self.tell(format!("life {} ended: {end:?} at {}", self.life, self.now.0));
        let mut ledger = self.ledger.lock();
        ledger.has_failed = false;
        match end {
            End::Drained => self.disk.kill(),
            End::Killed => {
                ledger.crashed.push(self.life);
                self.disk.kill();
            }
            End::PowerCut => {
                ledger.crashed.push(self.life);
                self.disk.cut_power();
            }
        }
        self.life += 1;
        self.now = self.now.plus(self.dice.below(4_000));
        Ok(())
    }

    fn break_something(&mut self) {
        let mut faults = Faults::default();
        let dice = &mut self.dice;
        match dice.below(10) {
            0..=3 => faults.power_at = Some(dice.below(400)),
            4 => faults.sync_fails_at = Some(dice.below(60)),
            5 => faults.write_fails_at = Some(dice.below(60)),
            6 => faults.room = Some(dice.below(200)),
            7 => faults.read_only = true,
            _ => {}
        }
        if dice.chance(20) {
            faults.short = 20;
        }
        self.tell(format!("life {}: {faults:?}", self.life));
        self.disk.set_faults(faults);
    }

    async fn act(&mut self, process: &mut Process) -> End {
        self.break_something();
        for _ in 0..20 + self.dice.below(120) {
            match self.dice.below(100) {
                0..=19 => self.submit(process),
                20..=49 => process.write(),
                50..=59 => process.driver.project(),
                60..=69 => process.driver.timers(),
                70 if self.dice.chance(20) => {
                    let by = LEASE * 2;
                    self.tell(format!("the clock leaps by {by:?}"));
                    process.clock.leap(by);
                }
                71 if self.dice.chance(20) => {
                    self.tell(String::from("all leases run out"));
                    process.driver.lapse();
                    self.ledger.lock().lapsed.push(self.life);
                }
                71 => process.driver.retain(),
                72..=75 => process.driver.sweep(),
                _ => self.pass(120).await,
            }
            self.act_besides(process);
            if self.disk.is_off() {
                return End::PowerCut;
            }
            if !process.driver.journal().is_healthy() {
                // So that everybody has heard what was answered before.
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.ledger.lock().has_failed = true;
            }
        }
        match self.dice.below(10) {
            0..=3 => End::Killed,
            4..=6 => End::PowerCut,
            _ => self.stop(process).await,
        }
    }

    async fn pass(&mut self, most: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.below(most))).await;
    }

    /// A stop as SIGTERM asks for it.
    async fn stop(&mut self, process: &mut Process) -> End {
        let Some(dispatcher) = process.dispatcher.take() else { return End::Killed };
        let was_healthy = process.driver.journal().is_healthy();
        let drain = tokio::spawn(dispatcher.drain(Duration::from_secs(8)));
        while !drain.is_finished() {
            process.write();
            self.pass(20).await;
        }
        let in_flight = drain.await.is_ok_and(|left| left > 0);
        process.driver.close(Process::now());
        if self.disk.is_off() {
            return End::PowerCut;
        }
        let is_healthy = process.driver.journal().is_healthy();
        if was_healthy && is_healthy && !in_flight { End::Drained } else { End::Killed }
    }

    fn submit(&mut self, process: &Process) {
        let now = process.clock.now();
        let which = usize::try_from(self.dice.below(2)).unwrap_or(0);
        let shard = ShardId(u16::try_from(which).unwrap_or(0) % SHARDS);
        let count = if self.dice.chance(80) { 1 } else { 1 + self.dice.below(4) };
        let mut append = Append::default();
        let first = self.ledger.lock().submitted.len();
        for _ in 0..count {
            let (notification, submitted) = self.notification(which, now);
            append.idempotency.push(IdempotencyRecord {
                key: submitted.key,
                body: [0; 16],
                created: now,
                answer: Bytes::copy_from_slice(notification.id.0.as_bytes()),
            });
            append.entries.push(Work::root(notification));
            self.ledger.lock().submitted.push(submitted);
        }
        let ledger = Arc::clone(&self.ledger);
        let count = append.entries.len();
        match process.driver.journal().append(shard, append) {
            Ok(commit) => {
                tokio::spawn(async move {
                    use crate::journal::JournalError;
                    let told = match commit.await {
                        Ok(()) => Told::Accepted,
                        Err(JournalError::Uncertain) => return,
                        Err(_) => Told::Refused,
                    };
                    ledger.lock().answer(first, count, told);
                });
            }
            Err(_) => ledger.lock().answer(first, count, Told::Refused),
        }
    }

    /// What only some schedules do: something is taken back, or a read fails.
    fn act_besides(&mut self, process: &Process) {
        let Some(dice) = self.besides.as_mut() else { return };
        let (what, after) = (dice.below(100), dice.below(30));
        match what {
            0..=7 => self.cancel(process),
            8..=9 => {
                self.tell(format!("the read after {after} others fails"));
                self.disk.fail_read(after);
            }
            _ => {}
        }
    }

    /// Takes something back, and brings forward what waits of it.
    fn cancel(&mut self, process: &Process) {
        let Some(dice) = self.besides.as_mut() else { return };
        let accepted: Vec<_> = {
            let ledger = self.ledger.lock();
            let accepted = ledger.submitted.iter().filter(|s| s.told == Told::Accepted);
            accepted.map(|submitted| (submitted.id, submitted.org)).collect()
        };
        let chosen = usize::try_from(dice.below(accepted.len() as u64)).unwrap_or(0);
        let Some((id, org)) = accepted.get(chosen).copied() else { return };
        let which = ORGS.iter().position(|one| *one == org).unwrap_or(0);
        let shard = ShardId(u16::try_from(which).unwrap_or(0) % SHARDS);
        let event = TimelineEvent::Canceled { at: process.clock.now(), by: String::from("sim") };
        let wish = Cancellation { notification: id, org, event: encode_event(&event) };
        let journal = Arc::clone(process.driver.journal());
        let Ok(commit) = journal.cancel(shard, wish) else { return };
        let (ledger, life) = (Arc::clone(&self.ledger), self.life);
        tokio::spawn(async move {
            if commit.await.is_ok() {
                ledger.lock().canceled.push((id, life));
                // What cannot be read now is not sent when it comes due, either.
                journal.hurry(shard, org, id).await.ok();
            }
        });
    }

    fn notification(&mut self, which: usize, now: Millis) -> (Notification, Submitted) {
        let number = self.ledger.lock().submitted.len();
        let dice = &mut self.dice;
        let id = uuid_v7(now, number, dice);
        let member = &RECORDS.members[which];
        let people: Vec<_> = member.iter().filter(|_| dice.chance(50)).collect();
        let is_scheduled = dice.chance(20);
        let start_at = if is_scheduled { now.plus(1 + dice.below(3_000)) } else { now };
        let expires_at = dice.chance(10).then(|| start_at.plus(dice.below(3_000)));
        let targets: Vec<_> = people.iter().flat_map(|m| m.targets.clone()).collect();
        let title = format!("{:016x}", dice.roll());
        let body = "x".repeat(usize::try_from(dice.below(2_000)).unwrap_or(0));
        let notification = Notification {
            id,
            org: ORGS[which],
            source: if dice.chance(20) { Source::Jigx } else { Source::Native },
            event: String::from("plain"),
            audience: Audience::Users(people.iter().map(|m| m.user).collect()),
            content: Content { title: title.clone(), body, ..Content::default() },
            priority: Priority::default(),
            collapse_key: None,
            created_at: now,
            created_by: String::from("sim"),
            start_at,
            expires_at,
            dialect_fields: String::new(),
            mail: None,
            inbox: false,
        };
        let submitted = Submitted {
            id,
            org: ORGS[which],
            title,
            start_at,
            is_scheduled,
            expires_at,
            targets,
            key: *id.0.as_bytes(),
            told: Told::Nothing,
            sent: self.ledger.lock().tick(),
            answered: u64::MAX,
            life: self.life,
        };
        (notification, submitted)
    }

    /// The last life: nothing fails any more, and everything must come to its end.
    fn drain(&mut self) -> Result<Found, String> {
        self.disk.set_faults(Faults::default());
        let runtime = runtime();
        let found = runtime.block_on(async {
            let started = self.start();
            let mut process =
                started.map_err(|error| format!("does not start: {}", chain(&error)))?;
            for _ in 0..DRAIN_STEPS {
                process.write();
                process.driver.project();
                process.driver.timers();
                process.driver.sweep();
                self.pass(100).await;
                let journal = process.driver.journal();
                let pending: u64 = (0..SHARDS).map(|s| journal.backlog(ShardId(s)).pending).sum();
                if pending == 0 {
                    break;
                }
            }
            process.driver.project();
            self.find(&process).await
        })?;
        Ok(found)
    }

    async fn find(&mut self, process: &Process) -> Result<Found, String> {
        let journal = process.driver.journal();
        let mut found = Found { books: journal.books(), ..Found::default() };
        found.pending = (0..SHARDS).map(|s| journal.backlog(ShardId(s)).pending).sum();
        let submitted = self.ledger.lock().submitted.clone();
        for one in submitted {
            let timeline = journal.timeline(one.org, one.id).await;
            let timeline =
                timeline.map_err(|error| format!("{} is unreadable: {error}", one.id))?;
            let Some(timeline) = timeline.filter(|t| t.root.is_some()) else {
                if one.told == Told::Accepted {
                    self.tell(format!("{} is not found among", one.id));
                    self.story.extend(process.driver.describe());
                }
                continue;
            };
            let events = timeline.events.iter().filter_map(|event| decode_event(event)).collect();
            found.timelines.insert(one.id, events);
            let remembered = journal.remembered(one.key, process.clock.now()).await;
            if !matches!(remembered, Ok(Remembered::Yes { .. })) {
                found.forgotten.push(one.id);
            }
        }
        Ok(found)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    crate::telemetry::chain(error)
}

/// Ids grow, as those of one process do: `number` counts them.
fn uuid_v7(now: Millis, number: usize, dice: &mut Dice) -> NotificationId {
    let high = (now.0 << 16) | 0x7000 | (number as u64 & 0xfff);
    let spare = dice.below(1 << 12);
    let low = (0b10 << 62) | ((dice.roll() >> 2) ^ spare);
    NotificationId(Uuid::from_u64_pair(high, low))
}
