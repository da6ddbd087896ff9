//! `Signed<T>`: a body whose signature was checked, or whose sender's API key, before anything of it was read. A handler that
//! names it cannot be mounted open to everybody.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use actix_web::web::{Bytes, BytesMut, Data};
use actix_web::{FromRequest, HttpRequest};
use futures_util::StreamExt;

use super::connections::Connection;
use super::error::ApiError;
use super::proof::Proof;
use super::{Bounds, limits, proof, request};
use crate::config::SigningScheme;
use crate::domain::{AllowedKeys, Keyring, SigningKey, TenantId};

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
    let body = read_body(request, payload, bounds(request)?).await?;
    let key = proof::prove(request, &body, Proof::by_scheme(request, &body, scheme), keys).await?;
    limits::admit(request, key)?;
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

/// Refuses a key that may not use the route.
pub(super) fn allow(allowed: &AllowedKeys, key: &SigningKey) -> Result<(), ApiError> {
    if allowed.contains(key) { Ok(()) } else { Err(ApiError::KeyNotAllowed) }
}

/// The bounds of every request.
pub(super) fn bounds(request: &HttpRequest) -> Result<&Bounds, ApiError> {
    request.app_data::<Data<Bounds>>().map(|bounds| &***bounds).ok_or(ApiError::Internal(None))
}

/// Whether the body is sent as it is: the service decodes none, since a signature covers the bytes that arrive.
fn is_plain(headers: &HeaderMap) -> bool {
    let is_identity = |one: &str| one.is_empty() || one.eq_ignore_ascii_case("identity");
    let mut lists = headers.get_all(CONTENT_ENCODING);
    lists.all(|value| value.to_str().is_ok_and(|list| list.split(',').map(str::trim).all(is_identity)))
}

/// The raw body, at most so long and at the latest by its deadline.
pub(super) async fn read_body(request: &HttpRequest, mut payload: Payload, bounds: &Bounds) -> Result<Bytes, ApiError> {
    let headers = request.headers();
    let _open = Connection::of(request).map(Connection::read_body);
    if !is_plain(headers) {
        return Err(ApiError::UnsupportedEncoding);
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    if announced > bounds.max_body_bytes {
        return Err(ApiError::BodyTooLarge);
    }
    // The HTTP server takes all that follows a request with `Upgrade: websocket` for its body. Upgrades are not served, so the body
    // is that of any other request.
    let is_exact = headers.contains_key(UPGRADE) && !headers.contains_key(TRANSFER_ENCODING);
    if is_exact && announced == 0 {
        return Ok(Bytes::new());
    }
    let arrive = async {
        let mut next = async || payload.next().await.transpose().map_err(|_| ApiError::InvalidJson);
        // Most bodies come in one piece, and need no copy.
        let first = next().await?.unwrap_or_default();
        let mut length = first.len();
        let mut body = BytesMut::new();
        while length <= bounds.max_body_bytes {
            let chunk = if is_exact && length >= announced { None } else { next().await? };
            let Some(chunk) = chunk else {
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
