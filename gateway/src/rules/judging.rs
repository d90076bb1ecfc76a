//! Versions that go back by themselves when they go wrong, and on when they may, as each node sees them.

use crate::model::{AuditNote, Millis, OrganizationId};
use crate::rules::deployed::{DeployedRule, RuleChange, SetError};
use crate::rules::deployments::{DeployError, Deployments};
use crate::rules::gates::{Hour, Minute};
use crate::rules::manifest::Promote;
use crate::rules::stage::Stage;
use std::collections::HashMap;
use std::sync::Arc;

/// Who resumes what was paused for a time.
const TIMER: &str = "timer";
/// Who takes versions back, and on.
const GATES: &str = "gates";
const MINUTE_MS: u64 = 60_000;

/// What the versions did of late.
#[derive(Debug, Default)]
pub(super) struct Minutes {
    versions: HashMap<(Option<i32>, String, String, &'static str), Minute>,
    rules: HashMap<(Option<i32>, String), Hour>,
}

/// A version that went back by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    pub org: Option<OrganizationId>,
    pub rule: String,
    pub digest: String,
    pub stage: &'static str,
    pub reason: String,
    /// For the audit trail.
    pub note: AuditNote,
}

/// A version that may go on by itself.
struct Step {
    org: Option<OrganizationId>,
    rule: String,
    digest: String,
    to: Stage,
    reason: String,
    note: AuditNote,
}

impl Deployments {
    /// Looks once at what every version did within the last minute, and takes back those that went
    /// wrong. Answers what was taken back.
    pub async fn judge(self: &Arc<Self>) -> Vec<Withdrawal> {
        let now = self.clock.now();
        let mut done = Vec::new();
        for fault in self.faults(now) {
            let (by, message) = (String::from(GATES), fault.reason.clone());
            let (digest, stage) = (fault.digest.clone(), fault.stage);
            let change = RuleChange::Withdraw { digest, stage };
            let (rule_name, reason) = (&fault.rule, &fault.reason);
            match self.change((fault.org, rule_name), change, (by, message)).await {
                Ok(()) => {
                    tracing::error!(%rule_name, digest = %fault.digest, stage, %reason, "a version of a rule went back by itself");
                    done.push(fault);
                }
                Err(error) => {
                    let error = crate::telemetry::chain(&error);
                    tracing::error!(%rule_name, stage, %reason, %error, "a version of a rule went wrong and stays in force");
                }
            }
        }
        done
    }

    /// Looks once at every version that is being tried and whose manifest lets it go on by itself, and
    /// takes those whose gates are met a stage further. Answers what the audit trail has to know.
    pub async fn advance(self: &Arc<Self>) -> Vec<AuditNote> {
        let mut done = Vec::new();
        for Step { org, rule: rule_name, digest, to, reason, note } in self.steps(self.clock.now())
        {
            let change = RuleChange::Promote { to, digest: Some(digest), is_forced: false };
            let asked = (String::from(GATES), reason.clone());
            let to = to.as_str();
            match self.change((org, &rule_name), change, asked).await {
                Ok(()) => {
                    tracing::info!(%rule_name, to, %reason, "a version of a rule went on by itself");
                    done.push(note);
                }
                // Another node or a person was first; what is left to do is seen at the next look.
                Err(DeployError::Set(error @ (SetError::Changed | SetError::Gates { .. }))) => {
                    tracing::debug!(%rule_name, to, %error, "a version of a rule stays for now");
                }
                Err(error) => {
                    let error = crate::telemetry::chain(&error);
                    tracing::error!(%rule_name, to, %error, "a version of a rule may go on and cannot");
                }
            }
        }
        done
    }

    /// Resumes rules that were paused for a time that is over. Answers what the audit trail has to know.
    pub async fn resume(self: &Arc<Self>) -> Vec<AuditNote> {
        let now = self.clock.now();
        let set = self.set();
        let is_due = |rule: &&DeployedRule| rule.paused_until.is_some_and(|until| until <= now.0);
        let mut done = Vec::new();
        for rule in set.rules.iter().filter(is_due) {
            let asked = (String::from(TIMER), String::from("the time of its pause is over"));
            let scope = rule.org.map(OrganizationId);
            match self.change((scope, &rule.name), RuleChange::Resume, asked).await {
                Ok(()) => {
                    let note = note(rule, "rule.resume", format!("rule:{}", rule.name), now);
                    done.push(AuditNote { actor: String::from(TIMER), ..note });
                }
                // Another node was first, or a rule went meanwhile: the next look tells.
                Err(DeployError::Set(_)) => {}
                Err(error) => {
                    let (rule_name, error) = (&rule.name, crate::telemetry::chain(&error));
                    tracing::error!(%rule_name, %error, "a paused rule cannot be resumed");
                }
            }
        }
        done
    }

    fn steps(&self, now: Millis) -> Vec<Step> {
        let set = self.set();
        let rules = set.rules.iter().filter(|rule| !rule.is_paused);
        rules.flat_map(|rule| rule.staged().filter_map(|one| self.step(rule, one, now))).collect()
    }

    fn step(
        &self,
        rule: &DeployedRule,
        (digest, stage): (&str, Stage),
        now: Millis,
    ) -> Option<Step> {
        let deploy = self.engine().deploy_of(digest);
        let to = match stage {
            // Of two versions that are tried, the one that judges already comes first.
            Stage::Shadow(_) if rule.canary.is_none() => Stage::Canary(deploy.canary),
            Stage::Canary(_) => Stage::Active,
            Stage::Shadow(_) | Stage::Active => return None,
        };
        if deploy.promote != Promote::Auto || !self.missing(rule, digest, stage).is_empty() {
            return None;
        }
        let counts = self.counts(rule, digest, stage);
        let minutes = now.0.saturating_sub(rule.since(digest, stage)) / MINUTE_MS;
        let (items, errors) = (counts.items, counts.errors);
        let reason = format!("the gates are met: {items} items, {errors} errors, {minutes} min");
        let what = format!("rule:{} {digest} {}: {reason}", rule.name, to.as_str());
        let note = note(rule, "rule.promote", what, now);
        let (org, digest) = (rule.org.map(OrganizationId), digest.to_owned());
        Some(Step { org, rule: rule.name.clone(), digest, to, reason, note })
    }

    fn faults(&self, now: Millis) -> Vec<Withdrawal> {
        let set = self.set();
        let mut guard = self.minutes.lock();
        let Minutes { versions, rules } = &mut *guard;
        rules.retain(|(org, name), _| set.rule(org.map(OrganizationId), name).is_some());
        versions.retain(|(org, name, digest, word), _| {
            let rule = set.rule(org.map(OrganizationId), name);
            let is_it = |(own, stage): (&str, Stage)| own == digest && stage.as_str() == *word;
            rule.is_some_and(|rule| rule.staged().any(is_it))
        });
        let mut faults = Vec::new();
        for rule in set.rules.iter().filter(|rule| !rule.is_paused) {
            let hour = rules.entry((rule.org, rule.name.clone())).or_default();
            for (digest, stage) in rule.staged() {
                let word = stage.as_str();
                let key = (rule.org, rule.name.clone(), digest.to_owned(), word);
                let minute = versions.entry(key).or_default();
                let counts = self.counts(rule, digest, stage);
                let (recent, added) = minute.note(now, counts);
                if !matches!(stage, Stage::Shadow(_)) {
                    hour.note(now, added);
                }
                let gates = self.gates(rule, digest).unwrap_or_default();
                let case = self.case(rule, (digest, stage), (&gates, recent));
                if let Some(reason) = case.fault(hour, now) {
                    minute.forgive(now, counts);
                    faults.push(withdrawal(rule, (digest, word), reason, now));
                }
            }
        }
        faults
    }
}

fn withdrawal(
    rule: &DeployedRule,
    (digest, stage): (&str, &'static str),
    reason: String,
    now: Millis,
) -> Withdrawal {
    let what = format!("rule:{} {digest} {stage}: {reason}", rule.name);
    let note = note(rule, "rule.withdraw", what, now);
    let (org, digest) = (rule.org.map(OrganizationId), digest.to_owned());
    Withdrawal { org, rule: rule.name.clone(), digest, stage, reason, note }
}

fn note(rule: &DeployedRule, action: &str, object: String, now: Millis) -> AuditNote {
    AuditNote {
        at: now,
        org: OrganizationId(rule.org.unwrap_or(rule.home)),
        actor: String::from(GATES),
        peer: None,
        action: action.to_owned(),
        object,
    }
}
