//! The console's numbers: read at most once a second, however many look, and never in a request's way.

use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use chrono::Utc;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::app::ports::AuditGlance;
use crate::config::SigningScheme;
use crate::domain::data_action::KEY_ID_HEADER;
use crate::http::ops::{Health, Ops};
use crate::http::{EXECUTE_ROUTE, Services};
use crate::metrics::Snapshot;

/// How old the numbers may be.
const KEEP: Duration = Duration::from_secs(1);

/// How many audit rows are shown, how long they may take, and how many times that long the database then has peace.
const ROWS: u16 = 20;
const AUDIT_PATIENCE: Duration = Duration::from_millis(500);
const AUDIT_SHARE: u32 = 20;

/// What the console shows, and what it has shown last.
pub struct Console {
    scheme: SigningScheme,
    /// Those whose repetitions are counted.
    routes: Vec<String>,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    state: Option<(Instant, Bytes)>,
    audit: Audit,
}

/// The newest audit rows, as they were read last.
#[derive(Default)]
struct Audit {
    /// None: they could not be read.
    rows: Option<Vec<AuditGlance>>,
    again: Option<Instant>,
}

#[derive(Serialize)]
struct State<'s> {
    version: &'static str,
    /// When these numbers were read, in milliseconds since 1970.
    at_ms: i64,
    readiness: Value,
    metrics: Snapshot,
    routes: &'s [String],
    audit: Option<&'s [AuditGlance]>,
    /// How to sign. Nothing of it is secret.
    signing: Value,
}

impl Console {
    /// For these routes.
    pub fn new(services: &Services) -> Self {
        let webhooks = services.webhooks.iter().map(|webhook| webhook.scope.to_string());
        let execute = services.data_actions.iter().map(|_| EXECUTE_ROUTE.to_owned());
        Self { scheme: services.scheme.clone(), routes: webhooks.chain(execute).collect(), last: Mutex::default() }
    }

    /// The numbers as JSON. Who comes while they are read waits, and gets the same.
    pub(super) async fn state(&self, ops: &Ops) -> Bytes {
        let mut last = self.last.lock().await;
        if let Some((_, bytes)) = last.state.as_ref().filter(|(at, _)| at.elapsed() < KEEP) {
            return bytes.clone();
        }
        let (readiness, ()) = futures_util::join!(ops.health.check(), last.audit.read(&ops.health));
        (ops.refresh)();
        let state = State {
            version: env!("CARGO_PKG_VERSION"),
            at_ms: Utc::now().timestamp_millis(),
            readiness: readiness.map_or_else(|error| json!({"status": error.code()}), |readiness| json!(readiness)),
            metrics: ops.metrics.snapshot(),
            routes: &self.routes,
            audit: last.audit.rows.as_deref(),
            signing: signing(&self.scheme),
        };
        let bytes = Bytes::from(serde_json::to_vec(&state).unwrap_or_default());
        last.state = Some((Instant::now(), bytes.clone()));
        bytes
    }
}

impl Audit {
    /// Reads them, unless that was done lately: what takes long is done seldom.
    async fn read(&mut self, health: &Health) {
        let began = Instant::now();
        if self.again.is_some_and(|again| began < again) {
            return;
        }
        self.rows = health.store.newest(ROWS, began + AUDIT_PATIENCE).await.ok();
        self.again = Some(Instant::now() + began.elapsed() * AUDIT_SHARE);
    }
}

fn signing(scheme: &SigningScheme) -> Value {
    json!({
        "header": scheme.header,
        "encoding": scheme.encoding.to_string(),
        "timestamp_header": scheme.timestamp_header,
        "target": scheme.signed_target.is_wanted(),
        "key_id_header": KEY_ID_HEADER,
    })
}
