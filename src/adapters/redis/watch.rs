//! Follows the server behind a pool while no connection fails: a name that moves while the old server runs on breaks nothing.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::pool::Manager;

/// How often the server in use is asked for its role and its history: a demoted one still answers reads, out of data that may
/// be replaced by another server's at any moment.
const ROLE_EVERY: Duration = Duration::from_millis(250);

/// Each so many times a fresh connection is made instead, by a name that is resolved anew: once a second. Less than a second
/// of a pool on the server before costs no coherence, since all its reads and all its marks go there.
const RECONNECT_EVERY: u32 = 4;

/// Runs until it is dropped.
pub(super) async fn watch(manager: Manager) {
    let mut ticks = interval(ROLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    for tick in (0..RECONNECT_EVERY).cycle() {
        ticks.tick().await;
        if tick == 0 {
            connection = manager.open().await.ok();
        } else if let Some(open) = &mut connection
            && manager.look_again(open).await.is_err()
        {
            connection = None;
        }
    }
}
