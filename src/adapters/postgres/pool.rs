//! The connection pool: every wait bounded, and no connection handed on that did not finish its work.

use std::ops::Deref;
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Manager, Metrics, Object, PoolError, RecycleError, RecycleResult, TimeoutType, Timeouts};
use tokio::runtime::Handle;
use tokio::time::timeout_at;
use tokio_postgres::Error;

use super::connect::Connector;
use super::connection::Connection;
use super::failure::described;
use crate::app::ports::StoreError;
use crate::config;

pub(super) struct Pool {
    connections: managed::Pool<Connections>,
    connector: Connector,
}

/// Makes connections for the pool, and looks at those that come back.
struct Connections(Connector);

impl Manager for Connections {
    type Type = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection, Error> {
        let session = self.0.session().await?;
        let (named, begin) = (self.0.named(session.pooling), self.0.begin(session.pooling));
        Ok(Connection::new(session, named, begin))
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Error> {
        if connection.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if self.0.is_outdated(connection.pooling()) {
            return Err(RecycleError::message("made for another pooling mode"));
        }
        Ok(())
    }
}

impl Pool {
    /// Of so many connections at most.
    pub(super) fn new(connector: Connector, settings: &config::Database, size: usize) -> anyhow::Result<Self> {
        let timeouts =
            Timeouts { wait: Some(settings.wait_timeout), create: Some(connector.patience()), recycle: Some(connector.patience()) };
        let builder = managed::Pool::builder(Connections(connector.clone())).max_size(size).timeouts(timeouts).runtime(Runtime::Tokio1);
        Ok(Self { connections: builder.build()?, connector })
    }

    /// A connection, at the latest by the deadline.
    pub(super) async fn lend(&self, deadline: Instant) -> Result<Lease, StoreError> {
        let lent = timeout_at(deadline.into(), self.connections.get()).await;
        let object = lent.map_err(|_| StoreError::Timeout)?.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => StoreError::Busy,
            // Whatever keeps a connection from being made, no transaction had begun.
            PoolError::Backend(error) => StoreError::Unavailable(described(&error)),
            other => StoreError::Unavailable(other.into()),
        })?;
        Ok(Lease { object: Some(object), connector: self.connector.clone() })
    }

    /// How many connections are open, and how many of those are free.
    pub(super) fn size(&self) -> (usize, usize) {
        let status = self.connections.status();
        (status.size, status.available)
    }

    pub(super) fn close(&self) {
        self.connections.close();
    }
}

/// A connection that leaves the pool unless it is given back: whoever fails, times out or is dropped in the middle of
/// something never hands it to the next.
pub(super) struct Lease {
    object: Option<Object<Connections>>,
    connector: Connector,
}

impl Lease {
    /// Ends it after its work. Only a connection whose work is done goes back; one that is still at work is told to stop.
    pub(super) fn end(mut self, error: Option<&StoreError>) {
        match error {
            None => self.give_back(),
            Some(StoreError::Timeout) => self.cancel(),
            Some(_) => {}
        }
    }

    /// All its work is done.
    pub(super) fn give_back(&mut self) {
        self.object = None;
    }

    /// Asks the server to stop what it does for us, in the background, as best it can; `statement_timeout` is the certain way.
    pub(super) fn cancel(&self) {
        let (token, connector) = (self.cancel_token(), self.connector.clone());
        Handle::current().spawn(async move {
            let cancelled = token.cancel_query(connector.tls());
            let _best_effort = tokio::time::timeout(Duration::from_secs(1), cancelled).await;
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    #[expect(clippy::expect_used, reason = "only its end empties it")]
    fn deref(&self) -> &Connection {
        self.object.as_ref().expect("a lease holds its connection until it ends")
    }
}
