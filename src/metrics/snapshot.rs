//! What a person looks at: some of the registry's numbers by name, where `render` has all of them as text.

use std::collections::BTreeMap;

use prometheus::core::Collector;
use prometheus::proto::{Histogram, Metric};
use serde::Serialize;

use super::Metrics;

/// Numbers of this process since its start, unless they say otherwise.
#[derive(Debug, Serialize)]
pub struct Snapshot {
    /// Requests answered, by status.
    requests: BTreeMap<String, u64>,
    /// How long those took.
    latency: Distribution,
    /// Customers looked for, by tier and result.
    cache: BTreeMap<String, BTreeMap<String, u64>>,
    /// The state of each breaker now.
    breakers: BTreeMap<String, String>,
    /// Postgres connections now, by state.
    pool: BTreeMap<String, u64>,
    /// Lookups that wait for a transaction now.
    lookups_waiting: u64,
    /// Transactions that had begun and were not committed.
    rollbacks: u64,
    /// Whether changes of customers are heard of now.
    listener_up: bool,
    /// How long notifications took.
    notification_lag: Distribution,
    /// Requests that may be done once, by route and outcome.
    once: BTreeMap<String, BTreeMap<String, u64>>,
    /// Log lines that nobody took.
    log_lines_dropped: u64,
}

/// How many took at most how long.
#[derive(Debug, Default, Serialize)]
struct Distribution {
    /// In seconds.
    bounds: Vec<f64>,
    /// How many stayed within each bound.
    within: Vec<u64>,
    /// All of them.
    count: u64,
}

impl Metrics {
    /// The numbers as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let open_breakers = metrics_of(&self.circuit_state).into_iter().filter(|metric| metric.get_gauge().get_value() > 0.0);
        Snapshot {
            requests: by(&self.requests, "status", count),
            latency: distribution(&self.request_duration),
            cache: by_two(&self.cache_lookups, "tier", "result"),
            breakers: open_breakers.map(|metric| (label(&metric, "dependency"), label(&metric, "state"))).collect(),
            pool: by(&self.pool_connections, "state", |metric| whole(metric.get_gauge().get_value())),
            lookups_waiting: u64::try_from(self.lookups_waiting.get()).unwrap_or_default(),
            rollbacks: metrics_of(&self.rollbacks).iter().map(count).sum(),
            listener_up: self.listener_up.get() > 0,
            notification_lag: distribution(&self.notification_lag),
            once: by_two(&self.once, "route", "outcome"),
            log_lines_dropped: self.log_lines_dropped.get(),
        }
    }
}

fn metrics_of(collector: &impl Collector) -> Vec<Metric> {
    collector.collect().into_iter().flat_map(|mut family| family.take_metric()).collect()
}

fn label(metric: &Metric, name: &str) -> String {
    let found = metric.get_label().iter().find(|label| label.name() == name);
    found.map(|label| label.value().to_owned()).unwrap_or_default()
}

fn count(metric: &Metric) -> u64 {
    whole(metric.get_counter().get_value())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and not negative")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// Sums by one label.
fn by(collector: &impl Collector, name: &str, value: impl Fn(&Metric) -> u64) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for metric in metrics_of(collector) {
        *sums.entry(label(&metric, name)).or_default() += value(&metric);
    }
    sums
}

/// Counts by two labels.
fn by_two(collector: &impl Collector, outer: &str, inner: &str) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut counts = BTreeMap::<_, BTreeMap<_, _>>::new();
    for metric in metrics_of(collector) {
        counts.entry(label(&metric, outer)).or_default().insert(label(&metric, inner), count(&metric));
    }
    counts
}

/// Of all series of a histogram together.
fn distribution(collector: &impl Collector) -> Distribution {
    metrics_of(collector).iter().map(Metric::get_histogram).fold(Distribution::default(), Distribution::and)
}

impl Distribution {
    fn and(mut self, other: &Histogram) -> Self {
        let buckets = other.get_bucket();
        self.bounds = buckets.iter().map(prometheus::proto::Bucket::upper_bound).collect();
        self.within.resize(buckets.len(), 0);
        for (within, bucket) in self.within.iter_mut().zip(buckets) {
            *within += bucket.cumulative_count();
        }
        self.count += other.get_sample_count();
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Circuit, Outcome};

    #[test]
    fn series_are_put_together() -> Result<(), prometheus::Error> {
        let metrics = Metrics::new(2)?;
        let ms = Duration::from_millis;
        metrics.answered("/a", "POST", "200", ms(3));
        metrics.answered("/b", "POST", "200", ms(30));
        metrics.answered("/b", "POST", "503", Duration::from_mins(1));
        metrics.circuit_changed("redis", Circuit::Open);
        metrics.once("/hook", Outcome::First);
        metrics.cache_answered("local", "hit", 7);
        let seen = metrics.snapshot();
        assert_eq!(seen.requests, BTreeMap::from([("200".to_owned(), 2), ("503".to_owned(), 1)]));
        let within = |bound: f64| seen.latency.bounds.iter().position(|each| (each - bound).abs() < 1e-9).map(|at| seen.latency.within[at]);
        assert_eq!([within(0.0025), within(0.005), within(0.05), within(10.0)], [Some(0), Some(1), Some(2), Some(2)]);
        assert_eq!(seen.latency.count, 3);
        assert_eq!(seen.breakers["redis"], "open");
        assert_eq!((seen.once["/hook"]["first"], seen.cache["local"]["hit"]), (1, 7));
        Ok(())
    }
}
