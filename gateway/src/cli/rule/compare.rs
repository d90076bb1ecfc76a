//! What a rule is compared with: another component, another folder, or the version a gateway has in force.

use crate::cli::CliError;
use crate::cli::rule::operate::Perhaps;
use crate::cli::rule::project::Subject;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The word for the version that a gateway has in force.
const ACTIVE: &str = "active";

/// Opens `named`, a version of the rule called `rule`.
pub(super) fn open(named: &str, rule: &str, at: &Perhaps) -> Result<Subject, CliError> {
    if named != ACTIVE || Path::new(named).exists() {
        return Subject::open(Path::new(named));
    }
    let (component, version) = at.at()?.active(rule)?;
    Ok(Subject { component, path: PathBuf::from(format!("{rule}-{version}.wasm")), built: None })
}

/// What an item costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    Fuel,
    Time,
    Memory,
}

/// How much is too much.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Most {
    /// Fuel, nanoseconds or bytes.
    Absolute(f64),
    /// Percent more than the other version.
    More(f64),
}

/// `fuel>+20%`, `time>10us`, `memory>2MiB`: when a bench is outside its gate.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    text: String,
    cost: Cost,
    most: Most,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            String::from(
                "a condition is like fuel>+20% against another version, or fuel>40000, time>10us, memory>2MiB",
            )
        };
        let (name, most) = text.split_once('>').ok_or_else(refused)?;
        let cost = match name.trim() {
            "fuel" => Cost::Fuel,
            "time" => Cost::Time,
            "memory" => Cost::Memory,
            _ => return Err(refused()),
        };
        let most = most.trim();
        let number = |text: &str| {
            let number = text.trim().parse::<f64>().ok();
            number.filter(|number| number.is_finite() && *number >= 0.0).ok_or_else(refused)
        };
        let most = match most.strip_prefix('+') {
            Some(more) => Most::More(number(more.strip_suffix('%').ok_or_else(refused)?)?),
            None => {
                let (digits, unit) =
                    most.split_at(most.trim_end_matches(char::is_alphabetic).len());
                Most::Absolute(number(digits)? * factor(cost, unit).ok_or_else(refused)?)
            }
        };
        Ok(Self { text: text.to_owned(), cost, most })
    }
}

fn factor(cost: Cost, unit: &str) -> Option<f64> {
    match (cost, unit) {
        (Cost::Fuel, "") | (Cost::Time, "ns") | (Cost::Memory, "" | "B") => Some(1.0),
        (Cost::Time, "us" | "µs") => Some(1e3),
        (Cost::Time, "ms") => Some(1e6),
        (Cost::Memory, "KiB") => Some(1024.0),
        (Cost::Memory, "MiB") => Some(1024.0 * 1024.0),
        _ => None,
    }
}

impl Condition {
    /// True if it says something only beside another version.
    pub(super) fn is_relative(&self) -> bool {
        matches!(self.most, Most::More(_))
    }

    /// The sentence if it holds: the gate is missed. `cost` tells what this and the other version take.
    pub(super) fn missed(&self, cost: impl Fn(Cost) -> (f64, Option<f64>)) -> Option<String> {
        let (is, was) = cost(self.cost);
        let most = match self.most {
            Most::Absolute(most) => most,
            Most::More(percent) => was? * (1.0 + percent / 100.0),
        };
        let (is_shown, most_shown) = (self.cost.shown(is), self.cost.shown(most));
        (is > most).then(|| format!("{}: {is_shown}, at most {most_shown}", self.text))
    }
}

impl Cost {
    pub(super) const ALL: [Self; 3] = [Self::Fuel, Self::Time, Self::Memory];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fuel => "fuel",
            Self::Time => "time",
            Self::Memory => "memory",
        }
    }

    fn shown(self, value: f64) -> String {
        match self {
            Self::Fuel => format!("{value:.0}"),
            Self::Time => format!("{:.2} µs", value / 1e3),
            Self::Memory => format!("{:.0} KiB", value / 1024.0),
        }
    }
}

/// `+3.1 %`, from `was` to `is`.
pub(super) fn change(was: f64, is: f64) -> String {
    if was > 0.0 { format!("{:+.1} %", (is / was - 1.0) * 100.0) } else { String::from("new") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(text: &str, is: f64, was: Option<f64>) -> Option<String> {
        text.parse::<Condition>().unwrap().missed(|_| (is, was))
    }

    #[test]
    fn a_share_more_than_the_other_version_is_a_condition() {
        assert_eq!(missed("fuel>+20%", 1_200.0, Some(1_000.0)), None);
        let text = missed("fuel>+20%", 1_201.0, Some(1_000.0)).unwrap();
        assert_eq!(text, "fuel>+20%: 1201, at most 1200");
        assert_eq!(missed("fuel>+20%", 1e9, None), None, "there is no other version");
    }

    #[test]
    fn a_number_with_its_unit_is_a_condition() {
        assert_eq!(missed("time>10us", 10_000.0, None), None);
        assert_eq!(
            missed("time > 10us", 10_001.0, None).unwrap(),
            "time > 10us: 10.00 µs, at most 10.00 µs"
        );
        assert!(missed("memory>2MiB", 2_097_153.0, None).is_some());
        assert!(missed("fuel>0", 1.0, None).is_some());
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "fuel",
            "fuel<3",
            "fuel>+20",
            "fuel>20%",
            "fuel>-1",
            "time>10",
            "money>3",
            "fuel>+%",
            "memory>1GB",
            "fuel>NaN",
        ] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}
