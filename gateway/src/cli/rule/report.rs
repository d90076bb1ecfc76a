//! Results for machines and tables of changes for people.

use crate::cli::rule::ask::spaced;
use crate::cli::rule::test::Tried;
use crate::rules::record::Decided;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Ids shown of each kind of change.
const SAMPLES_MAX: usize = 3;

/// Test results as JUnit's XML.
pub(super) fn junit(name: &str, tried: &[Tried]) -> String {
    let failed = tried.iter().filter(|tried| !tried.misses.is_empty()).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let (name, tests) = (escaped(name), tried.len());
    writeln!(xml, "<testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failed}\">").ok();
    for Tried { case, asked, misses, hint, again } in tried {
        let (case_name, file) = (escaped(&case.name), escaped(&case.file.display().to_string()));
        let (line, micros) = (case.line, asked.micros);
        write!(
            xml,
            "  <testcase classname=\"{name}\" name=\"{case_name}\" file=\"{file}\" line=\"{line}\" \
             time=\"{}.{:06}\"",
            micros / 1_000_000,
            micros % 1_000_000
        )
        .ok();
        if misses.is_empty() {
            xml.push_str("/>\n");
            continue;
        }
        let message = escaped(&misses.join("; "));
        let more = escaped(&[hint.as_deref().unwrap_or_default(), again].join("\n"));
        writeln!(xml, ">\n    <failure message=\"{message}\">{more}</failure>\n  </testcase>").ok();
    }
    xml.push_str("</testsuite>\n");
    xml
}

fn escaped(text: &str) -> String {
    let mut xml = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            control if control.is_control() && control != '\n' => xml.push(' '),
            other => xml.push(other),
        }
    }
    xml
}

/// `0.1%` or `0.1`: so many of a hundred.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
    let percent = number.filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| String::from("a share is like 0.1%, from 0% to 100%"))
}

/// How two sets of decisions differ.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) items: u64,
    pub(super) changed: u64,
    pub(super) errors: u64,
    kinds: BTreeMap<(String, String), (u64, Vec<String>)>,
}

impl Changes {
    /// Counts one item, called `id`, and what was and is decided about it; true if that is not the same.
    pub(super) fn note(&mut self, id: &str, before: &Decided, after: &Decided) -> bool {
        self.items += 1;
        self.errors += u64::from(after.decision == "error");
        let without_detail = |decided: &Decided| Decided { detail: None, ..decided.clone() };
        if without_detail(before) == without_detail(after) {
            return false;
        }
        self.changed += 1;
        let (count, samples) = self.kinds.entry((before.words(), after.words())).or_default();
        *count += 1;
        if samples.len() < SAMPLES_MAX {
            samples.push(id.to_owned());
        }
        true
    }

    /// Changed items of a million.
    fn per_million(&self) -> u64 {
        self.changed * 1_000_000 / self.items.max(1)
    }

    /// True if more than `percent` of the items changed.
    pub(super) fn exceeds(&self, percent: f64) -> bool {
        let share = format!("{}.{:04}", self.per_million() / 10_000, self.per_million() % 10_000);
        share.parse::<f64>().is_ok_and(|share| share > percent)
    }

    pub(super) fn text(&self) -> String {
        let hundredths = self.per_million() / 100;
        let mut text = format!(
            "same {}   changed {} ({}.{:02} %)   errors {}\n",
            spaced(self.items - self.changed),
            spaced(self.changed),
            hundredths / 100,
            hundredths % 100,
            self.errors
        );
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for ((before, after), (count, samples)) in kinds {
            let samples = samples.join("  ");
            writeln!(text, "  {before} → {after}   {}   e.g. {samples}", spaced(*count)).ok();
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let kind = |((before, after), (count, samples)): (
            &(String, String),
            &(u64, Vec<String>),
        )| {
            json!({ "before": before, "after": after, "count": count, "samples": samples })
        };
        json!({
            "items": self.items,
            "changed": self.changed,
            "errors": self.errors,
            "kinds": self.kinds.iter().map(kind).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_written_with_or_without_its_sign() {
        assert_eq!(
            [percent("0.1%"), percent("0"), percent("100 %")],
            [Ok(0.1), Ok(0.0), Ok(100.0)]
        );
        assert!(["", "%", "-1%", "101%", "NaN", "half"].iter().all(|text| percent(text).is_err()));
    }
}
