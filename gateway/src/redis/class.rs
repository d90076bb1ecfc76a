//! What a Redis server's own settings promise: the durability class, and what is refused.

use super::error::RedisError;
use redis::Value;
use std::fmt;
use std::time::Duration;

/// What survives what, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing survives a stop of the server.
    D0,
    /// `appendfsync everysec`: a power cut costs the last seconds.
    D1,
    /// `appendfsync always`, or `WAITAOF` after each write: on disk before the answer.
    D2,
    /// D2, and on as many replicas as [`super::RedisOptions::replicas`] asks for.
    D2R,
}

impl Class {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::D0 => "D0",
            Self::D1 => "D1",
            Self::D2 => "D2",
            Self::D2R => "D2+R",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::D0, Self::D1, Self::D2, Self::D2R].into_iter().find(|class| class.as_str() == text)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What each write is followed by before it is answered, the least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Proof {
    /// The reply itself is the proof.
    #[default]
    Reply,
    /// `WAIT` for so many replicas.
    Replicas(u32),
    /// `WAITAOF` for the node's own disk and so many replicas'.
    Disks(u32),
}

/// `appendfsync everysec` syncs once a second, and a busy disk a little later.
const DISKS_WITHIN: Duration = Duration::from_millis(1_500);

impl Proof {
    /// The command that asks for it.
    pub(super) fn command(self) -> Option<&'static str> {
        match self {
            Self::Reply => None,
            Self::Replicas(_) => Some("WAIT"),
            Self::Disks(_) => Some("WAITAOF"),
        }
    }

    /// Adds that command, and answers how long it may take where `replicas` may take so long.
    pub(super) fn ask(self, pipe: &mut redis::Pipeline, replicas: Duration) -> Duration {
        let Some(command) = self.command() else { return Duration::ZERO };
        let limit =
            if matches!(self, Self::Disks(_)) { replicas.max(DISKS_WITHIN) } else { replicas };
        let asked = pipe.cmd(command);
        match self {
            Self::Reply => asked,
            Self::Replicas(wanted) => asked.arg(wanted),
            Self::Disks(wanted) => asked.arg(1).arg(wanted),
        };
        pipe.arg(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        limit
    }

    /// Judges the reply to the command that asks for the proof.
    pub(super) fn check(self, reply: Option<&Value>) -> Result<(), RedisError> {
        let number = |value: &Value| match value {
            Value::Int(number) => u32::try_from(*number).unwrap_or(0),
            _ => 0,
        };
        let (wanted, got, is_here) = match (self, reply) {
            (Self::Reply, _) => return Ok(()),
            (Self::Replicas(wanted), reply) => (wanted, reply.map_or(0, number), true),
            (Self::Disks(wanted), Some(Value::Array(disks))) => {
                let mut disks = disks.iter().map(number);
                let is_here = disks.next() > Some(0);
                (wanted, disks.next().unwrap_or(0), is_here)
            }
            (Self::Disks(wanted), _) => (wanted, 0, false),
        };
        if got >= wanted && is_here {
            return Ok(());
        }
        Err(RedisError::TooFewCopies { wanted, got })
    }
}

/// What one primary says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) node: String,
    pub(super) version: (u32, u32),
    pub(super) is_replica: bool,
    /// The server's history: both change when it may have lost some.
    pub(super) run_id: String,
    pub(super) replication_id: String,
    pub(super) is_append_only: bool,
    /// `None` where `CONFIG` may not be asked.
    pub(super) append_sync: Option<String>,
    pub(super) eviction: String,
    pub(super) min_replicas: Option<u32>,
}

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) replicas: u32,
    pub(super) at_least: Option<Class>,
}

const VERSION_MIN: (u32, u32) = (7, 0);
/// `WAITAOF` is there.
const VERSION_WAITAOF: (u32, u32) = (7, 2);

impl Facts {
    /// Reads `INFO` and the pairs of `CONFIG GET`, as far as they were answered.
    pub(super) fn read(node: &str, info: &str, config: Option<&[(String, String)]>) -> Self {
        let field = |name: &str| {
            let lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
            lines.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let set = |name: &str| {
            let pair = config?.iter().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.clone())
        };
        let text = |name| field(name).unwrap_or_default().to_owned();
        let mut version = field("redis_version").unwrap_or_default().split('.');
        let mut part = || version.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        Self {
            node: node.to_owned(),
            version: (part(), part()),
            is_replica: field("role") == Some("slave"),
            run_id: text("run_id"),
            replication_id: text("master_replid"),
            is_append_only: field("aof_enabled") == Some("1"),
            append_sync: set("appendfsync"),
            eviction: set("maxmemory-policy").unwrap_or_else(|| text("maxmemory_policy")),
            min_replicas: set("min-replicas-to-write").and_then(|count| count.parse().ok()),
        }
    }

    /// The class under `demand`, and how each write is proved.
    ///
    /// # Errors
    /// The server must not be used so; the error names the setting to change.
    pub(super) fn judge(&self, demand: Demand) -> Result<(Class, Proof), RedisError> {
        let node = &self.node;
        let refuse = |what: String| Err(RedisError::Settings { what });
        if self.is_replica {
            return refuse(format!(
                "redis at {node} is a replica: point `store.redis.urls` to its primary"
            ));
        }
        if self.version < VERSION_MIN {
            let (major, minor) = self.version;
            return refuse(format!(
                "redis at {node} is {major}.{minor}: install Redis 7.0 or newer"
            ));
        }
        if self.eviction != "noeviction" {
            return refuse(format!(
                "redis at {node} may evict what was accepted: set `maxmemory-policy noeviction` \
                 instead of `{}`",
                self.eviction
            ));
        }
        let (class, proof) = self.class(demand);
        match demand.at_least {
            Some(least) if class < least => refuse(format!(
                "redis at {node} gives durability {class}, and `store.require_durability` asks \
                 for {least}: {}",
                self.advice(least, demand)
            )),
            _ => Ok((class, proof)),
        }
    }

    fn class(&self, demand: Demand) -> (Class, Proof) {
        let wait = match demand.replicas {
            0 => Proof::Reply,
            replicas => Proof::Replicas(replicas),
        };
        // Where it cannot be asked, the default is the safe guess.
        let sync = self.append_sync.as_deref().unwrap_or("everysec");
        let asks_for_disk = demand.at_least >= Some(Class::D2);
        let (class, proof) = match (self.is_append_only, sync) {
            (false, _) | (true, "no") => (Class::D0, wait),
            (true, "always") => (Class::D2, wait),
            _ if asks_for_disk && self.version >= VERSION_WAITAOF => {
                (Class::D2, Proof::Disks(demand.replicas))
            }
            _ => (Class::D1, wait),
        };
        // Without the floor a primary cut off from its replicas goes on alone.
        let has_floor = self.min_replicas.is_some_and(|least| least > 0);
        if class == Class::D2 && demand.replicas > 0 && has_floor {
            return (Class::D2R, proof);
        }
        (class, proof)
    }

    fn advice(&self, least: Class, demand: Demand) -> &'static str {
        if !self.is_append_only {
            "set `appendonly yes`"
        } else if self.append_sync.as_deref() == Some("no") && least == Class::D1 {
            "set `appendfsync everysec` or `always`"
        } else if self.append_sync.as_deref() != Some("always") && self.class(demand).0 < Class::D2
        {
            "set `appendfsync always`"
        } else if demand.replicas == 0 {
            "set `store.redis.replicas = 1`"
        } else {
            "set `min-replicas-to-write 1`"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(version: &str, sync: &str, floor: &str) -> Facts {
        let info = format!(
            "# Server\r\nredis_version:{version}\r\nrun_id:abc\r\nrole:master\r\naof_enabled:1\r\n"
        );
        let pairs = [
            ("appendfsync", sync),
            ("maxmemory-policy", "noeviction"),
            ("min-replicas-to-write", floor),
        ];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Facts::read("here", &info, Some(&pairs))
    }

    fn judged(facts: &Facts, replicas: u32, least: Option<Class>) -> (Class, Proof) {
        facts.judge(Demand { replicas, at_least: least }).expect("the settings will do")
    }

    fn refused(facts: &Facts, replicas: u32, least: Class) -> String {
        let demand = Demand { replicas, at_least: Some(least) };
        facts.judge(demand).expect_err("the settings will not do").to_string()
    }

    #[test]
    fn the_class_is_what_the_settings_give() {
        assert_eq!(judged(&facts("7.0.15", "no", "0"), 0, None).0, Class::D0);
        assert_eq!(judged(&facts("7.0.15", "everysec", "0"), 0, None).0, Class::D1);
        assert_eq!(judged(&facts("7.0.15", "always", "0"), 0, None).0, Class::D2);
        assert_eq!(judged(&facts("7.0.15", "always", "0"), 1, None).0, Class::D2);
        let strong = judged(&facts("7.0.15", "always", "1"), 1, None);
        assert_eq!(strong, (Class::D2R, Proof::Replicas(1)));
    }

    #[test]
    fn the_disk_is_waited_for_only_where_that_is_asked_and_the_server_can() {
        let at_least = Some(Class::D2);
        let new = facts("7.2.4", "everysec", "1");
        assert_eq!(judged(&new, 0, at_least), (Class::D2, Proof::Disks(0)));
        assert_eq!(judged(&new, 1, Some(Class::D2R)), (Class::D2R, Proof::Disks(1)));
        assert_eq!(judged(&new, 0, None), (Class::D1, Proof::Reply));
        let old = facts("7.0.15", "everysec", "1");
        assert!(refused(&old, 0, Class::D2).contains("`appendfsync always`"));
    }

    #[test]
    fn each_refusal_names_the_setting() {
        let always = facts("8.0.1", "always", "0");
        assert!(refused(&always, 0, Class::D2R).contains("`store.redis.replicas = 1`"));
        assert!(refused(&always, 1, Class::D2R).contains("`min-replicas-to-write 1`"));
        assert!(refused(&facts("7.0.0", "no", "0"), 0, Class::D1).contains("`appendfsync every"));
        let evicting = Facts { eviction: String::from("allkeys-lru"), ..always.clone() };
        assert!(refused(&evicting, 0, Class::D0).contains("`maxmemory-policy noeviction`"));
        let replica = Facts { is_replica: true, ..always.clone() };
        assert!(refused(&replica, 0, Class::D0).contains("primary"));
        assert!(refused(&facts("6.2.1", "always", "0"), 0, Class::D0).contains("7.0"));
        let volatile = Facts { is_append_only: false, ..always };
        assert!(refused(&volatile, 0, Class::D1).contains("`appendonly yes`"));
    }

    #[test]
    fn without_config_the_usual_sync_is_assumed() {
        let info = "redis_version:7.0.15\nrole:master\naof_enabled:1\nmaxmemory_policy:noeviction";
        assert_eq!(judged(&Facts::read("here", info, None), 0, None).0, Class::D1);
    }
}
