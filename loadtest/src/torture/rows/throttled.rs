//! Providers that ask to be left alone for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::providers::{HOOKED, IN_FLIGHT_MS, each_receipt, held};
use super::{Row, Shape, Stage, Trouble};
use crate::torture::world::World;
use crate::twins::{Receipt, TwinName};

/// The first organization with a Slack channel.
const SLACKED: usize = 3;
const MINUTE_MS: u64 = 60_000;
/// Longest that using the quota up may take.
const QUOTA_MAX: Duration = Duration::from_secs(45);

pub(super) const ROWS: &[Row] =
    &[Row::new("F54", "429 with Retry-After in every spelling, and a quota", limited, |stage| {
        Box::pin(throttle(stage))
    })];

/// FCM's quota is used up on the way, and the rest waits for the next minute.
fn limited(shape: Shape) -> Shape {
    let messages = shape.times(400, 40_000);
    held(Shape { fcm_quota_per_minute: u32::try_from(messages).ok(), ..shape })
}

/// Each device is throttled once in its own spelling, and a hook of each kind; within its time
/// nothing may come to it.
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
    for (org, twin) in [(HOOKED, "webhook"), (SLACKED, "slack")] {
        let path = stage.world.hook_paths(org).into_iter().next().unwrap_or_default();
        plan.push(format!("{twin}:status=429:x1&retry-after=2&match={path}"));
        gates.insert(path, 2_000);
    }
    stage.wait(300..600).await;
    stage.faults(&plan.join(";"))?;
    stage.dwell().await;
    stage.faults("")?;
    stage.wait(2_500..3_000).await;
    // Until the quota is used up: the rest waits for the next minute.
    let begun = Instant::now();
    let quota = u64::from(stage.shape.fcm_quota_per_minute.unwrap_or(0));
    let received =
        |stage: &Stage| stage.twins.counts().get(&TwinName::Fcm).map_or(0, |count| count.received);
    while received(stage) <= quota && begun.elapsed() < QUOTA_MAX {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.sync()?;
    let mut found = Throttled::default();
    each_receipt(stage, |receipt| found.take(&receipt, &gates))?;
    let Throttled { closed, early, project_early, hooks_closed, hook_early, quota, .. } = found;
    stage.remarks.push(format!(
        "{} deliveries throttled, {early} came again inside their gate; {} hooks, {hook_early}; \
         {quota} messages beyond FCM's quota, {project_early} while the project had to wait",
        closed.len(),
        hooks_closed.len()
    ));
    stage.expect(early == 0, || format!("{early} attempts inside a gate of Retry-After"));
    stage.expect(!closed.is_empty(), || String::from("nothing was throttled"));
    stage.expect(hooks_closed.len() == 2, || {
        format!("{} hooks were throttled, not a webhook and Slack's", hooks_closed.len())
    });
    stage.expect(hook_early == 0, || format!("{hook_early} calls of hooks inside their gate"));
    stage.expect(quota > 0, || String::from("FCM's quota was not used up"));
    stage.expect(project_early == 0, || {
        format!("{project_early} messages to FCM while the project had to wait")
    });
    Ok(())
}

/// What came while it had to stay away.
#[derive(Default)]
struct Throttled {
    /// When the gate of a delivery opens.
    closed: HashMap<(String, String), u64>,
    early: u64,
    /// When the whole project may be sent to again: what FCM says of one message holds for all.
    project: std::ops::Range<u64>,
    project_early: u64,
    /// When FCM's minute began.
    minute: Option<u64>,
    quota: u64,
    hooks_closed: HashMap<String, std::ops::Range<u64>>,
    hook_early: u64,
}

impl Throttled {
    fn take(&mut self, receipt: &Receipt, gates: &HashMap<String, u64>) {
        let (at, is_throttled) = (receipt.at_ms, receipt.status == 429);
        match receipt.twin {
            TwinName::Fcm => {
                let minute = *self.minute.get_or_insert(at);
                self.project_early += u64::from(self.project.contains(&at));
                let is_quota = is_throttled && receipt.refused.is_some();
                self.quota += u64::from(is_quota);
                let until = match gates.get(&receipt.target) {
                    _ if is_quota => minute + ((at - minute) / MINUTE_MS + 1) * MINUTE_MS,
                    Some(gate) => at + gate,
                    None => at,
                };
                if is_throttled && until > self.project.end {
                    self.project = at + IN_FLIGHT_MS..until.max(at + IN_FLIGHT_MS);
                }
            }
            TwinName::Webhook | TwinName::Slack => {
                let gate = self.hooks_closed.get(&receipt.target);
                self.hook_early += u64::from(gate.is_some_and(|gate| gate.contains(&at)));
                if let Some(gate) = gates.get(&receipt.target).filter(|_| is_throttled) {
                    let gate = at + IN_FLIGHT_MS..at + gate;
                    self.hooks_closed.insert(receipt.target.clone(), gate);
                }
                return;
            }
            _ => {}
        }
        let place = (receipt.target.clone(), receipt.key.clone());
        if is_throttled {
            let gate = gates.get(&receipt.target).copied().unwrap_or(0);
            self.closed.insert(place, at + gate);
        } else if self.closed.get(&place).is_some_and(|until| at < *until) {
            self.early += 1;
        }
    }
}
