//! Executes a data action of Genesys Cloud once, whoever asks and however often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::once::{Answer, Failure, Intention, Once, OnceError};
use super::ports::{DataActionApi, DataActionCall, ExecuteError};
use crate::domain::{IdempotencyKey, StoredReply};

/// The use case; the engine is that of the route which asks.
#[derive(Clone)]
pub struct Execute {
    api: Arc<dyn DataActionApi>,
    deadline: Duration,
}

impl Execute {
    /// `deadline`: for one execution: token, waits, retries and call together.
    pub fn new(api: Arc<dyn DataActionApi>, deadline: Duration) -> Self {
        Self { api, deadline }
    }

    /// Executes, or gives the answer of the execution that has been.
    pub async fn run(&self, once: &Arc<Once>, key: IdempotencyKey, call: DataActionCall) -> Result<Answer, OnceError<ExecuteError>> {
        let this = self.clone();
        once.run_intended(key, move |intention| this.call(call, intention)).await
    }

    async fn call(self, call: DataActionCall, intention: Intention) -> Result<StoredReply, Failure<ExecuteError>> {
        let outcome = self.api.execute(&call, Instant::now() + self.deadline, &intention).await;
        outcome.map_err(|error| match error {
            ExecuteError::Unknown(_) => Failure::Unknown(error),
            _ => Failure::NotDone(error),
        })
    }
}
