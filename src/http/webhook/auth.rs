//! Who calls a webhook: proven by a signature, by a secret, or as Standard Webhooks 1.0.0 has it.

use actix_web::http::header::HeaderMap;
use chrono::{DateTime, Utc};

use crate::config::Auth;
use crate::domain::{Encoding, SigningKey};
use crate::http::error::ApiError;
use crate::http::signed::{self, KEY_ID, fresh, single};

/// Signatures of one request that are looked at: a sender that changes its secret sends two.
const MAX_SIGNATURES: usize = 8;

/// The key that proves who calls.
pub(super) fn verify<'k>(headers: &HeaderMap, body: &[u8], auth: &'k Auth, now: DateTime<Utc>) -> Result<&'k SigningKey, ApiError> {
    match auth {
        Auth::Hmac { scheme, keys } => signed::verify(headers, body, scheme, keys, now),
        Auth::ApiKey { header, keys } => {
            let secret = single(headers, header)?.ok_or(ApiError::MissingSignature)?;
            keys.identify(single(headers, KEY_ID)?, secret, now).ok_or(ApiError::InvalidSignature)
        }
        Auth::StandardWebhooks { tolerance, keys } => {
            let [id, timestamp, signatures] = ["webhook-id", "webhook-timestamp", "webhook-signature"]
                .map(|name| single(headers, name)?.ok_or(ApiError::MissingSignature));
            let (id, timestamp, signatures) = (id?, timestamp?, signatures?);
            // A dot would let the id's end pass for a timestamp.
            if id.contains('.') {
                return Err(ApiError::InvalidSignature);
            }
            let text = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
            let mut tags = signatures.split(' ').filter_map(|signature| Encoding::Base64.decode(signature.strip_prefix("v1,")?));
            let key = tags.by_ref().take(MAX_SIGNATURES).find_map(|tag| keys.verify(None, &tag, &text, now));
            let key = key.ok_or(ApiError::InvalidSignature)?;
            fresh(timestamp, *tolerance, now)?;
            Ok(key)
        }
    }
}
