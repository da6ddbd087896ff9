//! Shared transactions: what arrives while transactions are under way goes out together as the next one. There is no timer: a
//! lone request goes out at once, and the more there is to do, the more goes into one commit.
//!
//! Where a transaction's rows come, the next one is sent behind it, so that Postgres goes on with it without a pause.
//!
//! Group commit is an old technique: `DeWitt` et al., "Implementation Techniques for Main Memory Database Systems" (SIGMOD 1984).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::task::yield_now;
use tokio::time::timeout_at;

use super::failure::{Failure, retryable};
use super::pool::Lease;
use super::queue::{Member, Queue};
use super::transaction::{self, Attempt, Found, Wish};
use super::{Answered, Pool};
use crate::app::ports::{Reading, StoreError};
use crate::config::Sharing;
use crate::domain::TenantId;
use crate::metrics::Metrics;

/// How many members of a transaction that failed are tried at a time. All groups together keep to the pool.
const ALONE_AT_A_TIME: usize = 2;

/// Takes wishes, and grants them in as few transactions as can be. Cheap to clone.
#[derive(Clone)]
pub(super) struct Transactions {
    state: Arc<Mutex<State>>,
    pool: Arc<Pool>,
    answered: Arc<Answered>,
    metrics: Arc<Metrics>,
    runtime: Handle,
    bounds: Bounds,
}

/// What may be in one transaction, and how many at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) sharing: Sharing,
    pub(super) in_flight: usize,
    /// How long anybody waits to be in one. How many may wait is bounded by whoever asks.
    pub(super) wait: Duration,
}

/// What waits, and how many transactions are under way.
#[derive(Default)]
struct State {
    waiting: Queue,
    in_flight: usize,
}

impl Transactions {
    /// Must be called on the main runtime.
    pub(super) fn new(pool: Arc<Pool>, answered: Arc<Answered>, metrics: Arc<Metrics>, bounds: Bounds) -> Self {
        Self { state: Arc::default(), pool, answered, metrics, runtime: Handle::current(), bounds }
    }

    /// Grants the wish, by the deadline. May be dropped at any time: whoever has gone before its transaction begins is left out,
    /// and nobody else takes note.
    pub(super) async fn grant(&self, wish: Wish, deadline: Instant) -> Result<Reading, StoreError> {
        let (reply, mut answer) = oneshot::channel();
        let (since, tenant) = (Instant::now(), wish.entry.tenant);
        let number = self.lock().waiting.push(|number| Member { number, wish, since, deadline, reply });
        let place = Place { transactions: self, tenant, number };
        self.begin();
        let in_time = timeout_at((since + self.bounds.wait).min(deadline).into(), &mut answer).await;
        let answered = match in_time {
            Ok(answered) => answered,
            Err(_) if place.leave() => return Err(if Instant::now() >= deadline { StoreError::Timeout } else { StoreError::Busy }),
            Err(_) => timeout_at(deadline.into(), answer).await.map_err(|_| StoreError::Timeout)?,
        };
        // Dropped at its deadline, or by a panic.
        let dropped = |error: RecvError| if Instant::now() >= deadline { StoreError::Timeout } else { StoreError::Refused(error.into()) };
        answered.unwrap_or_else(|error| Err(dropped(error)))
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Begins a transaction, where it is time for one.
    fn begin(&self) {
        let group = self.lock().next(&self.bounds);
        if !group.is_empty() {
            self.runtime.spawn(self.clone().open(group));
        }
    }

    async fn open(self, group: Vec<Member>) {
        // Left at the end, by a panic, too.
        let place = InFlight(self.clone());
        match self.pool.lend(deadline(&group)).await {
            Ok(connection) => self.serve(group, Arc::new(Line { connection, is_spoiled: AtomicBool::new(false), _place: place })).await,
            Err(error) => self.take_apart(group, &Failure::outside_transaction(error)).await,
        }
    }

    async fn serve(self, group: Vec<Member>, line: Arc<Line>) {
        self.metrics.shared(group.iter().map(|member| member.since.elapsed()));
        let outcome = self.attempt(&line.connection, &group, Attempt::First, || self.follow(&line)).await;
        let outcome = outcome.map_err(|failure| line.spoil(failure));
        // Those who wait go before these rows are looked at, and before a failure is. Not so where there are none: their callers come
        // back for the next commit, and fewer, larger ones are worth more (41,000 audited answers a second to 32,000).
        if outcome.is_err() || group.iter().any(Member::reads) {
            drop(line);
            yield_now().await;
        }
        let readings = outcome.and_then(|found| found.readings(&wishes(&group)).map_err(Failure::not_understood));
        match readings {
            Ok(readings) => group.into_iter().zip(readings).for_each(|(member, reading)| member.tell(Ok(reading))),
            Err(failure) => self.take_apart(group, &failure).await,
        }
    }

    /// Sends the next transaction behind one whose rows begin to come.
    fn follow(&self, line: &Arc<Line>) {
        if line.is_spoiled() {
            return;
        }
        let group = self.lock().follow(&self.bounds);
        if !group.is_empty() {
            self.runtime.spawn(self.clone().serve(group, Arc::clone(line)));
        }
    }

    /// One transaction for all of them. Each caller keeps to its own deadline; the transaction may go on to the last one's.
    async fn attempt(&self, connection: &Lease, group: &[Member], attempt: Attempt, rows_come: impl FnOnce()) -> Result<Found, Failure> {
        let outcome = transaction::run(connection, &wishes(group), attempt, deadline(group), rows_come).await;
        match &outcome {
            Ok(_) => self.answered.note(),
            Err(Failure { rolled_back: Some(reason), .. }) => {
                let mut tenants: Vec<_> = group.iter().map(|member| member.wish.entry.tenant.as_str()).collect();
                tenants.sort_unstable();
                tenants.dedup();
                for tenant in tenants {
                    self.metrics.rolled_back(tenant, *reason);
                }
            }
            Err(_) => {}
        }
        outcome
    }

    async fn alone(&self, member: &Member) -> Result<Reading, StoreError> {
        let group = std::slice::from_ref(member);
        let connection = self.pool.lend(member.deadline).await?;
        let outcome = self.attempt(&connection, group, Attempt::Again, || ()).await.map_err(|failure| failure.error);
        connection.end(outcome.as_ref().err());
        let readings = outcome?.readings(&wishes(group)).map_err(StoreError::Refused)?;
        Ok(readings.into_iter().next().unwrap_or_default())
    }

    /// Tries each once more by itself, so that nobody suffers for another. A lone one only where another connection may do
    /// better, and nobody where no connection was to be had.
    async fn take_apart(&self, group: Vec<Member>, failure: &Failure) {
        let hopeless = matches!(failure.error, StoreError::Unavailable(_) | StoreError::Busy);
        if hopeless || (group.len() == 1 && !retryable(&failure.error)) {
            for member in group {
                member.tell(Err(failure.error.again()));
            }
            return;
        }
        if group.len() > 1 {
            self.metrics.taken_apart();
            let error = format!("{:#}", anyhow::Error::new(failure.error.again()));
            tracing::warn!(members = group.len(), error, "shared transaction failed; its members are tried one by one");
        }
        let alone = async |member: Member| {
            if member.is_awaited() {
                let reading = self.alone(&member).await;
                member.tell(reading);
            }
        };
        stream::iter(group).for_each_concurrent(ALONE_AT_A_TIME, alone).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wishes(group: &[Member]) -> Vec<&Wish> {
    group.iter().map(|member| &member.wish).collect()
}

/// The last one's.
fn deadline(group: &[Member]) -> Instant {
    group.iter().map(|member| member.deadline).max().unwrap_or_else(Instant::now)
}

impl State {
    /// Those who go together now; nobody, where it is not time for another transaction.
    fn next(&mut self, bounds: &Bounds) -> Vec<Member> {
        // Commits wait for the same disk: audit entries by themselves go faster in fewer transactions.
        let worth_it = self.in_flight == 0 || bounds.sharing == Sharing::Off || self.waiting.reads();
        if self.in_flight >= bounds.in_flight || !worth_it {
            return Vec::new();
        }
        let group = self.waiting.take(bounds.sharing);
        self.in_flight += usize::from(!group.is_empty());
        group
    }

    /// Those who go behind a transaction whose rows come.
    fn follow(&mut self, bounds: &Bounds) -> Vec<Member> {
        let worth_it = bounds.sharing != Sharing::Off && self.waiting.reads();
        if worth_it { self.waiting.take(bounds.sharing) } else { Vec::new() }
    }
}

/// A connection and the transactions that are done over it one after the other: the one that is under way, and at most one that
/// is sent already, so that Postgres need not wait for it. That was worth a sixth more lookups than to send it at the end.
struct Line {
    connection: Lease,
    is_spoiled: AtomicBool,
    _place: InFlight,
}

impl Line {
    /// One of its transactions has failed: nobody else gets that connection.
    fn is_spoiled(&self) -> bool {
        self.is_spoiled.load(Ordering::Relaxed)
    }

    /// One of its transactions has failed. Where another had failed already, what was to stop that one may have stopped this one.
    fn spoil(&self, failure: Failure) -> Failure {
        let was_spoiled = self.is_spoiled.swap(true, Ordering::Relaxed);
        if failure.may_go_on {
            self.connection.cancel();
        } else if was_spoiled && matches!(failure.error, StoreError::Timeout) {
            let error = StoreError::Interrupted(anyhow::anyhow!("stopped after another one of its connection had failed"));
            return Failure { error, ..failure };
        }
        failure
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A panic may have left the last one at work.
        if !self.is_spoiled() && !thread::panicking() {
            self.connection.give_back();
        }
    }
}

/// One of those that may be in flight, until its end.
struct InFlight(Transactions);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
        self.0.begin();
    }
}

/// In the queue, until its holder is gone.
struct Place<'a> {
    transactions: &'a Transactions,
    tenant: TenantId,
    number: u64,
}

impl Place<'_> {
    /// False: its transaction is under way.
    fn leave(&self) -> bool {
        self.transactions.lock().waiting.withdraw(self.tenant, self.number)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
