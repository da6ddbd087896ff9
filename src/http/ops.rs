//! The admin listener: is the process alive, may it get traffic, what does it count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use futures_util::FutureExt;
use futures_util::future::join;
use serde_json::{Value, json};

use super::console::Console;
use super::error::ApiError;
use crate::app::lookup::LookupError;
use crate::app::ports::{Cache, CustomerStore, IdempotencyStore};
use crate::metrics::Metrics;

/// How long a probe waits for a dependency.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the admin routes need.
#[derive(Clone)]
pub struct Ops {
    /// Whether this instance may get traffic.
    pub health: Arc<Health>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Brings gauges up to date before they are read.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// For a person who looks.
    pub console: Arc<Console>,
}

/// Whether this instance may get traffic.
pub struct Health {
    /// Needed for every answer.
    pub store: Arc<dyn CustomerStore>,
    /// Good to have.
    pub cache: Option<Arc<dyn Cache>>,
    /// Needed for webhooks that keep their keys there.
    pub keys: Option<Arc<dyn IdempotencyStore>>,
    /// Set once the service is going down.
    pub draining: AtomicBool,
}

/// Alive: the process answers. Asks nobody else.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

/// Ready for traffic: 503 without Postgres or on the way down; a missing Redis only degrades.
pub(super) async fn ready(request: HttpRequest, ops: Data<Ops>) -> Result<HttpResponse, ApiError> {
    let readiness = ops.health.check().await?;
    let verbose = request.query_string().split('&').any(|part| part.split('=').next() == Some("verbose"));
    Ok(HttpResponse::Ok().json(if verbose { readiness } else { json!({"status": readiness["status"]}) }))
}

impl Health {
    /// Whether this instance may get traffic, and how what it asks is.
    pub(super) async fn check(&self) -> Result<Value, ApiError> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(ApiError::ShuttingDown);
        }
        self.store.ready(Instant::now() + PATIENCE).await.map_err(LookupError::Store)?;
        let (redis, keys) = join(
            reachable(self.cache.as_ref().map(|cache| cache.ready().map(|result| result.is_ok()))),
            reachable(self.keys.as_ref().map(|keys| keys.ready().map(|result| result.is_ok()))),
        )
        .await;
        let status = if [redis, keys].contains(&"down") { "degraded" } else { "ready" };
        let checks = json!({"postgres": "up", "redis": redis, "idempotency_redis": keys});
        Ok(json!({"status": status, "checks": checks}))
    }
}

/// How a dependency is that an instance can do without.
async fn reachable(answers: Option<impl Future<Output = bool>>) -> &'static str {
    match answers {
        None => "off",
        Some(answers) => match tokio::time::timeout(PATIENCE, answers).await {
            Ok(true) => "up",
            Ok(false) | Err(_) => "down",
        },
    }
}

/// Everything counted, in Prometheus's text format.
pub(super) async fn metrics(ops: Data<Ops>) -> Result<HttpResponse, ApiError> {
    (ops.refresh)();
    let (content_type, text) = ops.metrics.render().map_err(|_| ApiError::Internal(None))?;
    Ok(HttpResponse::Ok().content_type(content_type).body(text))
}
