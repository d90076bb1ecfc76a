//! Reads the Prometheus text of `/metrics`.

use std::collections::BTreeSet;

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: String,
    value: String,
}

/// One scrape.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Vec<Sample>);

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Sample { name: name.to_owned(), labels: labels.to_owned(), value: value.to_owned() }
        };
        Self(lines.map(sample).collect())
    }

    /// The sum of every series of `name`, which holds whole numbers.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.count_where(name, "")
    }

    /// The sum of the series of `name` whose labels hold `part`, as `dialect="jigx"`.
    pub(crate) fn count_where(&self, name: &str, part: &str) -> u64 {
        let samples = self.0.iter().filter(|s| s.name == name && s.labels.contains(part));
        samples.map(|sample| sample.value.parse::<u64>().expect("a whole number")).sum()
    }

    /// Names of families that have at least one series.
    pub(crate) fn families(&self) -> BTreeSet<&str> {
        let parts = ["_bucket", "_sum", "_count"];
        let mut names = BTreeSet::new();
        for sample in &self.0 {
            names.insert(sample.name.as_str());
            names.extend(parts.iter().filter_map(|part| sample.name.strip_suffix(part)));
        }
        names
    }
}
