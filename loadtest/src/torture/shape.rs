//! How large a row is, and what it is judged by.

use std::time::Duration;

use super::redis::RedisShape;
use super::world::Size;
use crate::load::{Dialect, Mode};
use crate::twins::Certificate;

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Seconds for each row, part of the tests.
    Short,
    /// Minutes for each row: 200 organizations, 10 k targets, 5 k notifications a second.
    Long,
}

/// What the order of first attempts is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// None may be overtaken.
    Strict,
    /// What was in flight at a crash comes again, and its repeat may be overtaken.
    InFlight,
    /// Attempts that never reached a provider's books are repeated later: nothing can be judged.
    Unjudged,
}

/// One row's size and bounds.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) suite: Suite,
    pub(super) size: Size,
    pub(super) mode: Mode,
    /// Notifications per second of all organizations together.
    pub(super) rate: f64,
    pub(super) connections: usize,
    pub(super) keys: bool,
    pub(super) client_timeout: Duration,
    /// How long a fault usually lasts.
    pub(super) dwell: Duration,
    /// `dispatch.max_in_flight`, what one crash may repeat.
    pub(super) max_in_flight: u64,
    pub(super) settings: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) wrap: Vec<String>,
    /// Whether `env` and `wrap` hold from the first start on, or from a restart that the row makes.
    pub(super) is_armed_at_start: bool,
    pub(super) mutes_gateway: bool,
    /// Size of a small file system of its own for the data directory.
    pub(super) tmpfs_mib: Option<u64>,
    /// Size of an ext4 of its own, whose power can be cut, for the data directory.
    pub(super) ext4_mib: Option<u64>,
    /// Whether proxies stand between the gateway and its providers.
    pub(super) is_proxied: bool,
    /// Whether providers have names, which a name server of the run's own knows.
    pub(super) is_named: bool,
    pub(super) webhook_certificate: Certificate,
    pub(super) fcm_token_lifetime_s: u64,
    /// Messages that FCM takes in a minute.
    pub(super) fcm_quota_per_minute: Option<u32>,
    /// Least time between two provider tokens that APNs takes.
    pub(super) apns_token_update_min: Option<Duration>,
    /// From healing to the last final state.
    pub(super) drain_goal: Duration,
    pub(super) order: Order,
    /// More repeats than crashes and cut answers explain: those of connections cut by a proxy.
    pub(super) repeats_extra: u64,
    /// Redis instead of files, and how it is set.
    pub(super) redis: Option<RedisShape>,
    /// The fault loses what was accepted in its gaps, as the durability class says: this must be seen.
    pub(super) loses: bool,
}

impl Shape {
    pub(super) fn of(suite: Suite, minutes: Option<f64>) -> Self {
        let is_long = suite == Suite::Long;
        let size = if is_long {
            Size { organizations: 200, users: 50, hooks: 4, slack: true, strict: false }
        } else {
            Size { organizations: 8, users: 10, hooks: 2, slack: true, strict: false }
        };
        let dwell = Duration::from_secs(if is_long { 60 } else { 3 });
        Self {
            suite,
            size,
            mode: Mode::Single(Dialect::Native),
            rate: if is_long { 5_000.0 } else { 240.0 },
            connections: if is_long { 8 } else { 4 },
            keys: false,
            client_timeout: Duration::from_secs(10),
            dwell: minutes.map_or(dwell, |minutes| Duration::from_secs_f64(minutes * 60.0)),
            max_in_flight: if is_long { 1024 } else { 128 },
            settings: Vec::new(),
            env: Vec::new(),
            wrap: Vec::new(),
            is_armed_at_start: false,
            mutes_gateway: false,
            tmpfs_mib: None,
            ext4_mib: None,
            is_proxied: false,
            is_named: false,
            webhook_certificate: Certificate::Good,
            fcm_token_lifetime_s: 3600,
            fcm_quota_per_minute: None,
            apns_token_update_min: None,
            drain_goal: Duration::from_secs(if is_long { 120 } else { 30 }),
            order: Order::Strict,
            repeats_extra: 0,
            redis: None,
            loses: false,
        }
    }

    /// So many times in a short run, or in a long one.
    pub(super) fn times(&self, short: u64, long: u64) -> u64 {
        if self.suite == Suite::Long { long } else { short }
    }

    pub(super) fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    pub(super) fn order(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// Devices alone: the row copies the data directory, and hooks have their URL in it.
    pub(super) fn devices_only(mut self) -> Self {
        (self.size.hooks, self.size.slack) = (0, false);
        self
    }

    /// Notifications per second of one organization. A Slack channel takes one a second.
    pub(super) fn rate_of(&self, org: usize) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "there are at most some hundred")]
        let others = self.size.organizations.max(1) as f64;
        let even = self.rate / others;
        if self.size.slack && org % 4 == 3 { even.min(0.8) } else { even }
    }
}
