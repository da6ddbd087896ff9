//! The ports in this process's memory: stores for `dev` and for tests.

pub mod idempotency;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::app::ports::{AuditGlance, CustomerStore, Reading, StoreError};
use crate::domain::{AuditEntry, CustomerDocument, CustomerId, ServerStart, TenantId};
use async_trait::async_trait;

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
    async fn lookup_and_audit(&self, entry: AuditEntry, asked: Vec<CustomerId>, deadline: Instant) -> Result<Reading, StoreError> {
        let (found, missing): (Vec<_>, Vec<_>) = {
            let customers = self.customers.lock().unwrap_or_else(PoisonError::into_inner);
            let found: Vec<_> = asked.iter().filter_map(|id| customers.get(&(entry.tenant, *id)).cloned()).collect();
            let missing = asked.iter().copied().filter(|id| !customers.contains_key(&(entry.tenant, *id))).collect();
            (found, missing)
        };
        self.audit(entry, missing, deadline).await?;
        Ok(Reading { found, seen: 1, server: ServerStart::default() }) // nothing ever changes here
    }

    async fn audit(&self, entry: AuditEntry, missing: Vec<CustomerId>, _: Instant) -> Result<(), StoreError> {
        let mut audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        if audit.iter().rev().take(100).all(|(row, _)| row.id != entry.id) {
            audit.push((entry, missing));
        }
        let surplus = audit.len().saturating_sub(Self::AUDIT_ROWS);
        audit.drain(..surplus);
        Ok(())
    }

    async fn ready(&self, _: Instant) -> Result<(), StoreError> {
        Ok(())
    }

    async fn faults(&self, _: Instant) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn newest(&self, most: u16, _: Instant) -> Result<Vec<AuditGlance>, StoreError> {
        let audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |ids: &[CustomerId]| u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let newest = audit.iter().rev().take(most.into()).map(|(entry, missing)| AuditGlance {
            occurred_at: entry.occurred_at,
            tenant: entry.tenant.as_str().to_owned(),
            source: entry.source.as_str().to_owned(),
            customers: count(&entry.customer_ids),
            first_id: entry.customer_ids.first().map(|id| id.uuid()),
            missing: count(missing),
            key_id: Some(entry.key_id.to_string()),
            request_id: Some(entry.request_id.to_string()),
        });
        Ok(newest.collect())
    }
}
