//! How much of a store of idempotency keys one caller of a route may fill with kept answers.
//!
//! As in [`crate::app::admission`], the bound depends on what is free: by itself, a caller has three quarters of the store, and a
//! quarter is left for one that comes anew. What is free is the store's own figure, so it tells of other instances too; what a
//! caller has kept is counted by each instance for itself.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::works::Caller;

/// A caller may have kept so many times as many bytes as are free.
const THRESHOLD: u64 = 3;

/// Steps in which kept answers are counted as gone: a step is this part of the time for which they are kept.
const STEPS: u32 = 16;

/// What a record takes beside its answer, in bytes.
const RECORD_OVERHEAD: u64 = 512;

/// The free bytes of a store that has no bound, or whose bound is not known yet.
const UNBOUNDED: u64 = u64::MAX;

/// The shares of one store's callers.
pub struct StoreShare {
    free: AtomicU64,
    kept: Mutex<HashMap<Caller, VecDeque<Step>>>,
}

/// Answers that were kept within one step.
struct Step {
    until: Instant,
    bytes: u64,
}

impl Default for StoreShare {
    /// Of a store without a bound.
    fn default() -> Self {
        Self { free: AtomicU64::new(UNBOUNDED), kept: Mutex::default() }
    }
}

impl StoreShare {
    /// What the store has room for now, in bytes; `None` where it has no bound.
    pub fn set_free(&self, bytes: Option<u64>) {
        self.free.store(bytes.unwrap_or(UNBOUNDED), Ordering::Relaxed);
    }

    /// Whether a caller may keep another answer; an error says after how long it may have room again.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), Duration> {
        let free = self.free.load(Ordering::Relaxed);
        if free == UNBOUNDED {
            return Ok(());
        }
        let mut kept = self.lock();
        let Some(steps) = kept.get_mut(caller) else { return Ok(()) };
        let now = Instant::now();
        while steps.front().is_some_and(|step| step.until <= now) {
            steps.pop_front();
        }
        let bytes: u64 = steps.iter().map(|step| step.bytes).sum();
        match steps.front() {
            Some(oldest) if bytes > free.saturating_mul(THRESHOLD) => Err(oldest.until - now),
            _ => Ok(()),
        }
    }

    /// An answer of so many bytes is kept for so long.
    pub(super) fn add(&self, caller: &Caller, bytes: usize, keep: Duration) {
        let until = Instant::now() + keep;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(RECORD_OVERHEAD);
        let mut kept = self.lock();
        let steps = kept.entry(caller.clone()).or_default();
        match steps.back_mut() {
            Some(newest) if until < newest.until => newest.bytes = newest.bytes.saturating_add(bytes),
            _ => steps.push_back(Step { until: until + keep / STEPS, bytes }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Caller, VecDeque<Step>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_mins(16);

    fn caller(name: &str) -> Caller {
        ("/x".into(), name.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_three_times_what_is_free_and_another_one_has_its_own() {
        let share = StoreShare::default();
        share.add(&caller("a"), 1_000_000, KEEP);
        assert_eq!(share.check(&caller("a")), Ok(()), "a store without a bound");
        share.set_free(Some(400_000));
        assert_eq!(share.check(&caller("a")), Ok(()));
        share.set_free(Some(300_000));
        assert_eq!(share.check(&caller("a")), Err(KEEP + KEEP / STEPS));
        assert_eq!(share.check(&caller("b")), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_longer_kept_no_longer_counts() {
        let share = StoreShare::default();
        share.set_free(Some(30_000));
        for _ in 0..20 {
            share.add(&caller("a"), 10_000, KEEP);
            tokio::time::advance(KEEP / 10).await;
        }
        let steps = || share.lock().get(&caller("a")).map_or(0, VecDeque::len);
        assert!(steps() <= 20);
        assert!(share.check(&caller("a")).is_err());
        assert!(steps() <= 12, "{} steps for twelve tenths of the time", steps());
        tokio::time::advance(KEEP * 2).await;
        assert_eq!((share.check(&caller("a")), steps()), (Ok(()), 0));
    }
}
