//! Faults of load: a backlog, a hot organization, many small ones, too few descriptors, overload.

use std::time::{Duration, Instant};

use super::{Order, Row, Shape, Stage, Suite, Trouble};
use crate::load::{Mode, Stop};
use crate::torture::plot::{self, Line};
use crate::torture::series::{self, Second, Stretch};
use crate::torture::traffic::Pace;

/// Resident memory that a backlog may not exceed.
const RSS_MAX: u64 = 400 << 20;
const HOT: usize = 0;
/// The first organization with a webhook.
const HOT_HOOK: usize = 1;
const OVERLOAD_CONNECTIONS: usize = 32;
/// What bounds deliveries under overload: slots, and how long a provider takes.
const SLOTS: u64 = 16;
/// Less of what these allow is no peak.
const PEAK_MIN: f64 = 0.5;
const SERVICE_MS: u64 = 30;
/// A second's work or so.
const BACKLOG_MAX: u64 = 100;
/// Less than so many times the capacity is no five-fold overload.
const OFFERED_MIN: f64 = 4.5;

pub(super) const ROWS: &[Row] = &[
    Row::new("F29", "a backlog while all providers are down", backlog_shape, |stage| {
        Box::pin(backlog(stage))
    }),
    Row::new("F75", "one organization sends 100 times as much", fairness_shape, |stage| {
        Box::pin(fairness(stage))
    }),
    Row::new("F76", "one hot target among many organizations", many_shape, |stage| {
        Box::pin(hot_target(stage))
    }),
    Row::new("F79", "file descriptors run out", descriptors_shape, |stage| {
        Box::pin(descriptors(stage))
    }),
    Row::new("F80", "overload: 5 times what the gateway can take", overload_shape, |stage| {
        Box::pin(overload(stage))
    }),
];

fn backlog_shape(shape: Shape) -> Shape {
    Shape { rate: 0.0, mode: Mode::Bulk { lines_per_request: 500 }, ..shape }
        .devices_only()
        .order(Order::Unjudged)
}

async fn backlog(stage: &mut Stage) -> Result<(), Trouble> {
    stage.providers_up(false);
    let size = stage.shape.times(20_000, 5_000_000);
    let organizations = stage.shape.size.organizations as u64;
    let pace = Pace {
        stop: Stop::Total(size / organizations),
        rates: vec![1e9; stage.shape.size.organizations],
        connections: 1,
        timeout: Duration::from_secs(60),
        ..stage.pace()
    };
    stage.begin(&pace)?;
    let begun = Instant::now();
    let patience = Duration::from_secs(stage.shape.times(60, 3_600));
    let mut peak = 0;
    while begun.elapsed() < patience {
        peak = peak.max(stage.gateway.residue().map_or(0, |residue| residue.rss_bytes));
        let (accepted, refused) = stage.progress();
        if accepted + refused >= size / organizations * organizations {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let sent = stage.end_traffic().await;
    let wanted = size / organizations * organizations;
    stage.expect(sent.accepted >= wanted, || {
        format!("{} of {wanted} accepted, {} refused", sent.accepted, sent.refused)
    });
    let mib = |bytes: u64| bytes >> 20;
    stage.note(format_args!("backlog of {}", sent.accepted));
    stage.providers_up(true);
    stage.healed = Some(Instant::now());
    stage.shape.drain_goal = Duration::from_secs(stage.shape.times(90, 3_600));
    // Its memory counts until the last of them is gone, not only while it grows.
    let goal = stage.shape.drain_goal;
    let draining = Instant::now();
    while draining.elapsed() < goal && stage.drained(Duration::from_millis(100)).await?.is_none() {
        peak = peak.max(stage.gateway.residue().map_or(0, |residue| residue.rss_bytes));
    }
    stage.remarks.push(format!(
        "backlog {} in {:.1} s, refused {} {:?}, resident at most {} MiB",
        sent.accepted,
        begun.elapsed().as_secs_f64(),
        sent.refused,
        sent.statuses,
        mib(peak)
    ));
    stage.expect(peak < RSS_MAX, || format!("{} MiB resident", mib(peak)));
    Ok(())
}

fn fairness_shape(shape: Shape) -> Shape {
    let mut shape = Shape { rate: 0.0, ..shape }.devices_only().order(Order::Unjudged);
    shape.max_in_flight = 256;
    // A device takes one message after another: it must be the slots that are short.
    shape.size.users = 100;
    shape.drain_goal = shape.drain_goal.max(Duration::from_secs(90));
    if shape.suite == Suite::Short {
        shape.size.organizations = 12;
        shape.max_in_flight = 64;
        shape.dwell = Duration::from_secs(5).max(shape.dwell);
    }
    shape
}

async fn fairness(stage: &mut Stage) -> Result<(), Trouble> {
    let organizations = stage.shape.size.organizations;
    let (base, factor) =
        if stage.shape.suite == Suite::Long { (10.0, 100.0) } else { (4.0, 100.0) };
    let quiet = Pace { rates: vec![base; organizations], ..stage.pace() };
    let mut hot = Pace { connections: 32, ..quiet.clone() };
    if let Some(rate) = hot.rates.get_mut(HOT) {
        *rate = base * factor;
    }
    stage.faults("delay=100ms")?;
    let mut windows = Vec::new();
    for (name, pace) in [("quiet", &quiet), ("hot", &hot)] {
        let from = Stage::now_ms();
        stage.note(name);
        stage.begin(pace)?;
        stage.dwell().await;
        stage.dwell().await;
        windows.push(from..Stage::now_ms());
        stage.end_traffic().await;
        stage.drained(stage.shape.drain_goal).await?;
    }
    stage.faults("")?;
    let stretches = series::read(stage, windows, Some(HOT)).await?;
    if let [quiet, hot] = stretches.as_slice() {
        judge_fairness(stage, quiet, hot);
    }
    Ok(())
}

fn judge_fairness(stage: &mut Stage, quiet: &Stretch, hot: &Stretch) {
    let p99 = |stretch: &Stretch| stretch.quantile(|second| &second.first_attempt, 0.99);
    let (before, after) = (p99(quiet), p99(hot));
    let of_hot = hot.quantile(|second| &second.first_attempt_hot, 0.99);
    let goal = 2 * before + 50;
    let holds = after <= goal;
    stage.remarks.push(format!(
        "others' p99 to the first attempt: quiet {before} ms, hot {after} ms (goal {goal} ms, {}); \
         the hot organization's own {of_hot} ms",
        if holds { "met" } else { "MISSED" }
    ));
    stage.expect(holds, || format!("others waited {after} ms, the goal is {goal} ms"));
    let lane = |stretch: &Stretch, of: fn(&Second) -> &Vec<u64>, share: f64| {
        let value = |second: &Second| as_value(series::quantile(&mut of(second).clone(), share));
        stretch.seconds.iter().map(value).collect::<Vec<_>>()
    };
    let joined = |of: fn(&Second) -> &Vec<u64>, share: f64| {
        [lane(quiet, of, share), lane(hot, of, share)].concat()
    };
    let lines = [
        Line::new("others, p50", joined(|second| &second.first_attempt, 0.5)),
        Line::new("others, p99", joined(|second| &second.first_attempt, 0.99)),
        Line::new("hot organization, p99", joined(|second| &second.first_attempt_hot, 0.99)),
    ];
    let turn = as_value(quiet.seconds.len() as u64);
    let marks = [(0.0, String::from("quiet")), (turn, String::from("one sends far more"))];
    let title = "Time to first attempt of the others, quiet and hot";
    stage.plots.push((title.to_owned(), plot::chart(title, "ms", &lines, &marks)));
}

fn as_value(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let value = count as f64;
    value
}

fn many_shape(mut shape: Shape) -> Shape {
    shape.size.organizations = if shape.suite == Suite::Long { 400 } else { 40 };
    shape.size.hooks = 1;
    shape.rate = 0.0;
    shape.drain_goal = shape.drain_goal.max(Duration::from_secs(120));
    shape.order(Order::Unjudged)
}

/// One webhook takes half a second for each message, and its organization sends 50 times as much.
async fn hot_target(stage: &mut Stage) -> Result<(), Trouble> {
    let base = if stage.shape.suite == Suite::Long { 10.0 } else { 4.0 };
    let quiet = Pace { rates: vec![base; stage.shape.size.organizations], ..stage.pace() };
    let mut hot = quiet.clone();
    if let Some(rate) = hot.rates.get_mut(HOT_HOOK) {
        *rate = base * 50.0;
    }
    let hook = stage.world.hook_paths(HOT_HOOK).into_iter().next().unwrap_or_default();
    let mut windows = Vec::new();
    for (pace, plan) in [(&quiet, ""), (&hot, &*format!("webhook:delay=500ms&match={hook}"))] {
        stage.faults(plan)?;
        let from = Stage::now_ms();
        stage.begin(pace)?;
        stage.dwell().await;
        stage.dwell().await;
        windows.push(from..Stage::now_ms());
        stage.end_traffic().await;
    }
    stage.faults("")?;
    stage.drained(stage.shape.drain_goal).await?;
    let stretches = series::read(stage, windows, Some(HOT_HOOK)).await?;
    if let [quiet, hot] = stretches.as_slice() {
        judge_fairness(stage, quiet, hot);
    }
    Ok(())
}

fn descriptors_shape(mut shape: Shape) -> Shape {
    shape.wrap = vec![String::from("prlimit"), String::from("--nofile=256")];
    shape.is_armed_at_start = true;
    shape.order(Order::Unjudged)
}

async fn descriptors(stage: &mut Stage) -> Result<(), Trouble> {
    let mut idle = Vec::new();
    for _ in 0..400 {
        let connecting = tokio::net::TcpStream::connect(stage.gateway.api);
        match tokio::time::timeout(Duration::from_millis(50), connecting).await {
            Ok(Ok(tcp)) => idle.push(tcp),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    stage.note(format_args!("{} idle connections", idle.len()));
    stage.dwell().await;
    let is_alive = stage.gateway.is_alive();
    stage.expect(is_alive, || String::from("the gateway ended for want of descriptors"));
    drop(idle);
    stage.note("descriptors free again");
    let (before, _) = stage.progress();
    let begun = Instant::now();
    while stage.progress().0 == before && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (after, _) = stage.progress();
    stage
        .expect(after > before, || String::from("nothing was accepted once descriptors were free"));
    Ok(())
}

/// What is delivered is bounded by slots and by how long providers take, so that five times as much
/// can be offered on one machine.
fn overload_shape(shape: Shape) -> Shape {
    let mut shape = Shape { rate: 0.0, ..shape }.devices_only().order(Order::Unjudged);
    shape.client_timeout = Duration::from_secs(20);
    // Many devices, since each takes one message after another.
    shape.size.users = 100;
    shape.max_in_flight = SLOTS;
    shape.drain_goal = shape.drain_goal.max(Duration::from_secs(120));
    shape
        .set("server.max_connections_per_ip=5000")
        .set(&format!("limits.backlog_per_org={BACKLOG_MAX}"))
}

async fn overload(stage: &mut Stage) -> Result<(), Trouble> {
    let each = as_value(stage.shape.size.organizations as u64);
    stage.faults(&format!("apns:delay={SERVICE_MS}ms;fcm:delay={SERVICE_MS}ms"))?;
    // Somewhat more than can be delivered: a backlog is there throughout.
    let bound = as_value(SLOTS) * 1_000.0 / as_value(SERVICE_MS);
    let peak = phase(stage, "peak", bound * 1.3 / each, OVERLOAD_CONNECTIONS).await?;
    let stretches = series::read(stage, vec![peak.0.clone()], None).await?;
    let capacity = stretches.first().map_or(0.0, |peak| peak.mean(|second| second.goodput));
    if capacity < bound * PEAK_MIN {
        let why =
            format!("{capacity:.0}/s delivered where {bound:.0} are possible: too busy a machine");
        return Err(Trouble::Setup(why));
    }
    stage.drained(stage.shape.drain_goal).await?;
    let half = capacity / 2.0 / each;
    let normal = phase(stage, "half", half, OVERLOAD_CONNECTIONS).await?;
    let over = phase(stage, "5 times", capacity * 5.0 / each, OVERLOAD_CONNECTIONS).await?;
    let after = phase(stage, "half again", half, OVERLOAD_CONNECTIONS).await?;
    let refusal_us = over.1.refusal_us.value_at_quantile(0.99);
    let windows = [&peak, &normal, &over, &after].map(|phase| phase.0.clone());
    let (statuses, refused) = (over.1.statuses.clone(), over.1.refused);
    stage.faults("")?;
    stage.healed = Some(Instant::now());
    stage.drained(stage.shape.drain_goal).await?;
    let stretches = series::read(stage, windows.to_vec(), None).await?;
    let [peak, normal, over, after] = stretches.as_slice() else { return Ok(()) };
    let offered = over.mean(|second| second.offered) / capacity.max(1.0);
    stage.remarks.push(format!(
        "offered {offered:.1} times the {capacity:.0}/s delivered at the peak, refused {refused} \
         {statuses:?}"
    ));
    if offered < OFFERED_MIN || refused == 0 {
        // A test that is no overload proves nothing.
        let why = format!("only {offered:.1} times the capacity offered, {refused} refused");
        return Err(Trouble::Setup(why));
    }
    judge_overload(stage, [peak, normal, over, after], refusal_us);
    Ok(())
}

type Phase = (std::ops::Range<u64>, crate::torture::traffic::Sent);

/// Load at one rate; answers its window, and what was sent.
async fn phase(
    stage: &mut Stage,
    name: &str,
    rate: f64,
    connections: usize,
) -> Result<Phase, Trouble> {
    let pace =
        Pace { rates: vec![rate; stage.shape.size.organizations], connections, ..stage.pace() };
    stage.note(format_args!("{name}: {rate:.0}/s from each organization"));
    let from = Stage::now_ms();
    stage.begin(&pace)?;
    stage.dwell().await;
    stage.dwell().await;
    let to = Stage::now_ms();
    let sent = stage.end_traffic().await;
    Ok((from..to, sent))
}

fn judge_overload(stage: &mut Stage, stretches: [&Stretch; 4], refusal_us: u64) {
    let [peak, normal, over, _] = stretches;
    let best = peak.mean(|second| second.goodput);
    let good = over.mean(|second| second.goodput);
    let p99 = |stretch: &Stretch| stretch.quantile(|second| &second.latency, 0.99);
    let (usual, loaded) = (p99(normal), p99(over));
    let goals = [
        ("goodput at least 90 % of the peak's", good >= best * 0.9),
        ("accepted within 3 times the usual p99", loaded <= (usual * 3).max(20)),
        ("refusals within 5 ms at p99", refusal_us <= 5_000),
    ];
    stage.remarks.push(format!(
        "goodput {best:.0}/s at the peak, {good:.0}/s under overload; p99 of accepted {usual} ms at \
         half load, {loaded} ms under overload; p99 of refusals {:.1} ms",
        as_value(refusal_us) / 1000.0
    ));
    for (goal, holds) in goals {
        stage.expect(holds, || format!("goal missed: {goal}"));
    }
    let all: Vec<Second> = stretches.iter().flat_map(|s| s.seconds.iter().cloned()).collect();
    let line = |name: &str, of: fn(&Second) -> u64| {
        Line::new(name, all.iter().map(|second| as_value(of(second))).collect())
    };
    let lines = [
        line("offered", |second| second.offered),
        line("accepted", |second| second.accepted),
        line("goodput (delivered)", |second| second.goodput),
    ];
    let mut at = 0;
    let mut marks = Vec::new();
    for (stretch, name) in stretches.iter().zip(["a third too much", "half", "5 times", "half"]) {
        marks.push((as_value(at), name.to_owned()));
        at += stretch.seconds.len() as u64;
    }
    let title = "Overload: offered, accepted and delivered each second";
    stage.plots.push((title.to_owned(), plot::chart(title, "1/s", &lines, &marks)));
    let late = |share: f64| {
        let value =
            |second: &Second| as_value(series::quantile(&mut second.latency.clone(), share));
        all.iter().map(value).collect::<Vec<_>>()
    };
    let lines = [Line::new("accepted, p50", late(0.5)), Line::new("accepted, p99", late(0.99))];
    let title = "Overload: time to the 2xx";
    stage.plots.push((title.to_owned(), plot::chart(title, "ms", &lines, &marks)));
}
