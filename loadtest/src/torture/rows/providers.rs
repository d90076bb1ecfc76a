//! Faults that providers show: statuses, silence, drips, GOAWAY, bad certificates.

use std::collections::HashMap;
use std::time::Duration;

use super::{Order, Row, Shape, Stage, Trouble};
use crate::jsonl;
use crate::torture::world::World;
use crate::twins::{Certificate, Receipt, TwinName};

pub(super) const ROWS: &[Row] = &[
    Row::new("F51", "webhooks that drip, never end, or send a gigabyte", unjudged, |stage| {
        Box::pin(drip(stage))
    }),
    Row::new("F52", "refusals for good, each with its reason", unjudged, |stage| {
        Box::pin(refuse(stage))
    }),
    Row::new("F53", "every provider answers 5xx, then recovers", unjudged, |stage| {
        Box::pin(plan(
            stage,
            "fcm:status=503;webhook:status=500;slack:status=500;apns:status=503&reason=Shutdown",
        ))
    }),
    Row::new("F54", "429 with Retry-After in every spelling", unjudged, |stage| {
        Box::pin(throttle(stage))
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
    Row::new(
        "F61",
        "webhook certificates that must not be trusted",
        |mut shape| {
            shape.webhook_certificate = Certificate::WrongHost;
            shape
                .order(Order::Unjudged)
                .set("dispatch.retry.webhook.schedule=[\"250ms\", \"250ms\", \"250ms\"]")
        },
        |stage| Box::pin(distrust(stage)),
    ),
    Row::lacking("F62", "DNS failures", "no DNS twin: every target of a run is an address"),
    Row::new(
        "F63",
        "the token endpoint fails while tokens are short-lived",
        |mut shape| {
            shape.fcm_token_lifetime_s = 4;
            held(shape)
        },
        |stage| Box::pin(plan(stage, "fcm-token:status=503")),
    ),
    Row::new("F64", "APNs refuses the provider token for a while", held, |stage| {
        Box::pin(plan(stage, "apns:status=403:5&reason=ExpiredProviderToken"))
    }),
    Row::new("F65", "Slack's refusals as plain text, for a while", unjudged, |stage| {
        Box::pin(plan(stage, "slack:status=500&reason=rollup_error"))
    }),
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
fn held(shape: Shape) -> Shape {
    unjudged(Shape { drain_goal: shape.drain_goal.max(Duration::from_secs(100)), ..shape })
}

impl Shape {
    fn multiplexed(self) -> Self {
        unjudged(self)
    }
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
    let [slow, endless] = [0, 1].map(|hook| format!("/hooks/o{}/h{hook}", World::id(1)));
    stage.wait(300..800).await;
    stage.faults(&format!(
        "webhook:drip=1s:50&match={slow};webhook:drip-head=1s&match={slow};\
         webhook:endless&match={endless}"
    ))?;
    let (before, _) = stage.progress();
    stage.dwell().await;
    let (after, _) = stage.progress();
    stage.expect(after > before, || String::from("accepting stopped while webhooks dripped"));
    stage.faults("")?;
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
    // Refused for good is asked once only.
    let mut most = 0;
    each_receipt(stage, |receipt| {
        if matches!(receipt.status, 400 | 404 | 410 | 413) {
            most = most.max(receipt.attempt);
        }
    })?;
    stage.expect(most == 1, || format!("a refusal for good came on attempt {most}"));
    Ok(())
}

fn each_receipt(stage: &Stage, take: impl FnMut(Receipt)) -> Result<(), Trouble> {
    jsonl::each(&stage.receipts_path(), take).map_err(Trouble::io("the twins' ledger"))
}

/// Each device is throttled once in its own spelling; within its time nothing may come to it.
async fn throttle(stage: &mut Stage) -> Result<(), Trouble> {
    let (first, last) = stage.world.users(0);
    // What cannot be read is left to the policy: for FCM that is a minute, so these go to APNs.
    let (apns, fcm) = (["2", "-5", "1e9", "abc", "1,1"], ["2", "date+3", "1,1"]);
    let mut plan = Vec::new();
    let mut gates = HashMap::new();
    let even = (first..=last).filter(|user| user.is_multiple_of(2)).zip(apns);
    let odd = (first..=last).filter(|user| !user.is_multiple_of(2)).zip(fcm);
    for (user, spelling) in even.chain(odd) {
        let token = World::token(0, user);
        let twin = if user.is_multiple_of(2) { "apns" } else { "fcm" };
        plan.push(format!("{twin}:status=429:x1&retry-after={spelling}&match={token}"));
        let gate_ms = match spelling {
            "2" | "date+3" => 2_000,
            "1,1" => 1_000,
            _ => 0,
        };
        gates.insert(token, gate_ms);
    }
    stage.wait(300..600).await;
    stage.faults(&plan.join(";"))?;
    stage.dwell().await;
    stage.faults("")?;
    stage.wait(2_500..3_000).await;
    stage.sync()?;
    let mut closed: HashMap<(String, String), u64> = HashMap::new();
    let mut early = 0;
    each_receipt(stage, |receipt| {
        let place = (receipt.target.clone(), receipt.key.clone());
        if receipt.status == 429 {
            let gate = gates.get(&receipt.target).copied().unwrap_or(0);
            closed.insert(place, receipt.at_ms + gate);
        } else if closed.get(&place).is_some_and(|until| receipt.at_ms < *until) {
            early += 1;
        }
    })?;
    let count = closed.len();
    stage
        .remarks
        .push(format!("{count} deliveries throttled, {early} came again inside their gate"));
    stage.expect(early == 0, || format!("{early} attempts inside a gate of Retry-After"));
    stage.expect(count > 0, || String::from("nothing was throttled"));
    Ok(())
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
    for faults in ["refuse=20%", "apns:streams=1;fcm:streams=1", "streams=1000", "apns:streams=1"] {
        stage.faults(faults)?;
        let part = stage.shape.dwell / 3;
        tokio::time::sleep(part).await;
    }
    stage.faults("streams=1000")?;
    stage.wait(500..900).await;
    stage.faults("")?;
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

async fn distrust(stage: &mut Stage) -> Result<(), Trouble> {
    stage.dwell().await;
    stage.end_traffic().await;
    stage.sync()?;
    let mut seen = 0;
    each_receipt(stage, |receipt| seen += u64::from(receipt.twin == TwinName::Webhook))?;
    stage
        .expect(seen == 0, || format!("{seen} requests reached a host without a good certificate"));
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
    stage.wait(300..600).await;
    Ok(())
}
