//! Canonical forms of bodies (RFC 8785), the long ones made where they hold up no other request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::web::Bytes;
use tokio::sync::Semaphore;

use super::background::Background;
use super::error::ApiError;
use crate::domain::SigningKey;
use crate::domain::canonical::{Unclear, canonical};

/// The longest body whose canonical form an HTTP worker makes itself, in bytes: that takes at most about 0.2 ms.
const MAX_INLINE: usize = 8 << 10;

/// Makes canonical forms, those of long bodies in the background. Keys take turns: one body of each key is read there or waits in
/// line, the others of that key wait for it.
pub struct CanonicalForms {
    background: Arc<Background>,
    /// By key id: as many as the settings have keys.
    turns: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl CanonicalForms {
    /// Long ones are made on these threads.
    pub fn new(background: Arc<Background>) -> Self {
        Self { background, turns: Mutex::default() }
    }

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
        let body = body.clone();
        self.background.run(move || canonical(&body)).await.ok_or(ApiError::Internal(None))
    }

    fn turn(&self, caller: &SigningKey) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(caller.id().to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}
