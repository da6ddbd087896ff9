//! Connections to Redis: a few multiplexed sockets, shared by all callers, and one for each thread that asks often; replaced once
//! they fail, or once the name leads to another server.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bb8_redis::bb8::{self, ErrorSink, ManageConnection, QueueStrategy};
use bb8_redis::redis::aio::MultiplexedConnection;
use bb8_redis::redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisError, ScriptInvocation, TlsCertificates};
use thread_local::ThreadLocal;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::refusal::{Refusal, Refusals, Refused};
use super::server::{Attempt, Introduction, Met, Server};
use super::watch;
use crate::metrics::Metrics;

/// How long a new connection's server may take to introduce itself.
const INTRODUCTION_PATIENCE: Duration = Duration::from_secs(1);

/// The pool.
pub(super) struct Pool {
    shared: bb8::Pool<Manager>,
    /// Of threads that ask often. An answer that comes to the very thread that waits for it wakes no other one: a lookup from Redis
    /// takes 26 µs of this process' CPU in place of 35.
    own: ThreadLocal<Mutex<Option<bb8::Pool<Manager>>>>,
    size: u32,
    manager: Manager,
    _watch: AbortOnDropHandle<()>,
}

/// bb8-redis's own manager says of no connection that it is broken, and pings at each check-out to make up for it.
#[derive(Clone)]
pub(super) struct Manager {
    client: Client,
    config: AsyncConnectionConfig,
    patience: Duration,
    /// How long a call waits for a connection: shorter than its deadline, so that the cause is told and not the deadline.
    wait: Duration,
    runtime: Handle,
    server: Arc<Server>,
    refusals: Arc<Refusals>,
}

pub(super) struct Connection {
    socket: MultiplexedConnection,
    broken: Arc<AtomicBool>,
    attempt: Attempt,
    /// Of the server that it leads to. `None`: that server does not name itself.
    generation: Option<u64>,
}

impl Pool {
    /// `dependency` is the pool's name in metrics and logs.
    pub(super) fn new(
        dependency: &'static str,
        url: &str,
        ca_file: Option<&Path>,
        connections: u32,
        deadline: Duration,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let client = match ca_file {
            None => Client::open(url),
            Some(path) => {
                let root_cert = Some(std::fs::read(path).with_context(|| format!("read {}", path.display()))?);
                Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert })
            }
        };
        let client = client.context("understand the Redis URL")?;
        // Redis's answers are bounded by the guard; these bounds see to it that nothing goes on long after that.
        let patience = deadline.max(Duration::from_millis(100));
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(patience)).set_response_timeout(Some(patience));
        let refusals = Arc::new(Refusals::new(dependency, metrics));
        let (runtime, server, wait) = (Handle::current(), Arc::default(), deadline.mul_f64(0.9));
        let manager = Manager { client, config, patience, wait, runtime, server, refusals };
        let watch = AbortOnDropHandle::new(tokio::spawn(watch::watch(manager.clone())));
        Ok(Self { shared: manager.clone().pool(connections), own: ThreadLocal::new(), size: connections, manager, _watch: watch })
    }

    /// From now on this thread has a socket of its own, for as long as the current runtime lives.
    pub(super) fn settle(&self) {
        let own = Manager { runtime: Handle::current(), ..self.manager.clone() }.pool(1);
        // There may be one already: of another listener, or of a thread that has ended.
        *self.own.get_or_default().lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
    }

    /// Another number whenever a connection was made to another server than the one before, or to one that was restarted, demoted
    /// or promoted.
    pub(super) fn incarnation(&self) -> u64 {
        self.manager.server.generation()
    }

    /// The code that keeps Redis from serving all that it is asked for, or did so a moment ago.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        self.manager.refusals.recent()
    }

    /// Runs what may be run again: where the connection turns out to be dead, once more on another one. After a restart all of
    /// them are. Where the server refuses because it is not the right one any more, once more on a new connection.
    pub(super) async fn run<T: FromRedisValue + Send>(&self, work: &impl Work) -> anyhow::Result<T> {
        self.run_in_doubt(work, &AtomicBool::default()).await
    }

    /// The same. `in_doubt` is true from the moment the work is sent until it is known what Redis made of it: as long as it is
    /// false, nothing has changed there. A refusal is such knowledge, a lost connection is not.
    pub(super) async fn run_in_doubt<T: FromRedisValue + Send>(&self, work: &impl Work, in_doubt: &AtomicBool) -> anyhow::Result<T> {
        let (mut lost, mut refused) = (false, false);
        for _ in 0..=self.size {
            let mut lent = self.borrow().await?;
            in_doubt.store(true, Ordering::Relaxed);
            let result = work.run(&mut lent.socket).await;
            let dead = result.as_ref().is_err_and(|error: &RedisError| error.is_connection_dropped() && !error.is_timeout());
            let refusal = result.as_ref().err().and_then(Refusal::of);
            let generation = lent.generation;
            let result = lent.give_back(result);
            if let Some(refusal) = refusal {
                in_doubt.store(lost, Ordering::Relaxed);
                self.manager.refusals.command_refused(refusal);
                if refusal.retires() {
                    self.manager.server.retire(generation);
                    if !std::mem::replace(&mut refused, true) {
                        continue;
                    }
                }
                return result.context(Refused(refusal));
            }
            if !dead {
                return result;
            }
            lost = true;
        }
        anyhow::bail!("run a Redis command: every connection was dead")
    }

    /// Clones a connection out and gives the pool's place back at once: callers share sockets, which makes 122,000 reads a
    /// second out of 45,000 (16 tasks, two sockets).
    async fn borrow(&self) -> anyhow::Result<Lent> {
        let own = self.own.get().and_then(|own| own.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let connection = own.as_ref().unwrap_or(&self.shared).get().await;
        let connection = connection.map_err(|_timeout| self.manager.refusals.no_connection()).context("get a Redis connection")?;
        let Connection { socket, broken, generation, .. } = &*connection;
        Ok(Lent { socket: socket.clone(), broken: Arc::clone(broken), generation: *generation, unanswered: true })
    }
}

/// What Redis is asked to do.
pub(super) trait Work: Sync {
    fn run<T: FromRedisValue + Send>(&self, socket: &mut MultiplexedConnection) -> impl Future<Output = Result<T, RedisError>> + Send;
}

impl Work for Cmd {
    async fn run<T: FromRedisValue + Send>(&self, socket: &mut MultiplexedConnection) -> Result<T, RedisError> {
        self.query_async(socket).await
    }
}

/// Several commands in one go.
impl Work for Pipeline {
    async fn run<T: FromRedisValue + Send>(&self, socket: &mut MultiplexedConnection) -> Result<T, RedisError> {
        self.query_async(socket).await
    }
}

impl Work for ScriptInvocation<'_> {
    async fn run<T: FromRedisValue + Send>(&self, socket: &mut MultiplexedConnection) -> Result<T, RedisError> {
        self.invoke_async(socket).await
    }
}

/// A socket in use. Where no answer came, for whatever reason, nobody gets that socket again.
struct Lent {
    socket: MultiplexedConnection,
    broken: Arc<AtomicBool>,
    generation: Option<u64>,
    unanswered: bool,
}

impl Lent {
    fn give_back<T>(mut self, result: Result<T, RedisError>) -> anyhow::Result<T> {
        let retired = |error: &RedisError| Refusal::of(error).is_some_and(Refusal::retires);
        let unusable = |error: &RedisError| error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error() || retired(error);
        self.unanswered = result.as_ref().is_err_and(unusable);
        result.context("run a Redis command")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.unanswered {
            self.broken.store(true, Ordering::Relaxed);
        }
    }
}

impl Manager {
    fn pool(self, connections: u32) -> bb8::Pool<Self> {
        bb8::Pool::builder()
            .max_size(connections)
            .connection_timeout(self.wait)
            .queue_strategy(QueueStrategy::Fifo) // in turn, so that all sockets share the work
            .error_sink(Box::new(Log))
            .build_unchecked(self)
    }

    /// Makes a connection, by a name that is resolved anew, and looks at who is there.
    pub(super) async fn open(&self) -> Result<Connection, RedisError> {
        let attempt = self.server.attempt();
        let opened = async {
            let mut socket = self.client.get_multiplexed_async_connection_with_config(&self.config).await?;
            let generation = self.meet(attempt, &mut socket).await?;
            Ok(Connection { socket, broken: Arc::default(), attempt, generation })
        };
        opened.await.inspect_err(|error| self.refusals.not_connected(error))
    }

    /// Looks again at who is there.
    pub(super) async fn look_again(&self, connection: &mut Connection) -> Result<(), RedisError> {
        let met = self.meet(connection.attempt, &mut connection.socket).await;
        met.map(drop).inspect_err(|error| self.refusals.not_connected(error))
    }

    async fn meet(&self, attempt: Attempt, socket: &mut MultiplexedConnection) -> Result<Option<u64>, RedisError> {
        // A slow introduction must not keep a server out that answers calls in time.
        socket.set_response_timeout(self.patience.max(INTRODUCTION_PATIENCE));
        let introduction = Introduction::of(socket).await;
        socket.set_response_timeout(self.patience);
        let met = self.server.met(attempt, introduction?)?;
        self.refusals.connected(matches!(met, Met::Other(_)));
        match met {
            Met::Same(generation) => Ok(Some(generation)),
            Met::Other(generation) => {
                // The first one of all is no other one.
                if generation > 1 && self.refusals.may_log("another server") {
                    let dependency = self.refusals.dependency();
                    tracing::info!(
                        event = "redis_server_changed",
                        dependency,
                        generation,
                        "Redis server changed; older connections retired"
                    );
                }
                Ok(Some(generation))
            }
            Met::Nameless => Ok(None),
        }
    }
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let manager = self.clone();
        // Not on whatever runtime is the current one: a socket dies with the runtime that it was made on.
        let made = self.runtime.spawn(async move { manager.open().await });
        let connection = made.await.map_err(|error| RedisError::from(std::io::Error::other(error)))??;
        if connection.generation.is_none() {
            self.server.met_nameless();
        }
        Ok(connection)
    }

    /// Asked at each check-out, so it must cost nothing.
    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        if self.has_broken(connection) { Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe))) } else { Ok(()) }
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.broken.load(Ordering::Relaxed) || self.server.is_void(connection.generation)
    }
}

/// Tells the true cause of a failed connection, which `get` hides behind its own timeout.
#[derive(Clone, Copy, Debug)]
struct Log;

impl ErrorSink<RedisError> for Log {
    fn sink(&self, error: RedisError) {
        tracing::debug!(error = error.to_string(), "Redis connection failed");
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<RedisError>> {
        Box::new(*self)
    }
}
