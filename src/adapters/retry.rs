//! When a call that failed is made again: the one loop for everything that goes out.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use backon::Retryable;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::metrics::Metrics;

/// The first pause is at most so long, each one after it at most twice as long, and none longer than the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A pause may last longer than it was to, by so much on a busy machine.
const LATE: Duration = Duration::from_millis(50);

/// Nobody is believed who asks for more.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);

/// What each call and each second add to the calls that may be made again, and how many of those there may be: a service that
/// fails gets about a tenth more calls, and one that is hardly ever called is still tried again.
const PER_CALL: f64 = 0.08;
const PER_SECOND: f64 = 0.1;
const RESERVE: f64 = 10.0;

/// An error that may pass.
pub(super) trait Passing {
    /// How long it will last at least; `None` where the same call would fail again, or must not be made again.
    fn passes(&self) -> Option<Duration>;
}

/// How often calls to one service may be made again.
pub(super) struct Retries {
    dependency: &'static str,
    metrics: Arc<Metrics>,
    budget: Mutex<Budget>,
}

struct Budget {
    left: f64,
    since: Instant,
}

impl Retries {
    /// `dependency` is its name in metrics.
    pub(super) fn new(dependency: &'static str, metrics: Arc<Metrics>) -> Self {
        Self { dependency, metrics, budget: Mutex::new(Budget { left: RESERVE, since: Instant::now() }) }
    }

    /// Makes a call, and makes it again as long as its error may pass, the budget lasts, and the pause would end before the
    /// deadline.
    pub(super) async fn run<T, E: Passing, F: Future<Output = Result<T, E>>>(
        &self,
        deadline: Instant,
        call: impl FnMut() -> F,
    ) -> Result<T, E> {
        self.add();
        let pause = |error: &E, drawn: Option<Duration>| {
            let pause = drawn?.max(error.passes()?);
            (Instant::now() + pause + LATE < deadline && self.take()).then_some(pause)
        };
        call.retry(pauses()).adjust(pause).notify(|_, _| self.metrics.called_again(self.dependency)).await
    }

    fn add(&self) {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let seconds = now.duration_since(budget.since).as_secs_f64();
        *budget = Budget { left: (budget.left + PER_CALL + PER_SECOND * seconds).min(RESERVE), since: now };
    }

    fn take(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = budget.left >= 1.0;
        if enough {
            budget.left -= 1.0;
        }
        enough
    }
}

/// Pauses that grow and are drawn from nothing up ("full jitter"; M. Brooker, Exponential Backoff and Jitter, 2015): callers who
/// failed together do not come back together.
pub(super) fn pauses() -> impl Iterator<Item = Duration> + Send + Sync + Unpin {
    (0..).map(|failures: u32| PAUSE.0.saturating_mul(1 << failures.min(16)).min(PAUSE.1).mul_f64(fastrand::f64()))
}

/// How long somebody asks to be left alone: in seconds, or until a date (RFC 9110 section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A date that is past asks for nothing.
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test that panics has failed, which is its purpose")]
mod tests {
    use std::cell::Cell;

    use reqwest::header::HeaderValue;

    use super::*;

    /// Passes after so long.
    #[derive(Debug, PartialEq)]
    struct Trouble(Option<Duration>);

    impl Passing for Trouble {
        fn passes(&self) -> Option<Duration> {
            self.0
        }
    }

    fn retries() -> Retries {
        Retries::new("test", Arc::new(Metrics::new(1).expect("metrics")))
    }

    async fn calls(retries: &Retries, passes: Option<Duration>, deadline: Duration) -> u32 {
        let calls = Cell::new(0);
        let call = || async {
            calls.set(calls.get() + 1);
            Err::<(), _>(Trouble(passes))
        };
        let outcome = retries.run(Instant::now() + deadline, call).await;
        assert_eq!(outcome, Err(Trouble(passes)));
        calls.get()
    }

    #[tokio::test]
    async fn what_does_not_pass_is_not_tried_again() {
        assert_eq!(calls(&retries(), None, Duration::from_hours(1)).await, 1);
    }

    #[tokio::test]
    async fn a_pause_that_would_pass_the_deadline_is_not_begun() {
        let began = Instant::now();
        assert_eq!(calls(&retries(), Some(Duration::from_secs(30)), Duration::from_secs(29)).await, 1);
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_service_that_fails_gets_about_a_tenth_more_calls() {
        let retries = retries();
        let mut made = 0;
        for _ in 0..1000 {
            made += calls(&retries, Some(Duration::ZERO), Duration::from_millis(200)).await;
        }
        assert!((1050..=1100).contains(&made), "{made} calls for 1,000 requests");
    }

    #[test]
    fn pauses_grow_and_are_drawn_from_nothing_up() {
        let many: Vec<Vec<Duration>> = (0..200).map(|_| pauses().take(40).collect()).collect();
        for (failures, most) in [(0, 100), (1, 200), (3, 800), (39, 5000)] {
            let drawn: Vec<_> = many.iter().map(|pauses| pauses[failures].as_millis()).collect();
            assert!(drawn.iter().all(|pause| *pause <= most), "{failures}: {drawn:?}");
            let near = |share: u128| drawn.iter().any(|pause| pause * 10 / most == share);
            assert!(near(0) && near(9), "{failures}: {drawn:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |text: &str| {
            let value = HeaderValue::from_str(text).ok()?;
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        let date = |from_now: i64| {
            let offset = Duration::from_secs(from_now.unsigned_abs());
            httpdate::fmt_http_date(if from_now < 0 { SystemTime::now() - offset } else { SystemTime::now() + offset })
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("0"), Some(Duration::ZERO));
        assert_eq!(of("86400"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(of(&date(-3600)), Some(Duration::ZERO));
        assert_eq!(of(&date(3600)), Some(LONGEST_RETRY_AFTER));
        let soon = of(&date(30)).unwrap_or_default();
        assert!((28..=30).contains(&soon.as_secs()), "{soon:?}");
        for nonsense in ["", "-1", "1.5", "soon", "99999999999999999999"] {
            assert_eq!(of(nonsense), None, "{nonsense}");
        }
    }
}
