//! The limits of the key that a request proves, on whichever route.

use actix_web::web::Data;
use actix_web::{HttpMessage, HttpRequest};

use super::error::ApiError;
use crate::domain::SigningKey;
use crate::domain::signing::Excess;
use crate::metrics::Metrics;

/// Counts a request against the limits of its key. Its place among those in flight is kept with the request, and so ends with it,
/// however it ends.
pub(super) fn admit(request: &HttpRequest, key: &SigningKey) -> Result<(), ApiError> {
    match key.admit() {
        Ok(None) => Ok(()),
        Ok(Some(place)) => {
            request.extensions_mut().insert(place);
            Ok(())
        }
        Err(excess) => {
            if let Some(metrics) = request.app_data::<Data<Metrics>>() {
                metrics.key_refused(key.id(), excess.as_str());
            }
            Err(match excess {
                Excess::Rate(pause) => ApiError::RateLimited(pause),
                Excess::InFlight => ApiError::KeyBusy,
            })
        }
    }
}
