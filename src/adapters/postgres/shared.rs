//! Shared transactions: what arrives while transactions are under way goes out together as the next one. There is no timer: a
//! lone request goes out at once, and the more there is to do, the more goes into one commit.
//!
//! Group commit is an old technique: `DeWitt` et al., "Implementation Techniques for Main Memory Database Systems" (SIGMOD 1984).

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::time::timeout_at;

use super::failure::{Failure, retryable};
use super::transaction::{self, Wish};
use super::{Answered, Pool};
use crate::app::ports::{Reading, StoreError};
use crate::config::Sharing;
use crate::metrics::Metrics;

/// The most callers of one transaction, and the most ids that they ask for together: it must not become so long that those
/// behind it wait for more than a fraction of their deadline.
const MAX_MEMBERS: usize = 128;
const MAX_IDS: usize = 2_000;

/// How many members of a transaction that failed are tried at a time. All groups together keep to the pool.
const ALONE_AT_A_TIME: usize = 2;

/// Takes wishes, and grants them in as few transactions as can be. Cheap to clone.
#[derive(Clone)]
pub(super) struct Transactions {
    queue: Arc<Mutex<Queue>>,
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

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Member>,
    in_flight: usize,
    /// How many have come so far.
    come: u64,
}

/// Somebody who waits.
struct Member {
    number: u64,
    wish: Wish,
    since: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Result<Reading, StoreError>>,
}

impl Transactions {
    /// Must be called on the main runtime.
    pub(super) fn new(pool: Arc<Pool>, answered: Arc<Answered>, metrics: Arc<Metrics>, bounds: Bounds) -> Self {
        Self { queue: Arc::default(), pool, answered, metrics, runtime: Handle::current(), bounds }
    }

    /// Grants the wish, by the deadline. May be dropped at any time: whoever has gone before its transaction begins is left out,
    /// and nobody else takes note.
    pub(super) async fn grant(&self, wish: Wish, deadline: Instant) -> Result<Reading, StoreError> {
        let (reply, mut answer) = oneshot::channel();
        let since = Instant::now();
        let number = self.enqueue(|number| Member { number, wish, since, deadline, reply });
        let in_time = timeout_at((since + self.bounds.wait).min(deadline).into(), &mut answer).await;
        let answered = match in_time {
            Ok(answered) => answered,
            Err(_) if self.lock().withdraw(number) => {
                return Err(if Instant::now() >= deadline { StoreError::Timeout } else { StoreError::Busy });
            }
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

    fn enqueue(&self, member: impl FnOnce(u64) -> Member) -> u64 {
        let mut queue = self.lock();
        queue.come += 1;
        let number = queue.come;
        queue.waiting.push_back(member(number));
        if queue.in_flight < self.bounds.in_flight {
            queue.in_flight += 1;
            self.runtime.spawn(self.clone().work());
        }
        number
    }

    /// One transaction after the other, until nobody waits.
    async fn work(self) {
        while let Some(group) = self.next() {
            // A panic, of which the runtime has told already, must not end this for all.
            let _panicked = AssertUnwindSafe(self.serve(group)).catch_unwind().await;
        }
    }

    /// Those who go together now. None: nobody waits, and there is one transaction less under way.
    fn next(&self) -> Option<Vec<Member>> {
        let mut queue = self.lock();
        let group = queue.take(&self.bounds);
        if group.is_empty() {
            queue.in_flight -= 1;
            return None;
        }
        Some(group)
    }

    async fn serve(&self, group: Vec<Member>) {
        self.metrics.shared(group.iter().map(|member| member.since.elapsed()));
        match self.attempt(&group).await {
            Ok(readings) => group.into_iter().zip(readings).for_each(|(member, reading)| member.tell(Ok(reading))),
            Err(failure) => self.take_apart(group, &failure).await,
        }
    }

    /// One transaction for all of them. Each caller keeps to its own deadline; the transaction may go on to the last one's.
    async fn attempt(&self, group: &[Member]) -> Result<Vec<Reading>, Failure> {
        let deadline = group.iter().map(|member| member.deadline).max().unwrap_or_else(Instant::now);
        let connection = self.pool.lend(deadline).await.map_err(Failure::outside_transaction)?;
        let wishes: Vec<_> = group.iter().map(|member| &member.wish).collect();
        let outcome = transaction::run(&connection, &wishes, deadline).await;
        self.answered.end(connection, outcome.as_ref().err().map(|failure| &failure.error));
        if let Err(Failure { rolled_back: Some(reason), .. }) = &outcome {
            let mut tenants: Vec<_> = group.iter().map(|member| member.wish.entry.tenant.as_str()).collect();
            tenants.sort_unstable();
            tenants.dedup();
            for tenant in tenants {
                self.metrics.rolled_back(tenant, *reason);
            }
        }
        outcome
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
                let outcome = self.attempt(std::slice::from_ref(&member)).await;
                member.tell(outcome.map(|mut readings| readings.pop().unwrap_or_default()).map_err(|failure| failure.error));
            }
        };
        stream::iter(group).for_each_concurrent(ALONE_AT_A_TIME, alone).await;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// The first one who is still waited for, and those behind it who may go along, in the order of their arrival.
    fn take(&mut self, bounds: &Bounds) -> Vec<Member> {
        let mut group: Vec<Member> = Vec::new();
        let mut passed_by = VecDeque::new();
        let mut ids = 0;
        let most = if bounds.sharing == Sharing::Off { 1 } else { MAX_MEMBERS };
        while group.len() < most && ids < MAX_IDS {
            let Some(member) = self.waiting.pop_front() else { break };
            if !member.is_awaited() {
                continue;
            }
            let fits = group.is_empty() || ids + member.wish.asked.len() <= MAX_IDS;
            let tenant = |member: &Member| member.wish.entry.tenant.clone();
            let related = bounds.sharing != Sharing::Tenant || group.first().is_none_or(|first| tenant(first) == tenant(&member));
            if fits && related {
                ids += member.wish.asked.len();
                group.push(member);
            } else {
                passed_by.push_back(member);
                if !fits {
                    break;
                }
            }
        }
        while let Some(member) = passed_by.pop_back() {
            self.waiting.push_front(member);
        }
        group
    }

    /// Takes back one that still waits.
    fn withdraw(&mut self, number: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|member| member.number != number);
        self.waiting.len() < before
    }
}

impl Member {
    fn is_awaited(&self) -> bool {
        !self.reply.is_closed() && self.deadline > Instant::now()
    }

    fn tell(self, outcome: Result<Reading, StoreError>) {
        // Its caller may have gone.
        let _ = self.reply.send(outcome);
    }
}
