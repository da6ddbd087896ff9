//! Work on bodies before anything is waited for: canonical forms (RFC 8785) and the digests of idempotency keys. That of long bodies is
//! done where it holds up no other request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::web::Bytes;
use tokio::sync::Semaphore;

use super::background::Background;
use super::error::ApiError;
use crate::domain::SigningKey;

/// The longest body that an HTTP worker reads itself, in bytes: that takes at most about 0.2 ms.
const MAX_INLINE: usize = 8 << 10;

/// Reads bodies, the long ones in the background. Keys take turns: one body of each key is read there or waits in line, the others of
/// that key wait for it.
pub struct LongBodies {
    background: Arc<Background>,
    /// By key id: as many as the settings have keys.
    turns: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl LongBodies {
    /// Long ones are read on these threads.
    pub fn new(background: Arc<Background>) -> Self {
        Self { background, turns: Mutex::default() }
    }

    /// What `work` makes of a body that `caller` has signed.
    ///
    /// # Errors
    /// [`ApiError::Internal`]: the work panicked.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        caller: &SigningKey,
        body: &Bytes,
        work: impl FnOnce(Bytes) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let body = body.clone();
        if body.len() <= MAX_INLINE {
            return Ok(work(body));
        }
        let turn = self.turn(caller);
        let _turn = turn.acquire().await.map_err(|_| ApiError::Internal(None))?;
        self.background.run(move || work(body)).await.ok_or(ApiError::Internal(None))
    }

    fn turn(&self, caller: &SigningKey) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(caller.id().to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}
