//! How much work the service does to explain refused signatures: for the log alone, and on behalf of callers that prove nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::background::Background;

/// The share of one processor's time that diagnoses may take.
const SHARE: f64 = 0.02;

/// The time that may be saved up.
const SAVINGS: Duration = Duration::from_millis(100);

/// The longest body that is looked into, in bytes.
const MAX_BODY: usize = 16 << 10;

/// Time for diagnoses, shared by all HTTP workers. One diagnosis runs at a time, in the background. Its time is taken off once it has
/// ended, so one that takes long is paid for by those that come later.
pub struct DiagnosisBudget {
    background: Arc<Background>,
    is_busy: AtomicBool,
    account: Mutex<Account>,
}

struct Account {
    /// Seconds; less than zero after a diagnosis that took more than there was.
    left: f64,
    at: Instant,
}

/// The right to make one diagnosis, whose time it takes off the budget.
pub(super) struct Permit {
    budget: Arc<DiagnosisBudget>,
    began: Instant,
}

impl DiagnosisBudget {
    /// With all savings. Diagnoses run on these threads.
    pub fn new(background: Arc<Background>) -> Self {
        let account = Account { left: SAVINGS.as_secs_f64(), at: Instant::now() };
        Self { background, is_busy: AtomicBool::new(false), account: Mutex::new(account) }
    }

    /// `None`: the body is too long, a diagnosis runs already, or its time is used up.
    pub(super) fn permit(self: &Arc<Self>, body: &[u8]) -> Option<Permit> {
        let began = Instant::now();
        let may_run = body.len() <= MAX_BODY && self.has_time(began) && !self.is_busy.swap(true, Ordering::Acquire);
        may_run.then(|| Permit { budget: Arc::clone(self), began })
    }

    fn has_time(&self, now: Instant) -> bool {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.saturating_duration_since(account.at).as_secs_f64() * SHARE;
        account.left = (account.left + earned).min(SAVINGS.as_secs_f64());
        account.at = now;
        account.left > 0.0
    }
}

impl Permit {
    /// Runs the diagnosis and takes its time off. `None`: it panicked.
    pub(super) async fn run<T: Send + 'static>(mut self, diagnose: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let background = Arc::clone(&self.budget.background);
        let work = move || {
            // The wait for a thread is no work.
            self.began = Instant::now();
            let outcome = diagnose();
            drop(self);
            outcome
        };
        background.run(work).await
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut account = self.budget.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.left -= self.began.elapsed().as_secs_f64();
        self.budget.is_busy.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> std::io::Result<Arc<DiagnosisBudget>> {
        Ok(Arc::new(DiagnosisBudget::new(Arc::new(Background::new()?))))
    }

    #[test]
    fn one_diagnosis_runs_at_a_time_and_its_time_is_paid_for_by_later_ones() -> std::io::Result<()> {
        let budget = budget()?;
        let permit = budget.permit(b"{}");
        assert!(permit.is_some());
        assert!(budget.permit(b"{}").is_none(), "another one runs");
        drop(permit);
        assert!(budget.permit(b"{}").is_some(), "it took nothing");
        budget.account.lock().unwrap_or_else(PoisonError::into_inner).left = -0.5;
        assert!(budget.permit(b"{}").is_none(), "the time is used up");
        let later = Instant::now() + Duration::from_secs(30);
        assert!(budget.has_time(later), "half a second of work is paid for after 25 seconds");
        Ok(())
    }

    #[test]
    fn no_diagnosis_is_made_of_a_long_body() -> std::io::Result<()> {
        let budget = budget()?;
        assert!(budget.permit(&vec![b' '; MAX_BODY + 1]).is_none());
        assert!(budget.permit(&vec![b' '; MAX_BODY]).is_some());
        Ok(())
    }
}
