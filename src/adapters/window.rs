//! So many calls within any minute, and no more: what a quota "per minute" allows whichever way the other side counts it. A
//! token bucket of that size would let nearly twice as many into the first minute.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const LENGTH: Duration = Duration::from_mins(1);

/// When the calls of the last minute were made.
pub(super) struct Window {
    most: usize,
    entered: Mutex<VecDeque<Instant>>,
}

impl Window {
    pub(super) fn new(most: usize) -> Self {
        Self { most, entered: Mutex::default() }
    }

    /// Waits until there is room; or says how long that would take, where it would take longer than there is time.
    pub(super) async fn room(&self, deadline: Instant) -> Result<(), Duration> {
        self.wait(deadline, false).await
    }

    /// The same, and takes a place.
    pub(super) async fn enter(&self, deadline: Instant) -> Result<(), Duration> {
        self.wait(deadline, true).await
    }

    async fn wait(&self, deadline: Instant, take: bool) -> Result<(), Duration> {
        while let Err(free) = self.look(take) {
            if free >= deadline {
                return Err(free.saturating_duration_since(Instant::now()));
            }
            tokio::time::sleep_until(free).await;
        }
        Ok(())
    }

    /// Whether there is a place, which may be taken, or when there may be one.
    fn look(&self, take: bool) -> Result<(), Instant> {
        let mut entered = self.entered.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while entered.front().is_some_and(|first| *first + LENGTH <= now) {
            entered.pop_front();
        }
        match entered.front() {
            Some(first) if entered.len() >= self.most => return Err(*first + LENGTH),
            _ if take => entered.push_back(now),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_minute_has_more_than_its_calls() {
        let window = Window::new(100);
        let began = Instant::now();
        let mut entered = Vec::new();
        while began.elapsed() < Duration::from_mins(10) {
            // In bursts and in between, with and without time to wait.
            let patience = Duration::from_secs(fastrand::u64(0..90));
            if window.enter(Instant::now() + patience).await.is_ok() {
                entered.push(Instant::now());
            }
            if fastrand::u8(..) < 30 {
                tokio::time::advance(Duration::from_millis(fastrand::u64(0..2000))).await;
            }
        }
        assert!(entered.windows(101).all(|some| some[100] - some[0] >= LENGTH));
        assert!(entered.len() >= 800, "{} calls in ten minutes", entered.len());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_no_time_is_told_at_once_how_long_it_would_take() {
        let window = Window::new(2);
        for _ in 0..2 {
            assert_eq!(window.enter(Instant::now()).await, Ok(()));
        }
        tokio::time::advance(Duration::from_secs(20)).await;
        let now = Instant::now();
        assert_eq!(window.enter(now + Duration::from_secs(39)).await, Err(Duration::from_secs(40)));
        assert_eq!(now, Instant::now());
        assert_eq!(window.enter(now + Duration::from_secs(41)).await, Ok(()));
    }
}
