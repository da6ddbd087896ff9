//! `POST /data-action`: the batch lookup of NICE CXone, and its dry run.

mod answer;
mod body;
#[doc(hidden)]
pub mod pieces;
mod schema;

use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::Bounds;
use super::error::ApiError;
use super::request::{note, request_id};
use super::signed::Signed;
use crate::app::lookup::{Lookup, LookupRequest};
use crate::app::reach::Reach;
use crate::domain::RequestId;
use crate::domain::data_action::{LOOKUP, PATH, PING};
pub(super) use body::Body;
use body::Call;
pub(super) use schema::{
    CUSTOMER_IDS, LOOKUP_ANSWER, PING_ANSWER, answers, customer_ids, lookup_answer, lookup_request, ping_answer, scalar,
};

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Looks up, and answers what fits; or says that a lookup would be answered.
#[utoipa::path(
    post, path = PATH, operation_id = "dataAction", tag = "Lookup",
    summary = "Look customers up, or prove that they could be",
    description = "Each answered lookup leaves a row in the audit log; a ping leaves none.",
    request_body(
        content = body::Spelled, content_type = "application/json", description = "Sent under any content type.",
        examples(
            ("lookup" = (value = json!({
                "action": LOOKUP,
                "input": { "customer_ids": ["6f1c0000-0000-4000-8000-000000000001"], "tenant_id": "acme42" },
                "context": { "contactId": "123456" }
            }))),
            ("ping" = (value = json!({ "action": PING, "input": { "tenant_id": "acme42" } })))
        )
    ),
    responses((status = 200, description = "The customers, in the order asked; or that they would have been looked up."))
)]
pub(super) async fn post(
    request: HttpRequest,
    signed: Signed<Call>,
    lookup: Data<Lookup>,
    bounds: Data<Bounds>,
) -> Result<HttpResponse, ApiError> {
    let Signed { key_id, value: call } = signed;
    match call {
        Call::Ping(tenant) => {
            let redis = lookup.ping(tenant).await?;
            let dependencies = PongDependencies { postgres: Reach::Up, redis };
            let output = PongOutput { status: "ok", tenant_id: tenant.as_str(), key_id: &key_id, dependencies };
            Ok(HttpResponse::Ok().json(Pong { output }))
        }
        Call::Lookup(body) => {
            let (cache, json) = answer(&lookup, &bounds, Signed { key_id, value: body }, request_id(&request)).await?;
            note(&request, |notes| notes.cache = Some(cache));
            let (json_type, cache) = (HeaderValue::from_static("application/json"), HeaderValue::from_static(cache));
            Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, json_type)).insert_header((X_CACHE, cache)).body(json))
        }
    }
}

/// The answer of a ping.
#[derive(Serialize)]
struct Pong<'a> {
    output: PongOutput<'a>,
}

#[derive(Serialize)]
struct PongOutput<'a> {
    status: &'static str,
    tenant_id: &'a str,
    key_id: &'a str,
    dependencies: PongDependencies,
}

#[derive(Serialize)]
struct PongDependencies {
    postgres: Reach,
    redis: Reach,
}

/// How the cache served, and the answer's JSON.
pub(super) async fn answer(
    lookup: &Lookup,
    bounds: &Bounds,
    signed: Signed<Body>,
    request_id: RequestId,
) -> Result<(&'static str, Vec<u8>), ApiError> {
    let Signed { key_id, value: Body { tenant, batch, contact_id } } = signed;
    let found = lookup.run(LookupRequest { tenant, batch, action: LOOKUP, key_id, request_id, contact_id }).await?;
    Ok((found.cache.as_str(), answer::render(&found, bounds.max_response_bytes)))
}
