//! What is under way, on all routes: how much of it there may be, and how it ends when the service does.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::lease::Lease;
use crate::app::admission::{self, Admission};
use crate::domain::IdempotencyKey;

/// What work is shared out by: the route, and the id of the caller's key.
pub(super) type Caller = (Arc<str>, Arc<str>);

/// A place for work, or for a request that waits for it.
pub(super) type Place = admission::Place<Caller>;

/// The caller of a request.
pub(super) fn caller(key: &IdempotencyKey) -> Caller {
    (Arc::clone(&key.scope), Arc::clone(&key.caller))
}

/// Everything that is under way, on all routes.
pub struct Works {
    pub(super) tasks: TaskTracker,
    pub(super) slots: Arc<Admission<Caller>>,
    /// For those who wait for somebody else's answer, so that they take no work's place.
    pub(super) seats: Arc<Admission<Caller>>,
    /// For claims that are taken back.
    claims_lost: Arc<Semaphore>,
    pub(super) runtime: Handle,
    /// Nobody waits for somebody else's answer any more.
    pub(super) closing: CancellationToken,
    /// Whatever still runs is given up.
    pub(super) giving_up: CancellationToken,
}

impl Works {
    /// At most so many pieces of work at a time. Must be called on the main runtime: work runs there.
    pub fn new(max_in_flight: usize) -> Self {
        Self {
            tasks: TaskTracker::new(),
            slots: Admission::new(max_in_flight),
            seats: Admission::new(max_in_flight),
            claims_lost: Arc::new(Semaphore::new(max_in_flight)),
            runtime: Handle::current(),
            closing: CancellationToken::new(),
            giving_up: CancellationToken::new(),
        }
    }

    /// Sends away whoever waits for somebody else's answer. Work is still taken.
    pub fn stop_waiting(&self) {
        self.closing.cancel();
    }

    /// Drops what is under way. Its keys are free, but for those of work that cannot be taken back.
    pub fn give_up(&self) {
        self.giving_up.cancel();
    }

    /// Takes no more work, and waits for what is under way.
    pub async fn finish(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Sees to it, in the background, that a lease nobody can use holds up nobody.
    pub(super) fn take_back(&self, lease: Lease) {
        let Ok(place) = Arc::clone(&self.claims_lost).try_acquire_owned() else { return lease.not_freed() };
        let closing = self.closing.clone();
        let work = async move {
            let _place = place;
            lease.take_back(closing).await;
        };
        self.runtime.spawn(self.tasks.track_future(work.in_current_span()));
    }
}
