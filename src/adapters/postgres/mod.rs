//! Customers and the audit log in Postgres: lookup and audit in one transaction, many lookups in one. And a store of
//! idempotency keys.

pub mod audit_log;
mod clock;
pub mod connect;
mod connection;
mod failure;
pub mod idempotency;
mod limits;
pub mod listen;
pub mod load;
pub mod migrate;
mod newest;
mod pool;
pub mod pooling;
mod queue;
mod shared;
mod transaction;
pub mod triggers;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::time::timeout_at;
use tokio_postgres::types::Type;

use crate::app::ports::{AuditGlance, CustomerStore, Reading, StoreError};
use crate::config;
use crate::domain::{AuditEntry, CustomerId};
use crate::metrics::Metrics;
use clock::ClockCheck;
use connect::Connector;
use failure::store_error;
use newest::newest;
use pool::Pool;
use shared::{Bounds, Transactions};
use transaction::{Wish, in_time};

/// A database that answered so lately is there, even where no connection is free at the moment.
const LATELY: Duration = Duration::from_secs(3);

/// Customers and audit log in one Postgres database.
pub struct PostgresStore {
    pool: Arc<Pool>,
    transactions: Transactions,
    answered: Arc<Answered>,
    /// One connection, so that whoever only looks takes none from those who look up.
    onlookers: Pool,
    upkeep: Connector,
    clock: ClockCheck,
    metrics: Arc<Metrics>,
}

impl PostgresStore {
    /// Connects on first use. Must be called on the main runtime.
    pub fn new(connector: Connector, settings: &config::Database, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let upkeep = connector.unbounded();
        let onlookers = Pool::new(connector.uncompiled(), settings, 1)?;
        let pool = Arc::new(Pool::new(connector, settings, settings.max_connections)?);
        let answered = Arc::new(Answered::default());
        let sharing = settings.share_transactions;
        let in_flight = if sharing == config::Sharing::Off { settings.max_connections } else { settings.shared_in_flight };
        let clock = ClockCheck::new(Arc::clone(&metrics));
        let bounds = Bounds { sharing, in_flight, wait: settings.wait_timeout };
        let transactions = Transactions::new(Arc::clone(&pool), Arc::clone(&answered), Arc::clone(&metrics), bounds);
        Ok(Self { pool, transactions, answered, onlookers, upkeep, clock, metrics })
    }

    /// Makes the partitions of this month and of `months` ahead. Gives how many were made, and whether rows have fallen into
    /// the default partition. On a connection of its own: it may take longer than a lookup.
    pub async fn ensure_partitions(&self, months: i32, deadline: Instant) -> Result<(i32, bool), StoreError> {
        let work = async {
            let (client, _task) = self.upkeep.client().await?;
            self.clock.measure(&client).await?;
            client.query_typed_one("SELECT made, default_used FROM audit_ensure_partitions($1)", &[(&months, Type::INT4)]).await
        };
        let row = timeout_at(deadline.into(), work).await.map_err(|_| StoreError::Timeout)?.map_err(|error| store_error(&error))?;
        Ok((row.get(0), row.get(1)))
    }

    /// Tells the metrics how many connections there are, and how many lookups wait.
    pub fn observe(&self) {
        let (open, idle) = self.pool.size();
        self.metrics.pool(open, idle);
        self.metrics.lookups_waiting(self.transactions.waiting());
    }

    /// Closes all connections that are not in use, and the others as they come back.
    pub fn close(&self) {
        self.pool.close();
        self.onlookers.close();
    }
}

#[async_trait]
impl CustomerStore for PostgresStore {
    async fn lookup_and_audit(&self, entry: AuditEntry, asked: Vec<CustomerId>, deadline: Instant) -> Result<Reading, StoreError> {
        self.transactions.grant(Wish { entry, asked, missing: Vec::new() }, deadline).await
    }

    async fn audit(&self, entry: AuditEntry, missing: Vec<CustomerId>, deadline: Instant) -> Result<(), StoreError> {
        self.transactions.grant(Wish { entry, asked: Vec::new(), missing }, deadline).await.map(drop)
    }

    async fn ready(&self, deadline: Instant) -> Result<(), StoreError> {
        let connection = match self.pool.lend(deadline).await {
            // A pool that is busy is a pool that works: taking traffic away from all instances at once helps nobody.
            Err(StoreError::Busy) if self.answered.lately() => return Ok(()),
            lent => lent?,
        };
        let outcome = in_time(deadline, self.clock.measure(&connection)).await;
        if outcome.is_ok() {
            self.answered.note();
        }
        connection.end(outcome.as_ref().err());
        outcome
    }

    async fn faults(&self, deadline: Instant) -> Result<Vec<String>, StoreError> {
        let work = async {
            let (client, _task) = self.upkeep.client().await?;
            triggers::faults(&client).await
        };
        let faults = timeout_at(deadline.into(), work).await.map_err(|_| StoreError::Timeout)?.map_err(|error| store_error(&error))?;
        self.metrics.trigger_faults(faults.len());
        Ok(faults.iter().map(|fault| format!("{fault}; run: cxone-data-action migrate apply")).collect())
    }

    async fn newest(&self, most: u16, deadline: Instant) -> Result<Vec<AuditGlance>, StoreError> {
        let connection = self.onlookers.lend(deadline).await?;
        let outcome = newest(&connection, most, deadline).await;
        connection.end(outcome.as_ref().err());
        outcome
    }
}

/// When the database last did what it was asked.
#[derive(Default)]
struct Answered(Mutex<Option<Instant>>);

impl Answered {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn lately(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < LATELY)
    }
}
