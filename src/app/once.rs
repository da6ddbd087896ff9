//! Work that is done once: the first request with a key does it, every other one gets that one's answer.
//!
//! A key is claimed before the work begins, held while it runs, and turned into the kept answer when it has succeeded. All of
//! that runs in a task of its own, so that a caller that hangs up changes nothing.

mod rooms;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::ports::{Claimed, Completed, IdempotencyStore, StoreDown};
use crate::domain::{IdempotencyKey, Owner, StoredReply};
use crate::metrics::{Metrics, Once as Outcome};
use rooms::Rooms;

/// How long an answer that cannot be kept is held back. After that it leaves: the work is done, and a caller that is told
/// otherwise would have it done again.
const STORE_PATIENCE: Duration = Duration::from_secs(1);
/// How long, and how often, an answer is tried to be kept.
const STORE_LIMIT: Duration = Duration::from_mins(1);
const STORE_PAUSE: Duration = Duration::from_millis(200);
/// How long, beyond its lease, a claim that nobody heard of is tried to be taken back.
const TAKE_BACK_LIMIT: Duration = Duration::from_mins(1);
/// The first and the longest pause between two looks at a key that another instance has.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// Everything that is under way, on all routes.
pub struct Works {
    tasks: TaskTracker,
    slots: Arc<Semaphore>,
    runtime: Handle,
    /// Nobody waits for somebody else's answer any more.
    closing: CancellationToken,
    /// Whatever still runs is given up.
    giving_up: CancellationToken,
}

/// The engine of one route.
pub struct Once {
    store: Arc<dyn IdempotencyStore>,
    works: Arc<Works>,
    metrics: Arc<Metrics>,
    rooms: Rooms,
    times: Times,
}

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A lease, unless it is renewed.
    pub lease: Duration,
    /// A kept answer.
    pub keep: Duration,
    /// A twin's patience with the first one.
    pub wait: Duration,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The work's answer.
    pub reply: StoredReply,
    /// Whether it is an earlier one's.
    pub replayed: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OnceError<E> {
    /// A twin is at work.
    #[error("do the work: a request with the same key is at it")]
    InFlight,
    /// The key was used with another payload.
    #[error("do the work: its key was used for another payload")]
    Mismatch,
    /// The store of keys did not answer; nothing was done.
    #[error("claim the key")]
    Store(#[source] StoreDown),
    /// The work failed; the key is free again.
    #[error("do the work")]
    Work(E),
    /// As much as allowed is under way.
    #[error("do the work: as much as allowed is under way")]
    Overloaded,
    /// The service is going down.
    #[error("do the work: shutting down")]
    ShuttingDown,
    /// The work panicked; the key is free again.
    #[error("do the work: it panicked")]
    Panicked,
}

/// The outcome of wanting a key.
enum Claim {
    Won(Lease),
    Replay(StoredReply),
    InFlight,
    Mismatch,
}

/// The right to do a piece of work. Ends by [`Lease::complete`] or [`Lease::release`], else by itself.
#[must_use]
struct Lease {
    store: Arc<dyn IdempotencyStore>,
    key: IdempotencyKey,
    owner: Owner,
    length: Duration,
    since: Instant,
    lost: AtomicBool,
}

impl Works {
    /// At most so many pieces of work at a time. Must be called on the main runtime: work runs there.
    pub fn new(max_in_flight: usize) -> Self {
        Self {
            tasks: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(max_in_flight)),
            runtime: Handle::current(),
            closing: CancellationToken::new(),
            giving_up: CancellationToken::new(),
        }
    }

    /// Takes no more work, and waits for what is under way.
    pub async fn finish(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Drops what is under way, and waits until its keys are free.
    pub async fn give_up(&self) {
        self.giving_up.cancel();
        self.tasks.wait().await;
    }
}

impl Once {
    /// The engine of a route.
    pub fn new(store: Arc<dyn IdempotencyStore>, works: Arc<Works>, metrics: Arc<Metrics>, times: Times) -> Self {
        Self { store, works, metrics, rooms: Rooms::default(), times }
    }

    /// Does the work unless it was done, and gives its answer. `work` is not begun before the key is claimed.
    pub async fn run<E: Send + 'static>(
        self: &Arc<Self>,
        key: IdempotencyKey,
        work: impl Future<Output = Result<StoredReply, E>> + Send + 'static,
    ) -> Result<Answer, OnceError<E>> {
        let works = &self.works;
        if works.closing.is_cancelled() {
            return Err(OnceError::ShuttingDown);
        }
        let slot = Arc::clone(&works.slots).try_acquire_owned().map_err(|_| OnceError::Overloaded)?;
        let (tell, told) = oneshot::channel();
        let this = Arc::clone(self);
        let task = async move {
            let _slot = slot;
            this.attend(key, work, tell).await;
        };
        works.runtime.spawn(works.tasks.track_future(task.in_current_span()));
        told.await.unwrap_or(Err(OnceError::Panicked))
    }

    async fn attend<E>(
        &self,
        key: IdempotencyKey,
        work: impl Future<Output = Result<StoredReply, E>>,
        tell: oneshot::Sender<Result<Answer, OnceError<E>>>,
    ) {
        let scope = Arc::clone(&key.scope);
        let (outcome, answer) = match self.claim(key).await {
            Ok(Claim::Won(lease)) => {
                self.metrics.once(&scope, Outcome::First);
                let room = lease.key.hash;
                self.carry_out(lease, work, Teller(Some(tell))).await;
                self.rooms.call(&room);
                return;
            }
            Ok(Claim::Replay(reply)) => (Outcome::Replayed, Ok(Answer { reply, replayed: true })),
            Ok(Claim::InFlight) if self.works.closing.is_cancelled() => (Outcome::InFlight, Err(OnceError::ShuttingDown)),
            Ok(Claim::InFlight) => (Outcome::InFlight, Err(OnceError::InFlight)),
            Ok(Claim::Mismatch) => (Outcome::Mismatch, Err(OnceError::Mismatch)),
            Err(error) => (Outcome::StoreDown, Err(OnceError::Store(error))),
        };
        self.metrics.once(&scope, outcome);
        // Whoever asked may have gone.
        let _gone = tell.send(answer);
    }

    /// Wants the key; where a twin has it, waits for that one's end as long as the route allows.
    async fn claim(&self, key: IdempotencyKey) -> Result<Claim, StoreDown> {
        let until = Instant::now() + self.times.wait;
        let first = self.claim_once(&key).await?;
        if !matches!(first, Claim::InFlight) || self.times.wait.is_zero() {
            return Ok(first);
        }
        // One twin of this process looks at the store; the others wait for their turn, and find the answer there at once.
        let room = self.rooms.enter(key.hash);
        let Ok(_turn) = timeout_at(until, room.turn.lock()).await else { return Ok(Claim::InFlight) };
        let mut pause = LOOK_PAUSE.0;
        loop {
            // Never left in the middle: it may be won.
            let claim = self.claim_once(&key).await?;
            if !matches!(claim, Claim::InFlight) || Instant::now() >= until || self.works.closing.is_cancelled() {
                return Ok(claim);
            }
            let next = until.min(Instant::now() + pause.mul_f64(0.5 + fastrand::f64()));
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = room.finished.notified() => {}
                () = self.works.closing.cancelled() => {}
            }
            pause = (pause * 2).min(LOOK_PAUSE.1);
        }
    }

    async fn claim_once(&self, key: &IdempotencyKey) -> Result<Claim, StoreDown> {
        let lease = Lease {
            store: Arc::clone(&self.store),
            key: key.clone(),
            owner: Owner::draw(),
            length: self.times.lease,
            since: Instant::now(),
            lost: AtomicBool::new(false),
        };
        match self.store.claim(key, lease.owner, lease.length).await {
            Ok(Claimed::Won) => Ok(Claim::Won(lease)),
            Ok(Claimed::Leased(fingerprint) | Claimed::Done(fingerprint, _)) if fingerprint != key.fingerprint => Ok(Claim::Mismatch),
            Ok(Claimed::Leased(_)) => Ok(Claim::InFlight),
            Ok(Claimed::Done(_, reply)) => Ok(Claim::Replay(reply)),
            Err(error) => {
                if let StoreDown::NoAnswer(_) = error {
                    self.works.runtime.spawn(self.works.tasks.track_future(lease.take_back(self.works.giving_up.clone())));
                }
                Err(error)
            }
        }
    }

    /// Does the work while holding the key, and keeps its answer or frees the key.
    async fn carry_out<E>(&self, lease: Lease, work: impl Future<Output = Result<StoredReply, E>>, mut teller: Teller<E>) {
        // Whoever was stopped between the claim and now may have lost the key before having begun.
        if lease.since.elapsed() > lease.length / 2 && !matches!(lease.renew().await, Ok(true)) {
            return teller.tell(Err(OnceError::InFlight));
        }
        let giving_up = self.works.giving_up.cancelled();
        tokio::pin!(giving_up);
        let result = tokio::select! {
            biased;
            result = AssertUnwindSafe(work).catch_unwind() => result,
            never = self.keep_renewing(&lease) => match never {},
            () = &mut giving_up => {
                tracing::warn!(route = &*lease.key.scope, "work given up at the end of the grace period; its key is free again");
                lease.release().await;
                return teller.tell(Err(OnceError::ShuttingDown));
            }
        };
        let reply = match result {
            Ok(Ok(reply)) if reply.is_final() => reply,
            unkept => {
                // First free, then told: the caller may try again at once.
                lease.release().await;
                return teller.tell(match unkept {
                    Ok(Ok(reply)) => Ok(Answer { reply, replayed: false }),
                    Ok(Err(error)) => Err(OnceError::Work(error)),
                    Err(_panic) => Err(OnceError::Panicked),
                });
            }
        };
        // Not renewed any more: an answer can be kept after its lease, as long as nobody else came.
        tokio::select! {
            biased;
            () = self.keep(&lease, reply, &mut teller) => {}
            () = giving_up => tracing::error!(route = &*lease.key.scope, "an answer was not kept: the store did not come back in time"),
        }
    }

    /// Keeps the answer, and tells it as soon as it is kept, or the store has been waited for long enough.
    async fn keep<E>(&self, lease: &Lease, reply: StoredReply, teller: &mut Teller<E>) {
        let began = Instant::now();
        loop {
            match lease.complete(&reply, self.times.keep).await {
                Ok(Completed::Stored) => return teller.tell(Ok(Answer { reply, replayed: false })),
                Ok(Completed::Lost(theirs)) => {
                    self.lost(lease);
                    let theirs = theirs.map(|reply| Answer { reply, replayed: true });
                    return teller.tell(theirs.ok_or(OnceError::InFlight));
                }
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    if began.elapsed() > STORE_LIMIT {
                        tracing::error!(route = &*lease.key.scope, error, "an answer was not kept: the store did not come back");
                        return;
                    }
                    tracing::debug!(route = &*lease.key.scope, error, "an answer is not kept yet");
                }
            }
            if began.elapsed() > STORE_PATIENCE && teller.0.is_some() {
                self.metrics.unstored(&lease.key.scope);
                tracing::warn!(route = &*lease.key.scope, "an answer leaves before it is kept: the store does not answer");
                teller.tell(Ok(Answer { reply: reply.clone(), replayed: false }));
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }

    /// Renews in time. Goes on while the store is down, and stops where somebody else has the key: the work cannot be undone,
    /// only its answer is not kept.
    async fn keep_renewing(&self, lease: &Lease) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(lease.length / 3).await;
            match lease.renew().await {
                Ok(true) => {}
                Ok(false) => {
                    self.lost(lease);
                    return std::future::pending().await;
                }
                Err(error) => {
                    tracing::warn!(route = &*lease.key.scope, error = format!("{:#}", anyhow::Error::new(error)), "a lease is not renewed");
                }
            }
        }
    }

    fn lost(&self, lease: &Lease) {
        if !lease.lost.swap(true, Ordering::Relaxed) {
            self.metrics.lease_lost(&lease.key.scope);
            tracing::warn!(route = &*lease.key.scope, "a lease was lost to another request: this answer is not kept");
        }
    }
}

impl Lease {
    async fn renew(&self) -> Result<bool, StoreDown> {
        self.store.renew(&self.key, self.owner, self.length).await
    }

    async fn complete(&self, reply: &StoredReply, keep: Duration) -> Result<Completed, StoreDown> {
        self.store.complete(&self.key, self.owner, reply, keep).await
    }

    /// Sees to it that a claim that nobody heard of holds up nobody: a store that hangs may carry it out when it wakes.
    async fn take_back(self, giving_up: CancellationToken) {
        let mut answered = 0;
        // Twice, since the first answer may have overtaken the claim.
        while answered < 2 && self.since.elapsed() < self.length + TAKE_BACK_LIMIT && !giving_up.is_cancelled() {
            tokio::time::sleep(STORE_PAUSE).await;
            if self.store.release(&self.key, self.owner).await.is_ok() {
                answered += 1;
            }
        }
    }

    async fn release(self) {
        if let Err(error) = self.store.release(&self.key, self.owner).await {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(route = &*self.key.scope, error, "a key is not freed, and ends with its lease");
        }
    }
}

/// Tells the caller, once.
struct Teller<E>(Option<oneshot::Sender<Result<Answer, OnceError<E>>>>);

impl<E> Teller<E> {
    fn tell(&mut self, answer: Result<Answer, OnceError<E>>) {
        if let Some(tell) = self.0.take() {
            // Whoever asked may have gone.
            let _gone = tell.send(answer);
        }
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, clippy::panic, reason = "a test that panics has failed, which is its purpose")]
mod tests;
