//! Canonical forms of bodies (RFC 8785), the long ones made where they hold up no other request.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use actix_web::web::Bytes;
use tokio::sync::Semaphore;

use super::error::ApiError;
use crate::domain::SigningKey;
use crate::domain::canonical::{Unclear, canonical};

/// The longest body whose canonical form an HTTP worker makes itself, in bytes: that takes at most about 0.2 ms.
const MAX_INLINE: usize = 8 << 10;

/// Makes canonical forms. Those of long bodies are made on other threads, fewer than there are processors, and the keys take turns:
/// one body of each key is made or waits for a thread, the others of that key wait for it.
pub struct CanonicalForms {
    threads: Semaphore,
    /// By key id: as many as the settings have keys.
    turns: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Default for CanonicalForms {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, NonZero::get);
        Self { threads: Semaphore::new((processors / 2).max(1)), turns: Mutex::default() }
    }
}

impl CanonicalForms {
    /// The canonical form of a body that `caller` has signed.
    ///
    /// # Errors
    /// [`ApiError::Internal`]: the thread panicked. The inner error is that of [`canonical`].
    pub(super) async fn make(&self, caller: &SigningKey, body: &Bytes) -> Result<Result<String, Unclear>, ApiError> {
        if body.len() <= MAX_INLINE {
            return Ok(canonical(body));
        }
        let turn = self.turn(caller);
        let _turn = turn.acquire().await.map_err(|_| ApiError::Internal(None))?;
        let _thread = self.threads.acquire().await.map_err(|_| ApiError::Internal(None))?;
        let body = body.clone();
        tokio::task::spawn_blocking(move || canonical(&body)).await.map_err(|_| ApiError::Internal(None))
    }

    fn turn(&self, caller: &SigningKey) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(caller.id().to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}
