//! What use cases need from outside. An adapter tells what happened; the use case decides what follows.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::domain::{AuditEntry, CustomerDocument, CustomerId, Known, TenantId};

/// Holds customers and the audit log.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait CustomerStore: Send + Sync {
    /// Reads those customers and writes the audit row in one transaction, so that there is no answer without evidence and
    /// no evidence without an answer. The row's missing ids are the asked ones that were not found. Customers come in any
    /// order. Writing one entry twice leaves one row.
    async fn lookup_and_audit(
        &self,
        entry: &AuditEntry,
        asked: &[CustomerId],
        deadline: Instant,
    ) -> Result<Vec<CustomerDocument>, StoreError>;

    /// Writes the audit row of an answer that came from a cache.
    async fn audit(&self, entry: &AuditEntry, missing: &[CustomerId], deadline: Instant) -> Result<(), StoreError>;

    /// Whether the store would answer now.
    async fn ready(&self, deadline: Instant) -> Result<(), StoreError>;
}

/// Why a store did not do what it was asked. Nothing was changed, except possibly after `Interrupted`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached.
    #[error("reach the database")]
    Unavailable(#[source] anyhow::Error),
    /// Everything that could serve the call stayed busy.
    #[error("get a database connection: all stayed busy")]
    Busy,
    /// It was reached, and did not answer in time.
    #[error("get the database's answer in time")]
    Timeout,
    /// The connection broke while it worked.
    #[error("keep the database connection")]
    Interrupted(#[source] anyhow::Error),
    /// It refused, and would refuse again: a defect of this service or of its schema.
    #[error("run the transaction")]
    Refused(#[source] anyhow::Error),
}

impl StoreError {
    /// The outcome's name in metrics.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Interrupted(_) => "interrupted",
            Self::Refused(_) => "refused",
        }
    }
}

/// What a cache knows of a customer, and for how much longer it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// There or not there.
    pub known: Known,
    /// What is left of its time to live.
    pub keep: Duration,
}

/// One tier of the cache: customers of a tenant by id.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait Cache: Send + Sync {
    /// The tier's name in metrics.
    fn tier(&self) -> &'static str;

    /// What is known of each id, in the order asked.
    async fn get(&self, tenant: &TenantId, ids: &[CustomerId]) -> Result<Vec<Option<Cached>>, CacheError>;

    /// Keeps what is now known, each entry for as long as it says.
    async fn put(&self, tenant: &TenantId, entries: &[(CustomerId, Cached)]) -> Result<(), CacheError>;

    /// Whether the tier can be reached now, whatever its guard thinks.
    async fn ready(&self) -> Result<(), CacheError>;
}

/// Why a cache did not answer. Never a reason to fail a lookup.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Its breaker is open.
    #[error("ask the cache: its breaker is open")]
    CircuitOpen,
    /// No answer within the deadline.
    #[error("get the cache's answer in time")]
    Timeout,
    /// It cannot be reached, or refused.
    #[error("ask the cache")]
    Unavailable(#[source] anyhow::Error),
}
