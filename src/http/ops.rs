//! The admin listener: is the process alive, may it get traffic, what does it count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::join;
use serde::Serialize;
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::console::Console;
use super::error::ApiError;
use crate::app::cache::CustomerCache;
use crate::app::lookup::LookupError;
use crate::app::ports::{Cache, CustomerStore, IdempotencyStore};
use crate::app::reach::Reach;
use crate::config::Hosts;
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
    /// The API's document, as JSON.
    pub document: Bytes,
    /// Names that a `Host` may have, beside those that no public name server resolves.
    pub hosts: Hosts,
}

/// Whether this instance may get traffic.
pub struct Health {
    /// Needed for every answer.
    pub store: Arc<dyn CustomerStore>,
    /// What is cached of it.
    pub customers: Arc<CustomerCache>,
    /// Good to have.
    pub cache: Option<Arc<dyn Cache>>,
    /// Needed for webhooks that keep their keys there.
    pub keys: Option<Arc<dyn IdempotencyStore>>,
    /// Set once the service is going down.
    pub draining: AtomicBool,
}

/// What `/livez` says.
#[derive(Serialize, ToSchema)]
pub(super) struct Liveness {
    #[schema(example = "alive")]
    status: &'static str,
}

/// What `/readyz` says.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    status: Ready,
    /// Only where the query says `verbose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    checks: Option<Checks>,
    /// What an operator has to mend, though the service does without. Only where the query says `verbose` and there is something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    problems: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Ready {
    Ready,
    /// Without something that it can do without.
    Degraded,
}

#[derive(Serialize, ToSchema)]
struct Checks {
    postgres: Reach,
    redis: Reach,
    /// The code of what the Redis of the cache refuses, where it refuses anything: the first word of its error, or `REPLICA`,
    /// `CLUSTER`, `SENTINEL`, `CERTIFICATE`, `TLS` or `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "READONLY")]
    redis_refusal: Option<&'static str>,
    idempotency_redis: Reach,
    /// The same of the Redis of idempotency keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "OOM")]
    idempotency_redis_refusal: Option<&'static str>,
}

impl PartialSchema for Reach {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some([Self::Up, Self::Down, Self::Off].map(|reach| json!(reach)))).into()
    }
}

impl ToSchema for Reach {}

/// Alive: the process answers. Asks nobody else.
#[utoipa::path(
    get, path = "/livez", operation_id = "live", tag = "Operations",
    summary = "Whether the process answers",
    responses((status = 200, body = Liveness, description = "It does. Nobody else was asked."))
)]
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Liveness { status: "alive" })
}

/// Ready for traffic: 503 without Postgres or on the way down; a missing Redis only degrades.
#[utoipa::path(
    get, path = "/readyz", operation_id = "ready", tag = "Operations",
    summary = "Whether this instance may get traffic",
    params(("verbose" = Option<String>, Query, description = "Name each dependency; the value does not matter.", nullable = false)),
    responses((status = 200, body = Readiness, description = "It may. Without Redis it is degraded."))
)]
pub(super) async fn ready(request: HttpRequest, ops: Data<Ops>) -> Result<HttpResponse, ApiError> {
    let mut readiness = ops.health.check().await?;
    let verbose = request.query_string().split('&').any(|part| part.split('=').next() == Some("verbose"));
    if verbose {
        readiness.problems = ops.health.problems().await;
    } else {
        readiness.checks = None;
    }
    Ok(HttpResponse::Ok().json(readiness))
}

impl Health {
    /// Whether this instance may get traffic, and how what it asks is.
    pub(super) async fn check(&self) -> Result<Readiness, ApiError> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(ApiError::ShuttingDown);
        }
        self.store.ready(Instant::now() + PATIENCE).await.map_err(LookupError::Store)?;
        let (redis, keys) = join(
            Reach::of(self.cache.as_ref().map(async |cache| cache.ready().await.is_ok()), PATIENCE),
            Reach::of(self.keys.as_ref().map(async |keys| keys.ready().await.is_ok()), PATIENCE),
        )
        .await;
        let redis_refusal = self.cache.as_ref().and_then(|cache| cache.refusal());
        let keys_refusal = self.keys.as_ref().and_then(|keys| keys.refusal());
        let is_degraded = [redis, keys].contains(&Reach::Down) || redis_refusal.or(keys_refusal).is_some();
        let status = if is_degraded { Ready::Degraded } else { Ready::Ready };
        let checks = Checks { postgres: Reach::Up, redis, redis_refusal, idempotency_redis: keys, idempotency_redis_refusal: keys_refusal };
        Ok(Readiness { status, checks: Some(checks), problems: Vec::new() })
    }

    /// What an operator has to mend, though the service does without.
    async fn problems(&self) -> Vec<String> {
        let mut problems = self.store.faults(Instant::now() + PATIENCE).await.unwrap_or_else(|error| {
            tracing::debug!(error = format!("{:#}", anyhow::Error::new(error)), "faults of the store not read");
            vec!["the triggers of customers could not be looked at".to_owned()]
        });
        if self.customers.is_deaf() {
            problems.push("changes of customers are not heard of: nothing is cached (the log says why)".to_owned());
        }
        problems
    }
}

/// Everything counted, in Prometheus's text format.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "Operations",
    summary = "Everything counted",
    responses((status = 200, body = String, description = "Prometheus's text format.", content_type = "text/plain"))
)]
pub(super) async fn metrics(ops: Data<Ops>) -> Result<HttpResponse, ApiError> {
    (ops.refresh)();
    let (content_type, text) = ops.metrics.render().map_err(|_| ApiError::Internal(None))?;
    Ok(HttpResponse::Ok().content_type(content_type).body(text))
}
