//! Checks at the start and once a minute whether the store is as the migrations make it: loading data may set it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::ports::CustomerStore;

const ROUND: Duration = Duration::from_mins(1);

const PATIENCE: Duration = Duration::from_secs(5);

/// Logs each fault once, until it is mended.
pub(super) async fn watch(store: Arc<dyn CustomerStore>) {
    let mut known = Vec::new();
    loop {
        match store.faults(Instant::now() + PATIENCE).await {
            Ok(faults) => {
                for fault in faults.iter().filter(|fault| !known.contains(*fault)) {
                    tracing::warn!(
                        event = "trigger_fault",
                        fault,
                        "changes of customers may go unnoticed: the cache may answer with old ones"
                    );
                }
                if faults.is_empty() && !known.is_empty() {
                    tracing::info!(event = "trigger_faults_mended", "the triggers of customers are as they should be");
                }
                known = faults;
            }
            Err(error) => tracing::debug!(error = format!("{:#}", anyhow::Error::new(error)), "faults of the store not read"),
        }
        tokio::time::sleep(ROUND).await;
    }
}
