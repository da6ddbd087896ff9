//! What Prometheus sees: one registry, a method an event. Labels are closed sets, matched routes, or tenants up to a cap.

mod callers;
mod labels;
mod snapshot;

use std::collections::HashSet;
use std::sync::RwLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use callers::Callers;
pub use labels::{Circuit, ClosedFor, Fate, Outcome, Rollback};
pub use snapshot::Snapshot;

/// From a fast read in memory to a caller's patience, in seconds.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How many go together, by powers of two.
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// All metrics of one service.
pub struct Metrics {
    registry: Registry,
    query_duration: HistogramVec,
    rollbacks: IntCounterVec,
    cache_lookups: IntCounterVec,
    cache_rejected: IntCounterVec,
    redis_refusals: IntCounterVec,
    circuit_state: IntGaugeVec,
    circuit_transitions: IntCounterVec,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    pool_connections: IntGaugeVec,
    audit_default_partition: IntGauge,
    trigger_faults: IntGauge,
    clock_offset: Gauge,
    once: IntCounterVec,
    leases_lost: IntCounterVec,
    unstored: IntCounterVec,
    records: IntGaugeVec,
    swept: IntCounterVec,
    calls: IntCounterVec,
    call_duration: HistogramVec,
    calls_again: IntCounterVec,
    cognigy: IntCounterVec,
    cognigy_queued: IntGauge,
    lookups_waiting: IntGauge,
    shared_size: Histogram,
    shared_wait: Histogram,
    taken_apart: IntCounter,
    listener_up: IntGauge,
    notification_lag: Histogram,
    invalidations: IntCounterVec,
    log_lines_dropped: IntCounter,
    callers: Callers,
    tenants: Tenants,
}

impl Metrics {
    /// Registers everything. `max_tenants` tenants keep their name as a label; the rest share `other`.
    pub fn new(max_tenants: usize) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let add = Registrar(&registry);
        let counter = |name: &str, help: &str, labels: &[&str]| add.metric(IntCounterVec::new(Opts::new(name, help), labels));
        let gauge = |name: &str, help: &str, labels: &[&str]| add.metric(IntGaugeVec::new(Opts::new(name, help), labels));
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            add.metric(HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels))
        };
        let single_gauge = |name: &str, help: &str| add.metric(IntGauge::new(name, help));
        let single_histogram = |name: &str, help: &str, buckets: &[f64]| {
            add.metric(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
        };
        let single_counter = |name: &str, help: &str| add.metric(IntCounter::new(name, help));
        let build = gauge("cxone_dataaction_build_info", "The running version", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            query_duration: histogram(
                "cxone_dataaction_query_duration_seconds",
                "Time in Postgres for one lookup, pool wait included",
                &["tenant_id", "status"],
            )?,
            rollbacks: counter(
                "cxone_dataaction_rollback_total",
                "Transactions that had begun and were not committed",
                &["tenant_id", "reason"],
            )?,
            cache_lookups: counter("cxone_dataaction_cache_lookups_total", "Customers looked for in a cache tier", &["tier", "result"])?,
            cache_rejected: counter("cxone_dataaction_cache_rejected_total", "Cached values that were not used", &["reason"])?,
            redis_refusals: counter(
                "cxone_dataaction_redis_refusals_total",
                "Commands and connections that Redis refused, by the code of its error",
                &["dependency", "code"],
            )?,
            circuit_state: gauge("cxone_dataaction_circuit_state", "1 for the state that a breaker is in", &["dependency", "state"])?,
            circuit_transitions: counter(
                "cxone_dataaction_circuit_transitions_total",
                "Changes of a breaker's state, by the new state",
                &["dependency", "state"],
            )?,
            once: counter("idempotency_requests_total", "Requests that may be done once, by what became of them", &["route", "outcome"])?,
            leases_lost: counter("idempotency_leases_lost_total", "Leases lost to another request while their work ran", &["route"])?,
            unstored: counter("idempotency_unstored_total", "Answers that left before they were kept", &["route"])?,
            records: gauge("idempotency_records", "Leases and kept answers in a store", &["route", "state"])?,
            swept: counter("idempotency_expired_rows_deleted_total", "Rows that were over, deleted by this instance", &["store"])?,
            calls: counter("outbound_requests_total", "Calls to other services, by what came of them", &["dependency", "outcome"])?,
            call_duration: histogram(
                "outbound_request_duration_seconds",
                "Time from a call to the head of its answer, or to its failure",
                &["dependency"],
            )?,
            calls_again: counter("outbound_retries_total", "Calls to other services that were made again", &["dependency"])?,
            cognigy: counter("cognigy_metrics_total", "Data for Cognigy, by what became of them", &["result"])?,
            cognigy_queued: single_gauge("cognigy_metrics_queued", "Data for Cognigy that wait to be sent")?,
            lookups_waiting: single_gauge("cxone_dataaction_lookups_waiting", "Lookups and audit entries that wait for a transaction")?,
            shared_size: single_histogram(
                "cxone_dataaction_shared_transaction_size",
                "Lookups and audit entries of cached answers in one transaction",
                &SIZES,
            )?,
            shared_wait: single_histogram(
                "cxone_dataaction_shared_transaction_wait_seconds",
                "Time from a lookup's or an entry's arrival until its transaction begins",
                &BUCKETS,
            )?,
            taken_apart: single_counter(
                "cxone_dataaction_shared_transactions_taken_apart_total",
                "Shared transactions that failed, so that their members were tried one by one",
            )?,
            listener_up: single_gauge("cxone_dataaction_cache_listener_up", "1 while changes of customers are heard of")?,
            notification_lag: single_histogram(
                "cxone_dataaction_cache_notification_lag_seconds",
                "Time that a notification takes through the database, by one that is sent for that",
                &BUCKETS,
            )?,
            invalidations: counter("cxone_dataaction_cache_invalidations_total", "Changes that were heard of", &["scope"])?,
            requests: counter("http_requests_total", "Requests answered", &["route", "method", "status"])?,
            request_duration: histogram(
                "http_request_duration_seconds",
                "Time from a request's head to its answer",
                &["route", "method", "status"],
            )?,
            pool_connections: gauge("cxone_dataaction_pool_connections", "Postgres connections of this process", &["state"])?,
            audit_default_partition: single_gauge(
                "cxone_dataaction_audit_default_partition_used",
                "1 where audit rows have fallen into the default partition",
            )?,
            trigger_faults: single_gauge(
                "cxone_dataaction_customer_trigger_faults",
                "Triggers of customers that are missing, disabled or in another firing mode than the migrations set",
            )?,
            clock_offset: add.metric(Gauge::new(
                "cxone_dataaction_clock_offset_seconds",
                "This instance's clock less the database's, when last compared",
            ))?,
            log_lines_dropped: single_counter("log_lines_dropped_total", "Log lines that nobody took in time")?,
            callers: Callers::new(&add)?,
            tenants: Tenants { max: max_tenants, named: RwLock::default() },
            registry,
        })
    }

    /// The Prometheus text format, and its content type.
    pub fn render(&self) -> Result<(String, Vec<u8>), prometheus::Error> {
        let encoder = TextEncoder::new();
        let mut text = Vec::new();
        encoder.encode(&self.registry.gather(), &mut text)?;
        Ok((encoder.format_type().to_owned(), text))
    }

    /// One lookup's time in Postgres; `status` names its outcome.
    pub fn queried(&self, tenant: &str, status: &'static str, took: Duration) {
        self.tenants.labelled(tenant, |label| self.query_duration.with_label_values(&[label, status]).observe(took.as_secs_f64()));
    }

    /// A transaction that had begun was not committed.
    pub fn rolled_back(&self, tenant: &str, reason: Rollback) {
        self.tenants.labelled(tenant, |label| self.rollbacks.with_label_values(&[label, reason.as_str()]).inc());
    }

    /// So many wait for a transaction.
    pub fn lookups_waiting(&self, lookups: usize) {
        self.lookups_waiting.set(i64::try_from(lookups).unwrap_or(i64::MAX));
    }

    /// A transaction of these begins; each has waited for so long.
    pub fn shared(&self, waits: impl ExactSizeIterator<Item = Duration>) {
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        self.shared_size.observe(waits.len() as f64);
        waits.for_each(|wait| self.shared_wait.observe(wait.as_secs_f64()));
    }

    /// A shared transaction failed.
    pub fn taken_apart(&self) {
        self.taken_apart.inc();
    }

    /// Whether changes are heard of.
    pub fn listening(&self, up: bool) {
        self.listener_up.set(i64::from(up));
    }

    /// A notification took so long.
    pub fn notified(&self, lag: Duration) {
        self.notification_lag.observe(lag.as_secs_f64());
    }

    /// So many customers, tenants, or all, have changed.
    pub fn invalidated(&self, scope: &'static str, changes: usize) {
        self.invalidations.with_label_values(&[scope]).inc_by(changes as u64);
    }

    /// What a tier knew of `customers` customers.
    pub fn cache_answered(&self, tier: &'static str, result: &'static str, customers: usize) {
        if customers > 0 {
            self.cache_lookups.with_label_values(&[tier, result]).inc_by(customers as u64);
        }
    }

    /// A cached value was corrupt, foreign or expired.
    pub fn cache_rejected(&self, reason: &'static str) {
        self.cache_rejected.with_label_values(&[reason]).inc();
    }

    /// Redis refused a command or a connection; `code` is of a closed set.
    pub fn redis_refused(&self, dependency: &'static str, code: &'static str) {
        self.redis_refusals.with_label_values(&[dependency, code]).inc();
    }

    /// A breaker is now in that state.
    pub fn circuit(&self, dependency: &'static str, state: Circuit) {
        for each in Circuit::ALL {
            self.circuit_state.with_label_values(&[dependency, each.as_str()]).set(i64::from(each == state));
        }
    }

    /// A breaker went over to that state.
    pub fn circuit_changed(&self, dependency: &'static str, state: Circuit) {
        self.circuit(dependency, state);
        self.circuit_transitions.with_label_values(&[dependency, state.as_str()]).inc();
    }

    /// A request that may be done once.
    pub fn once(&self, route: &str, outcome: Outcome) {
        self.once.with_label_values(&[route, outcome.as_str()]).inc();
    }

    /// Somebody else has the key of work that still ran.
    pub fn lease_lost(&self, route: &str) {
        self.leases_lost.with_label_values(&[route]).inc();
    }

    /// An answer left before it was kept.
    pub fn unstored(&self, route: &str) {
        self.unstored.with_label_values(&[route]).inc();
    }

    /// How many leases or answers a store holds.
    pub fn records(&self, route: &str, state: &'static str, count: u64) {
        self.records.with_label_values(&[route, state]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Rows that were over are gone.
    pub fn swept(&self, store: &'static str, rows: u64) {
        self.swept.with_label_values(&[store]).inc_by(rows);
    }

    /// A call to another service, and the time to the head of its answer.
    pub fn called(&self, dependency: &'static str, outcome: &'static str, took: Duration) {
        self.calls.with_label_values(&[dependency, outcome]).inc();
        self.call_duration.with_label_values(&[dependency]).observe(took.as_secs_f64());
    }

    /// A call is made again.
    pub fn called_again(&self, dependency: &'static str) {
        self.calls_again.with_label_values(&[dependency]).inc();
    }

    /// Data for Cognigy are settled.
    pub fn told(&self, fate: Fate, data: usize) {
        self.cognigy.with_label_values(&[fate.as_str()]).inc_by(data as u64);
    }

    /// So many data for Cognigy wait.
    pub fn waiting(&self, data: usize) {
        self.cognigy_queued.set(i64::try_from(data).unwrap_or(i64::MAX));
    }

    /// One request answered.
    pub fn answered(&self, route: &str, method: &str, status: &str, took: Duration) {
        let labels = [route, method, status];
        self.requests.with_label_values(&labels).inc();
        self.request_duration.with_label_values(&labels).observe(took.as_secs_f64());
    }

    /// How many connections there are, and how many of them wait for work.
    pub fn pool(&self, open: usize, idle: usize) {
        let set = |state, n: usize| self.pool_connections.with_label_values(&[state]).set(i64::try_from(n).unwrap_or(i64::MAX));
        set("in_use", open.saturating_sub(idle));
        set("idle", idle);
    }

    /// So many log lines were dropped since the start.
    pub fn log_lines_dropped(&self, total: usize) {
        self.log_lines_dropped.inc_by((total as u64).saturating_sub(self.log_lines_dropped.get()));
    }

    /// Whether audit rows have fallen into the default partition.
    pub fn audit_default_partition(&self, used: bool) {
        self.audit_default_partition.set(i64::from(used));
    }

    /// So many triggers of customers are not as the migrations make them.
    pub fn trigger_faults(&self, count: usize) {
        self.trigger_faults.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// This instance's clock is so many seconds ahead of the database's.
    pub fn clock_offset(&self, seconds: f64) {
        self.clock_offset.set(seconds);
    }
}

/// Registers what is made.
struct Registrar<'r>(&'r Registry);

impl Registrar<'_> {
    fn metric<M: Collector + Clone + 'static>(&self, made: Result<M, prometheus::Error>) -> Result<M, prometheus::Error> {
        let metric = made?;
        self.0.register(Box::new(metric.clone())).map(|()| metric)
    }
}

/// A tenant is text that callers choose: only so many become a label.
struct Tenants {
    max: usize,
    named: RwLock<HashSet<String>>,
}

impl Tenants {
    fn labelled<T>(&self, tenant: &str, then: impl FnOnce(&str) -> T) -> T {
        let known = |named: &HashSet<String>| named.contains(tenant);
        let read = self.named.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known(&read) {
            return then(tenant);
        }
        if read.len() >= self.max {
            return then("other");
        }
        drop(read);
        let mut write = self.named.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let named = write.len() < self.max || known(&write);
        if named {
            write.insert(tenant.to_owned());
        }
        drop(write);
        then(if named { tenant } else { "other" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_past_the_cap_share_one_label() -> Result<(), prometheus::Error> {
        let metrics = Metrics::new(2)?;
        for tenant in 0..1000 {
            metrics.rolled_back(&format!("t{tenant}"), Rollback::Audit);
            metrics.rolled_back("t1", Rollback::Audit);
        }
        let text = String::from_utf8_lossy(&metrics.render()?.1).into_owned();
        let series: Vec<_> = text.lines().filter(|line| line.starts_with("cxone_dataaction_rollback_total{")).collect();
        assert_eq!(
            series,
            [
                r#"cxone_dataaction_rollback_total{reason="audit",tenant_id="other"} 998"#,
                r#"cxone_dataaction_rollback_total{reason="audit",tenant_id="t0"} 1"#,
                r#"cxone_dataaction_rollback_total{reason="audit",tenant_id="t1"} 1001"#,
            ]
        );
        Ok(())
    }
}
