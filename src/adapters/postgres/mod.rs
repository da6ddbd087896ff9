//! Customers and the audit log in Postgres: lookup and audit in one transaction, its statements sent in one go.

pub mod connect;
mod failure;
pub mod migrate;
mod pool;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures_util::future::join4;
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
use pool::Pool;

// One snapshot for both statements: else a customer that is added in between is answered as missing and audited as found.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";

const LOOKUP: &str = "SELECT id, name, status, updated_at, attributes::text FROM customers WHERE tenant_id = $1 AND id = ANY($2)";

// The missing ids are worked out here, so that this statement need not wait for the answer to the lookup.
const AUDIT_LOOKUP: &str = "\
    INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, customer_ids, missing_ids) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, ARRAY(SELECT asked FROM unnest($10::uuid[]) asked \
        WHERE asked NOT IN (SELECT id FROM customers WHERE tenant_id = $1 AND id = ANY($10)))) \
    ON CONFLICT DO NOTHING";

const AUDIT: &str = "\
    INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, customer_ids, missing_ids) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";

/// Customers and audit log in one Postgres database.
pub struct PostgresStore {
    pool: Pool,
    metrics: Arc<Metrics>,
}

impl PostgresStore {
    /// Connects on first use.
    pub fn new(connector: Connector, settings: &config::Database, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        Ok(Self { pool: Pool::new(connector, settings)?, metrics })
    }

    /// Makes the partitions of this month and of `months` ahead. Gives how many were made, and whether rows have fallen into
    /// the default partition.
    pub async fn ensure_partitions(&self, months: i32, deadline: Instant) -> Result<(i32, bool), StoreError> {
        let connection = self.pool.lend(deadline).await?;
        let wanted: [&(dyn ToSql + Sync); 1] = [&months];
        let query = connection.query_one("SELECT made, default_used FROM audit_ensure_partitions($1)", &wanted);
        let row = match timeout_at(deadline.into(), query).await {
            Err(_) => return Err(StoreError::Timeout),
            Ok(result) => result.map_err(|error| store_error(&error))?,
        };
        connection.give_back();
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

    async fn lookup_once(&self, entry: &AuditEntry, asked: &[Uuid], deadline: Instant) -> Result<Vec<CustomerDocument>, Failure> {
        let connection = self.pool.lend(deadline).await.map_err(Failure::outside_transaction)?;
        let exchange = async {
            let (lookup, audit) = try_join!(connection.prepare_cached(LOOKUP), connection.prepare_cached(AUDIT_LOOKUP))
                .map_err(|error| Failure::outside_transaction(store_error(&error)))?;
            let (tenant, all) = (entry.tenant.as_str(), uuids(&entry.customer_ids));
            let wanted: [&(dyn ToSql + Sync); 2] = [&tenant, &asked];
            let row = AuditRow::new(entry, &all, &asked);
            // All four are sent at the first poll, the commit included, so that nobody who stops waiting can leave the
            // transaction open. Where one fails, Postgres makes the commit a rollback.
            let (began, rows, inserted, committed) = join4(
                connection.batch_execute(BEGIN),
                connection.query(&lookup, &wanted),
                connection.execute(&audit, &row.parameters()),
                connection.batch_execute("COMMIT"),
            )
            .await;
            began.map_err(|error| Failure::outside_transaction(store_error(&error)))?;
            let rows = rows.map_err(|error| Failure::at(Rollback::Lookup, &error))?;
            inserted.map_err(|error| Failure::at(Rollback::Audit, &error))?;
            committed.map_err(|error| Failure::at(Rollback::Commit, &error))?;
            rows.iter().map(document).collect::<Result<_, _>>().map_err(|error| Failure::outside_transaction(StoreError::Refused(error)))
        };
        let documents = match timeout_at(deadline.into(), exchange).await {
            Ok(result) => result?,
            Err(_) => {
                connection.cancel();
                return Err(Failure::timeout());
            }
        };
        connection.give_back();
        Ok(documents)
    }

    async fn audit_once(&self, entry: &AuditEntry, missing: &[Uuid], deadline: Instant) -> Result<(), StoreError> {
        let connection = self.pool.lend(deadline).await?;
        let insert = async {
            let audit = connection.prepare_cached(AUDIT).await?;
            let all = uuids(&entry.customer_ids);
            connection.execute(&audit, &AuditRow::new(entry, &all, &missing).parameters()).await
        };
        match timeout_at(deadline.into(), insert).await {
            Ok(result) => result.map_err(|error| store_error(&error))?,
            Err(_) => {
                connection.cancel();
                return Err(StoreError::Timeout);
            }
        };
        connection.give_back();
        Ok(())
    }
}

#[async_trait]
impl CustomerStore for PostgresStore {
    async fn lookup_and_audit(
        &self,
        entry: &AuditEntry,
        asked: &[CustomerId],
        deadline: Instant,
    ) -> Result<Vec<CustomerDocument>, StoreError> {
        let asked = uuids(asked);
        let mut outcome = self.lookup_once(entry, &asked, deadline).await;
        self.count_rollback(entry, &outcome);
        if outcome.as_ref().is_err_and(|failure| retryable(&failure.error)) {
            outcome = self.lookup_once(entry, &asked, deadline).await;
            self.count_rollback(entry, &outcome);
        }
        outcome.map_err(|failure| failure.error)
    }

    async fn audit(&self, entry: &AuditEntry, missing: &[CustomerId], deadline: Instant) -> Result<(), StoreError> {
        let missing = uuids(missing);
        match self.audit_once(entry, &missing, deadline).await {
            Err(error) if retryable(&error) => self.audit_once(entry, &missing, deadline).await,
            outcome => outcome,
        }
    }

    async fn ready(&self, deadline: Instant) -> Result<(), StoreError> {
        let connection = self.pool.lend(deadline).await?;
        match timeout_at(deadline.into(), connection.batch_execute("SELECT 1")).await {
            Ok(result) => result.map_err(|error| store_error(&error))?,
            Err(_) => return Err(StoreError::Timeout),
        }
        connection.give_back();
        Ok(())
    }
}

impl PostgresStore {
    fn count_rollback<T>(&self, entry: &AuditEntry, outcome: &Result<T, Failure>) {
        if let Err(Failure { rolled_back: Some(reason), .. }) = outcome {
            self.metrics.rolled_back(entry.tenant.as_str(), *reason);
        }
    }
}

/// The parameters of both audit statements. The last one is the missing ids for one, the ids asked for the other.
struct AuditRow<'a> {
    entry: &'a AuditEntry,
    tenant: &'a str,
    source: &'static str,
    request_id: &'a str,
    all: &'a [Uuid],
    last: &'a &'a [Uuid],
}

impl<'a> AuditRow<'a> {
    fn new(entry: &'a AuditEntry, all: &'a [Uuid], last: &'a &'a [Uuid]) -> Self {
        Self { entry, tenant: entry.tenant.as_str(), source: entry.source.as_str(), request_id: entry.request_id.as_str(), all, last }
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 10] {
        let AuditEntry { id, occurred_at, action, key_id, contact_id, .. } = self.entry;
        [&self.tenant, occurred_at, id, action, &self.source, key_id, &self.request_id, contact_id, &self.all, self.last]
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
