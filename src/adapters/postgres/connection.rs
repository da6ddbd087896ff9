//! How statements run over a connection. One with a server session of its own: prepared once under a name, each a transaction by
//! itself. Through a transaction-mode pooler: in a transaction that carries its limits, sent as a whole in one round trip.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use deadpool_postgres::ClientWrapper;
use futures_util::TryStreamExt;
use futures_util::future::join3;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row, RowStream, Statement};

use super::connect::Session;
use super::pooling::Pooling;

/// A value, and its type in Postgres, which an unnamed statement is told of.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

pub(super) struct Connection {
    client: ClientWrapper,
    pooling: Option<Pooling>,
    named: bool,
    /// What begins a transaction with its limits; `None`: the server session has them.
    begin: Option<Arc<str>>,
    /// Texts that have a name, where preparing them takes a transaction.
    prepared: Mutex<HashSet<Box<str>>>,
}

/// A statement that can be executed.
pub(super) enum Prepared<'a> {
    Named(Statement),
    /// Parsed with each execution.
    Unnamed(&'a str),
}

/// The part of a transaction that failed.
pub(super) enum Failed<E> {
    Begin(Error),
    Work(E),
    Commit(Error),
}

impl From<Failed<Self>> for Error {
    fn from(failed: Failed<Self>) -> Self {
        match failed {
            Failed::Begin(error) | Failed::Work(error) | Failed::Commit(error) => error,
        }
    }
}

impl Connection {
    pub(super) fn new(session: Session, named: bool, begin: Option<Arc<str>>) -> Self {
        let Session { client, task, pooling } = session;
        Self { client: ClientWrapper::new(client, task), pooling, named, begin, prepared: Mutex::default() }
    }

    /// How it was known to reach Postgres when it was made.
    pub(super) fn pooling(&self) -> Option<Pooling> {
        self.pooling
    }

    /// Runs a statement to its end.
    pub(super) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(sql).await?;
        let work = async { self.execute(&statement, parameters).await?.try_collect().await };
        Ok(self.in_transaction(work).await?)
    }

    pub(super) async fn prepare<'a>(&self, sql: &'a str) -> Result<Prepared<'a>, Error> {
        if !self.named {
            return Ok(Prepared::Unnamed(sql));
        }
        let prepare = self.client.prepare_cached(sql);
        if self.begin.is_none() || self.is_prepared(sql) {
            return prepare.await.map(Prepared::Named);
        }
        // Postgres locks tables to understand a statement, so that the limits must hold here, too.
        let statement = self.in_transaction(prepare).await?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(sql.into());
        Ok(Prepared::Named(statement))
    }

    pub(super) async fn execute(&self, statement: &Prepared<'_>, parameters: &[Parameter<'_>]) -> Result<RowStream, Error> {
        match statement {
            Prepared::Named(statement) => self.client.query_raw(statement, parameters.iter().map(|(value, _)| *value)).await,
            Prepared::Unnamed(sql) => {
                self.client.query_typed_raw(sql, parameters.iter().map(|(value, r#type)| (*value, r#type.clone()))).await
            }
        }
    }

    /// Does `work`, which sends one request when it is first polled, with the limits in force, and commits it.
    pub(super) async fn in_transaction<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, Failed<E>> {
        let Some(begin) = &self.begin else { return work.await.map_err(Failed::Work) };
        // The first poll goes through them in this order and sends all three; nothing of another task comes in between. Where the work
        // fails, Postgres answers the commit with a rollback.
        let (started, result, committed) = join3(self.client.batch_execute(begin), work, self.client.batch_execute("COMMIT")).await;
        started.map_err(Failed::Begin)?;
        let result = result.map_err(Failed::Work)?;
        committed.map_err(Failed::Commit)?;
        Ok(result)
    }

    fn is_prepared(&self, sql: &str) -> bool {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).contains(sql)
    }
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}
