//! Customers and the audit log in Postgres: lookup and audit in one transaction. And a store of idempotency keys.

pub mod connect;
mod failure;
pub mod idempotency;
pub mod migrate;
mod pool;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join;
use futures_util::try_join;
use tokio::time::timeout_at;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::app::ports::{CustomerStore, StoreError};
use crate::config;
use crate::domain::{AuditEntry, CustomerDocument, CustomerId, CustomerRecord};
use crate::metrics::{Metrics, Rollback};
use connect::Connector;
use failure::{Failure, retryable, store_error};
use pool::{Lease, Pool};

const LOOKUP: &str = "SELECT id, name, status, updated_at, attributes::text FROM customers WHERE tenant_id = $1 AND id = ANY($2)";

const AUDIT: &str = "\
    INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, customer_ids, missing_ids) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";

/// A database that answered so lately is there, even where no connection is free at the moment.
const LATELY: Duration = Duration::from_secs(3);

/// Customers and audit log in one Postgres database.
pub struct PostgresStore {
    pool: Pool,
    upkeep: Connector,
    metrics: Arc<Metrics>,
    answered: Mutex<Option<Instant>>,
}

impl PostgresStore {
    /// Connects on first use.
    pub fn new(connector: Connector, settings: &config::Database, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let upkeep = connector.unbounded();
        Ok(Self { pool: Pool::new(connector, settings, settings.max_connections)?, upkeep, metrics, answered: Mutex::default() })
    }

    /// Makes the partitions of this month and of `months` ahead. Gives how many were made, and whether rows have fallen into
    /// the default partition. On a connection of its own: it may take longer than a lookup.
    pub async fn ensure_partitions(&self, months: i32, deadline: Instant) -> Result<(i32, bool), StoreError> {
        let work = async {
            let (client, _task) = self.upkeep.client().await?;
            client.query_one("SELECT made, default_used FROM audit_ensure_partitions($1)", &[&months]).await
        };
        let row = timeout_at(deadline.into(), work).await.map_err(|_| StoreError::Timeout)?.map_err(|error| store_error(&error))?;
        Ok((row.get(0), row.get(1)))
    }

    /// Tells the pool's size to the metrics.
    pub fn observe_pool(&self) {
        let (open, idle) = self.pool.size();
        self.metrics.pool(open, idle);
    }

    /// Closes all connections that are not in use, and the others as they come back.
    pub fn close(&self) {
        self.pool.close();
    }

    /// Tries the lookup once.
    async fn lookup_once(&self, entry: &AuditEntry, asked: &[CustomerId], deadline: Instant) -> Result<Vec<CustomerDocument>, Failure> {
        let connection = self.pool.lend(deadline).await.map_err(Failure::outside_transaction)?;
        let outcome = transaction(&connection, entry, asked, deadline).await;
        self.end(connection, outcome.as_ref().err().map(|failure| &failure.error));
        outcome
    }

    /// Tries the audit of a cached answer once.
    async fn audit_once(&self, entry: &AuditEntry, missing: &[CustomerId], deadline: Instant) -> Result<(), StoreError> {
        let connection = self.pool.lend(deadline).await?;
        let insert = async {
            let audit = connection.prepare_cached(AUDIT).await?;
            connection.execute(&audit, &AuditRow::new(entry, missing).parameters()).await
        };
        let outcome = in_time(deadline, insert).await;
        self.end(connection, outcome.as_ref().err());
        outcome.map(drop)
    }

    fn end(&self, connection: Lease, error: Option<&StoreError>) {
        if error.is_none() {
            *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        connection.end(error);
    }

    fn answered_lately(&self) -> bool {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < LATELY)
    }

    fn count_rollback<T>(&self, entry: &AuditEntry, outcome: &Result<T, Failure>) {
        if let Err(Failure { rolled_back: Some(reason), .. }) = outcome {
            self.metrics.rolled_back(entry.tenant.as_str(), *reason);
        }
    }
}

/// Reads and audits in one transaction, in two round trips of two statements each.
///
/// The commit is sent only once the customers are read and understood, so that whatever fails before leaves no row: a
/// connection that is given up in between rolls back. A failed insert makes Postgres turn the commit after it into a rollback.
async fn transaction(
    connection: &Lease,
    entry: &AuditEntry,
    asked: &[CustomerId],
    deadline: Instant,
) -> Result<Vec<CustomerDocument>, Failure> {
    let prepare = async { try_join!(connection.prepare_cached(LOOKUP), connection.prepare_cached(AUDIT)) };
    let (lookup, audit) = in_time(deadline, prepare).await.map_err(Failure::outside_transaction)?;

    let (tenant, ids) = (entry.tenant.as_str(), uuids(asked));
    let wanted: [&(dyn ToSql + Sync); 2] = [&tenant, &ids];
    // Both are sent at the first poll, one after the other.
    let read = join(connection.batch_execute("BEGIN"), connection.query(&lookup, &wanted));
    let (began, rows) = timeout_at(deadline.into(), read).await.map_err(|_| Failure::timeout())?;
    began.map_err(|error| Failure::outside_transaction(store_error(&error)))?;
    let rows = rows.map_err(|error| Failure::at(Rollback::Lookup, &error))?;
    let found: Result<Vec<_>, _> = rows.iter().map(document).collect();
    let found = found.map_err(|error| Failure { error: StoreError::Refused(error), rolled_back: Some(Rollback::Lookup) })?;

    let there: HashSet<_> = found.iter().map(|document| document.id).collect();
    let missing: Vec<_> = asked.iter().copied().filter(|id| !there.contains(id)).collect();
    let row = AuditRow::new(entry, &missing);
    let parameters = row.parameters();
    let write = join(connection.execute(&audit, &parameters), connection.batch_execute("COMMIT"));
    let (inserted, committed) = timeout_at(deadline.into(), write).await.map_err(|_| Failure::timeout())?;
    inserted.map_err(|error| Failure::at(Rollback::Audit, &error))?;
    committed.map_err(|error| Failure::at(Rollback::Commit, &error))?;
    Ok(found)
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
    timeout_at(deadline.into(), work).await.map_err(|_| StoreError::Timeout)?.map_err(|error| store_error(&error))
}

#[async_trait]
impl CustomerStore for PostgresStore {
    async fn lookup_and_audit(
        &self,
        entry: &AuditEntry,
        asked: &[CustomerId],
        deadline: Instant,
    ) -> Result<Vec<CustomerDocument>, StoreError> {
        let mut outcome = self.lookup_once(entry, asked, deadline).await;
        self.count_rollback(entry, &outcome);
        if outcome.as_ref().is_err_and(|failure| retryable(&failure.error)) {
            outcome = self.lookup_once(entry, asked, deadline).await;
            self.count_rollback(entry, &outcome);
        }
        outcome.map_err(|failure| failure.error)
    }

    async fn audit(&self, entry: &AuditEntry, missing: &[CustomerId], deadline: Instant) -> Result<(), StoreError> {
        match self.audit_once(entry, missing, deadline).await {
            Err(error) if retryable(&error) => self.audit_once(entry, missing, deadline).await,
            outcome => outcome,
        }
    }

    async fn ready(&self, deadline: Instant) -> Result<(), StoreError> {
        let connection = match self.pool.lend(deadline).await {
            // A pool that is busy is a pool that works: taking traffic away from all instances at once helps nobody.
            Err(StoreError::Busy) if self.answered_lately() => return Ok(()),
            lent => lent?,
        };
        let outcome = in_time(deadline, connection.batch_execute("SELECT 1")).await;
        self.end(connection, outcome.as_ref().err());
        outcome
    }
}

/// The parameters of the audit statement.
struct AuditRow<'a> {
    entry: &'a AuditEntry,
    tenant: &'a str,
    source: &'static str,
    request_id: &'a str,
    all: Vec<Uuid>,
    missing: Vec<Uuid>,
}

impl<'a> AuditRow<'a> {
    fn new(entry: &'a AuditEntry, missing: &[CustomerId]) -> Self {
        let (tenant, source, request_id) = (entry.tenant.as_str(), entry.source.as_str(), entry.request_id.as_str());
        Self { entry, tenant, source, request_id, all: uuids(&entry.customer_ids), missing: uuids(missing) }
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 10] {
        let AuditEntry { id, occurred_at, action, key_id, contact_id, .. } = self.entry;
        [&self.tenant, occurred_at, id, action, &self.source, key_id, &self.request_id, contact_id, &self.all, &self.missing]
    }
}

fn uuids(ids: &[CustomerId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.uuid()).collect()
}

fn document(row: &Row) -> anyhow::Result<CustomerDocument> {
    let id = CustomerId::from_uuid(row.try_get(0)?).ok_or_else(|| anyhow::anyhow!("a customer has the nil id"))?;
    let record =
        CustomerRecord { id, name: row.try_get(1)?, status: row.try_get(2)?, updated_at: row.try_get(3)?, attributes: row.try_get(4)? };
    Ok(record.document()?)
}
