//! Prometheus' text format, as far as tests look into it.

use std::collections::BTreeMap;

/// All series of one scrape.
#[derive(Debug)]
pub(crate) struct Metrics {
    series: Vec<(String, BTreeMap<String, String>, f64)>,
    types: BTreeMap<String, String>,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(words);
        Self {
            series: text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(sample).collect(),
            types: types.map(|words| (words[0].clone(), words[1].clone())).collect(),
        }
    }

    /// What kind of metric that is.
    pub(crate) fn kind(&self, name: &str) -> Option<&str> {
        self.types.get(name).map(String::as_str)
    }

    /// The sum of the series with at least these labels; 0 where there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|(_, _, value)| value).sum()
    }

    /// The same of a metric that counts.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count is whole, and no test counts that far")]
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels).round() as u64
    }

    /// All values that a label takes.
    pub(crate) fn values_of(&self, name: &str, label: &str) -> std::collections::BTreeSet<String> {
        self.matching(name, &[]).filter_map(|(_, labels, _)| labels.get(label).cloned()).collect()
    }

    /// The names of a metric's labels.
    pub(crate) fn labels_of(&self, name: &str) -> Vec<String> {
        self.matching(name, &[]).next().map(|(_, labels, _)| labels.keys().cloned().collect()).unwrap_or_default()
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a (String, BTreeMap<String, String>, f64)> {
        let fits =
            move |found: &BTreeMap<String, String>| labels.iter().all(|(label, value)| found.get(*label).is_some_and(|v| v == value));
        self.series.iter().filter(move |(found, labels, _)| found == name && fits(labels))
    }
}

/// `name{label="value",…} number`; no label of ours holds a quote or a comma.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let pairs = labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or_else(|| panic!("not a label: {pair} in {line}")));
    let labels = pairs.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned())).collect();
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
}
