//! How something is that an instance can do without: asked for now, and not for longer than there is patience.

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

/// Whether it can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// It answers.
    Up,
    /// It does not, or not in time.
    Down,
    /// It is not set.
    Off,
}

impl Reach {
    /// `answers`: whether it does, once it is known; none where it is not set.
    pub async fn of(answers: Option<impl Future<Output = bool>>, patience: Duration) -> Self {
        let Some(answers) = answers else { return Self::Off };
        if timeout(patience, answers).await.unwrap_or(false) { Self::Up } else { Self::Down }
    }
}
