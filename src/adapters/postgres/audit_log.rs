//! The audit log as a whole: read out row by row, and shortened by whole partitions.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::connect::Connector;
use super::failure::described;
use crate::domain::TenantId;

/// Rows leave as fast as they are taken, however long that is. Bounds of partitions are shown in this zone. It ends with the
/// transaction: through a pooler, the server session goes on to other clients.
const BEGIN: &str = "\
    BEGIN; SELECT set_config(name, '0', true) FROM pg_settings \
        WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout'); \
    SET LOCAL TimeZone = 'UTC'";

const ROWS: &str = "\
    SELECT tenant_id, occurred_at, id, action, source, customer_ids, missing_ids, key_id, request_id, contact_id FROM audit_log \
    WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::timestamptz IS NULL OR occurred_at >= $2) \
        AND ($3::timestamptz IS NULL OR occurred_at < $3) \
    ORDER BY occurred_at, id";

/// By their upper bounds, whatever their names. The default partition has none, and one without end shows no time.
const PAST: &str = "\
    SELECT name, until, size FROM ( \
        SELECT c.oid::regclass::text AS name, pg_total_relation_size(c.oid) AS size, \
            substring(pg_get_expr(c.relpartbound, c.oid) FROM $$TO \\('([^']+)'\\)$$)::timestamptz AS until \
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit_log'::regclass) partitions \
    WHERE until <= least($1, now()) ORDER BY until";

/// Lookups wait behind a lock that is waited for, and a lookup's own patience is longer than this.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Which rows.
#[derive(Debug, Default)]
pub struct Range {
    /// Of one tenant, or of all.
    pub tenant: Option<TenantId>,
    /// From this time on.
    pub from: Option<DateTime<Utc>>,
    /// Until before this time.
    pub to: Option<DateTime<Utc>>,
}

/// One row.
#[derive(Debug, serde::Serialize)]
#[expect(missing_docs, reason = "the table's columns")]
pub struct Entry {
    pub occurred_at: DateTime<Utc>,
    pub id: Uuid,
    pub tenant_id: String,
    pub action: String,
    pub source: String,
    pub customer_ids: Vec<Uuid>,
    pub missing_ids: Vec<Uuid>,
    pub key_id: Option<String>,
    pub request_id: Option<String>,
    pub contact_id: Option<String>,
}

/// A partition that is over.
#[derive(Debug)]
pub struct Partition {
    /// As SQL spells it.
    pub name: String,
    /// All its rows are earlier.
    pub until: DateTime<Utc>,
    /// Bytes on disk, indexes included.
    pub size: u64,
}

/// A connection to the audit log.
pub struct AuditLog {
    client: Client,
    _task: tokio::task::JoinHandle<()>,
}

impl AuditLog {
    /// Connects.
    pub async fn open(connector: &Connector) -> anyhow::Result<Self> {
        let (client, task) = connector.client_in_time().await.context("reach the database")?;
        Ok(Self { client, _task: task })
    }

    /// Hands over rows in the order of time, one after the other.
    pub async fn read(&self, range: &Range, mut take: impl FnMut(&Entry) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let tenant = range.tenant.as_ref().map(TenantId::as_str);
        let which: [(&(dyn ToSql + Sync), Type); 3] =
            [(&tenant, Type::TEXT), (&range.from, Type::TIMESTAMPTZ), (&range.to, Type::TIMESTAMPTZ)];
        self.client.batch_execute(BEGIN).await.map_err(|e| described(&e)).context("begin")?;
        let rows = self.client.query_typed_raw(ROWS, which).await.map_err(|e| described(&e)).context("read the audit log")?;
        let mut rows: Pin<Box<_>> = Box::pin(rows);
        while let Some(row) = rows.try_next().await.map_err(|e| described(&e)).context("read the audit log")? {
            take(&Entry {
                tenant_id: row.get(0),
                occurred_at: row.get(1),
                id: row.get(2),
                action: row.get(3),
                source: row.get(4),
                customer_ids: row.get(5),
                missing_ids: row.get(6),
                key_id: row.get(7),
                request_id: row.get(8),
                contact_id: row.get(9),
            })?;
        }
        self.client.batch_execute("COMMIT").await.map_err(|e| described(&e)).context("read the audit log")
    }

    /// The partitions whose last row is older than that, oldest first. Never the default one, and none that is not over.
    pub async fn partitions_before(&self, time: DateTime<Utc>) -> anyhow::Result<Vec<Partition>> {
        self.client.batch_execute(BEGIN).await.map_err(|e| described(&e)).context("begin")?;
        let rows = self.client.query_typed(PAST, &[(&time, Type::TIMESTAMPTZ)]).await;
        let rows = rows.map_err(|e| described(&e)).context("list the partitions")?;
        self.client.batch_execute("COMMIT").await.map_err(|e| described(&e)).context("list the partitions")?;
        let partition =
            |row: &tokio_postgres::Row| Partition { name: row.get(0), until: row.get(1), size: row.get::<_, i64>(2).unsigned_abs() };
        Ok(rows.iter().map(partition).collect())
    }

    /// Drops one. Waits for its lock in short turns, so that lookups do not wait behind it for long.
    pub async fn drop_partition(&self, partition: &Partition) -> anyhow::Result<()> {
        let Partition { name, .. } = partition;
        for _ in 0..TRIES {
            match self.client.batch_execute(&format!("{BEGIN}; {LOCK_TIMEOUT}; DROP TABLE IF EXISTS {name}; COMMIT")).await {
                Ok(()) => return Ok(()),
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    self.client.batch_execute("ROLLBACK").await.map_err(|e| described(&e))?;
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(described(&error)).with_context(|| format!("drop {name}")),
            }
        }
        bail!("{name} is not dropped: in {TRIES} tries, somebody has always held a lock on the audit log. Run it again when it is quieter")
    }
}
