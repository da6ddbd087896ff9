//! How many requests a key may make in a minute, and how many at a time. For this instance: others count their own.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limits of one key. Clones count together.
#[derive(Clone, Default)]
pub struct KeyLimits {
    rate: Option<Arc<DefaultDirectRateLimiter>>,
    in_flight: Option<Arc<Semaphore>>,
}

/// The place of a request among those that its key may have in flight; free again once this is dropped.
#[must_use]
pub struct InFlight(#[expect(dead_code, reason = "it is there to be dropped")] OwnedSemaphorePermit);

/// Which limit a request is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Requests in a minute; the next one may come after this time.
    Rate(Duration),
    /// Requests at a time.
    InFlight,
}

impl Excess {
    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rate(_) => "rate_per_minute",
            Self::InFlight => "max_in_flight",
        }
    }
}

impl KeyLimits {
    /// `None`: without that limit. A minute's requests may come at once; they are refilled evenly.
    pub fn new(rate_per_minute: Option<NonZeroU32>, max_in_flight: Option<usize>) -> Self {
        Self {
            rate: rate_per_minute.map(|rate| Arc::new(RateLimiter::direct(Quota::per_minute(rate)))),
            in_flight: max_in_flight.map(|most| Arc::new(Semaphore::new(most))),
        }
    }

    /// Counts a request; what it gets is to be kept until the request is answered.
    pub fn admit(&self) -> Result<Option<InFlight>, Excess> {
        // First, since a place is given back where the rate refuses.
        let permit = self.in_flight.as_ref().map(|places| Arc::clone(places).try_acquire_owned()).transpose();
        let permit = permit.map_err(|_| Excess::InFlight)?;
        if let Some(rate) = &self.rate {
            rate.check().map_err(|early| Excess::Rate(early.wait_time_from(DefaultClock::default().now())))?;
        }
        Ok(permit.map(InFlight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_requests_come_at_once_and_the_next_one_waits_for_its_share() {
        let limits = KeyLimits::new(NonZeroU32::new(2), None);
        assert!([limits.admit(), limits.clone().admit()].iter().all(Result::is_ok));
        let Err(Excess::Rate(pause)) = limits.admit() else { unreachable!("two were used") };
        assert!(pause <= Duration::from_secs(30), "{pause:?}");
    }

    #[test]
    fn a_place_is_free_again_once_it_is_dropped_or_the_rate_refuses() {
        let limits = KeyLimits::new(NonZeroU32::new(2), Some(1));
        let first = limits.admit();
        assert_eq!(limits.admit().err(), Some(Excess::InFlight));
        drop(first);
        drop(limits.admit());
        assert!((0..3).all(|_| matches!(limits.admit(), Err(Excess::Rate(_)))));
    }

    #[test]
    fn without_limits_everything_is_admitted() {
        assert!((0..1000).all(|_| matches!(KeyLimits::default().admit(), Ok(None))));
    }
}
