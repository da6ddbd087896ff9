//! `Signed<T>`: a body whose signature was checked, or whose sender's API key, before anything of it was read. A handler that
//! names it cannot be mounted open to everybody.

use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap};
use actix_web::web::{Bytes, BytesMut, Data};
use actix_web::{FromRequest, HttpRequest};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;

use super::error::ApiError;
use super::{Bounds, request};
use crate::config::SigningScheme;
use crate::domain::{Keyring, SigningKey, TenantId};

/// Names the key that signed; optional.
pub(super) const KEY_ID: &str = "X-CXone-Key-Id";

/// A request whose signature is right.
pub(super) struct Proven {
    /// The key that signed.
    pub(super) key: SigningKey,
    /// What was signed, not read yet.
    pub(super) body: Bytes,
}

impl FromRequest for Proven {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let (key, body) = prove(&request, payload).await?;
            Ok(Self { key: key.clone(), body })
        })
    }
}

/// The raw body, and the key that signed it.
async fn prove(request: &HttpRequest, payload: Payload) -> Result<(&SigningKey, Bytes), ApiError> {
    let settings = (request.app_data::<Data<SigningScheme>>(), request.app_data::<Data<Keyring>>());
    let (Some(scheme), Some(keys)) = settings else { return Err(ApiError::Internal(None)) };
    let body = read_body(request.headers(), payload, bounds(request)?).await?;
    let key = verify(request.headers(), &body, scheme, keys, Utc::now())?;
    Ok((key, body))
}

/// A request whose signature is right and whose key may speak for the tenant that it names.
pub(super) struct Signed<T> {
    /// The key that signed.
    pub(super) key_id: Arc<str>,
    /// What was signed.
    pub(super) value: T,
}

/// A body that can be signed.
pub(super) trait SignedBody: Sized + 'static {
    /// Reads the raw body, whose signature is right.
    fn parse(body: &[u8], bounds: &Bounds) -> Result<Self, ApiError>;

    /// The tenant whose data it is about.
    fn tenant(&self) -> &TenantId;
}

impl<T: SignedBody> FromRequest for Signed<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let (key, body) = prove(&request, payload).await?;
            Self::of(&request, key, &body, bounds(&request)?)
        })
    }
}

impl<T: SignedBody> Signed<T> {
    /// Reads a body that this key has signed, and makes sure that it may speak for the tenant.
    pub(super) fn of(request: &HttpRequest, key: &SigningKey, body: &[u8], bounds: &Bounds) -> Result<Self, ApiError> {
        let value = T::parse(body, bounds)?;
        request::note(request, |notes| notes.tenant = Some(*value.tenant()));
        if !key.allows(value.tenant()) {
            return Err(ApiError::TenantNotAllowed);
        }
        Ok(Self { key_id: key.shared_id(), value })
    }
}

/// The bounds of every request.
pub(super) fn bounds(request: &HttpRequest) -> Result<&Bounds, ApiError> {
    request.app_data::<Data<Bounds>>().map(|bounds| &***bounds).ok_or(ApiError::Internal(None))
}

/// The raw body, at most so long and at the latest by its deadline.
pub(super) async fn read_body(headers: &HeaderMap, mut payload: Payload, bounds: &Bounds) -> Result<Bytes, ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    if announced > bounds.max_body_bytes {
        return Err(ApiError::BodyTooLarge);
    }
    let arrive = async {
        let mut next = async || payload.next().await.transpose().map_err(|_| ApiError::InvalidJson);
        // Most bodies come in one piece, and need no copy.
        let first = next().await?.unwrap_or_default();
        let mut length = first.len();
        let mut body = BytesMut::new();
        while length <= bounds.max_body_bytes {
            let Some(chunk) = next().await? else {
                return Ok(if body.is_empty() { first } else { body.freeze() });
            };
            if body.is_empty() {
                body.reserve(announced.max(length + chunk.len()));
                body.extend_from_slice(&first);
            }
            length += chunk.len();
            body.extend_from_slice(&chunk);
        }
        Err(ApiError::BodyTooLarge)
    };
    tokio::time::timeout(bounds.body_timeout, arrive).await.unwrap_or(Err(ApiError::RequestTimeout))
}

/// The key that signed this body and whatever else the scheme wants signed, or whose API key is there instead.
pub(super) fn verify<'k>(
    headers: &HeaderMap,
    body: &[u8],
    scheme: &SigningScheme,
    keys: &'k Keyring,
    now: DateTime<Utc>,
) -> Result<&'k SigningKey, ApiError> {
    let Some(signature) = single(headers, &scheme.header)? else { return admit(headers, scheme, keys, now) };
    let tag = scheme.encoding.decode(signature).ok_or(ApiError::InvalidSignature)?;
    let key_id = single(headers, KEY_ID)?;
    let timestamp = match &scheme.timestamp_header {
        Some(name) => Some(single(headers, name)?.ok_or(ApiError::MissingSignature)?),
        None => None,
    };
    let mut signed: Vec<&[u8]> = Vec::new();
    for part in timestamp.into_iter().map(Ok).chain(scheme.signed_headers.iter().map(|name| undotted(headers, name))) {
        signed.extend([part?.as_bytes(), b"."]);
    }
    signed.push(body);
    let key = keys.verify(key_id, &tag, &signed, now).ok_or(ApiError::InvalidSignature)?;
    if let Some(timestamp) = timestamp {
        fresh(timestamp, scheme.tolerance, now)?;
    }
    Ok(key)
}

/// The key whose API key is there in the place of a signature, where the scheme lets it.
fn admit<'k>(headers: &HeaderMap, scheme: &SigningScheme, keys: &'k Keyring, now: DateTime<Utc>) -> Result<&'k SigningKey, ApiError> {
    let header = scheme.api_key_header.as_ref().ok_or(ApiError::MissingSignature)?;
    let api_key = match (single(headers, header)?, bearer(headers)?) {
        (Some(_), Some(_)) => return Err(ApiError::InvalidSignature),
        (one, other) => one.or(other).ok_or(ApiError::MissingSignature)?,
    };
    keys.admit(single(headers, KEY_ID)?, api_key, now).ok_or(ApiError::InvalidSignature)
}

/// The token of `Authorization: Bearer` (RFC 6750 section 2.1). Other ways to authorize are not ours.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let value = single(headers, AUTHORIZATION.as_str())?;
    Ok(value.and_then(|value| value.split_once(' ')).filter(|(way, _)| way.eq_ignore_ascii_case("Bearer")).map(|(_, token)| token.trim()))
}

/// Refuses a signed time, in Unix seconds, that is too far from now.
pub(super) fn fresh(timestamp: &str, tolerance: Duration, now: DateTime<Utc>) -> Result<(), ApiError> {
    let time = i64::from_str(timestamp).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0)).ok_or(ApiError::InvalidSignature)?;
    let tolerance = TimeDelta::from_std(tolerance).unwrap_or(TimeDelta::MAX);
    if (now - time).abs() > tolerance { Err(ApiError::StaleSignature) } else { Ok(()) }
}

/// A signed header's value, empty where it is missing. Without a dot, so that nothing can pass from one value to the next.
fn undotted<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, ApiError> {
    let value = single(headers, name)?.unwrap_or_default();
    if value.contains('.') { Err(ApiError::InvalidSignature) } else { Ok(value) }
}

/// The one value of a header. Two of them are a wrong signature: whoever stands in between may look at the other one.
pub(super) fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ApiError> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ApiError::InvalidSignature),
        (Some(_), Some(_)) => Err(ApiError::InvalidSignature),
    }
}
