//! Faults that providers show: statuses, silence, drips, GOAWAY, bad certificates.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{Order, Row, Shape, Stage, Trouble};
use crate::jsonl;
use crate::torture::series::{self, Stretch};
use crate::torture::world::World;
use crate::twins::{Certificate, Receipt, TwinName};

/// The first organization with webhooks.
pub(super) const HOOKED: usize = 1;
const BAD: [Certificate; 5] = [
    Certificate::Expired,
    Certificate::NotYetValid,
    Certificate::WrongHost,
    Certificate::UnknownAuthority,
    Certificate::SelfSigned,
];
/// Longest that a failing hook may take to be left alone.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// Two timeouts of a provider in the run's configuration.
const STUCK_MAX: Duration = Duration::from_secs(4);
/// Repeats that may come in any second.
const HERD_MIN: u64 = 500;
/// Of an answer without end 64 KiB are read; the rest of this is what buffers of kernels take.
const FLOOD_MAX: u64 = 512 << 10;
/// What may still be on its way when an answer changes everything.
pub(super) const IN_FLIGHT_MS: u64 = 500;

pub(super) const ROWS: &[Row] = &[
    Row::new("F51", "webhooks that drip, never end, or send a gigabyte", unjudged, |stage| {
        Box::pin(drip(stage))
    }),
    Row::new("F52", "refusals for good, each with its reason", unjudged, |stage| {
        Box::pin(refuse(stage))
    }),
    Row::new("F53", "every provider answers 5xx, then recovers", unjudged, |stage| {
        Box::pin(failing(stage))
    }),
    Row::new("F55", "providers that accept and never answer", unjudged, |stage| {
        Box::pin(plan(stage, "freeze=20%"))
    }),
    Row::new("F56", "resets at connect and after the request", unjudged, |stage| {
        Box::pin(reset(stage))
    }),
    Row::new("F58", "GOAWAY again and again", Shape::multiplexed, |stage| {
        Box::pin(plan(stage, "apns:goaway=every:40;fcm:goaway=every:60"))
    }),
    Row::new("F59", "refused streams, one stream, a thousand, one", Shape::multiplexed, |stage| {
        Box::pin(streams(stage))
    }),
    Row::new("F60", "one stream until the first good answer", Shape::multiplexed, |stage| {
        Box::pin(first_stream(stage))
    }),
    Row::new("F61", "certificates that must not be trusted", unjudged, |stage| {
        Box::pin(distrust(stage))
    }),
    Row::new(
        "F63",
        "the token endpoint fails while tokens are short-lived",
        |mut shape| {
            shape.fcm_token_lifetime_s = 4;
            held(shape)
        },
        |stage| Box::pin(tokens(stage)),
    ),
    Row::new(
        "F64",
        "APNs wants no second token for 20 minutes, over restarts; then calls it expired",
        |shape| Shape { apns_token_update_min: Some(Duration::from_secs(1200)), ..held(shape) },
        |stage| Box::pin(one_token(stage)),
    ),
    Row::new(
        "F65",
        "Slack refuses, answers with a page, and throttles, for a while",
        unjudged,
        |stage| Box::pin(slack_refuses(stage)),
    ),
    Row::new("F66", "200 without sense, and redirects", unjudged, |stage| {
        Box::pin(redirect(stage))
    }),
    Row::new("F67", "all providers down, a backlog, and back", unjudged, |stage| {
        Box::pin(outage(stage))
    }),
];

/// Attempts that a provider did not take into its books come again, behind others.
fn unjudged(shape: Shape) -> Shape {
    shape.order(Order::Unjudged)
}

/// What a wrong credential holds back waits for a minute.
pub(super) fn held(shape: Shape) -> Shape {
    unjudged(Shape { drain_goal: shape.drain_goal.max(Duration::from_secs(100)), ..shape })
}

impl Shape {
    fn multiplexed(self) -> Self {
        unjudged(self)
    }
}

async fn failing(stage: &mut Stage) -> Result<(), Trouble> {
    let all = "fcm:status=503;webhook:status=500;slack:status=500;apns:status=503&reason=Shutdown";
    stage.wait(300..1_000).await;
    stage.faults(all)?;
    let begun = std::time::Instant::now();
    let mut open = 0.0_f64;
    // Ten tries of a hook open its breaker, however long these take.
    while begun.elapsed() < stage.shape.dwell || open < 1.0 && begun.elapsed() < OPEN_MAX {
        let metrics = stage.gateway.metrics().await?;
        open = open.max(metrics.sum("bugler_breaker_state", "state=\"open\""));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.faults("")?;
    let healed_ms = Stage::now_ms();
    stage.remarks.push(format!("{open} breakers open at once"));
    stage.expect(open >= 1.0, || String::from("every hook failed, and no breaker opened"));
    stage.wait(300..800).await;
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    judge_herd(stage, healed_ms)?;
    judge_tries(stage)
}

/// What waited for providers does not come as a herd: repeats of a second are at most 1.2 times
/// what ended in the second before, or 500, and what was under way.
fn judge_herd(stage: &mut Stage, healed_ms: u64) -> Result<(), Trouble> {
    stage.sync()?;
    let mut seconds: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    each_receipt(stage, |receipt| {
        if receipt.at_ms >= healed_ms && receipt.twin.carries_notifications() {
            let second = seconds.entry((receipt.at_ms - healed_ms) / 1_000).or_default();
            second.0 += u64::from(receipt.attempt > 1);
            second.1 += u64::from(receipt.succeeded());
        }
    })?;
    let (mut before, mut peak, mut over) = (0, 0, None);
    for (second, (repeats, ended)) in seconds {
        // Seconds of the ledger are not those of the gateway: the better of two counts.
        let most = HERD_MIN.max(ended.max(before)) * 6 / 5 + stage.shape.max_in_flight;
        if repeats > most {
            over = over.or(Some((second, repeats, most)));
        }
        (before, peak) = (ended, peak.max(repeats));
    }
    stage.remarks.push(format!("at most {peak} repeats in a second after the recovery"));
    stage.expect(over.is_none(), || format!("a herd after the recovery (s, came, most): {over:?}"));
    Ok(())
}

async fn one_token(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(3, 10) {
        stage.wait(300..600).await;
        stage.gateway.signal("TERM").await?;
        let ended = stage.gateway.ended(Duration::from_secs(15)).await;
        stage.expect(ended.is_some(), || String::from("a stop did not end"));
        stage.restart().await?;
    }
    stage.wait(500..900).await;
    stage.sync()?;
    let mut refused = 0;
    each_receipt(stage, |receipt| {
        let reason = receipt.reason.as_deref().or(receipt.refused.as_deref()).unwrap_or("");
        refused += u64::from(reason.contains("TooManyProviderTokenUpdates"));
    })?;
    stage.expect(refused == 0, || format!("{refused} times a token too many"));
    plan(stage, "apns:status=403:5&reason=ExpiredProviderToken").await
}

/// A token that lives for four seconds, and an endpoint that fails for a while.
async fn tokens(stage: &mut Stage) -> Result<(), Trouble> {
    let from = Stage::now_ms();
    plan(stage, "fcm-token:status=503").await?;
    let seconds = (Stage::now_ms() - from) / 1000 + 1;
    stage.sync()?;
    let mut asked = 0;
    each_receipt(stage, |receipt| {
        asked += u64::from(receipt.twin == TwinName::FcmToken && receipt.at_ms >= from);
    })?;
    stage.remarks.push(format!("{asked} tokens asked for in {seconds} s"));
    // One for each lifetime, and a repeat a second while that fails.
    let most = 2 * seconds + 2;
    stage.expect(asked <= most, || format!("{asked} tokens asked for in {seconds} s"));
    Ok(())
}

async fn slack_refuses(stage: &mut Stage) -> Result<(), Trouble> {
    for faults in [
        "slack:status=500&reason=rollup_error",
        "slack:html",
        "slack:status=200&reason=invalid_payload",
        "slack:status=429&reason=ratelimited&retry-after=1",
    ] {
        plan(stage, faults).await?;
    }
    Ok(())
}

/// No delivery is tried more often than the policy of the run allows.
fn judge_tries(stage: &mut Stage) -> Result<(), Trouble> {
    stage.sync()?;
    let mut most: BTreeMap<TwinName, u32> = BTreeMap::new();
    each_receipt(stage, |receipt| {
        let most = most.entry(receipt.twin).or_default();
        *most = (*most).max(receipt.attempt);
    })?;
    stage.remarks.push(format!("most tries of one delivery: {most:?}"));
    let allowed = |twin: &TwinName| if *twin == TwinName::Webhook { 61 } else { 100 };
    // Slack's receipts have no id of their own: a target's attempts are counted as one's.
    let over = most.iter().find(|(twin, most)| {
        **twin != TwinName::Slack && twin.carries_notifications() && **most > allowed(twin)
    });
    stage.expect(over.is_none(), || format!("more tries than the policy allows: {over:?}"));
    Ok(())
}

/// A fault plan for the row's usual time.
async fn plan(stage: &mut Stage, plan: &str) -> Result<(), Trouble> {
    stage.wait(300..1_000).await;
    stage.faults(plan)?;
    stage.dwell().await;
    stage.faults("")?;
    stage.wait(300..800).await;
    Ok(())
}

async fn drip(stage: &mut Stage) -> Result<(), Trouble> {
    let [slow, endless] = [0, 1].map(|hook| format!("/hooks/o{}/h{hook}", World::id(HOOKED)));
    let plan = format!(
        "webhook:drip=1s:50&match={slow};webhook:drip-head=1s&match={slow};\
         webhook:endless&match={endless}"
    );
    let mut windows = Vec::new();
    for faults in ["", plan.as_str()] {
        stage.faults(faults)?;
        let from = Stage::now_ms();
        stage.dwell().await;
        windows.push(from..Stage::now_ms());
    }
    stage.faults("")?;
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    let stretches = series::read(stage, windows, Some(HOOKED)).await?;
    let [quiet, dripping] = stretches.as_slice() else { return Ok(()) };
    let p99 = |stretch: &Stretch| stretch.quantile(|second| &second.first_attempt, 0.99);
    let (before, after) = (p99(quiet), p99(dripping));
    let goal = 2 * before + 50;
    stage.remarks.push(format!(
        "others' p99 to the first attempt: {before} ms, while hooks drip {after} ms (goal {goal})"
    ));
    stage.expect(after <= goal, || format!("others waited {after} ms, the goal is {goal} ms"));
    let flooded = stage.twins.traffic(TwinName::Webhook).flooded_max;
    stage.remarks.push(format!("of an endless answer at most {} KiB left", flooded >> 10));
    stage.expect(flooded > 0, || String::from("no answer was without end"));
    stage.expect(flooded <= FLOOD_MAX, || {
        format!("{} KiB of an endless answer were taken", flooded >> 10)
    });
    Ok(())
}

/// Devices of one organization are refused for good, each in another way.
async fn refuse(stage: &mut Stage) -> Result<(), Trouble> {
    let (first, last) = stage.world.users(0);
    let apns =
        ["410&reason=Unregistered", "400&reason=BadDeviceToken", "413&reason=PayloadTooLarge"];
    let fcm = ["404", "400"];
    let mut plan = Vec::new();
    let even = (first..=last).filter(|user| user.is_multiple_of(2));
    for (user, status) in even.zip(apns) {
        plan.push(format!("apns:status={status}&match={}", World::token(0, user)));
    }
    let odd = (first..=last).filter(|user| !user.is_multiple_of(2));
    for (user, status) in odd.zip(fcm) {
        plan.push(format!("fcm:status={status}&match={}", World::token(0, user)));
    }
    stage.wait(300..800).await;
    stage.faults(&plan.join(";"))?;
    stage.dwell().await;
    stage.faults("")?;
    stage.sync()?;
    // Refused for good is asked once only, and what is gone is not asked for anything any more.
    let (mut most, mut late) = (0, 0);
    let mut gone: HashMap<String, u64> = HashMap::new();
    each_receipt(stage, |receipt| {
        if matches!(receipt.status, 400 | 404 | 410 | 413) {
            most = most.max(receipt.attempt);
        }
        if let Some(since) = gone.get(&receipt.target) {
            late += u64::from(receipt.at_ms > since + IN_FLIGHT_MS);
        } else if matches!(receipt.status, 404 | 410) {
            gone.insert(receipt.target, receipt.at_ms);
        }
    })?;
    stage.remarks.push(format!("{} targets gone, {late} asked again", gone.len()));
    stage.expect(gone.len() == 2, || format!("{} targets were called gone, not 2", gone.len()));
    stage.expect(late == 0, || format!("{late} requests to targets that were gone"));
    stage.expect(most == 1, || format!("a refusal for good came on attempt {most}"));
    Ok(())
}

pub(super) fn each_receipt(stage: &Stage, take: impl FnMut(Receipt)) -> Result<(), Trouble> {
    jsonl::each(&stage.receipts_path(), take).map_err(Trouble::io("the twins' ledger"))
}

async fn reset(stage: &mut Stage) -> Result<(), Trouble> {
    plan(stage, "reset=5%").await?;
    for _ in 0..stage.shape.times(2, 20) {
        stage.providers_up(false);
        stage.wait(200..700).await;
        stage.providers_up(true);
        stage.wait(300..900).await;
    }
    Ok(())
}

async fn streams(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(300..600).await;
    stuck_windows(stage).await?;
    for faults in ["refuse=20%", "apns:streams=1;fcm:streams=1", "streams=1000", "apns:streams=1"] {
        stage.faults(faults)?;
        let part = stage.shape.dwell / 3;
        tokio::time::sleep(part).await;
    }
    stage.faults("streams=1000")?;
    stage.wait(500..900).await;
    stage.faults("")?;
    for twin in [TwinName::Apns, TwinName::Fcm] {
        let refused = stage.twins.traffic(twin).streams_refused;
        stage.remarks.push(format!("{twin}: {refused} streams beyond the limit"));
        // What was opened before the new limit had arrived.
        stage.expect(refused <= stage.shape.max_in_flight, || {
            format!("{twin}: {refused} streams beyond the limit")
        });
    }
    Ok(())
}

/// Three connections let no byte of a body come any more: their requests run out of time, and the
/// others go out on new connections.
async fn stuck_windows(stage: &mut Stage) -> Result<(), Trouble> {
    let from = Stage::now_ms();
    stage.faults("apns:window=0:x3;fcm:window=0:x3")?;
    // Longer than a request may take.
    tokio::time::sleep(STUCK_MAX + stage.shape.dwell).await;
    stage.faults("")?;
    stage.sync()?;
    for twin in [TwinName::Apns, TwinName::Fcm] {
        let (mut broken, mut late) = (0, 0);
        let after = from + u64::try_from(STUCK_MAX.as_millis()).unwrap_or(u64::MAX);
        each_receipt(stage, |receipt| {
            if receipt.twin == twin && receipt.at_ms >= from {
                let is_broken = receipt.reason.as_deref() == Some("broken off by the sender");
                broken += u64::from(is_broken);
                late += u64::from(receipt.succeeded() && receipt.at_ms >= after);
            }
        })?;
        stage.remarks.push(format!("{twin}: {broken} requests stuck, {late} delivered afterwards"));
        stage.expect(broken > 0, || format!("{twin}: no request was stuck"));
        stage.expect(late > 0, || format!("{twin}: nothing came after windows were stuck"));
    }
    Ok(())
}

async fn first_stream(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(3, 20) {
        stage.wait(200..500).await;
        stage.twins.set_up(TwinName::Apns, false);
        stage.shape.repeats_extra += stage.shape.max_in_flight;
        stage.wait(100..300).await;
        stage.twins.set_up(TwinName::Apns, true);
        stage.note("APNs came back with one stream");
    }
    stage.wait(500..900).await;
    let traffic = stage.twins.traffic(TwinName::Apns);
    stage.remarks.push(format!(
        "APNs: {} connections, {} streams refused",
        traffic.connections, traffic.streams_refused
    ));
    stage.expect(traffic.streams_refused <= 16, || {
        format!("{} streams beyond the limit of one", traffic.streams_refused)
    });
    Ok(())
}

/// Every provider shows every bad certificate, each on new connections; nothing may reach it.
async fn distrust(stage: &mut Stage) -> Result<(), Trouble> {
    const PROVIDERS: [TwinName; 3] = [TwinName::Apns, TwinName::Fcm, TwinName::Webhook];
    let mut windows = Vec::new();
    for certificate in BAD {
        stage.wait(200..500).await;
        show(stage, &PROVIDERS, certificate)?;
        let from = Stage::now_ms() + IN_FLIGHT_MS;
        stage.note(format_args!("{certificate:?}"));
        stage.dwell().await;
        windows.push(from..Stage::now_ms());
        show(stage, &PROVIDERS, Certificate::Good)?;
    }
    stage.wait(300..600).await;
    stage.sync()?;
    let mut reached: BTreeMap<(TwinName, usize), u64> = BTreeMap::new();
    let mut before = 0;
    each_receipt(stage, |receipt| {
        let window = windows.iter().position(|window| window.contains(&receipt.at_ms));
        match window {
            Some(window) if PROVIDERS.contains(&receipt.twin) => {
                *reached.entry((receipt.twin, window)).or_default() += 1;
            }
            _ => before += 1,
        }
    })?;
    stage.expect(before > 0, || String::from("nothing came through with good certificates"));
    for ((twin, window), count) in reached {
        let certificate = BAD.get(window);
        stage.expect(false, || format!("{count} requests reached {twin} with {certificate:?}"));
    }
    Ok(())
}

/// Gives providers another certificate, and takes their connections away.
fn show(
    stage: &mut Stage,
    providers: &[TwinName],
    certificate: Certificate,
) -> Result<(), Trouble> {
    for twin in providers {
        let set = stage.twins.set_certificate(*twin, certificate);
        set.map_err(|error| Trouble::Setup(error.to_string()))?;
        stage.twins.set_up(*twin, false);
        stage.twins.set_up(*twin, true);
        // Answers on their way are cut off.
        stage.shape.repeats_extra += stage.shape.max_in_flight;
    }
    Ok(())
}

async fn redirect(stage: &mut Stage) -> Result<(), Trouble> {
    let away = format!("{}/elsewhere", stage.twins.webhook_url());
    plan(stage, &format!("webhook:redirect={away};fcm:bad-json=20%")).await?;
    stage.sync()?;
    let mut followed = 0;
    each_receipt(stage, |receipt| followed += u64::from(receipt.target.contains("elsewhere")))?;
    stage.expect(followed == 0, || format!("{followed} redirects were followed"));
    Ok(())
}

async fn outage(stage: &mut Stage) -> Result<(), Trouble> {
    stage.wait(300..600).await;
    stage.providers_up(false);
    stage.dwell().await;
    stage.dwell().await;
    stage.providers_up(true);
    stage.healed = Some(std::time::Instant::now());
    let healed_ms = Stage::now_ms();
    stage.wait(300..600).await;
    stage.end_traffic().await;
    stage.drained(stage.shape.drain_goal).await?;
    judge_herd(stage, healed_ms)?;
    judge_tries(stage)
}
