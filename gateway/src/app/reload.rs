//! Taking over another configuration while the gateway runs: whole, or not at all.

use crate::api::SendLimit;
use crate::app::AppError;
use crate::app::build::{self, Apps};
use crate::config::{Config, ConfigErrors};
use crate::intake::{Admission, AdmissionLimits, BacklogQuota};
use crate::lifecycle::Readiness;
use crate::model::ProviderName;
use crate::telemetry::metrics;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::sync::Arc;

/// Keys that are taken over; besides them all of a push app that stays.
const HOT: [&str; 4] = [
    "limits.backlog_bytes_per_org",
    "limits.backlog_per_org",
    "limits.per_org",
    "observability.log_level",
];
/// What `/healthz` says it under.
const TOPIC: &str = "configuration";

/// Why the configuration in force stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("it cannot be used: {0}")]
    Config(ConfigErrors),
    #[error("restart to change {}", .0.join(", "))]
    Restart(Vec<String>),
    #[error(transparent)]
    App(#[from] AppError),
    #[error("the log level cannot be changed: {0}")]
    Logging(String),
}

/// The configuration in force, and the parts that may get another one.
#[derive(Debug)]
pub struct Reload {
    config: Mutex<Config>,
    apps: Apps,
    admission: Arc<Admission>,
    limit: Arc<ArcSwapOption<SendLimit>>,
    readiness: Readiness,
}

impl Reload {
    pub(super) fn new(
        config: &Config,
        apps: Apps,
        (admission, limit): (Arc<Admission>, Arc<ArcSwapOption<SendLimit>>),
        readiness: &Readiness,
    ) -> Self {
        let (config, readiness) = (Mutex::new(config.clone()), readiness.clone());
        Self { config, apps, admission, limit, readiness }
    }

    /// Takes over what was read again, or says in log, metrics and `/healthz` why not. `log_level`
    /// changes what is logged.
    pub fn take(
        &self,
        read: Result<Config, ConfigErrors>,
        log_level: impl FnOnce(&str) -> Result<(), String>,
    ) {
        match read.map_err(ReloadError::Config).and_then(|new| self.apply(new, log_level)) {
            Ok(changed) => {
                metrics::reloaded("applied");
                self.readiness.forget(TOPIC);
                tracing::info!(changed = changed.join(", "), "the configuration was read again");
            }
            Err(error) => {
                metrics::reloaded("refused");
                let why = crate::telemetry::chain(&error).replace('\n', "; ");
                tracing::error!(error = %why, "the new configuration is not taken over; the old one stays in force");
                self.readiness.note(TOPIC, format!("not taken over: {why}"));
            }
        }
    }

    /// Applies `new`, and answers the keys that changed.
    ///
    /// # Errors
    /// A key that only a start can change, or a part that cannot be built; nothing has changed then.
    pub fn apply(
        &self,
        new: Config,
        log_level: impl FnOnce(&str) -> Result<(), String>,
    ) -> Result<Vec<String>, ReloadError> {
        let mut config = self.config.lock();
        let changed = config.differences(&new);
        let known = build::app_keys(&config);
        let app_of = |key: &String| {
            known.iter().find(|(name, app)| {
                let section = format!("providers.{}.{app}", name.as_str());
                key.strip_prefix(&section)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        let stays = |(name, app): &(ProviderName, String)| match name {
            ProviderName::Apns => new.providers.apns.contains_key(app),
            ProviderName::Fcm => new.providers.fcm.contains_key(app),
            ProviderName::Slack | ProviderName::Webhook | ProviderName::Email => false,
        };
        let is_hot = |key: &&String| HOT.contains(&key.as_str()) || app_of(key).is_some_and(stays);
        let cold: Vec<_> = changed.iter().filter(|key| !is_hot(key)).cloned().collect();
        if !cold.is_empty() {
            return Err(ReloadError::Restart(cold));
        }
        let mut apps: Vec<_> = changed.iter().filter_map(app_of).cloned().collect();
        apps.dedup();
        let built = self.apps.build(&new, apps)?;
        if config.observability.log_level != new.observability.log_level {
            log_level(&new.observability.log_level).map_err(ReloadError::Logging)?;
        }
        for (key, app) in built {
            self.apps.replace(&key, app);
        }
        self.admission.limit(admission_limits(&new));
        if config.limits.per_org != new.limits.per_org {
            self.limit.store(send_limit(&new));
        }
        *config = new;
        Ok(changed)
    }
}

pub(super) fn admission_limits(config: &Config) -> AdmissionLimits {
    let backlog = BacklogQuota {
        entries: config.limits.backlog_per_org,
        bytes: config.limits.backlog_bytes_per_org.0,
    };
    AdmissionLimits { backlog }
}

pub(super) fn send_limit(config: &Config) -> Option<Arc<SendLimit>> {
    config.limits.per_org.map(|rate| Arc::new(SendLimit::new(rate.count, rate.per)))
}
