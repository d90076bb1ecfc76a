//! What a single value may be: numbers, sizes, durations, rates, words, and how each is written.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;
use url::Url;

use crate::model::ProviderName;

/// A value of a setting.
pub(super) trait Setting: Sized {
    /// Completes "must be …".
    const FORM: &'static str;

    fn from_toml(value: &Value) -> Option<Self>;

    /// `None` if unset.
    fn to_toml(&self) -> Option<Value>;

    /// From the environment or `--set`, where every value is text: itself, else as TOML.
    fn from_text(text: &str) -> Option<Self> {
        Self::from_toml(&Value::String(String::from(text))).or_else(|| {
            let table: toml::Table = format!("value = {text}").parse().ok()?;
            Self::from_toml(table.get("value")?)
        })
    }
}

/// A number of bytes, written `"256KiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// For in-memory limits; sizes beyond the address space become its end.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_units(self.0, &SIZES))
    }
}

/// A page that people open, if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebPage(pub Option<Url>);

/// What keeps journal and records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Files of this process.
    #[default]
    Embedded,
    /// One Redis server, with replicas or without.
    Redis,
    RedisCluster,
}

impl Backend {
    /// True if other processes share journal and records.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self != Self::Embedded
    }
}

/// What a process does for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    All,
    /// Takes requests, sends nothing.
    Ingest,
    /// Sends, takes no requests.
    Dispatch,
}

/// The least that an answered notification must survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    #[default]
    D0,
    /// A killed process.
    D1,
    /// A power cut.
    D2,
    /// The loss of a machine.
    D2R,
    /// The loss of Redis, or of this process's machine.
    D3,
}

/// When the journal calls a commit durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// After it reached the disk.
    #[default]
    Commit,
    /// At once; the disk follows within this time.
    Interval(Duration),
    /// At once; the disk follows when the operating system likes.
    Never,
}

/// So many in so long, written `"10000/m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u64,
    pub per: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Readable on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Json,
    Pretty,
}

/// What happens to a recipient whose rule broke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Nothing goes out.
    Closed,
    /// As if the rule were not there.
    Open,
    /// Every target at once, later rules not asked.
    #[default]
    DefaultPlan,
}

/// How the connection to the mail relay is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelaySecurity {
    /// TLS after STARTTLS, never without.
    #[default]
    Starttls,
    /// TLS from the first byte on.
    Implicit,
    /// Clear text, to this machine only.
    None,
}

const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SPANS_MS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const RATE_SPANS_MS: [(&str, u64); 3] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// `"16MiB"` with `units` to a plain number; units are longest first where one ends another.
fn from_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that leaves no remainder.
fn in_units(number: u64, units: &[(&str, u64)]) -> String {
    let exact = units.iter().find(|(_, factor)| number != 0 && number.is_multiple_of(*factor));
    let (unit, factor) = exact.or(units.last()).copied().unwrap_or(("", 1));
    format!("{}{unit}", number / factor)
}

fn span(text: &str) -> Option<Duration> {
    from_units(text, &SPANS_MS).map(Duration::from_millis)
}

fn span_text(span: Duration) -> String {
    in_units(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), &SPANS_MS)
}

fn text(value: impl Into<String>) -> Option<Value> {
    Some(Value::String(value.into()))
}

macro_rules! whole_number {
    ($($int:ty),+) => {$(
        impl Setting for $int {
            const FORM: &'static str = "a whole number";

            fn from_toml(value: &Value) -> Option<Self> {
                value.as_integer().and_then(|number| Self::try_from(number).ok())
            }

            fn to_toml(&self) -> Option<Value> {
                i64::try_from(*self).ok().map(Value::Integer)
            }
        }
    )+};
}

whole_number!(u16, u32, u64, usize);

impl Setting for bool {
    const FORM: &'static str = "true or false";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_bool()
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Setting for f64 {
    const FORM: &'static str = "a number";

    fn from_toml(value: &Value) -> Option<Self> {
        let whole = || value.as_integer().and_then(|n| i32::try_from(n).ok()).map(Self::from);
        value.as_float().or_else(whole).filter(|number| number.is_finite())
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Float(*self))
    }
}

impl Setting for String {
    const FORM: &'static str = "a string that is not empty";

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().filter(|text| !text.is_empty()).map(Self::from)
    }

    fn to_toml(&self) -> Option<Value> {
        text(self.as_str())
    }
}

impl Setting for Vec<String> {
    const FORM: &'static str = r#"a list of strings such as ["a", "b"]"#;

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(String::from_toml).collect()
    }

    fn to_toml(&self) -> Option<Value> {
        self.iter().map(Setting::to_toml).collect::<Option<_>>().map(Value::Array)
    }
}

impl Setting for PathBuf {
    const FORM: &'static str = "a path";

    fn from_toml(value: &Value) -> Option<Self> {
        String::from_toml(value).map(Self::from)
    }

    fn to_toml(&self) -> Option<Value> {
        text(self.to_string_lossy())
    }
}

impl Setting for Option<String> {
    const FORM: &'static str = r#"a string, or "" for none"#;

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().map(|given| (!given.is_empty()).then(|| String::from(given)))
    }

    fn to_toml(&self) -> Option<Value> {
        text(self.as_deref().unwrap_or_default())
    }
}

/// Unset: as the rule's manifest says.
impl Setting for Option<OnError> {
    const FORM: &'static str = OnError::FORM;

    fn from_toml(value: &Value) -> Option<Self> {
        OnError::from_toml(value).map(Some)
    }

    fn to_toml(&self) -> Option<Value> {
        self.as_ref().and_then(Setting::to_toml)
    }
}

impl Setting for Option<PathBuf> {
    const FORM: &'static str = r#"a path, or "" for none"#;

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().map(|path| (!path.is_empty()).then(|| PathBuf::from(path)))
    }

    fn to_toml(&self) -> Option<Value> {
        self.as_ref().map_or_else(|| text(""), Setting::to_toml)
    }
}

impl Setting for SocketAddr {
    const FORM: &'static str = r#"an address and port such as "127.0.0.1:2845""#;

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }

    fn to_toml(&self) -> Option<Value> {
        text(self.to_string())
    }
}

impl Setting for Option<Url> {
    const FORM: &'static str = r#"a URL such as "https://push.example.com", or "production""#;

    fn from_toml(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "production" => Some(None),
            text => Url::parse(text).ok().filter(Url::has_host).map(Some),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        text(self.as_ref().map_or("production", Url::as_str))
    }
}

impl Setting for WebPage {
    const FORM: &'static str =
        r#"an http or https URL such as "https://example.com/welcome", or """#;

    fn from_toml(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "" => Some(Self(None)),
            text => {
                let url = Url::parse(text).ok().filter(Url::has_host)?;
                matches!(url.scheme(), "http" | "https").then_some(Self(Some(url)))
            }
        }
    }

    fn to_toml(&self) -> Option<Value> {
        text(self.0.as_ref().map_or("", Url::as_str))
    }
}

impl Setting for ByteSize {
    const FORM: &'static str = r#"a size such as "256KiB" or "16MiB""#;

    fn from_toml(value: &Value) -> Option<Self> {
        from_units(value.as_str()?, &SIZES).map(Self)
    }

    fn to_toml(&self) -> Option<Value> {
        text(self.to_string())
    }
}

impl Setting for Duration {
    const FORM: &'static str = r#"a duration such as "100ms", "5s", "15m", "24h" or "7d""#;

    fn from_toml(value: &Value) -> Option<Self> {
        span(value.as_str()?)
    }

    fn to_toml(&self) -> Option<Value> {
        text(span_text(*self))
    }
}

impl Setting for Vec<Duration> {
    const FORM: &'static str = r#"a list of durations such as ["5s", "5m"]"#;

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(Duration::from_toml).collect()
    }

    fn to_toml(&self) -> Option<Value> {
        self.iter().map(Setting::to_toml).collect::<Option<_>>().map(Value::Array)
    }
}

impl Setting for Option<Rate> {
    const FORM: &'static str = r#"a rate such as "10000/m" or "50/s", or "0" for none"#;

    fn from_toml(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        if text == "0" {
            return Some(None);
        }
        let (count, unit) = text.split_once('/')?;
        let count = count.parse().ok().filter(|count| *count > 0)?;
        let per = from_units(&format!("1{unit}"), &RATE_SPANS_MS).map(Duration::from_millis)?;
        Some(Some(Rate { count, per }))
    }

    fn to_toml(&self) -> Option<Value> {
        let Some(Rate { count, per }) = self else { return text("0") };
        let unit = span_text(*per);
        text(format!("{count}/{}", unit.trim_start_matches('1')))
    }
}

impl Setting for Fsync {
    const FORM: &'static str = r#""commit", "interval:100ms" or "never""#;

    fn from_toml(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "commit" => Some(Self::Commit),
            "never" => Some(Self::Never),
            other => {
                let every = span(other.strip_prefix("interval:")?)?;
                (!every.is_zero()).then_some(Self::Interval(every))
            }
        }
    }

    fn to_toml(&self) -> Option<Value> {
        match self {
            Self::Commit => text("commit"),
            Self::Interval(every) => text(format!("interval:{}", span_text(*every))),
            Self::Never => text("never"),
        }
    }
}

macro_rules! words {
    ($type:ty, $form:literal, $($word:literal => $value:expr),+) => {
        impl Setting for $type {
            const FORM: &'static str = $form;

            fn from_toml(value: &Value) -> Option<Self> {
                match value.as_str()? {
                    $($word => Some($value),)+
                    _ => None,
                }
            }

            fn to_toml(&self) -> Option<Value> {
                $(if *self == $value {
                    return text($word);
                })+
                None
            }
        }
    };
}

words!(LogFormat, r#""auto", "json" or "pretty""#,
    "auto" => Self::Auto, "json" => Self::Json, "pretty" => Self::Pretty);
words!(Backend, r#""embedded", "redis" or "redis-cluster""#,
    "embedded" => Self::Embedded, "redis" => Self::Redis, "redis-cluster" => Self::RedisCluster);
words!(Role, r#""all", "ingest" or "dispatch""#,
    "all" => Self::All, "ingest" => Self::Ingest, "dispatch" => Self::Dispatch);
words!(Durability, r#""D0", "D1", "D2", "D2+R" or "D3""#,
    "D0" => Self::D0, "D1" => Self::D1, "D2" => Self::D2, "D2+R" => Self::D2R, "D3" => Self::D3);
words!(RelaySecurity, r#""starttls", "implicit" or "none""#,
    "starttls" => Self::Starttls, "implicit" => Self::Implicit, "none" => Self::None);
words!(OnError, r#""closed", "open" or "default-plan""#,
    "closed" => Self::Closed, "open" => Self::Open, "default-plan" => Self::DefaultPlan);

impl Setting for Vec<ProviderName> {
    const FORM: &'static str = r#"a list of "apns", "fcm", "slack", "webhook", "email""#;

    fn from_toml(value: &Value) -> Option<Self> {
        let named = |value: &Value| {
            ProviderName::ALL.into_iter().find(|name| Some(name.as_str()) == value.as_str())
        };
        value.as_array()?.iter().map(named).collect()
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Array(self.iter().filter_map(|name| text(name.as_str())).collect()))
    }
}

impl Setting for BTreeMap<String, String> {
    const FORM: &'static str = r#"a table such as { start = "22:00", days = 5 }"#;

    fn from_toml(value: &Value) -> Option<Self> {
        let plain = |(key, value): (&String, &Value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => value.to_string(),
                Value::Datetime(_) | Value::Array(_) | Value::Table(_) => return None,
            };
            Some((key.clone(), value))
        };
        value.as_table()?.iter().map(plain).collect()
    }

    fn to_toml(&self) -> Option<Value> {
        let entries = self.iter().map(|(key, value)| (key.clone(), Value::String(value.clone())));
        Some(Value::Table(entries.collect()))
    }
}
