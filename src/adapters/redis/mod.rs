//! The cache tier that all instances share, in Redis or Valkey; and, apart from it, a store of idempotency keys.

pub mod idempotency;
mod pool;
mod value;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use async_trait::async_trait;
use bb8_redis::redis;
use tokio::sync::Semaphore;

use super::guard::{Guard, GuardSettings};
use crate::app::ports::{Cache, CacheError, Cached};
use crate::domain::{CustomerId, TenantId};
use crate::metrics::Metrics;
use pool::Pool;

/// Fills at a time; more are dropped, so that a slow Redis cannot make them pile up.
const MAX_FILLS: usize = 64;

/// Customers in Redis, one string each, read by one `MGET` a lookup, behind a breaker.
pub struct RedisCache {
    pool: Pool,
    guard: Guard,
    fills: Semaphore,
    metrics: Arc<Metrics>,
}

impl RedisCache {
    /// Connects on first use, so Redis need not be up. Fails where the URL or the CA file is no good.
    pub fn new(
        url: &str,
        ca_file: Option<&Path>,
        connections: u32,
        settings: GuardSettings,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let pool = Pool::new(url, ca_file, connections, settings.deadline)?;
        let guard = Guard::new("redis", settings, Arc::clone(&metrics));
        Ok(Self { pool, guard, fills: Semaphore::new(MAX_FILLS), metrics })
    }
}

/// The key of one customer. The braces are Redis Cluster's hash tag: all of a tenant's keys share a slot, so that one
/// `MGET` may ask for several.
fn key(tenant: &TenantId, id: CustomerId) -> String {
    format!("cxda:v1:{{{tenant}}}:{id}")
}

/// Now, as stores tell it.
fn unix_millis() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Cache for RedisCache {
    fn tier(&self) -> &'static str {
        "redis"
    }

    async fn get(&self, tenant: &TenantId, ids: &[CustomerId]) -> Result<Vec<Option<Cached>>, CacheError> {
        let mut command = redis::cmd("MGET");
        for id in ids {
            command.arg(key(tenant, *id));
        }
        let values: Vec<Option<Vec<u8>>> = self.guard.call(self.pool.run(&command)).await?;
        let checked = |(id, value): (&CustomerId, Option<Vec<u8>>)| match value::decode(&value?, tenant, *id) {
            Ok(cached) => Some(cached),
            Err(reason) => {
                self.metrics.cache_rejected(reason.as_str());
                if reason.is_alarming() {
                    tracing::warn!(reason = reason.as_str(), tenant = tenant.as_str(), "cached value not used");
                }
                None
            }
        };
        Ok(ids.iter().zip(values).map(checked).collect())
    }

    async fn put(&self, tenant: &TenantId, entries: &[(CustomerId, Cached)]) -> Result<(), CacheError> {
        let Ok(_fill) = self.fills.try_acquire() else { return Ok(()) };
        let mut pipeline = redis::pipe();
        for (id, cached) in entries {
            pipeline.pset_ex(key(tenant, *id), value::encode(tenant, *id, cached), millis(cached.keep).max(1)).ignore();
        }
        Ok(self.guard.call(self.pool.run_all(&pipeline)).await?)
    }

    async fn ready(&self) -> Result<(), CacheError> {
        let ping = async { self.pool.run::<()>(&redis::cmd("PING")).await.context("ping Redis") };
        ping.await.map_err(CacheError::Unavailable)
    }
}
