//! The evidence: which caller was answered about which customers.

use std::sync::Arc;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use uuid::Uuid;

use super::{CustomerId, RequestId, TenantId};

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// All of it from the database.
    Database,
    /// All of it from a cache.
    Cache,
    /// Some of it from a cache, the rest from the database.
    Mixed,
}

impl Source {
    /// The word in the audit table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Cache => "cache",
            Self::Mixed => "mixed",
        }
    }
}

/// One row of the audit log, but for the missing ids, which only the store knows.
///
/// The service makes `id` and `occurred_at`, so that writing the same entry twice is one row.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// Version 7, so rows sort by time.
    pub id: Uuid,
    /// When the call was taken, in whole microseconds as the database keeps them.
    pub occurred_at: DateTime<Utc>,
    /// Whose customers were asked for.
    pub tenant: TenantId,
    /// The action of the request.
    pub action: &'static str,
    /// Where the answer came from.
    pub source: Source,
    /// All ids asked for, those that an answer's size cap held back included.
    pub customer_ids: Vec<CustomerId>,
    /// Which key signed the request.
    pub key_id: Arc<str>,
    /// Ties the row to the answer and the logs.
    pub request_id: RequestId,
    /// The platform's contact, where it named one.
    pub contact_id: Option<String>,
}

/// Now, in whole microseconds.
pub fn now() -> DateTime<Utc> {
    let now = Utc::now();
    now.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(now)
}
