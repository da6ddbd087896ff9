//! What stands before a dependency: a deadline, inside a circuit breaker that lets a counted few through to try.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use failsafe::failure_policy::ConsecutiveFailures;
use failsafe::futures::CircuitBreaker;
use failsafe::{Instrument, StateMachine, backoff, failure_policy};
use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

use crate::app::ports::{CacheError, StoreDown};
use crate::metrics::{Circuit, Metrics};

/// Why a guarded call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The breaker is open.
    #[error("its breaker is open")]
    Open,
    /// No answer within the deadline.
    #[error("no answer in time")]
    Timeout,
    /// It cannot be reached, or refused.
    #[error("the call failed")]
    Failed(#[source] anyhow::Error),
}

impl From<GuardError> for CacheError {
    fn from(error: GuardError) -> Self {
        match error {
            GuardError::Open => Self::CircuitOpen,
            GuardError::Timeout => Self::Timeout,
            GuardError::Failed(cause) => Self::Unavailable(cause),
        }
    }
}

impl From<GuardError> for StoreDown {
    fn from(error: GuardError) -> Self {
        match error {
            GuardError::Open => Self::NotAsked(error.into()),
            GuardError::Timeout | GuardError::Failed(_) => Self::NoAnswer(error.into()),
        }
    }
}

/// The guard of one dependency.
pub struct Guard {
    breaker: StateMachine<ConsecutiveFailures<backoff::Constant>, Mirror>,
    mirror: Mirror,
    probes: Semaphore,
    deadline: Duration,
}

/// When a breaker opens, for how long, and how it tries again.
#[derive(Clone, Copy, Debug)]
pub struct GuardSettings {
    /// For each call.
    pub deadline: Duration,
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open. Where that is not longer than the deadline, a call that began before it opened may close it by
    /// its success: failsafe knows no difference.
    pub open: Duration,
    /// Calls at a time while it tries.
    pub probes: usize,
}

impl Guard {
    /// `dependency` is its name in metrics and logs.
    pub fn new(dependency: &'static str, settings: GuardSettings, metrics: Arc<Metrics>) -> Self {
        metrics.circuit(dependency, Circuit::Closed);
        let mirror = Mirror { dependency, metrics, state: Arc::new(AtomicU8::new(Circuit::Closed as u8)), last_error: Arc::default() };
        let policy = failure_policy::consecutive_failures(settings.failures, backoff::constant(settings.open));
        let breaker = failsafe::Config::new().failure_policy(policy).instrument(mirror.clone()).build();
        Self { breaker, mirror, probes: Semaphore::new(settings.probes), deadline: settings.deadline }
    }

    /// Runs the work, unless the breaker is open. Every error counts as the dependency's failure; work that is merely not
    /// waited for any longer counts as nothing.
    pub async fn call<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> Result<T, GuardError> {
        // failsafe's half-open state admits everybody, hence the permits.
        let _probe = if self.mirror.is_closed() { None } else { Some(self.probes.try_acquire().map_err(|_| GuardError::Open)?) };
        // The deadline is inside, since failsafe takes no note of a future dropped from outside.
        let bounded = async {
            let mut work = pin!(work);
            let answer = match tokio::time::timeout(self.deadline, &mut work).await {
                Ok(answer) => Some(answer),
                Err(_) => {
                    // Where this thread was held up, the answer may be there, and counts: it is read after the first turn of
                    // whatever else waits here, and told in the second.
                    yield_now().await;
                    yield_now().await;
                    work.now_or_never()
                }
            };
            let result = answer.map_or(Err(GuardError::Timeout), |answer| answer.map_err(GuardError::Failed));
            result.inspect_err(|error| self.mirror.note(error))
        };
        self.breaker.call(bounded).await.map_err(|error| match error {
            failsafe::Error::Inner(error) => error,
            failsafe::Error::Rejected => GuardError::Open,
        })
    }
}

/// Follows the breaker's state, which failsafe does not show without changing it.
#[derive(Clone)]
struct Mirror {
    dependency: &'static str,
    metrics: Arc<Metrics>,
    state: Arc<AtomicU8>,
    last_error: Arc<Mutex<String>>,
}

impl Mirror {
    /// Keeps what went wrong, to be told when the breaker opens.
    fn note(&self, error: &GuardError) {
        let words = match error {
            GuardError::Failed(cause) => format!("{error}: {cause:#}"),
            GuardError::Timeout | GuardError::Open => error.to_string(),
        };
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = words;
    }

    fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == Circuit::Closed as u8
    }

    fn enter(&self, state: Circuit) {
        // failsafe tells of the state that it begins with, too.
        if self.state.swap(state as u8, Ordering::Relaxed) == state as u8 {
            return;
        }
        self.metrics.circuit_changed(self.dependency, state);
        let last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        tracing::warn!(dependency = self.dependency, state = state.as_str(), last_error = *last_error, "circuit breaker changed");
    }
}

impl Instrument for Mirror {
    fn on_call_rejected(&self) {}

    fn on_open(&self) {
        self.enter(Circuit::Open);
    }

    fn on_half_open(&self) {
        self.enter(Circuit::HalfOpen);
    }

    fn on_closed(&self) {
        self.enter(Circuit::Closed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicUsize;

    use tokio::io::AsyncReadExt;
    use tokio::runtime;
    use tokio::sync::oneshot;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    fn guard() -> Result<Arc<Guard>, prometheus::Error> {
        let settings = GuardSettings { deadline: Duration::from_millis(20), failures: 3, open: Duration::from_millis(100), probes: 2 };
        Ok(Arc::new(Guard::new("test", settings, Arc::new(Metrics::new(1)?))))
    }

    async fn fail(guard: &Guard) -> &'static str {
        match guard.call(std::future::pending::<anyhow::Result<()>>()).await {
            Err(GuardError::Timeout) => "timeout",
            Err(GuardError::Open) => "open",
            _ => "other",
        }
    }

    #[tokio::test]
    async fn hung_calls_open_it_and_then_nothing_gets_through() -> anyhow::Result<()> {
        let guard = guard()?;
        for expected in ["timeout", "timeout", "timeout", "open", "open"] {
            assert_eq!(fail(&guard).await, expected);
        }
        Ok(())
    }

    #[test]
    fn an_answer_that_came_in_time_counts_where_its_reader_was_held_up() -> anyhow::Result<()> {
        // As in the service: whoever asks has the timers of another runtime, and its own socket here.
        let (timers, here) = (runtime::Runtime::new()?, runtime::Builder::new_current_thread().enable_all().build()?);
        let (guard, handle) = (guard()?, timers.handle().clone());
        let asked = async move {
            let (mut server, socket) = UnixStream::pair()?;
            socket.set_nonblocking(true)?;
            let mut socket = tokio::net::UnixStream::from_std(socket)?;
            let (tell, told) = oneshot::channel();
            tokio::spawn(async move { tell.send(socket.read_u8().await) });
            let mut call = Box::pin(async move { guard.call(async { Ok(told.await??) }).await });
            let mut is_asked = false;
            let call = poll_fn(move |context| {
                let _timers = handle.enter();
                let answer = call.as_mut().poll(context);
                if !std::mem::replace(&mut is_asked, true) {
                    let _its_answer = server.write_all(b"7");
                    #[expect(clippy::disallowed_methods, reason = "somebody who waits is held up, which is its purpose")]
                    std::thread::sleep(Duration::from_millis(100));
                }
                answer
            });
            anyhow::Ok(spawn_local(call).await??)
        };
        assert_eq!(here.block_on(LocalSet::new().run_until(asked))?, b'7');
        Ok(())
    }

    #[tokio::test]
    async fn half_open_lets_a_counted_few_through_and_their_success_closes_it() -> anyhow::Result<()> {
        let guard = guard()?;
        for _ in 0..3 {
            fail(&guard).await;
        }
        let entered = Arc::new(AtomicUsize::new(0));
        // Until the open interval is over, whoever asks is refused at once.
        while entered.load(Ordering::Relaxed) == 0 {
            let calls = (0..100).map(|_| {
                let (guard, entered) = (Arc::clone(&guard), Arc::clone(&entered));
                async move {
                    let work = async {
                        entered.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        Ok(())
                    };
                    guard.call(work).await.is_ok()
                }
            });
            futures_util::future::join_all(calls).await;
            tokio::task::yield_now().await;
        }
        assert!(entered.load(Ordering::Relaxed) <= 2, "{entered:?} calls while half open");
        assert!(guard.call(async { Ok(()) }).await.is_ok());
        assert!(guard.mirror.is_closed());
        Ok(())
    }
}
