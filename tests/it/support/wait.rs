//! Waiting for a state, never for luck.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(10);

/// Asks again until there is an answer.
pub(crate) async fn wait_until<T>(what: &str, mut state: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    while let Some(left) = PATIENCE.checked_sub(began.elapsed()) {
        if let Ok(Some(answer)) = tokio::time::timeout(left, state()).await {
            return answer;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("waited {PATIENCE:?} in vain until {what}")
}
