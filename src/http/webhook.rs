//! `[[webhooks]]`: routes of the settings, whose work is done once.

mod auth;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Bounds;
use super::data_action;
use super::error::ApiError;
use super::execute::flat_input;
use super::limits;
use super::long_bodies::LongBodies;
use super::once::{hasher, key_header, respond};
use super::proof::prove;
use super::request::{note, request_id};
use super::signed::{Signed, SignedBody, allow, bounds, read_body};
use crate::app::execute::Execute;
use crate::app::lookup::Lookup;
use crate::app::once::Once;
use crate::app::ports::{DataActionCall, Forwarded, Upstream};
use crate::config::Auth;
use crate::domain::canonical::{Unclear, canonical};
use crate::domain::{ActionId, AllowedKeys, Hasher, IdempotencyKey, KeySource, NoKey, RequestId, SigningKey, StoredReply, TenantId};

/// One route with what it needs.
pub struct Webhook {
    /// Its path, which is its scope too.
    pub scope: Arc<str>,
    /// How a caller proves who it is.
    pub auth: Auth,
    /// The keys that may call it, of those that it takes.
    pub allowed: AllowedKeys,
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
    /// A data action of Genesys, with the body as its input.
    Genesys(Execute, ActionId),
    /// The body comes back.
    Echo,
}

impl Webhook {
    pub(super) fn path(&self) -> &str {
        &self.scope
    }

    fn needs_canonical(&self) -> bool {
        self.key.needs_canonical() || matches!(self.action, Action::Genesys(..))
    }
}

/// A request that is proven, and has a key.
pub(super) struct Delivery {
    caller: SigningKey,
    key: IdempotencyKey,
    /// The body's canonical form, where the key or the work needs it.
    canonical: Option<Result<String, Unclear>>,
    content_type: Option<Vec<u8>>,
    body: Bytes,
}

impl FromRequest for Delivery {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        note(request, |notes| notes.webhook = true);
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let webhook = request.app_data::<Data<Webhook>>().ok_or(ApiError::Internal(None))?;
            let headers = request.headers();
            let body = read_body(&request, payload, bounds(&request)?).await?;
            let (proof, keys) = auth::proof(&request, &body, &webhook.auth);
            let caller = prove(&request, &body, proof, keys).await?.clone();
            limits::admit(&request, &caller)?;
            allow(&webhook.allowed, &caller)?;
            let header = match webhook.key.header() {
                Some(name) => key_header(headers, name)?.map(str::to_owned),
                None => None,
            };
            let work = {
                let (webhook, caller) = (webhook.clone(), caller.clone());
                move |body: Bytes| {
                    let canonical = webhook.needs_canonical().then(|| canonical(&body));
                    let key = key(&webhook, &caller, header.as_deref(), &body, canonical.as_ref())?;
                    Ok::<_, ApiError>((key, canonical))
                }
            };
            let long_bodies = request.app_data::<Data<LongBodies>>().ok_or(ApiError::Internal(None))?;
            let (key, canonical) = long_bodies.read(&caller, &body, work).await??;
            let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes().to_vec());
            Ok(Self { caller, key, canonical, content_type, body })
        })
    }
}

fn key(
    webhook: &Webhook,
    caller: &SigningKey,
    header: Option<&str>,
    body: &[u8],
    canonical: Option<&Result<String, Unclear>>,
) -> Result<IdempotencyKey, ApiError> {
    let hasher = hasher(webhook.hasher.as_ref(), caller)?;
    IdempotencyKey::of_canonical(&hasher, &webhook.scope, caller.id(), &webhook.key, header, body, canonical).map_err(|error| match error {
        NoKey::Missing => ApiError::MissingIdempotencyKey,
        NoKey::Unclear(unclear) => unclear.into(),
    })
}

/// Does the work, or gives the answer of whoever did.
pub(super) async fn post(
    request: HttpRequest,
    delivery: Delivery,
    webhook: Data<Webhook>,
    lookup: Data<Lookup>,
    limits: Data<Bounds>,
) -> Result<HttpResponse, ApiError> {
    let Delivery { caller, key, canonical, content_type, body } = delivery;
    let id = request_id(&request);
    // Whatever is wrong with the body itself is told before the key is claimed, and never kept.
    let answer = match &webhook.action {
        Action::Forward(upstream) => {
            let (upstream, forwarded) = (Arc::clone(upstream), Forwarded { body, content_type, key: key.hash, request_id: id });
            webhook.once.run(key, async move { upstream.send(forwarded).await }).await?
        }
        Action::Lookup(tenants) => {
            let signed = Signed::<data_action::Body>::of(&request, &caller, &body, &limits)?;
            if tenants.as_ref().is_some_and(|tenants| !tenants.contains(signed.value.tenant())) {
                return Err(ApiError::TenantNotAllowed);
            }
            let (lookup, limits) = (lookup.into_inner(), **limits);
            webhook.once.run(key, async move { look_up(&lookup, &limits, signed, id).await }).await?
        }
        Action::Genesys(execute, action) => {
            let input = flat_input(body, canonical.ok_or(ApiError::Internal(None))?)?;
            let call = DataActionCall { action: action.clone(), input: input.into_bytes(), request_id: id };
            execute.run(&webhook.once, key, call).await?
        }
        Action::Echo => {
            let reply = echo(&body)?;
            webhook.once.run(key, async move { Ok::<_, ApiError>(reply) }).await?
        }
    };
    respond(&request, answer)
}

async fn look_up(lookup: &Lookup, bounds: &Bounds, signed: Signed<data_action::Body>, id: RequestId) -> Result<StoredReply, ApiError> {
    let (cache, json) = data_action::answer(lookup, bounds, signed, id).await?;
    let headers = [("content-type", "application/json"), ("x-cache", cache)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Ok(StoredReply { status: 200, headers, body: json.into() })
}

/// What `echo` answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Echo<'b> {
    #[schema(example = "processed")]
    status: &'static str,
    /// The body.
    #[schema(value_type = serde_json::Value)]
    payload: &'b RawValue,
}

fn echo(body: &[u8]) -> Result<StoredReply, ApiError> {
    let payload = serde_json::from_slice(body).map_err(|_| ApiError::InvalidJson)?;
    let json = serde_json::to_vec(&Echo { status: "processed", payload }).map_err(|_| ApiError::Internal(None))?;
    Ok(StoredReply { status: 200, headers: vec![("content-type".to_owned(), "application/json".to_owned())], body: json.into() })
}
