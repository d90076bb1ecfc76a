//! Rules that break every promise, that are no rules, and that change while they are asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Need, Row, Shape, Stage, Suite, Trouble, samples};
use crate::ledger::Outcome;
use crate::torture::rules::{Make, Whose, Workshop, decisions, is_delivered};
use crate::torture::series;
use crate::torture::traffic::Pace;

/// Whose rules are hostile. The first organization's token puts rules of everybody in force.
pub(super) const HOT: usize = 2;
pub(super) const OWN: Whose = Whose::Of(HOT);
pub(super) const STEADY: &str = "steady";
/// Beyond a tenth: P7's own 50 ms, which is how long one batch of another organization may hold a
/// thread before it is stopped.
const SLACK: Duration = Duration::from_millis(50);
/// What hostile rules may add to the gateway's memory.
const RSS_MAX: u64 = 32 << 20;
/// A set is exchanged in one step, and nothing waits for it: what waits, waits for a compiler.
const SWAP_DELAY_MAX: Duration = Duration::from_secs(2);
const SLOW_US: u64 = 24_000;
const TOOLS: &[Need] = &[Need::RuleTools];

const fn row(
    id: &'static str,
    what: &'static str,
    inject: for<'a> fn(&'a mut Stage) -> super::Injecting<'a>,
) -> Row {
    Row::new(id, what, shape, inject).needs(TOOLS)
}

pub(super) const ROWS: &[Row] = &[
    row("F68", "hostile rules: loops, traps, recursion", |stage| {
        Box::pin(hostile(stage, LOOPS, None))
    }),
    row("F69", "hostile rules: memory, output, calls, log", |stage| {
        Box::pin(hostile(stage, HOGS, Some(RSS_MAX)))
    }),
    row("F70", "components that are no rules", |stage| Box::pin(malformed(stage))),
    row("F71", "compile bombs", |stage| Box::pin(bombs(stage))),
    row("F72", "rules swapped under load", |stage| Box::pin(swapped(stage))),
    Row::new("F73", "a slow rule: one of 100 calls takes 24 ms", slow_shape, |stage| {
        Box::pin(slow(stage))
    })
    .needs(TOOLS),
    row("F74", "a rule that answers badly", |stage| Box::pin(hostile(stage, ANSWERS, None))),
];

/// What a rule does, and how that is called where it is recorded; none of these: it is no error.
struct Mode {
    mode: &'static str,
    codes: &'static [&'static str],
}

const fn mode(mode: &'static str, codes: &'static [&'static str]) -> Mode {
    Mode { mode, codes }
}

const LOOPS: &[Mode] = &[
    mode("loop", &["fuel", "deadline"]),
    mode("fill", &["deadline", "fuel"]),
    mode("trap", &["trap"]),
    mode("recursion", &["trap", "fuel", "deadline"]),
    mode("bounds", &["trap"]),
    mode("division", &["trap"]),
];
const HOGS: &[Mode] = &[
    mode("memory", &["memory", "deadline"]),
    mode("output", &["output", "memory"]),
    mode("million", &["output", "memory", "fuel", "deadline"]),
    mode("calls", &["fuel", "deadline"]),
    mode("log", &[]),
];
const ANSWERS: &[Mode] = &[
    mode("bad_index", &["output"]),
    mode("twice", &["output"]),
    mode("no_target", &["output"]),
    mode("million", &["output", "memory", "fuel", "deadline"]),
    mode("steps", &["output"]),
    mode("bad_code", &["output"]),
    mode("past", &["output"]),
];

impl Mode {
    fn name(&self) -> String {
        format!("hostile-{}", self.mode.replace('_', "-"))
    }
}

/// The row begins load itself: first without what is hostile, then with it.
fn shape(shape: Shape) -> Shape {
    Shape { rate: 0.0, ..shape }.devices_only()
}

/// Fuel enough, so that time is the bound.
fn slow_shape(base: Shape) -> Shape {
    shape(base).set("rules.limits.fuel_per_item=10000000000")
}

fn pace(stage: &Stage) -> Pace {
    let each = if stage.shape.suite == Suite::Long { 20.0 } else { 30.0 };
    Pace { rates: vec![each; stage.shape.size.organizations], ..stage.pace() }
}

pub(super) fn steady(version: &str) -> Make<'_> {
    Make { name: STEADY, version, mode: STEADY }
}

/// What was accepted so far: the warm-up's notifications met no rule.
fn accepted(stage: &Stage) -> Result<HashSet<Uuid>, Trouble> {
    Ok(stage.accepted()?.into_iter().map(|(_, id)| id).collect())
}

/// Load that runs for a while; answers its window, and the most memory the gateway had.
async fn watch(stage: &Stage, time: Duration) -> (Range<u64>, u64) {
    let (from, begun, mut peak) = (Stage::now_ms(), Instant::now(), 0);
    while begun.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(50).min(time)).await;
        peak = peak.max(stage.gateway.residue().map_or(0, |residue| residue.rss_bytes));
    }
    (from..Stage::now_ms(), peak)
}

/// A rule of everybody that does no harm, so that all wait for the same threads.
async fn put_steady(stage: &mut Stage, workshop: &Workshop) -> Result<(), Trouble> {
    stage.put_in_force(workshop, Whose::Everybody, steady("1.0.0")).await
}

/// One organization's rules break promises, one after the other, while the others go on.
async fn hostile(stage: &mut Stage, modes: &[Mode], rss_max: Option<u64>) -> Result<(), Trouble> {
    let workshop = Workshop::open(stage).await?;
    put_steady(stage, &workshop).await?;
    for one in modes {
        let name = one.name();
        let make = Make { name: &name, version: "1.0.0", mode: one.mode };
        stage.put_in_force(&workshop, OWN, make).await?;
        stage.change_rule(OWN, &name, json!({ "paused": true })).await?;
    }
    let before = accepted(stage)?;
    let pace = pace(stage);
    stage.begin(&pace)?;
    stage.note("quiet");
    let (quiet, usual) = watch(stage, stage.shape.dwell * 2).await;
    let (from, mut peak) = (Stage::now_ms(), 0);
    let time = stage.shape.dwell * 2 / u32::try_from(modes.len()).unwrap_or(1);
    for one in modes {
        stage.change_rule(OWN, &one.name(), json!({ "paused": false })).await?;
        peak = peak.max(watch(stage, time.max(Duration::from_secs(1))).await.1);
        stage.change_rule(OWN, &one.name(), json!({ "paused": true })).await?;
    }
    let loud = from..Stage::now_ms();
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    judge_others(stage, [quiet, loud]).await?;
    judge_own(stage, modes, &before).await?;
    let grown = peak.saturating_sub(usual);
    stage.remarks.push(format!("resident memory grew by {} MiB", grown >> 20));
    if let Some(most) = rss_max {
        stage.expect(grown < most, || format!("resident memory grew by {} MiB", grown >> 20));
    }
    expect_no_panic(stage);
    Ok(())
}

/// Whoever has no part in it waits as before.
async fn judge_others(stage: &mut Stage, windows: [Range<u64>; 2]) -> Result<(), Trouble> {
    let stretches = series::read(stage, windows.to_vec(), Some(HOT)).await?;
    let [quiet, loud] = stretches.as_slice() else { return Ok(()) };
    let of = |stretch: &series::Stretch| stretch.quantile(|second| &second.first_attempt, 0.99);
    let (before, after) = (of(quiet), of(loud));
    let slack = u64::try_from(stage.allowed(SLACK).as_millis()).unwrap_or(u64::MAX);
    let goal = before + before / 10 + slack;
    stage.remarks.push(format!(
        "others' p99 to the first attempt: quiet {before} ms, beside it {after} ms (goal {goal} ms)"
    ));
    stage.expect(after <= goal, || format!("others waited {after} ms, the goal is {goal} ms"));
    let count = loud.seconds.iter().map(|second| second.first_attempt.len()).sum::<usize>();
    stage.expect(count >= 100, || format!("only {count} deliveries of others: nothing is shown"));
    Ok(())
}

/// The organization's own notifications follow the failure mode: they go out as if there were no
/// rule, with what went wrong in their timelines and in the decision log.
async fn judge_own(
    stage: &mut Stage,
    modes: &[Mode],
    before: &HashSet<Uuid>,
) -> Result<(), Trouble> {
    let timelines = stage.timelines(HOT, before).await?;
    let late = timelines.iter().filter(|timeline| !is_delivered(timeline)).count();
    stage.expect(late == 0, || format!("{late} of its own were not delivered"));
    for one in modes {
        let name = one.name();
        let mut codes = BTreeMap::new();
        for decision in timelines.iter().flat_map(|timeline| decisions(timeline, &name)) {
            let word = match decision["decision"].as_str() {
                Some("error") => decision["code"].as_str().unwrap_or_default(),
                _ => "no error",
            };
            *codes.entry(word.to_owned()).or_insert(0_u64) += 1;
        }
        let recorded = stage.recorded_errors(HOT, &name).await?;
        let broke = |code: &str| one.codes.contains(&code) || code == "breaker";
        let is_as_named = if one.codes.is_empty() {
            recorded.is_empty() && codes.keys().eq(["no error"])
        } else {
            codes.keys().all(|code| broke(code))
                && one.codes.iter().any(|code| codes.contains_key(*code))
                && recorded.iter().any(|code| one.codes.contains(&code.as_str()))
        };
        let found = format!("{}: {codes:?}, {} in the decision log", one.mode, recorded.len());
        stage.expect(is_as_named, || found.clone());
        stage.remarks.push(found);
    }
    Ok(())
}

fn expect_no_panic(stage: &mut Stage) {
    let log = stage.gateway.log();
    let panicked = log.lines().find(|line| line.contains("panicked"));
    stage.expect(panicked.is_none(), || format!("in the log: {panicked:?}"));
}

/// Uploads, and what must come of each.
struct Uploads {
    in_force: (String, String),
    statuses: BTreeMap<u16, u64>,
    accepted: u64,
}

impl Uploads {
    async fn begin(stage: &Stage) -> Result<Self, Trouble> {
        let in_force = stage.in_force(HOT, STEADY).await?;
        Ok(Self { in_force, statuses: BTreeMap::new(), accepted: 0 })
    }

    /// Refused with 4xx; or, unless it `must` be, taken into the shadow.
    async fn send(
        &mut self,
        stage: &mut Stage,
        (what, component): (&str, &[u8]),
        must: bool,
    ) -> Result<(), Trouble> {
        let (status, text) = stage.upload(HOT, component).await?;
        *self.statuses.entry(status).or_insert(0) += 1;
        self.accepted += u64::from(status == 201);
        let is_right = (400..500).contains(&status) || (status == 201 && !must);
        stage.expect(is_right, || format!("{what} was answered with {status} {text}"));
        let now = stage.in_force(HOT, STEADY).await?;
        stage.expect(now == self.in_force, || format!("after {what}, {} is in force", now.1));
        expect_no_panic(stage);
        Ok(())
    }
}

/// What is no rule is refused, and what was in force stays so.
async fn malformed(stage: &mut Stage) -> Result<(), Trouble> {
    let workshop = Workshop::open(stage).await?;
    stage.put_in_force(&workshop, OWN, steady("1.0.0")).await?;
    let make = Make { name: "sample", version: "1.0.0", mode: STEADY };
    let whole = workshop.component(make).await?;
    let (core, bare) = (workshop.core()?, workshop.bare().await?);
    let mut random = StdRng::seed_from_u64(stage.draw(0..u64::MAX));
    let pace = pace(stage);
    stage.begin(&pace)?;
    let mut uploads = Uploads::begin(stage).await?;
    let fixed = [samples::malformed(&whole, &core, &bare), samples::unstartable(&whole)].concat();
    for (what, component) in &fixed {
        uploads.send(stage, (what, component), true).await?;
    }
    for _ in 0..10 {
        let cut = samples::truncated(&whole, &mut random);
        uploads.send(stage, ("a cut component", &cut), false).await?;
    }
    let (count, begun) = (stage.shape.times(60, 10_000), Instant::now());
    for nth in 0..count {
        let changed = samples::mutated(&whole, &mut random);
        uploads.send(stage, (&format!("mutation {nth}"), &changed), false).await?;
    }
    let took = begun.elapsed();
    stage.remarks.push(format!(
        "{} made by hand, 10 cut, {count} mutated in {:.1} s: {:?}, {} into the shadow",
        fixed.len(),
        took.as_secs_f64(),
        uploads.statuses,
        uploads.accepted
    ));
    Ok(())
}

/// What would keep a compiler busy is refused, or compiled within bounds; the others go on.
async fn bombs(stage: &mut Stage) -> Result<(), Trouble> {
    let workshop = Workshop::open(stage).await?;
    put_steady(stage, &workshop).await?;
    stage.put_in_force(&workshop, OWN, steady("1.0.0")).await?;
    let mut sent = Vec::new();
    for (nth, (what, part, must)) in samples::bombs().into_iter().enumerate() {
        let version = format!("1.0.{nth}");
        let make = Make { name: "bomb", version: &version, mode: STEADY };
        let whole = workshop.component(make).await?;
        sent.push((what, samples::with_module(&whole, &part), must));
    }
    let pace = pace(stage);
    stage.begin(&pace)?;
    let (quiet, usual) = watch(stage, stage.shape.dwell * 2).await;
    let mut uploads = Uploads::begin(stage).await?;
    let from = Stage::now_ms();
    for (what, component, must) in &sent {
        let begun = Instant::now();
        uploads.send(stage, (what, component), *must).await?;
        let took = begun.elapsed().as_millis();
        stage.remarks.push(format!("{what}: {took} ms"));
    }
    let (rest, peak) = watch(stage, stage.shape.dwell).await;
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    let grown = peak.saturating_sub(usual) >> 20;
    stage.remarks.push(format!("{:?}; resident memory grew by {grown} MiB", uploads.statuses));
    judge_others(stage, [quiet, from..rest.end]).await
}

/// Versions come, go on and go back while all are asked.
async fn swapped(stage: &mut Stage) -> Result<(), Trouble> {
    let workshop = Workshop::open(stage).await?;
    stage.put_in_force(&workshop, OWN, steady("1.0.0")).await?;
    let (digest, version) = stage.in_force(HOT, STEADY).await?;
    let mut published = HashMap::from([(digest, version)]);
    let count = stage.shape.times(12, 100);
    let mut made = Vec::new();
    for nth in 1..=count {
        made.push(workshop.make(steady(&format!("1.0.{nth}"))).await?);
    }
    let before = accepted(stage)?;
    let pace = pace(stage);
    let from = Stage::now_ms();
    stage.begin(&pace)?;
    let swaps = swap(stage, &made, &mut published).await?;
    stage.wait(300..600).await;
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    let window = from..Stage::now_ms();
    let timelines = stage.timelines(HOT, &before).await?;
    let mut judged = HashSet::new();
    for timeline in &timelines {
        let found: Vec<_> = decisions(timeline, STEADY).collect();
        let known = found.iter().filter_map(|one| one["digest"].as_str());
        let known: Vec<_> = known.filter(|digest| published.contains_key(*digest)).collect();
        judged.extend(known.iter().map(|digest| (*digest).to_owned()));
        stage.expect(found.len() == 1 && known.len() == 1, || {
            format!("{} was judged by {found:?}", timeline["id"])
        });
        stage.expect(is_delivered(timeline), || format!("{} was not delivered", timeline["id"]));
    }
    let stretches = series::read(stage, vec![window], None).await?;
    let first = |share: f64| {
        stretches.first().map_or(0, |all| all.quantile(|second| &second.first_attempt, share))
    };
    let (p99, most) = (first(0.99), first(1.0));
    let goal = stage.allowed(SWAP_DELAY_MAX).as_millis();
    stage.expect(u128::from(most) <= goal, || format!("a delivery waited {most} ms of {goal}"));
    stage.expect(judged.len() > 3, || format!("only {} versions judged anything", judged.len()));
    stage.remarks.push(format!(
        "{swaps} changes of the set under load; {} notifications judged by {} of {} versions, each by \
         one; to the first attempt {p99} ms at p99, {most} ms at most (goal {goal} ms)",
        timelines.len(),
        judged.len(),
        published.len()
    ));
    Ok(())
}

/// Deploys each; every third goes back and comes again.
async fn swap(
    stage: &mut Stage,
    made: &[PathBuf],
    published: &mut HashMap<String, String>,
) -> Result<u64, Trouble> {
    let mut swaps = 0;
    for (nth, component) in made.iter().enumerate() {
        let ended = stage.deploy(OWN, component, "active").await?;
        if ended.code != Some(0) {
            return Err(Trouble::Broken(format!("a swap was refused: {}", ended.last_words())));
        }
        swaps += 1;
        let (digest, version) = stage.in_force(HOT, STEADY).await?;
        stage.expect(version == format!("1.0.{}", nth + 1), || {
            format!("after the deploy of 1.0.{} version {version} is in force", nth + 1)
        });
        published.insert(digest.clone(), version);
        stage.wait(50..150).await;
        if nth % 3 == 2 {
            stage.change_rule(OWN, STEADY, json!({ "rollback": true })).await?;
            let back = stage.in_force(HOT, STEADY).await?.1;
            stage.expect(back == format!("1.0.{nth}"), || format!("rolled back to {back}"));
            stage.wait(50..150).await;
            let again = json!({ "stage": "active", "digest": digest });
            stage.change_rule(OWN, STEADY, again).await?;
            swaps += 2;
        }
    }
    Ok(swaps)
}

/// One call of a hundred takes long, within what it may; nobody else notices.
async fn slow(stage: &mut Stage) -> Result<(), Trouble> {
    const NAME: &str = "hostile-slow";
    let workshop = Workshop::open(stage).await?;
    put_steady(stage, &workshop).await?;
    let make = Make { name: NAME, version: "1.0.0", mode: "slow" };
    stage.put_in_force(&workshop, OWN, make).await?;
    let turns = 1_000_000;
    stage.set_rule(HOT, NAME, json!({ "every": 1, "burn": turns })).await?;
    let took = measure(stage, NAME).await?.max(1);
    let burn = (turns * SLOW_US / took).clamp(1, 2_000_000_000);
    stage.set_rule(HOT, NAME, json!({ "every": 100, "burn": burn })).await?;
    stage.change_rule(OWN, NAME, json!({ "paused": true })).await?;
    let before = accepted(stage)?;
    let mut pace = pace(stage);
    if let Some(rate) = pace.rates.get_mut(HOT) {
        *rate *= 2.0;
    }
    stage.begin(&pace)?;
    let (quiet, _) = watch(stage, stage.shape.dwell * 2).await;
    stage.change_rule(OWN, NAME, json!({ "paused": false })).await?;
    let (loud, _) = watch(stage, stage.shape.dwell * 2).await;
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    judge_others(stage, [quiet, loud]).await?;
    let timelines = stage.timelines(HOT, &before).await?;
    let late = timelines.iter().filter(|timeline| !is_delivered(timeline)).count();
    stage.expect(late == 0, || format!("{late} of its own were not delivered"));
    let calls = timelines.iter().flat_map(|timeline| decisions(timeline, NAME));
    let is_slow = |one: &&Value| one["code"] != "quick";
    let (all, slow) = calls.fold((0, Vec::new()), |(all, mut slow), one| {
        if is_slow(&one) {
            slow.push(batch_us(one));
        }
        (all + 1, slow)
    });
    let longest = slow.iter().copied().max().unwrap_or(0);
    stage.remarks.push(format!(
        "{} of {all} calls were slow, {longest} us the longest of their batches",
        slow.len()
    ));
    if longest < SLOW_US / 3 {
        return Err(Trouble::Setup(format!("no call was slow: {longest} us at most")));
    }
    Ok(())
}

/// What the batch of a decision took.
fn batch_us(decision: &Value) -> u64 {
    let number = |name: &str| decision[name].as_u64().unwrap_or_default();
    number("micros") * number("batch").max(1)
}

/// How long the rule takes for one notification.
async fn measure(stage: &mut Stage, name: &str) -> Result<u64, Trouble> {
    let before = accepted(stage)?;
    let outcome = stage.send_one(HOT).await?;
    if !matches!(outcome, Some(Outcome::Accepted(Some(_)))) {
        return Err(Trouble::Broken(format!("a single request came to {outcome:?}")));
    }
    stage.drained(stage.shape.drain_goal).await?;
    let timelines = stage.timelines(HOT, &before).await?;
    let taken = timelines.iter().flat_map(|timeline| decisions(timeline, name)).map(batch_us);
    let us = taken.max().unwrap_or(0);
    if us == 0 {
        return Err(Trouble::Setup(String::from("a single call has no time in its timeline")));
    }
    Ok(us)
}
