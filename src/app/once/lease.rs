//! The right to do a piece of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Times;
use crate::app::ports::{Completed, IdempotencyStore, Intent, StoreDown};
use crate::domain::{IdempotencyKey, Owner, StoredReply};

/// The first and the longest pause between two tries to take a lease back, and how long, beyond a lease's length, it is tried.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
const LIMIT: Duration = Duration::from_mins(15);

/// The right to do a piece of work. Ends when it is completed, released, left unknown or taken back, else by itself.
#[must_use]
pub(super) struct Lease {
    pub(super) store: Arc<dyn IdempotencyStore>,
    pub(super) key: IdempotencyKey,
    pub(super) owner: Owner,
    pub(super) times: Times,
    pub(super) since: Instant,
    pub(super) lost: AtomicBool,
    intent: Arc<AtomicU8>,
}

/// How far an intent has come.
mod intent {
    /// Nothing that cannot be taken back is under way. It may be on record from before.
    pub(super) const NONE: u8 = 0;
    /// It is on record, or may be so at any moment, and the work may be under way.
    pub(super) const RECORDED: u8 = 1;
    /// It was to be put on record, and nobody knows whether it will be. Nothing was begun.
    pub(super) const IN_DOUBT: u8 = 2;
}

/// What work that cannot be taken back puts on record before it begins.
pub struct Intention {
    store: Arc<dyn IdempotencyStore>,
    key: IdempotencyKey,
    owner: Owner,
    times: Times,
    intent: Arc<AtomicU8>,
}

#[async_trait]
impl Intent for Intention {
    async fn record(&self) -> Result<bool, StoreDown> {
        // Before it is so: whoever is given up in between may have it on record.
        self.intent.store(intent::RECORDED, Ordering::Relaxed);
        let recorded = self.store.intend(&self.key, self.owner, self.times.lease, self.times.keep).await;
        match &recorded {
            Ok(true) => {}
            Ok(false) | Err(StoreDown::NotAsked(_)) => self.refused(),
            Err(StoreDown::NoAnswer(_)) => self.intent.store(intent::IN_DOUBT, Ordering::Relaxed),
        }
        recorded
    }

    fn refused(&self) {
        self.intent.store(intent::NONE, Ordering::Relaxed);
    }
}

impl Lease {
    /// A lease that is to be claimed, by an owner of its own.
    pub(super) fn new(store: Arc<dyn IdempotencyStore>, key: IdempotencyKey, times: Times) -> Self {
        Self { store, key, owner: Owner::draw(), times, since: Instant::now(), lost: AtomicBool::new(false), intent: Arc::default() }
    }

    pub(super) fn intention(&self) -> Intention {
        let Self { store, key, owner, times, intent, .. } = self;
        Intention { store: Arc::clone(store), key: key.clone(), owner: *owner, times: *times, intent: Arc::clone(intent) }
    }

    /// Whether work may be under way that cannot be taken back.
    pub(super) fn is_intended(&self) -> bool {
        self.intent.load(Ordering::Relaxed) == intent::RECORDED
    }

    /// Holds the key, and the intent with it: a store may have lost both.
    pub(super) async fn renew(&self) -> Result<bool, StoreDown> {
        let Times { lease, keep, .. } = self.times;
        if self.is_intended() {
            self.store.intend(&self.key, self.owner, lease, keep).await
        } else {
            self.store.renew(&self.key, self.owner, lease).await
        }
    }

    pub(super) async fn complete(&self, reply: &StoredReply) -> Result<Completed, StoreDown> {
        self.store.complete(&self.key, self.owner, reply, self.times.keep).await
    }

    /// Whether the key is free for sure. An intent that nobody has heard of may still come.
    pub(super) async fn release(&self) -> Result<bool, StoreDown> {
        self.store.release(&self.key, self.owner).await?;
        Ok(self.intent.load(Ordering::Relaxed) != intent::IN_DOUBT)
    }

    /// Ends the lease of work of which nobody knows whether it was done.
    pub(super) async fn leave_unknown(&self) -> Result<(), StoreDown> {
        self.renew().await?;
        self.store.leave_unknown(&self.key, self.owner).await
    }

    /// Releases until the store has answered, or has been away for so long that there is nothing left to release. Twice, since the
    /// first answer may have overtaken what is still under way. When the service goes down, once more and no longer.
    pub(super) async fn take_back(self, closing: CancellationToken) {
        let began = Instant::now();
        let mut answered = 0;
        let mut pause = PAUSE.0;
        while answered < 2 && began.elapsed() < self.times.lease + LIMIT {
            let last = tokio::time::timeout(pause, closing.cancelled()).await.is_ok();
            match self.store.release(&self.key, self.owner).await {
                Ok(()) => answered += 1,
                Err(_) => pause = (pause * 2).min(PAUSE.1),
            }
            if last {
                break;
            }
        }
        if answered == 0 {
            self.not_freed();
        }
    }

    /// Whoever looks for a key that stays unknown finds it named here.
    pub(super) fn not_freed(&self) {
        tracing::warn!(route = &*self.key.scope, key = %self.key.hash, "a key was not freed, though its work was not done");
    }
}
