//! The ports in this process's memory: the near cache tier, and stores for `dev` and for tests.

pub mod idempotency;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use moka::Expiry;

use crate::app::ports::{Cache, CacheError, Cached, CustomerStore, StoreError};
use crate::domain::{AuditEntry, CustomerDocument, CustomerId, TenantId};

/// The cache tier of this process, least used customers dropped first.
pub struct LocalCache(moka::sync::Cache<(TenantId, CustomerId), (Cached, Instant)>);

impl LocalCache {
    /// Keeps at most `capacity` customers.
    pub fn new(capacity: u64) -> Self {
        Self(moka::sync::Cache::builder().max_capacity(capacity).expire_after(EachItsOwn).build())
    }
}

#[async_trait]
impl Cache for LocalCache {
    fn tier(&self) -> &'static str {
        "local"
    }

    async fn get(&self, tenant: &TenantId, ids: &[CustomerId]) -> Result<Vec<Option<Cached>>, CacheError> {
        let left = |(cached, until): (Cached, Instant)| {
            let keep = until.checked_duration_since(Instant::now())?;
            Some(Cached { keep, ..cached })
        };
        Ok(ids.iter().map(|id| self.0.get(&(tenant.clone(), *id)).and_then(left)).collect())
    }

    async fn put(&self, tenant: &TenantId, entries: &[(CustomerId, Cached)]) -> Result<(), CacheError> {
        let now = Instant::now();
        for (id, cached) in entries {
            self.0.insert((tenant.clone(), *id), (cached.clone(), now + cached.keep));
        }
        Ok(())
    }

    async fn ready(&self) -> Result<(), CacheError> {
        Ok(())
    }
}

/// Each entry says itself how long it may stay.
struct EachItsOwn;

impl<K> Expiry<K, (Cached, Instant)> for EachItsOwn {
    fn expire_after_create(&self, _: &K, (cached, _): &(Cached, Instant), _: Instant) -> Option<Duration> {
        Some(cached.keep)
    }

    // Without this a new value would get what was left of the old one's time.
    fn expire_after_update(&self, _: &K, (cached, _): &(Cached, Instant), _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(cached.keep)
    }
}

/// A store without a database. Everything is gone when the process ends.
#[derive(Default)]
pub struct MemoryStore {
    customers: Mutex<HashMap<(TenantId, CustomerId), CustomerDocument>>,
    audit: Mutex<Vec<(AuditEntry, Vec<CustomerId>)>>,
}

impl MemoryStore {
    /// The newest rows kept.
    const AUDIT_ROWS: usize = 10_000;

    /// Adds or replaces a customer.
    pub fn insert(&self, tenant: TenantId, document: CustomerDocument) {
        self.customers.lock().unwrap_or_else(PoisonError::into_inner).insert((tenant, document.id), document);
    }

    /// The audit rows, each with its missing ids, oldest first.
    pub fn audited(&self) -> Vec<(AuditEntry, Vec<CustomerId>)> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl CustomerStore for MemoryStore {
    async fn lookup_and_audit(
        &self,
        entry: &AuditEntry,
        asked: &[CustomerId],
        deadline: Instant,
    ) -> Result<Vec<CustomerDocument>, StoreError> {
        let (found, missing): (Vec<_>, Vec<_>) = {
            let customers = self.customers.lock().unwrap_or_else(PoisonError::into_inner);
            let found: Vec<_> = asked.iter().filter_map(|id| customers.get(&(entry.tenant.clone(), *id)).cloned()).collect();
            let missing = asked.iter().copied().filter(|id| !customers.contains_key(&(entry.tenant.clone(), *id))).collect();
            (found, missing)
        };
        self.audit(entry, &missing, deadline).await?;
        Ok(found)
    }

    async fn audit(&self, entry: &AuditEntry, missing: &[CustomerId], _: Instant) -> Result<(), StoreError> {
        let mut audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        if audit.iter().rev().take(100).all(|(row, _)| row.id != entry.id) {
            audit.push((entry.clone(), missing.to_vec()));
        }
        let surplus = audit.len().saturating_sub(Self::AUDIT_ROWS);
        audit.drain(..surplus);
        Ok(())
    }

    async fn ready(&self, _: Instant) -> Result<(), StoreError> {
        Ok(())
    }
}
