//! Metrics of callers' connections, signatures and limits.

use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use super::{ClosedFor, Metrics, Registrar};

pub(super) struct Callers {
    connections: IntGaugeVec,
    connections_closed: IntCounterVec,
    signed_without_target: IntCounterVec,
    key_refused: IntCounterVec,
}

impl Callers {
    pub(super) fn new(add: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| add.metric(IntCounterVec::new(Opts::new(name, help), labels));
        let open = Opts::new("http_connections", "Open connections of clients");
        Ok(Self {
            connections: add.metric(IntGaugeVec::new(open, &["listener", "state"]))?,
            connections_closed: counter(
                "http_connections_closed_total",
                "Connections of clients that the service closed by itself",
                &["listener", "reason"],
            )?,
            signed_without_target: counter(
                "cxone_dataaction_signatures_without_target_total",
                "Signatures that did not cover method and path, on routes that accept this for a while",
                &["route"],
            )?,
            key_refused: counter("cxone_dataaction_key_refused_total", "Requests past a limit of their key", &["key_id", "limit"])?,
        })
    }
}

impl Metrics {
    /// How many connections clients have to a listener.
    pub fn connections(&self, listener: &str, unproven: usize, proven: usize) {
        let set =
            |state, n: usize| self.callers.connections.with_label_values(&[listener, state]).set(i64::try_from(n).unwrap_or(i64::MAX));
        set("unproven", unproven);
        set("proven", proven);
    }

    /// The service closed a client's connection.
    pub fn connection_closed(&self, listener: &str, reason: ClosedFor) {
        self.callers.connections_closed.with_label_values(&[listener, reason.as_str()]).inc();
    }

    /// A signature without the method and path was accepted.
    pub fn signed_without_target(&self, route: &str) {
        self.callers.signed_without_target.with_label_values(&[route]).inc();
    }

    /// A request was past a limit of its key.
    pub fn key_refused(&self, key_id: &str, limit: &'static str) {
        self.callers.key_refused.with_label_values(&[key_id, limit]).inc();
    }
}
