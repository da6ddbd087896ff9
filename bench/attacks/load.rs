//! Open-loop load: each request is timed from the instant it is due, so that a slow service cannot slow its callers down.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task;
use tokio_util::sync::CancellationToken;

use crate::client::{self, Requests};
use crate::connection::Connection;
use crate::table::count;

/// A request without an answer by then has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// A 200 within this counts as a good answer.
const GOOD_WITHIN: Duration = Duration::from_secs(2);

/// So many requests a second over so many connections.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) url: String,
    pub(crate) requests: Requests,
    pub(crate) rate: f64,
    pub(crate) connections: usize,
    /// Requests that may wait for a connection. One that is due while so many wait is not sent.
    pub(crate) queue: usize,
    pub(crate) lasting: Duration,
    /// Ends the load early.
    pub(crate) stop: Arc<AtomicBool>,
    /// Whether the answers that are missing at the end are not waited for.
    pub(crate) hangs_up: bool,
}

/// A load whose connections are open.
pub(crate) struct Connected {
    load: Load,
    connections: Vec<Option<Connection>>,
}

/// One answer.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) nth: usize,
    pub(crate) took: Duration,
    /// 0: no answer.
    pub(crate) status: u16,
}

/// All answers of a load.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) samples: Vec<Sample>,
    /// Due while the queue was full.
    pub(crate) unsent: usize,
}

impl Sample {
    pub(crate) fn is_good(&self) -> bool {
        self.status == 200 && self.took <= GOOD_WITHIN
    }
}

impl Outcome {
    pub(crate) fn add(&mut self, other: Self) {
        self.samples.extend(other.samples);
        self.unsent += other.unsent;
    }

    pub(crate) fn good(&self) -> usize {
        self.samples.iter().filter(|sample| sample.is_good()).count()
    }

    /// Milliseconds within which that share was answered.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        quantile(self.samples.iter(), share)
    }

    /// Answers by status, 0 for none.
    pub(crate) fn statuses(&self) -> String {
        let tally = crate::support::tally(self.samples.iter().map(|sample| sample.status));
        let mut all: Vec<_> = tally.iter().map(|(status, n)| format!("{status}: {n}")).collect();
        if self.unsent > 0 {
            all.push(format!("unsent: {}", self.unsent));
        }
        all.join(", ")
    }
}

/// Milliseconds within which that share was answered.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank in a list")]
pub(crate) fn quantile<'s>(samples: impl Iterator<Item = &'s Sample>, share: f64) -> f64 {
    let mut times: Vec<_> = samples.map(|sample| sample.took).collect();
    times.sort();
    let rank = ((count(times.len()) * share) as usize).min(times.len().saturating_sub(1));
    times.get(rank).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}

/// Requests that are due, by their number.
struct Queue {
    due: Mutex<VecDeque<usize>>,
    ready: Semaphore,
    unsent: AtomicUsize,
    hung_up: CancellationToken,
}

impl Load {
    pub(crate) fn new(url: &str, requests: Requests, rate: f64, connections: usize, lasting: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Self { url: url.to_owned(), requests, rate, connections, queue: 10_000, lasting, stop, hangs_up: false }
    }

    pub(crate) async fn run(self) -> Outcome {
        self.connect().await.run().await
    }

    /// Opens the connections. One that cannot be opened is tried again by its first request.
    pub(crate) async fn connect(self) -> Connected {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(tokio::time::timeout(PATIENCE, Connection::open(&self.url)).await.ok().and_then(Result::ok));
        }
        Connected { load: self, connections }
    }

    /// When a request is due.
    fn due(&self, nth: usize) -> Duration {
        Duration::from_secs_f64(count(nth) / self.rate)
    }

    fn pace(&self, queue: &Queue, began: Instant) {
        let mut next = 0;
        loop {
            let at = self.due(next);
            if at >= self.lasting || self.stop.load(Ordering::Relaxed) {
                break;
            }
            #[expect(clippy::disallowed_methods, reason = "no task waits on this thread")]
            thread::sleep((began + at).saturating_duration_since(Instant::now()));
            let now = began.elapsed().min(self.lasting);
            let mut due = queue.due.lock().unwrap_or_else(PoisonError::into_inner);
            let before = due.len();
            while self.due(next) <= now {
                if due.len() < self.queue {
                    due.push_back(next);
                } else {
                    queue.unsent.fetch_add(1, Ordering::Relaxed);
                }
                next += 1;
            }
            queue.ready.add_permits(due.len() - before);
        }
        if self.hangs_up {
            let mut due = queue.due.lock().unwrap_or_else(PoisonError::into_inner);
            queue.unsent.fetch_add(due.len(), Ordering::Relaxed);
            due.clear();
            queue.hung_up.cancel();
        }
        // Each caller takes one, finds nothing due, and ends.
        queue.ready.add_permits(self.connections);
    }
}

impl Connected {
    pub(crate) async fn run(self) -> Outcome {
        let Self { load, connections } = self;
        let (ready, hung_up) = (Semaphore::new(0), CancellationToken::new());
        let queue = Arc::new(Queue { due: Mutex::default(), ready, unsent: AtomicUsize::new(0), hung_up });
        let began = Instant::now();
        let callers: Vec<_> =
            connections.into_iter().map(|connection| task::spawn(call(load.clone(), connection, Arc::clone(&queue), began))).collect();
        let paced = Arc::clone(&queue);
        // A thread of its own: a timer of tokio's is coarser than what is measured.
        task::spawn_blocking(move || load.pace(&paced, began)).await.expect("the pace is kept");
        let mut outcome = Outcome::default();
        for caller in callers {
            outcome.samples.extend(caller.await.expect("a caller"));
        }
        outcome.unsent = queue.unsent.load(Ordering::Relaxed);
        outcome
    }
}

async fn call(load: Load, mut connection: Option<Connection>, queue: Arc<Queue>, began: Instant) -> Vec<Sample> {
    let mut samples = Vec::new();
    loop {
        queue.ready.acquire().await.expect("it is never closed").forget();
        let next = queue.due.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(nth) = next else { return samples };
        let request = &load.requests[nth % load.requests.len()];
        let answer = tokio::time::timeout(PATIENCE, client::exchange(&mut connection, &load.url, request));
        let answered = queue.hung_up.run_until_cancelled(answer).await;
        // Still in time when the round ended: neither answered nor failed.
        if answered.is_none() && (began + load.due(nth)).elapsed() < GOOD_WITHIN {
            return samples;
        }
        let status = answered.and_then(Result::ok).unwrap_or_else(|| {
            connection = None;
            0
        });
        samples.push(Sample { nth, took: (began + load.due(nth)).elapsed(), status });
    }
}
