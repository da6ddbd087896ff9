//! `[[webhooks]]`: routes of the settings, whose work is done once.

mod auth;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use chrono::Utc;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Bounds;
use super::data_action;
use super::error::{ApiError, FieldError};
use super::request::{note, request_id};
use super::signed::{Signed, SignedBody, read_body};
use crate::app::lookup::Lookup;
use crate::app::once::Once;
use crate::app::ports::{Forwarded, Upstream};
use crate::config::Auth;
use crate::domain::canonical::Unclear;
use crate::domain::{Hasher, IdempotencyKey, KeySource, NoKey, RequestId, SigningKey, StoredReply, TenantId};

/// The longest key that a header may hold, in bytes.
const MAX_KEY: usize = 255;

/// One route with what it needs.
pub struct Webhook {
    /// Its path, which is its scope too.
    pub scope: Arc<str>,
    /// How a caller proves who it is.
    pub auth: Auth,
    /// What makes two requests the same.
    pub key: KeySource,
    /// What keys are hashed with; drawn from the caller's key where there is none.
    pub hasher: Option<Hasher>,
    /// The engine.
    pub once: Arc<Once>,
    /// The work.
    pub action: Action,
}

/// The work behind a route.
pub enum Action {
    /// Another service does it.
    Forward(Arc<dyn Upstream>),
    /// A lookup, of these tenants' customers or of all that the key allows.
    Lookup(Option<BTreeSet<TenantId>>),
    /// The body comes back.
    Echo,
}

impl Webhook {
    pub(super) fn path(&self) -> &str {
        &self.scope
    }
}

/// A request that is proven, and has a key.
pub(super) struct Delivery {
    caller: SigningKey,
    key: IdempotencyKey,
    content_type: Option<Vec<u8>>,
    body: Bytes,
}

impl FromRequest for Delivery {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let (Some(webhook), Some(bounds)) = (request.app_data::<Data<Webhook>>(), request.app_data::<Data<Bounds>>()) else {
                return Err(ApiError::Internal(None));
            };
            let headers = request.headers();
            let body = read_body(headers, payload, bounds).await?;
            let caller = auth::verify(headers, &body, &webhook.auth, Utc::now())?.clone();
            let key = key(webhook, &caller, headers, &body)?;
            let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes().to_vec());
            Ok(Self { caller, key, content_type, body })
        })
    }
}

fn key(webhook: &Webhook, caller: &SigningKey, headers: &HeaderMap, body: &[u8]) -> Result<IdempotencyKey, ApiError> {
    let header = match webhook.key.header() {
        Some(name) => key_header(headers, name)?,
        None => None,
    };
    let drawn = if webhook.hasher.is_none() { Hasher::of(caller) } else { None };
    let hasher = webhook.hasher.as_ref().or(drawn.as_ref()).ok_or(ApiError::Internal(None))?;
    IdempotencyKey::new(hasher, &webhook.scope, caller.id(), &webhook.key, header, body).map_err(|error| match error {
        NoKey::Missing => ApiError::MissingIdempotencyKey,
        NoKey::Unclear(Unclear::NotJson) => ApiError::InvalidJson,
        NoKey::Unclear(Unclear::At { pointer, why }) => {
            ApiError::invalid_input(vec![FieldError { pointer, code: why.as_str(), detail: why.to_string() }])
        }
    })
}

/// The one value of the header that holds the key.
fn key_header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ApiError> {
    let invalid = |code, detail: String| ApiError::invalid_input(vec![FieldError { pointer: String::new(), code, detail }]);
    let mut values = headers.get_all(name);
    let (Some(value), None) = (values.next(), values.next()) else {
        let twice = headers.contains_key(name);
        return if twice { Err(invalid("duplicate_header", format!("the header {name} is there twice"))) } else { Ok(None) };
    };
    match value.to_str() {
        Ok(value) if value.len() <= MAX_KEY && value.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(value)),
        _ => Err(invalid("invalid_header", format!("the header {name} must be at most {MAX_KEY} visible ASCII characters"))),
    }
}

/// Does the work, or gives the answer of whoever did.
pub(super) async fn post(
    request: HttpRequest,
    delivery: Delivery,
    webhook: Data<Webhook>,
    lookup: Data<Lookup>,
    bounds: Data<Bounds>,
) -> Result<HttpResponse, ApiError> {
    let Delivery { caller, key, content_type, body } = delivery;
    let id = request_id(&request);
    // Whatever is wrong with the body itself is told before the key is claimed, and never kept.
    let answer = match &webhook.action {
        Action::Forward(upstream) => {
            let (upstream, forwarded) = (Arc::clone(upstream), Forwarded { body, content_type, key: key.hash, request_id: id });
            webhook.once.run(key, async move { Ok(upstream.send(forwarded).await?) }).await?
        }
        Action::Lookup(tenants) => {
            let signed = Signed::<data_action::Body>::of(&request, &caller, &body, &bounds)?;
            if tenants.as_ref().is_some_and(|tenants| !tenants.contains(signed.value.tenant())) {
                return Err(ApiError::TenantNotAllowed);
            }
            let (lookup, bounds) = (lookup.into_inner(), **bounds);
            webhook.once.run(key, async move { look_up(&lookup, &bounds, signed, id).await }).await?
        }
        Action::Echo => {
            let reply = echo(&body)?;
            webhook.once.run(key, async move { Ok::<_, ApiError>(reply) }).await?
        }
    };
    note(&request, |notes| notes.replayed = Some(answer.replayed));
    let status = StatusCode::from_u16(answer.reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(status);
    for (name, value) in &answer.reply.headers {
        response.insert_header((name.as_str(), value.as_str()));
    }
    if answer.replayed {
        response.insert_header(("Idempotent-Replayed", "true"));
    }
    Ok(response.body(answer.reply.body))
}

async fn look_up(lookup: &Lookup, bounds: &Bounds, signed: Signed<data_action::Body>, id: RequestId) -> Result<StoredReply, ApiError> {
    let (cache, json) = data_action::answer(lookup, bounds, signed, id).await?;
    let headers = [("content-type", "application/json"), ("x-cache", cache)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Ok(StoredReply { status: 200, headers, body: json.into() })
}

fn echo(body: &[u8]) -> Result<StoredReply, ApiError> {
    #[derive(Serialize)]
    struct Echo<'b> {
        status: &'static str,
        payload: &'b RawValue,
    }
    let payload = serde_json::from_slice(body).map_err(|_| ApiError::InvalidJson)?;
    let json = serde_json::to_vec(&Echo { status: "processed", payload }).map_err(|_| ApiError::Internal(None))?;
    Ok(StoredReply { status: 200, headers: vec![("content-type".to_owned(), "application/json".to_owned())], body: json.into() })
}
