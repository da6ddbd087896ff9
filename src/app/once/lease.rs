//! The right to do a piece of work.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::ports::{Completed, IdempotencyStore, StoreDown};
use crate::domain::{IdempotencyKey, Owner, StoredReply};

/// The first and the longest pause between two tries to take a lease back, and how long, beyond the lease, it is tried.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
const LIMIT: Duration = Duration::from_mins(1);

/// The right to do a piece of work. Ends when it is completed, released or taken back, else by itself.
#[must_use]
pub(super) struct Lease {
    pub(super) store: Arc<dyn IdempotencyStore>,
    pub(super) key: IdempotencyKey,
    pub(super) owner: Owner,
    pub(super) length: Duration,
    pub(super) since: Instant,
    pub(super) lost: AtomicBool,
}

impl Lease {
    pub(super) async fn renew(&self) -> Result<bool, StoreDown> {
        self.store.renew(&self.key, self.owner, self.length).await
    }

    pub(super) async fn complete(&self, reply: &StoredReply, keep: Duration) -> Result<Completed, StoreDown> {
        self.store.complete(&self.key, self.owner, reply, keep).await
    }

    pub(super) async fn release(&self) -> Result<(), StoreDown> {
        self.store.release(&self.key, self.owner).await
    }

    /// Releases until the store has answered, or the lease is over anyhow. Twice, since the first answer may have overtaken a
    /// claim that is still under way. When the service goes down, once more and no longer.
    pub(super) async fn take_back(self, closing: CancellationToken) {
        let mut answered = 0;
        let mut pause = PAUSE.0;
        while answered < 2 && self.since.elapsed() < self.length + LIMIT {
            let last = tokio::time::timeout(pause, closing.cancelled()).await.is_ok();
            match self.release().await {
                Ok(()) => answered += 1,
                Err(_) => pause = (pause * 2).min(PAUSE.1),
            }
            if last {
                return;
            }
        }
    }
}
