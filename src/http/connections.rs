//! Open connections: how many there may be, and how long one may stay that asks for nothing or takes nothing.
//!
//! A connection is *unproven* until one of its requests is authenticated. Unproven and proven connections have places of their own,
//! so that unproven ones cannot take those of proven ones. Where the places for unproven connections are full, the oldest one is
//! closed for the newest; where those for proven ones are, the one that has been idle for longest.

mod stream;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use futures_util::task::AtomicWaker;

use crate::metrics::{ClosedFor, Metrics};
pub use stream::Stream;

/// How often connections are looked at. No timeout is kept more exactly than that.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How long a client may take none of an answer's bytes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The value of a time that is not set.
const UNSET: u64 = u64::MAX;

/// How many connections a listener has, and how long they may be idle.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Unproven connections.
    pub unproven: usize,
    /// Proven connections.
    pub proven: usize,
    /// How long an unproven connection may wait for a request to be complete.
    pub unproven_idle: Duration,
    /// How long a proven connection may wait for a request to be complete.
    pub proven_idle: Duration,
}

/// The open connections of one listener.
pub struct Connections {
    listener: &'static str,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    /// All times are milliseconds since then.
    epoch: Instant,
    open: Mutex<Open>,
    unproven: AtomicUsize,
}

/// By their ids, which rise with their age.
#[derive(Default)]
struct Open {
    last_id: u64,
    unproven: BTreeMap<u64, Arc<Connection>>,
    proven: BTreeMap<u64, Arc<Connection>>,
}

/// One connection, as its stream, its requests and the periodic check see it.
pub struct Connection {
    id: u64,
    connections: Arc<Connections>,
    is_proven: AtomicBool,
    is_closed: AtomicBool,
    /// Requests whose answer is not made yet.
    requests: AtomicUsize,
    /// Whether a request's body is being read.
    reads_body: AtomicBool,
    /// Whether an answer was made since the last flush.
    is_unflushed: AtomicBool,
    /// Whether a request waits for that flush.
    is_awaited: AtomicBool,
    idle_since: AtomicU64,
    /// Since when the client has taken no byte of what it is sent; [`UNSET`] where nothing waits for it.
    stalled_since: AtomicU64,
    /// Wakes the connection's task to be closed.
    closing: AtomicWaker,
    /// Wakes a request that waits for the answer before it to be sent.
    flushed: AtomicWaker,
}

impl Connections {
    /// None are open.
    pub fn new(listener: &'static str, limits: ConnectionLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { listener, limits, metrics, epoch: Instant::now(), open: Mutex::default(), unproven: AtomicUsize::new(0) })
    }

    /// Takes a connection, for which another one may be closed.
    pub fn accept(self: &Arc<Self>) -> Arc<Connection> {
        let mut open = self.lock();
        if open.unproven.len() >= self.limits.unproven
            && let Some((_, oldest)) = open.unproven.pop_first()
        {
            oldest.close(ClosedFor::Room);
        }
        open.last_id += 1;
        let connection = Arc::new(Connection {
            id: open.last_id,
            connections: Arc::clone(self),
            is_proven: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            reads_body: AtomicBool::new(false),
            is_unflushed: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            idle_since: AtomicU64::new(self.now()),
            stalled_since: AtomicU64::new(UNSET),
            closing: AtomicWaker::new(),
            flushed: AtomicWaker::new(),
        });
        open.unproven.insert(connection.id, Arc::clone(&connection));
        self.count(&open);
        connection
    }

    /// Closes connections that are idle or stalled for too long, for as long as it is polled.
    pub async fn check(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let now = self.now();
            let open = self.lock();
            for connection in open.unproven.values().chain(open.proven.values()) {
                if let Some(reason) = connection.overdue(now) {
                    connection.close(reason);
                }
            }
        }
    }

    /// Whether more than half of the places for unproven connections are taken.
    fn is_crowded(&self) -> bool {
        self.unproven.load(Ordering::Relaxed) > self.limits.unproven / 2
    }

    fn prove(&self, connection: &Connection) {
        let mut open = self.lock();
        // Closed meanwhile, where it is not there.
        let Some(proven) = open.unproven.remove(&connection.id) else { return };
        if open.proven.len() >= self.limits.proven {
            let idle = |other: &&Arc<Connection>| other.requests.load(Ordering::Relaxed) == 0;
            let longest = open.proven.values().filter(idle).min_by_key(|other| other.idle_since.load(Ordering::Relaxed));
            if let Some(longest) = longest.map(|longest| longest.id).and_then(|id| open.proven.remove(&id)) {
                longest.close(ClosedFor::Room);
            }
        }
        open.proven.insert(connection.id, proven);
        self.count(&open);
    }

    fn forget(&self, connection: &Connection) {
        let mut open = self.lock();
        if open.unproven.remove(&connection.id).or_else(|| open.proven.remove(&connection.id)).is_some() {
            self.count(&open);
        }
    }

    fn count(&self, open: &Open) {
        self.unproven.store(open.unproven.len(), Ordering::Relaxed);
        self.metrics.connections(self.listener, open.unproven.len(), open.proven.len());
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(UNSET - 1)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// The connection of a request.
    pub(super) fn of(request: &HttpRequest) -> Option<&Self> {
        request.conn_data::<Arc<Self>>().map(|connection| &**connection)
    }

    /// One of its requests is authenticated.
    pub(super) fn prove(&self) {
        if !self.is_proven.swap(true, Ordering::Relaxed) {
            self.connections.prove(self);
        }
    }

    /// Whether the connection is to be closed after the answer that is being made.
    pub(super) fn closes_after_answer(&self) -> bool {
        !self.is_proven.load(Ordering::Relaxed) && self.connections.is_crowded()
    }

    /// Begins a request, once the answer before it is sent: a client that takes no answers has no more than one made.
    pub(super) async fn begin_request(&self) -> OpenRequest<'_> {
        std::future::poll_fn(|context| self.poll_flushed(context)).await;
        self.is_awaited.store(false, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest(self)
    }

    /// Lets the body of a request be read, until the guard is dropped.
    pub(super) fn read_body(&self) -> OpenBody<'_> {
        self.reads_body.store(true, Ordering::Relaxed);
        OpenBody(self)
    }

    /// Whether the next bytes are wanted. The server decodes all requests that it has read, so none are read ahead.
    fn is_reading(&self) -> bool {
        let has_request = self.requests.load(Ordering::Relaxed) > 0 || self.is_awaited.load(Ordering::Relaxed);
        !has_request || self.reads_body.load(Ordering::Relaxed)
    }

    fn poll_flushed(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_unflushed.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        self.is_awaited.store(true, Ordering::Relaxed);
        self.flushed.register(context.waker());
        if self.is_unflushed.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Everything is handed to the operating system.
    fn note_flush(&self) {
        self.stalled_since.store(UNSET, Ordering::Relaxed);
        if self.is_unflushed.swap(false, Ordering::Relaxed) {
            self.idle_since.store(self.connections.now(), Ordering::Relaxed);
            self.flushed.wake();
        }
    }

    /// Bytes wait for the client to take some. `progress`: whether it has just taken others.
    fn note_stall(&self, progress: bool) {
        if progress || self.stalled_since.load(Ordering::Relaxed) == UNSET {
            self.stalled_since.store(self.connections.now(), Ordering::Relaxed);
        }
    }

    fn overdue(&self, now: u64) -> Option<ClosedFor> {
        let limits = &self.connections.limits;
        let is_over = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) >= limit.as_millis();
        let stalled_since = self.stalled_since.load(Ordering::Relaxed);
        if stalled_since != UNSET {
            return is_over(stalled_since, WRITE_TIMEOUT).then_some(ClosedFor::Stall);
        }
        let idle = if self.is_proven.load(Ordering::Relaxed) { limits.proven_idle } else { limits.unproven_idle };
        let is_idle = self.requests.load(Ordering::Relaxed) == 0;
        (is_idle && is_over(self.idle_since.load(Ordering::Relaxed), idle)).then_some(ClosedFor::Idleness)
    }

    fn close(&self, reason: ClosedFor) {
        if !self.is_closed.swap(true, Ordering::Relaxed) {
            self.connections.metrics.connection_closed(self.connections.listener, reason);
            self.closing.wake();
        }
    }
}

/// A request whose answer is not made yet.
pub(super) struct OpenRequest<'c>(&'c Connection);

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.0.is_unflushed.store(true, Ordering::Relaxed);
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that is being read.
pub(super) struct OpenBody<'c>(&'c Connection);

impl Drop for OpenBody<'_> {
    fn drop(&mut self) {
        self.0.reads_body.store(false, Ordering::Relaxed);
    }
}
