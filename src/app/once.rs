//! Work that is done once: the first request with a key does it, every other one gets that one's answer.
//!
//! A key is claimed before the work begins, held while it runs, and turned into the kept answer when it has succeeded. Where
//! work that cannot be taken back ends without an answer, the key is held: nobody knows whether it was done. All of that runs in a
//! task of its own, so that a caller that hangs up changes nothing.

mod lease;
mod rooms;
mod share;
mod works;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{FutureExt, TryFutureExt};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::ports::{Claimed, Completed, IdempotencyStore, StoreDown};
use crate::domain::{IdempotencyKey, StoredReply};
use crate::metrics::{Metrics, Outcome};
pub use lease::Intention;
use lease::Lease;
use rooms::Rooms;
pub use share::StoreShare;
pub use works::Works;
use works::{Place, caller};

/// How long an answer that cannot be kept is held back. After that it leaves: the work is done, and a caller that is told
/// otherwise would have it done again.
const STORE_PATIENCE: Duration = Duration::from_secs(1);
/// How long, and how often, an answer is tried to be kept.
const STORE_LIMIT: Duration = Duration::from_mins(1);
const STORE_PAUSE: Duration = Duration::from_millis(200);
/// The first and the longest pause between two looks at a key that another instance has.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// The engine of one route.
pub struct Once {
    store: Arc<dyn IdempotencyStore>,
    works: Arc<Works>,
    metrics: Arc<Metrics>,
    rooms: Rooms,
    share: Arc<StoreShare>,
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
    /// It may or may not have been done, this time or, without an error, at an earlier one. It is not done again.
    #[error("do the work: nobody knows whether it was done")]
    Unknown(Option<E>),
    /// The caller's kept answers take its share of the store; there may be room again after this.
    #[error("do the work: the caller has filled its share of the store")]
    ShareFull(Duration),
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

/// How work fails.
#[derive(Debug)]
pub enum Failure<E> {
    /// It was not done.
    NotDone(E),
    /// It may or may not have been done.
    Unknown(E),
}

/// The outcome of wanting a key.
enum Claim {
    Won(Lease),
    Replay(StoredReply),
    InFlight,
    Mismatch,
    Unknown,
}

impl Once {
    /// The engine of a route.
    pub fn new(store: Arc<dyn IdempotencyStore>, works: Arc<Works>, metrics: Arc<Metrics>, times: Times) -> Self {
        Self { store, works, metrics, rooms: Rooms::default(), share: Arc::default(), times }
    }

    /// The same engine, whose callers share a bounded store.
    #[must_use]
    pub fn with_share(self, share: Arc<StoreShare>) -> Self {
        Self { share, ..self }
    }

    /// Does the work unless it was done, and gives its answer. `work` is not begun before the key is claimed.
    pub async fn run<E: Send + 'static>(
        self: &Arc<Self>,
        key: IdempotencyKey,
        work: impl Future<Output = Result<StoredReply, E>> + Send + 'static,
    ) -> Result<Answer, OnceError<E>> {
        self.run_intended(key, |_| work.map_err(Failure::NotDone)).await
    }

    /// The same for work that cannot be taken back. It has its intent put on record before it does so; where it ends after that
    /// without saying how, the key is held, and the work not done again.
    pub async fn run_intended<E: Send + 'static, W>(
        self: &Arc<Self>,
        key: IdempotencyKey,
        work: impl FnOnce(Intention) -> W + Send + 'static,
    ) -> Result<Answer, OnceError<E>>
    where
        W: Future<Output = Result<StoredReply, Failure<E>>> + Send + 'static,
    {
        let works = &self.works;
        if works.tasks.is_closed() {
            return Err(OnceError::ShuttingDown);
        }
        let slot = works.slots.enter(caller(&key)).ok_or(OnceError::Overloaded)?;
        let (tell, told) = oneshot::channel();
        let this = Arc::clone(self);
        let task = async move { this.attend(key, slot, work, tell).await };
        works.runtime.spawn(works.tasks.track_future(task.in_current_span()));
        told.await.unwrap_or(Err(OnceError::Panicked))
    }

    async fn attend<E, W: Future<Output = Result<StoredReply, Failure<E>>>>(
        &self,
        key: IdempotencyKey,
        slot: Place,
        work: impl FnOnce(Intention) -> W,
        mut tell: oneshot::Sender<Result<Answer, OnceError<E>>>,
    ) {
        let scope = Arc::clone(&key.scope);
        let (claim, slot) = match self.claim_once(&key).await {
            Ok(Claim::InFlight) if !self.times.wait.is_zero() => {
                drop(slot);
                self.wait(&key, tell.closed()).await
            }
            claim => (claim, Some(slot)),
        };
        let (outcome, answer) = match claim {
            Ok(Claim::Won(lease)) => {
                self.metrics.once(&scope, Outcome::First);
                let hash = lease.key.hash;
                match (slot, self.share.check(&caller(&lease.key))) {
                    (_, Err(pause)) => self.free(lease, Teller(Some(tell)), Err(OnceError::ShareFull(pause))).await,
                    (Some(_slot), Ok(())) => self.carry_out(lease, work, Teller(Some(tell))).await,
                    (None, Ok(())) => self.free(lease, Teller(Some(tell)), Err(OnceError::Overloaded)).await,
                }
                self.rooms.call(&hash);
                return;
            }
            Ok(Claim::Replay(reply)) => (Outcome::Replayed, Ok(Answer { reply, replayed: true })),
            Ok(Claim::InFlight) if self.works.closing.is_cancelled() => (Outcome::InFlight, Err(OnceError::ShuttingDown)),
            Ok(Claim::InFlight) => (Outcome::InFlight, Err(OnceError::InFlight)),
            Ok(Claim::Mismatch) => (Outcome::Mismatch, Err(OnceError::Mismatch)),
            Ok(Claim::Unknown) => (Outcome::Unknown, Err(OnceError::Unknown(None))),
            Err(error) => (Outcome::StoreDown, Err(OnceError::Store(error))),
        };
        self.metrics.once(&scope, outcome);
        // Whoever asked may have gone.
        let _gone = tell.send(answer);
    }

    /// Waits for a twin's end as long as the route allows and the caller is there. With the key, where that one failed, comes a
    /// slot for the work, unless there is none.
    async fn wait(&self, key: &IdempotencyKey, gone: impl Future<Output = ()>) -> (Result<Claim, StoreDown>, Option<Place>) {
        let until = Instant::now() + self.times.wait;
        let Some(_seat) = self.works.seats.enter(caller(key)) else { return (Ok(Claim::InFlight), None) };
        tokio::pin!(gone);
        // One twin of this process looks at the store; the others wait for their turn, and find the answer there at once.
        let room = self.rooms.enter(key.hash);
        let _turn = tokio::select! {
            turn = room.turn.lock() => turn,
            () = self.enough(until, &mut gone) => return (Ok(Claim::InFlight), None),
        };
        let mut pause = LOOK_PAUSE.0;
        loop {
            // Never left in the middle: it may be won.
            let claim = self.claim_once(key).await;
            match claim {
                Ok(Claim::InFlight) => {}
                Ok(Claim::Won(_)) => return (claim, self.works.slots.enter(caller(key))),
                claim => return (claim, None),
            }
            tokio::select! {
                () = self.enough(until, &mut gone) => return (claim, None),
                () = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())) => {}
                () = room.finished.notified() => {}
            }
            pause = (pause * 2).min(LOOK_PAUSE.1);
        }
    }

    /// Until there is no point in waiting any longer.
    async fn enough(&self, until: Instant, gone: impl Future<Output = ()>) {
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = self.works.closing.cancelled() => {}
            () = gone => {}
        }
    }

    async fn claim_once(&self, key: &IdempotencyKey) -> Result<Claim, StoreDown> {
        let lease = Lease::new(Arc::clone(&self.store), key.clone(), self.times);
        match self.store.claim(key, lease.owner, self.times.lease).await {
            Ok(Claimed::Won) => Ok(Claim::Won(lease)),
            Ok(Claimed::Leased(payload) | Claimed::Done(payload, _) | Claimed::Unknown(payload)) if payload != key.fingerprint => {
                Ok(Claim::Mismatch)
            }
            Ok(Claimed::Leased(_)) => Ok(Claim::InFlight),
            Ok(Claimed::Done(_, reply)) => Ok(Claim::Replay(reply)),
            Ok(Claimed::Unknown(_)) => Ok(Claim::Unknown),
            Err(error) => {
                if let StoreDown::NoAnswer(_) = error {
                    // A store that hangs may carry the claim out when it wakes.
                    self.works.take_back(lease);
                }
                Err(error)
            }
        }
    }

    /// Does the work while holding the key, and keeps its answer or frees the key.
    async fn carry_out<E, W>(&self, mut lease: Lease, work: impl FnOnce(Intention) -> W, mut teller: Teller<E>)
    where
        W: Future<Output = Result<StoredReply, Failure<E>>>,
    {
        // Whoever was stopped between the claim and now may have lost the key before having begun.
        if lease.since.elapsed() > self.times.lease / 2 {
            let asked = Instant::now();
            if !matches!(lease.renew().await, Ok(true)) {
                self.works.take_back(lease);
                return teller.tell(Err(OnceError::InFlight));
            }
            lease.since = asked;
        }
        let over = CancellationToken::new();
        let work = work(lease.intention());
        let attempt = async {
            let result = tokio::select! {
                biased;
                result = AssertUnwindSafe(work).catch_unwind() => Some(result),
                () = self.works.giving_up.cancelled() => None,
            };
            over.cancel();
            result
        };
        // Both to their end: a renewal that is under way must not come after what follows here.
        let (result, ()) = tokio::join!(attempt, self.keep_renewing(&lease, &over));
        let reply = match result {
            Some(Ok(Ok(reply))) if reply.is_final() => reply,
            Some(Ok(Ok(reply))) => return self.free(lease, teller, Ok(Answer { reply, replayed: false })).await,
            Some(Ok(Err(Failure::NotDone(error)))) => return self.free(lease, teller, Err(OnceError::Work(error))).await,
            Some(Ok(Err(Failure::Unknown(error)))) => return self.leave_unknown(lease, teller, Some(error)).await,
            // What was intended may have happened.
            Some(Err(_)) | None if lease.is_intended() => return self.leave_unknown(lease, teller, None).await,
            Some(Err(_panic)) => return self.free(lease, teller, Err(OnceError::Panicked)).await,
            None => {
                tracing::warn!(route = &*lease.key.scope, "work given up at the end of the grace period; its key is free again");
                return self.free(lease, teller, Err(OnceError::ShuttingDown)).await;
            }
        };
        // Not renewed any more: an answer can be kept after its lease, as long as nobody else came.
        tokio::select! {
            biased;
            () = self.keep(&lease, reply, &mut teller) => {}
            () = self.works.giving_up.cancelled() => {
                tracing::error!(route = &*lease.key.scope, key = %lease.key.hash, "an answer was not kept: the store did not come back in time");
            }
        }
    }

    /// Keeps the answer, and tells it as soon as it is kept, or the store has been waited for long enough.
    async fn keep<E>(&self, lease: &Lease, reply: StoredReply, teller: &mut Teller<E>) {
        let began = Instant::now();
        loop {
            match lease.complete(&reply).await {
                Ok(Completed::Stored) => {
                    self.share.add(&caller(&lease.key), reply.size(), self.times.keep);
                    return teller.tell(Ok(Answer { reply, replayed: false }));
                }
                Ok(Completed::Lost(theirs)) => {
                    self.lost(lease);
                    return teller.tell(match theirs {
                        Some((fingerprint, _)) if fingerprint != lease.key.fingerprint => Err(OnceError::Mismatch),
                        Some((_, reply)) => Ok(Answer { reply, replayed: true }),
                        None => Err(OnceError::InFlight),
                    });
                }
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    if began.elapsed() > STORE_LIMIT {
                        tracing::error!(route = &*lease.key.scope, key = %lease.key.hash, error, "an answer was not kept: the store did not come back");
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

    /// Renews at a third of the lease until the work is over. Goes on while the store is down, and stops where somebody else has
    /// the key: the work cannot be undone, only its answer is not kept.
    async fn keep_renewing(&self, lease: &Lease, over: &CancellationToken) {
        let length = self.times.lease;
        let mut next = lease.since + length / 3;
        while tokio::time::timeout_at(next, over.cancelled()).await.is_err() {
            next = Instant::now() + length / 3;
            match lease.renew().await {
                Ok(true) => {}
                Ok(false) => {
                    self.lost(lease);
                    return;
                }
                Err(error) => {
                    // There is time for a few more.
                    next = Instant::now() + length / 12;
                    tracing::warn!(route = &*lease.key.scope, error = format!("{:#}", anyhow::Error::new(error)), "a lease is not renewed");
                }
            }
        }
    }

    /// Holds the key until somebody says what happened, or it is no longer kept.
    async fn leave_unknown<E>(&self, lease: Lease, mut teller: Teller<E>, error: Option<E>) {
        let (route, key) = (&*lease.key.scope, lease.key.hash);
        tracing::warn!(route, %key, "nobody knows whether this work was done: it is not done again until `idempotency resolve` says so");
        if let Err(error) = lease.leave_unknown().await {
            tracing::warn!(route, error = format!("{:#}", anyhow::Error::new(error)), "a lease is not ended: it ends by itself");
        }
        teller.tell(Err(OnceError::Unknown(error)));
    }

    /// First free, then told: the caller may try again at once.
    async fn free<E>(&self, lease: Lease, mut teller: Teller<E>, answer: Result<Answer, OnceError<E>>) {
        match lease.release().await {
            Ok(true) => {}
            Ok(false) => self.works.take_back(lease),
            Err(error) => {
                tracing::warn!(route = &*lease.key.scope, error = format!("{:#}", anyhow::Error::new(error)), "a key is not freed yet");
                self.works.take_back(lease);
            }
        }
        teller.tell(answer);
    }

    fn lost(&self, lease: &Lease) {
        if !lease.lost.swap(true, Ordering::Relaxed) {
            self.metrics.lease_lost(&lease.key.scope);
            tracing::warn!(route = &*lease.key.scope, "a lease was lost to another request: this answer is not kept");
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
