//! What Blynk's plans limit: requests, invitations, users, and the shape of the tree.

use crate::api::SendLimit;
use crate::api::failure::{Failure, FailureClass};
use crate::auth::hash_of;
use crate::model::{OrganizationId, SecretHash};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use url::Url;

const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);
/// Names counted at once by one quota.
const NAMES_MAX: usize = 100_000;

/// Limits and texts of Blynk's operations, from the configuration. 0 is no limit.
#[derive(Clone, Debug)]
pub struct BlynkSettings {
    /// Requests of one organization: so many in so long.
    pub requests: Option<(u64, Duration)>,
    pub users_per_org: u32,
    pub invites_per_day: u32,
    pub invites_per_address: u32,
    pub organization_levels: u32,
    pub sub_organizations: u32,
    /// Where the link in an invitation leads.
    pub public_url: Option<Url>,
    pub invitation_ttl: Duration,
}

impl Default for BlynkSettings {
    /// Nothing is limited but the depth of the tree.
    fn default() -> Self {
        Self {
            requests: None,
            users_per_org: 0,
            invites_per_day: 0,
            invites_per_address: 0,
            organization_levels: 4,
            sub_organizations: 0,
            public_url: None,
            invitation_ttl: Duration::from_hours(30 * 24),
        }
    }
}

/// The settings, and what was used up of them.
#[derive(Debug)]
pub struct Blynk {
    pub(super) settings: BlynkSettings,
    requests: Option<SendLimit>,
    by_organization: Quota,
    by_address: Quota,
}

impl Blynk {
    #[must_use]
    pub fn new(settings: BlynkSettings) -> Self {
        Self {
            requests: settings.requests.map(|(count, per)| SendLimit::whole(count, per)),
            by_organization: Quota::new(settings.invites_per_day, DAY),
            by_address: Quota::new(settings.invites_per_address, HOUR),
            settings,
        }
    }

    /// Counts a request of `org`.
    pub(crate) fn request(&self, org: OrganizationId) -> Result<(), Failure> {
        self.requests.as_ref().map_or(Ok(()), |limit| limit.take(org, Instant::now()))
    }

    /// Counts an invitation that `org` sends to `email`, or refuses it. An invitation that is not
    /// sent after all is given back by dropping what this answers without `keep`.
    pub(crate) fn invitation(
        &self,
        org: OrganizationId,
        email: &str,
    ) -> Result<Invited<'_>, Failure> {
        let now = Instant::now();
        let sender = self.by_organization.take(&org.to_string(), now)?;
        let address = self.by_address.take(email, now)?;
        Ok(Invited { taken: [sender, address] })
    }
}

/// An invitation counted against both quotas.
#[derive(Debug)]
pub(crate) struct Invited<'a> {
    taken: [Taken<'a>; 2],
}

impl Invited<'_> {
    /// The invitation was sent.
    pub(crate) fn keep(mut self) {
        self.taken.iter_mut().for_each(|taken| taken.is_kept = true);
    }
}

/// How often each name may do something in a time.
#[derive(Debug)]
struct Quota {
    allowed: u32,
    window: Duration,
    used: Mutex<HashMap<SecretHash, Used>>,
}

#[derive(Clone, Copy, Debug)]
struct Used {
    count: u32,
    since: Instant,
}

#[derive(Debug)]
struct Taken<'a> {
    quota: &'a Quota,
    name: SecretHash,
    is_kept: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.is_kept
            && let Some(used) = self.quota.used.lock().get_mut(&self.name)
        {
            used.count = used.count.saturating_sub(1);
        }
    }
}

impl Quota {
    fn new(allowed: u32, window: Duration) -> Self {
        Self { allowed, window, used: Mutex::default() }
    }

    fn take(&self, name: &str, now: Instant) -> Result<Taken<'_>, Failure> {
        let name = hash_of(name);
        let taken = Taken { quota: self, name, is_kept: false };
        if self.allowed == 0 {
            return Ok(taken);
        }
        let is_over = |used: &Used| now.saturating_duration_since(used.since) >= self.window;
        let mut all = self.used.lock();
        if all.len() >= NAMES_MAX && !all.contains_key(&name) {
            all.retain(|_, used| used.count > 0 && !is_over(used));
        }
        if all.len() >= NAMES_MAX && !all.contains_key(&name) {
            drop(all);
            return Err(self.refusal(self.window, taken));
        }
        let used = all.entry(name).or_insert(Used { count: 0, since: now });
        if is_over(used) || used.count == 0 {
            *used = Used { count: 0, since: now };
        }
        if used.count >= self.allowed {
            let left = self.window.saturating_sub(now.saturating_duration_since(used.since));
            drop(all);
            return Err(self.refusal(left, taken));
        }
        used.count += 1;
        Ok(taken)
    }

    fn refusal(&self, wait: Duration, mut taken: Taken<'_>) -> Failure {
        // Nothing was taken, so nothing is given back.
        taken.is_kept = true;
        let text = format!("{} invitations were sent; wait before the next", self.allowed);
        let mut failure = Failure::new(FailureClass::Throttled, text);
        failure.retry_after_s = Some(u32::try_from(wait.as_secs() + 1).unwrap_or(u32::MAX));
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_used_up_given_back_and_renewed() {
        let quota = Quota::new(2, HOUR);
        let start = Instant::now();
        let take = |name: &str, now| {
            let mut taken = quota.take(name, now)?;
            taken.is_kept = true;
            Ok::<_, Failure>(())
        };
        take("a", start).expect("the first");
        drop(quota.take("a", start).expect("one that is not used"));
        take("a", start).expect("the second");
        let refused = take("a", start).expect_err("the third");
        assert_eq!((refused.class, refused.retry_after_s), (FailureClass::Throttled, Some(3601)));
        take("b", start).expect("another name");
        take("a", start + HOUR).expect("a new hour");
        let unlimited = Quota::new(0, HOUR);
        for _ in 0..10 {
            unlimited.take("a", start).expect("no limit");
        }
    }
}
